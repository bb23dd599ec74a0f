from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from layerctl.engines.classic.network import CELL, OFFSETS, Maps
from layerctl.engines.classic.segment import Join, Links, groups_of, joins, link, superpixels, with_cells, without_slivers

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def maps_of(layers: npt.NDArray[np.int_], sure: float = 0.95) -> Maps:
    """What a network that is `sure` says of cells that show these layers, 0 the plate."""
    rows, columns = layers.shape
    same = np.full((len(OFFSETS), rows, columns), 0.5, np.float32)
    above = same.copy()
    for k, (dy, dx) in enumerate(OFFSETS):
        for row in range(rows - dy):
            for column in range(max(0, -dx), columns - max(0, dx)):
                here, there = layers[row, column], layers[row + dy, column + dx]
                same[k, row, column] = sure if here == there else 1 - sure
                above[k, row, column] = sure if here > there else 1 - sure if here < there else 0.5
    return Maps(np.where(layers > 0, sure, 1 - sure).astype(np.float32), same, above)


def halves(rows: int = 12, columns: int = 16) -> npt.NDArray[np.int_]:
    """Plate on the left, an element on the right."""
    return np.repeat((np.arange(columns) >= columns // 2).astype(int)[None], rows, axis=0)


def tiles(height: int, width: int, size: int) -> Labels:
    down, across = np.arange(height) // size, np.arange(width) // size
    return (down[:, None] * (across[-1] + 1) + across[None]).astype(np.int32)


def lab(lightness: npt.NDArray[np.generic]) -> Floats:
    return np.dstack([lightness, 0 * lightness, 0 * lightness]).astype(np.float32)


def test_superpixels_are_numbered_without_gaps_and_are_about_as_large_as_their_spacing() -> None:
    ramp = np.add.outer(np.arange(60), np.arange(84)) * 0.5
    labels = with_cells(superpixels(lab(ramp)), [maps_of(np.zeros((15, 21), int))])
    assert labels.shape == (60, 84)
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert 10 <= labels.max() + 1 <= 35


def test_wider_spacing_gives_fewer_superpixels() -> None:
    ramp = lab(np.add.outer(np.arange(60), np.arange(84)) * 0.5)
    fine, coarse = (np.unique(superpixels(ramp, spacing)).size for spacing in (8, 18))
    assert coarse < fine / 3


def test_superpixels_keep_to_a_strong_edge_within_three_pixels() -> None:
    down, across = np.mgrid[0:96, 0:96]
    radius = np.hypot(across - 45, down - 50)
    inside = radius < 30
    labels = superpixels(lab(np.where(inside, 80.0, 20.0)))
    majority = np.bincount(labels.ravel(), inside.ravel()) / np.maximum(np.bincount(labels.ravel()), 1)
    wrong = (majority[labels] >= 0.5) != inside
    assert np.abs(radius - 30)[wrong].max() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 40), (40, 2), (3, 50)])
def test_narrow_pictures_have_superpixels_too(size: tuple[int, int]) -> None:
    labels = superpixels(lab(np.random.default_rng(0).uniform(0, 100, size)))
    assert labels.shape == size
    assert labels.min() == 0


def test_a_line_between_two_pieces_dissolves_into_the_one_of_its_colour() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[:, 15:16], labels[:, 16:] = 1, 2
    colours = np.where(np.arange(30) < 15, 10.0, 90.0)
    left = without_slivers(labels, lab(np.repeat(colours[None], 20, axis=0)))
    assert (left[:, :15] == 0).all()
    assert (left[:, 15:] == 2).all()


def test_pieces_that_are_all_slivers_stay() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32)[None], 8, axis=0)
    assert np.array_equal(without_slivers(labels, lab(np.zeros((8, 10)))), labels)


def test_a_piece_without_a_cell_goes_to_its_neighbour_and_the_rest_is_renumbered() -> None:
    labels = np.zeros((16, 32), np.int32)
    labels[:, 16:] = 2
    labels[4, 20] = 1  # cells are looked at in the middle of every four pixels
    left = with_cells(labels, [maps_of(halves(4, 8))])
    assert left[4, 20] == 1
    assert np.array_equal(np.unique(left), [0, 1])
    assert np.array_equal(left == 1, labels > 0)


