from __future__ import annotations

import numpy as np
import pytest

from layerctl.engines.classic.network import CELL, FILE, OFFSETS, look

LEAF = np.full((96, 160, 3), (235, 230, 220), np.uint8)
LEAF[20:80, 30:70] = (40, 130, 60)


def test_offsets_name_every_pair_of_cells_once() -> None:
    assert len(set(OFFSETS)) == 12
    assert not any((-dy, -dx) in OFFSETS for dy, dx in OFFSETS)


def test_the_network_fits_into_the_package() -> None:
    assert FILE.stat().st_size < 20_000_000


@pytest.mark.parametrize(("size", "cells"), [((96, 160), (15, 24)), ((160, 96), (24, 15)), ((3, 500), (1, 24)), ((1, 1), (24, 24))])
def test_maps_have_a_cell_for_every_four_pixels_of_the_scaled_picture(size: tuple[int, int], cells: tuple[int, int]) -> None:
    maps = look(np.full((*size, 3), 128, np.uint8), 24 * CELL)
    rows, columns = cells
    assert maps.element.shape == cells
    assert maps.same.shape == maps.above.shape == (len(OFFSETS), rows, columns)
    for values in (maps.element, maps.same, maps.above):
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 1


def test_the_network_says_the_same_of_a_picture_and_of_its_mirror_image() -> None:
    # Scaled to whole multiples of the network's stride, so that both are padded alike.
    maps, mirrored = look(LEAF, 160), look(np.ascontiguousarray(LEAF[:, ::-1]), 160)
    assert np.allclose(mirrored.element[:, ::-1], maps.element, atol=1e-4)
    for k, (dy, dx) in enumerate(OFFSETS):
        if dy == 0:
            assert np.allclose(mirrored.same[k][:, ::-1][:, dx:], maps.same[k][:, :-dx], atol=1e-4)
            assert np.allclose(1 - mirrored.above[k][:, ::-1][:, dx:], maps.above[k][:, :-dx], atol=1e-4)
        else:
            twin = OFFSETS.index((dy, -dx)) if dx else k
            assert np.allclose(mirrored.same[twin][:, ::-1], maps.same[k], atol=1e-4)
            assert np.allclose(mirrored.above[twin][:, ::-1], maps.above[k], atol=1e-4)


def test_a_shape_on_a_plain_plate_is_an_element_above_the_plate() -> None:
    maps = look(LEAF, 320)
    rows, columns = maps.element.shape
    inside = np.zeros((rows, columns), bool)
    inside[round(rows * 0.3) : round(rows * 0.75), round(columns * 0.22) : round(columns * 0.4)] = True
    assert maps.element[inside].mean() > 0.5
    assert maps.element[:, round(columns * 0.6) :].mean() < 0.5
