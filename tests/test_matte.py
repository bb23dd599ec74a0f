from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from layerctl import upsample
from layerctl.engines.classic.matte import Cutout, cut_out

U8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
DOWN, ACROSS = np.mgrid[0:120, 0:160].astype(np.float32)


def disc(x: float, y: float, radius: float, soft: float = 1.0) -> Floats:
    """Coverage 0..1 of a disc whose edge is `soft` pixels wide."""
    return np.clip((radius - np.hypot(ACROSS - x, DOWN - y)) / soft + 0.5, 0, 1).astype(np.float32)


def plain(colour: tuple[int, int, int]) -> Floats:
    return np.broadcast_to(np.array(colour, np.float32), (*DOWN.shape, 3)).astype(np.float32)


def over(below: Floats, alpha: Floats, colour: tuple[int, int, int]) -> Floats:
    return (below * (1 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]).astype(np.float32)


def bytes_of(picture: Floats) -> U8:
    return np.rint(picture).astype(np.uint8)


def on_canvas(cutout: Cutout, size: tuple[int, ...] = DOWN.shape) -> Floats:
    canvas = np.zeros(size, np.float32)
    left, top, right, bottom = cutout.box
    canvas[top:bottom, left:right] = cutout.alpha / np.float32(255)
    return canvas


@pytest.mark.parametrize("soft", [1.0, 2.5])
@pytest.mark.parametrize("known_plate", [True, False], ids=["design", "photo"])
def test_the_edge_of_a_disc_has_the_alpha_that_it_was_drawn_with(known_plate: bool, soft: float) -> None:
    truth = disc(80.3, 60.7, 35, soft)
    plate = plain((235, 228, 215))
    rgb = bytes_of(over(plate, truth, (190, 40, 50)))
    labels = (truth > 0.5).astype(np.int32)
    (cutout,) = cut_out(rgb, labels, labels.astype(np.float32), bytes_of(plate) if known_plate else None)
    band = np.abs(np.hypot(ACROSS - 80.3, DOWN - 60.7) - 35) < 4
    wrong = np.abs(on_canvas(cutout) - truth)
    assert wrong[band].mean() < 0.06
    assert wrong[~band].max() == 0


def test_colour_tells_where_the_edge_is_when_the_labels_are_a_pixel_off() -> None:
    truth = disc(80, 60, 35)
    plate = plain((235, 228, 215))
    rgb = bytes_of(over(plate, truth, (190, 40, 50)))
    labels = (disc(80, 60, 36.2) > 0.5).astype(np.int32)
    (cutout,) = cut_out(rgb, labels, labels.astype(np.float32), bytes_of(plate))
    band = np.abs(np.hypot(ACROSS - 80, DOWN - 60) - 35) < 4
    assert np.abs(on_canvas(cutout) - truth)[band].mean() < 0.04


def test_an_edge_that_colour_cannot_tell_is_the_smooth_outline() -> None:
    truth = disc(80, 60, 35)
    plate = plain((128, 128, 128))
    noise = np.random.default_rng(5).normal(0, 6, plate.shape)
    rgb = bytes_of((over(plate, truth, (131, 128, 128)) + noise).astype(np.float32))
    labels = (truth > 0.5).astype(np.int32)
    (cutout,) = cut_out(rgb, labels, labels.astype(np.float32), bytes_of(plate))
    assert np.abs(on_canvas(cutout) - truth).max() < 0.5


def test_a_black_shadow_on_a_plain_plate_gets_the_alpha_of_the_shadow() -> None:
    shadow = (0.4 * cv2.GaussianBlur(disc(92, 72, 30), (0, 0), 4)).astype(np.float32)
    thing = disc(80, 60, 30)
    plate = plain((220, 225, 230))
    rgb = bytes_of(over(over(plate, shadow, (0, 0, 0)), thing, (200, 60, 40)))
    labels = ((thing > 0.5) | (shadow > 0.04)).astype(np.int32)
    (cutout,) = cut_out(rgb, labels, (thing > 0.5).astype(np.float32), bytes_of(plate))
    alpha = on_canvas(cutout)
    seen = (shadow > 0.1) & (disc(80, 60, 38) == 0)
    assert seen.sum() > 200
    assert np.abs(alpha - shadow)[seen].mean() < 0.02
    assert (alpha[disc(80, 60, 24) == 1] == 1).all(), "the thing itself stays solid"


def test_a_dark_part_that_the_network_takes_for_an_element_is_no_shadow() -> None:
    thing = disc(80, 60, 30)
    plate = plain((220, 225, 230))
    rgb = bytes_of(over(plate, thing, (110, 112, 115)))
    labels = (thing > 0.5).astype(np.int32)
    (as_element,) = cut_out(rgb, labels, labels.astype(np.float32), bytes_of(plate))
    (as_shadow,) = cut_out(rgb, labels, np.zeros_like(thing), bytes_of(plate))
    assert on_canvas(as_element)[60, 80] == 1
    assert on_canvas(as_shadow)[60, 80] == pytest.approx(0.5, abs=0.02)


def test_tiles_give_the_same_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = cv2.resize(disc(80, 60, 50), (480, 360), interpolation=cv2.INTER_LINEAR)
    noise = np.random.default_rng(0).integers(-20, 21, (360, 480, 3))
    rgb = np.clip(truth[..., None] * (150, -80, -60) + (60, 170, 200) + noise, 0, 255).astype(np.uint8)
    labels = (disc(80, 60, 50) > 0.5).astype(np.int32)
    (whole,) = cut_out(rgb, labels, labels.astype(np.float32), None)
    monkeypatch.setattr(upsample, "TILE", 64)
    (tiles,) = cut_out(rgb, labels, labels.astype(np.float32), None)
    assert whole.box == tiles.box
    assert np.array_equal(whole.visible, tiles.visible)
    assert np.abs(whole.alpha.astype(int) - tiles.alpha).max() <= 1


def test_what_a_higher_element_covers_is_in_the_cutout_but_not_visible() -> None:
    lower, higher = disc(60, 60, 35), disc(100, 60, 30)
    rgb = bytes_of(over(over(plain((240, 240, 235)), lower, (30, 90, 200)), higher, (220, 40, 40)))
    labels = np.where(higher > 0.5, 2, (lower > 0.5).astype(int)).astype(np.int32)
    below, above = cut_out(rgb, labels, (labels > 0).astype(np.float32), None)
    alpha = on_canvas(below)
    assert alpha[60, 85] > 0.95, "hidden, but completed"
    assert not below.visible[60 - below.top, 85 - below.left]
    assert below.visible[60 - below.top, 50 - below.left]
    assert above.visible.all()
    assert np.abs(alpha - lower).mean() < 0.02