def test_a_piece_that_only_the_finer_look_sees_is_kept() -> None:
    labels = np.zeros((32, 32), np.int32)
    labels[0:4, 0:4] = 1
    coarse, fine = maps_of(np.zeros((4, 4), int)), maps_of(np.zeros((8, 8), int))
    assert with_cells(labels, [coarse]).max() == 0
    assert with_cells(labels, [coarse, fine]).max() == 1


def test_two_halves_that_the_network_takes_for_two_layers_stay_apart() -> None:
    layers = halves()
    labels = tiles(12 * CELL, 16 * CELL, 2 * CELL)
    links = link(labels, [maps_of(layers)])
    made = [join for join in joins(links) if join.value >= 0.6]
    groups = groups_of(links.element.size, made)
    assert np.array_equal(groups[labels] == groups[labels][0, -1], np.kron(layers, np.ones((CELL, CELL))) > 0)
    assert groups.max() == 1


def test_one_layer_becomes_one_group_and_joins_are_made_from_the_surest_on() -> None:
    labels = tiles(48, 64, 8)
    links = link(labels, [maps_of(halves())])
    made = joins(links)
    assert len(made) == labels.max()
    assert groups_of(links.element.size, made).max() == 0
    assert made[0].value == pytest.approx(0.95)
    assert made[-1].value == pytest.approx(0.05)


def test_a_joined_piece_brings_all_its_pairs_along() -> None:
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    links = Links(a, b, np.array([9.0, 0.8, 0.9]), np.array([10.0, 1.0, 9.0]), np.zeros(3), np.ones(3), np.ones(3))
    assert [join.value for join in joins(links)] == pytest.approx([0.9, (0.8 + 0.9) / (1 + 9)])


def test_the_network_is_heard_in_all_of_its_looks() -> None:
    labels = np.repeat((np.arange(64) >= 32).astype(np.int32)[None], 48, axis=0)
    apart, one = maps_of(halves()), maps_of(np.ones((12, 16), int))
    heard = link(labels, [apart, one])
    alone = link(labels, [apart])
    assert heard.pairs[0] == 2 * alone.pairs[0]
    assert alone.same[0] / alone.pairs[0] == pytest.approx(0.05)
    assert heard.same[0] / heard.pairs[0] == pytest.approx(0.5)
    assert heard.element == pytest.approx([0.5, 0.95])
    assert heard.cells.tolist() == [192, 192]


def test_sums_between_groups_are_symmetric_and_the_balance_is_not() -> None:
    labels = np.repeat((np.arange(64) >= 32).astype(np.int32)[None], 48, axis=0)
    links = link(labels, [maps_of(halves())])
    same, pairs = links.between(np.arange(2, dtype=np.int32))
    balance = links.balance(np.arange(2, dtype=np.int32))
    assert same[0, 1] == same[1, 0] > 0
    assert pairs[0, 1] == pairs[1, 0] > 0
    assert balance[1, 0] == -balance[0, 1] > 0, "the element lies above the plate"


def test_a_look_with_fewer_cells_than_the_widest_offset_counts_only_pairs_that_exist() -> None:
    for rows, columns in ((1, 12), (12, 1), (5, 5), (5, 12)):
        labels = np.repeat((np.arange(columns * CELL) * 2 >= columns * CELL).astype(np.int32)[None], rows * CELL, axis=0)
        links = link(labels, [maps_of(np.zeros((rows, columns), int))])
        cells = labels[2::CELL, 2::CELL]
        expected = sum(
            cells[row, column] != cells[row + dy, column + dx]
            for dy, dx in OFFSETS
            for row in range(rows)
            for column in range(columns)
            if row + dy < rows and 0 <= column + dx < columns
        )
        assert links.pairs.sum() == expected


def test_groups_follow_chains_of_joins() -> None:
    made = [Join(3, 4, 0.9), Join(0, 1, 0.8), Join(3, 0, 0.7)]
    groups = groups_of(6, made)
    assert groups[0] == groups[1] == groups[3] == groups[4]
    assert len({int(groups[0]), int(groups[2]), int(groups[5])}) == 3
    assert np.array_equal(np.unique(groups), [0, 1, 2])
