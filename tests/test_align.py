"""What an engine did to the whole picture is found from the two pictures alone."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from layerctl.align import NONE, find_correction

F32 = npt.NDArray[np.float32]
HEIGHT, WIDTH = 120, 160


def disc(soft: float = 0.5) -> F32:
    """A disc a fifth brighter than its ground, with an edge that is `soft` pixels wide."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shape = np.clip((40 - np.hypot(x - 80, y - 60)) / soft + 0.5, 0, 1)
    ground = np.dstack([0.3 + x * 0.001, 0.4 + y * 0.001, np.full_like(x, 0.5)])
    return np.asarray(ground + 0.2 * shape[..., None], np.float32)


def as_shown(picture: F32, shift: tuple[float, float], noise: float) -> F32:
    """The picture moved, softened and noisy."""
    rng = np.random.default_rng(2)
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), 0.7) + rng.normal(0, noise, moved.shape), np.float32)


EVERYWHERE = np.ones((HEIGHT, WIDTH), np.bool_)


@pytest.mark.parametrize("noise", [0.0, 0.012, 0.03])
@pytest.mark.parametrize("soft", [0.5, 20.0])
def test_noise_in_the_engines_picture_does_not_hide_its_shift(noise: float, soft: float) -> None:
    picture = disc(soft)
    found = find_correction(as_shown(picture, (0.5, -0.4), noise), picture, EVERYWHERE)
    assert found.shift == pytest.approx((-0.5, 0.4), abs=0.1)


def test_a_drift_of_colours_is_taken_out() -> None:
    picture = disc()
    found = find_correction(picture * np.float32(0.9) + np.float32(0.05), picture, EVERYWHERE)
    assert np.abs(found.coloured(picture * np.float32(0.9) + np.float32(0.05)) - picture).max() < 0.01
    assert found.shift == pytest.approx((0, 0), abs=0.01)


def test_the_engines_softness_is_told() -> None:
    picture = disc()
    assert find_correction(picture, picture, EVERYWHERE).blur == 0
    assert find_correction(as_shown(picture, (0, 0), 0), picture, EVERYWHERE).blur == pytest.approx(0.7, abs=0.15)


def test_pixels_that_do_not_count_move_nothing() -> None:
    picture = disc()
    shown = picture.copy()
    shown[:, :50] = 1
    found = find_correction(shown, picture, EVERYWHERE & (np.arange(WIDTH) >= 55))
    assert found.shift == pytest.approx((0, 0), abs=0.02)
    assert np.abs(found.coloured(picture) - picture).max() < 0.01


def test_another_picture_is_not_corrected() -> None:
    picture = disc()
    assert find_correction(np.asarray(1 - picture, np.float32), picture, EVERYWHERE) is NONE
    assert find_correction(picture[:20, :20], picture[:20, :20], EVERYWHERE[:20, :20]) is NONE
