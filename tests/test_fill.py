from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.surface import STIFFNESS, thin_plate
from layerctl.engines.classic.translation import shifted, shifted_mask

Array = npt.NDArray[Any]

SIZE = 200
DOWN, ACROSS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
MAGENTA = (255, 0, 255)


def picture(*channels: Array) -> Array:
    stacked: Array = np.clip(np.rint(np.stack(channels, axis=2)), 0, 255).astype(np.uint8)
    return stacked


def disc(x: int, y: int, radius: int) -> Array:
    inside: Array = np.hypot(ACROSS - x, DOWN - y) <= radius
    return inside


SOLID = picture(ACROSS * 0 + 200, ACROSS * 0 + 90, ACROSS * 0 + 40)
LINEAR = picture(ACROSS, DOWN, 255 - ACROSS / 2 - DOWN / 2)
RADIUS = np.hypot(ACROSS - 60, DOWN - 150)
RADIAL = picture(250 - RADIUS, 100 + RADIUS / 2, 40 + RADIUS / 3)
NOISE = np.random.default_rng(0).normal(128, 12, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
CHECKS = picture(*[((ACROSS // 13 + DOWN // 13) % 2) * 180 + 30] * 3)


def error(plate: Array, hole: Array, avoid: Array | None = None) -> Array:
    """The absolute errors in the hole when what was there is hidden behind magenta."""
    hidden = plate.copy()
    hidden[hole] = MAGENTA
    filled = complete(hidden, hole, avoid=avoid)
    assert np.array_equal(filled[~hole], hidden[~hole]), "a known pixel was changed"
    wrong: Array = np.abs(filled.astype(int) - plate)[hole]
    return wrong


@pytest.mark.parametrize("hole", [disc(100, 90, 45), disc(5, 100, 40), disc(190, 190, 35), disc(60, 60, 20) | disc(140, 120, 30)])
@pytest.mark.parametrize("plate", [SOLID, LINEAR, RADIAL], ids=["solid", "linear", "radial"])
def test_a_smooth_plate_is_continued_to_two_levels(plate: Array, hole: Array) -> None:
    wrong = error(plate, hole)
    assert np.percentile(wrong, 99) <= 2
    assert wrong.max() <= 5


def test_a_pattern_goes_on_in_the_hole() -> None:
    assert error(CHECKS, disc(100, 100, 40)).mean() < 1


def test_grain_is_kept_and_leaves_no_stain() -> None:
    hole = disc(100, 100, 40)
    hidden = NOISE.copy()
    hidden[hole] = MAGENTA
    filled = complete(hidden, hole)
    assert 10 < filled[hole].std() < 14
    smoothed = cv2.blur(filled, (15, 15))[disc(100, 100, 32)].astype(int)
    assert np.abs(smoothed - 128).max() < 6


def test_what_is_to_be_avoided_is_neither_copied_nor_continued() -> None:
    avoid, hole = disc(120, 100, 35), disc(75, 100, 30)
    hole &= ~avoid
    plate = NOISE.copy()
    plate[avoid] = (255, 255, 0)
    hidden = plate.copy()
    hidden[hole] = MAGENTA
    filled = complete(hidden, hole, avoid=avoid)
    assert np.array_equal(filled[~hole], hidden[~hole])
    assert np.abs(filled[hole].astype(int) - 128).max() < 70
    assert np.abs(filled[hole].mean(axis=0) - 128).max() < 4


def test_nothing_unknown_is_the_same_picture() -> None:
    assert np.array_equal(complete(NOISE, np.zeros((SIZE, SIZE), bool)), NOISE)


def test_everything_unknown_is_the_mean_colour() -> None:
    filled = complete(NOISE, np.ones((SIZE, SIZE), bool))
    assert np.abs(filled.reshape(-1, 3) - NOISE.reshape(-1, 3).mean(axis=0)).max() <= 0.5


def test_unknown_pixels_between_nothing_but_avoided_ones_take_the_mean_colour_too() -> None:
    hole = disc(100, 100, 30)
    filled = complete(NOISE, hole, avoid=~hole)
    assert len(np.unique(filled[hole], axis=0)) == 1


@pytest.mark.parametrize("plate", [LINEAR, NOISE, CHECKS], ids=["linear", "noise", "checks"])
def test_a_tenth_of_the_picture_is_enough_to_fill_the_rest(plate: Array) -> None:
    hole = np.ones((SIZE, SIZE), bool)
    hole[80:140, 70:140] = False
    filled = complete(np.where(hole[..., None], np.uint8(0), plate), hole)
    low, high = plate[~hole].min(axis=0).astype(int), plate[~hole].max(axis=0).astype(int)
    assert (filled >= low - 80).all()
    assert (filled <= high + 80).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 50), (50, 2)])
def test_tiny_pictures_are_filled(size: tuple[int, int]) -> None:
    plate = np.full((*size, 3), (9, 80, 200), np.uint8)
    hole = np.zeros(size, bool)
    hole[0, 0] = True
    expected = plate.copy()
    plate[0, 0] = MAGENTA if size != (1, 1) else plate[0, 0]
    assert np.array_equal(complete(plate, hole), expected)


def test_specks_all_over_are_filled_in_bounded_time() -> None:
    hole = np.random.default_rng(1).random((SIZE, SIZE)) < 0.02
    assert error(LINEAR, hole).max() <= 3


def test_a_picture_beyond_the_working_size_is_continued_as_well() -> None:
    plate = cv2.resize(LINEAR, (1600, 900), interpolation=cv2.INTER_LINEAR)
    hole = cv2.resize(disc(100, 90, 45).astype(np.uint8), (1600, 900), interpolation=cv2.INTER_NEAREST) > 0
    assert np.percentile(error(plate, hole), 99) <= 2


def test_a_large_pattern_goes_on_pixel_by_pixel() -> None:
    down, across = np.mgrid[0:1300, 0:1700]
    plate = picture(*[((across // 60 + down // 60) % 2) * 180 + 30] * 3)
    hole = np.hypot(across - 800, down - 640) < 300
    assert error(plate, hole).mean() < 1


def test_moving_a_box_beyond_the_picture_leaves_nothing_known() -> None:
    known = np.ones((10, 12), bool)
    box = np.s_[2:8, 3:9]
    for shift in [(8, 0), (-8, 0), (0, 9), (0, -9), (50, -50)]:
        assert not shifted_mask(known, box, shift).any()
    source, valid = shifted(np.arange(360, dtype=np.float32).reshape(10, 12, 3), known, box, (-4, 5))
    assert valid.sum() == 4 * 4
    assert source[2, 0, 0] == 0 * 36 + 8 * 3
    assert not source[~valid].any()


def test_the_same_input_gives_the_same_bytes() -> None:
    hole = disc(100, 100, 40)
    assert np.array_equal(complete(NOISE, hole), complete(NOISE, hole))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2), (9, 14), (14, 9), (13, 13)])
def test_the_thin_plate_is_where_no_cell_can_move_for_less_energy(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    colour = rng.uniform(0, 255, (*size, 3)).astype(np.float32)
    share = (rng.random(size) < 0.7).astype(np.float32)
    share[0, 0] = 1

    def energy(plate: Array) -> float:
        bends = [np.diff(plate, n=2, axis=0), np.diff(plate, n=2, axis=1), 2**0.5 * np.diff(np.diff(plate, axis=0), axis=1)]
        misses = share[..., None] * np.square(plate - colour)
        return float(misses.sum() + STIFFNESS * sum(np.square(bend).sum() for bend in bends))

    plate = thin_plate(colour, share).astype(np.float64)
    for _ in range(50):
        move = rng.normal(0, 0.01, plate.shape)
        assert min(energy(plate + move), energy(plate - move)) > energy(plate)
