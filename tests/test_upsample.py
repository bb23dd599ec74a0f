"""A layer's alpha at full size: the picture's own edges, to a level where two calm colours meet, and nothing of its texture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from layerctl.upsample import TILE, SmallLayer, draw, fit

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
SIZE, SMALL = 600, 150
BOX = (0, 0, SIZE, SIZE)
FRONT, BACK = np.array([150, 90, 60], np.float32), np.array([90, 110, 130], np.float32)


def disc_alpha() -> F32:
    """A disc over the tiles' seam at TILE, H x W, 0..1."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return np.asarray(np.clip(150.3 - np.hypot(x - 420.4, y - 300.7), -0.5, 0.5) + 0.5, np.float32)


def picture_of(alpha: F32, noise: float = 0, slope: float = 0) -> U8:
    """FRONT over BACK, 8 bits, opaque; `slope`: levels that the ground rises by from left to right."""
    rng = np.random.default_rng(1)
    ground = BACK + np.linspace(0, slope, SIZE, dtype=np.float32)[None, :, None] + rng.normal(0, noise, (SIZE, SIZE, 3))
    mixed = ground + (FRONT - ground) * alpha[..., None]
    return np.dstack([np.clip(np.rint(mixed), 0, 255), np.full((SIZE, SIZE), 255)]).astype(np.uint8)


def reduced(values: npt.NDArray[np.generic]) -> F32:
    return np.asarray(cv2.resize(values.astype(np.float32), (SMALL, SMALL), interpolation=cv2.INTER_AREA), np.float32)


def soft(values: F32) -> F32:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 0.7), np.float32)


def small_layer(alpha: F32, shown: F32 | None = None) -> SmallLayer:
    colour = np.broadcast_to(FRONT / 255, (SMALL, SMALL, 3)).astype(np.float32)
    clear = np.ones((SMALL, SMALL), np.float32) if shown is None else shown
    return SmallLayer(soft(reduced(alpha)), colour, clear, np.zeros_like(colour))


def drawn(alpha: F32, picture: U8, shown: F32 | None = None) -> F32:
    small = reduced(picture[..., :3]) / np.float32(255)
    recipe = fit(small_layer(alpha, shown), small, soft(small))
    return np.asarray(draw(recipe, picture, BOX)[..., 3] / np.float32(255), np.float32)


def edge_error(true: F32, found: F32) -> float:
    """Mean difference in levels where the true alpha is soft, and two pixels around."""
    band = cv2.dilate(((true > 0) & (true < 1)).astype(np.uint8), np.ones((5, 5))) > 0
    return float(np.abs(true - found)[band].mean() * 255)


@pytest.mark.parametrize("slope", [0, 60])
def test_an_edge_between_two_calm_colours_comes_back_to_a_level(slope: float) -> None:
    true = disc_alpha()
    assert edge_error(true, drawn(true, picture_of(true, slope=slope))) < 0.5


def test_the_noise_of_the_ground_does_not_come_into_the_edge() -> None:
    true = disc_alpha()
    found = drawn(true, picture_of(true, noise=3))
    assert edge_error(true, found) < 3
    assert np.abs(true - found)[true == 0].mean() * 255 < 0.05


def test_a_soft_layer_without_an_inside_stays_as_interpolation_has_it() -> None:
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    true = np.asarray(0.6 * np.exp(-(((x - 300) / 90) ** 2) - ((y - 300) / 90) ** 2), np.float32)
    assert np.abs(drawn(true, picture_of(true)) - true).max() < 0.05


def test_what_covers_an_edge_is_not_taken_for_it() -> None:
    """A bar of other colours over the right half of the disc: there its edge shows nowhere."""
    true = disc_alpha()
    picture = picture_of(true)
    picture[:, 400:, :3] = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE - 400, 3), np.uint8)
    shown = np.ones((SMALL, SMALL), np.float32)
    shown[:, 100:] = 0
    found = drawn(true, picture, shown)
    assert np.abs(found - true)[(true == 1)].mean() < 0.01
    assert np.abs(found - true)[:, 420:].mean() < 0.02


def test_tiles_meet_without_a_seam() -> None:
    """The same box in tiles that lie elsewhere is the same layer."""
    true = disc_alpha()
    picture = picture_of(true, noise=1)
    small = reduced(picture[..., :3]) / np.float32(255)
    recipe = fit(small_layer(true), small, small)
    whole, part = draw(recipe, picture, BOX), draw(recipe, picture, (TILE - 40, 100, TILE + 60, 500))
    assert np.abs(whole[100:500, TILE - 40 : TILE + 60].astype(np.int16) - part).max() <= 1
