from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pytest

from layerctl.engines.classic import elements
from layerctl.engines.classic.elements import Draft, _gaps, _reduced, _split, _without_dust, in_order, likelihood, with_subject
from layerctl.engines.classic.network import CELL, OFFSETS, Maps, element_map
from layerctl.engines.classic.plate import _hysteresis
from layerctl.engines.classic.segment import Pieces
from layerctl.engines.classic.subject import Subject

Labels = npt.NDArray[np.int32]
ROWS, COLUMNS, STEP = 12, 24, 4
"""Pieces in the tests are STEP x STEP cells, numbered in rows."""
DROP = 12.0


def maps_of(layers: npt.NDArray[np.int_], sure: float = 0.95, alike: Mapping[tuple[int, int], float] = MappingProxyType({})) -> Maps:
    """What a network that is `sure` says of cells that show these layers, 0 the plate; `alike`: of two layers, lower first."""
    rows, columns = layers.shape
    same = np.full((len(OFFSETS), rows, columns), 0.5, np.float32)
    above = same.copy()
    for k, (dy, dx) in enumerate(OFFSETS):
        for row in range(rows - dy):
            for column in range(max(0, -dx), columns - max(0, dx)):
                here, there = layers[row, column], layers[row + dy, column + dx]
                same[k, row, column] = sure if here == there else alike.get((min(here, there), max(here, there)), 1 - sure)
                above[k, row, column] = sure if here > there else 1 - sure if here < there else 0.5
    return Maps(np.where(layers > 0, sure, 1 - sure).astype(np.float32), same, above)


def strips() -> npt.NDArray[np.int_]:
    """Plate, three elements side by side, plate: columns 0-3, 4-8, 8-12, 12-16, 16-24 in cells."""
    return np.repeat(np.repeat([0, 1, 2, 3, 0, 0], STEP)[None], ROWS, axis=0)


def pieces_of(maps: Maps) -> Pieces:
    down, across = np.arange(ROWS * CELL) // (STEP * CELL), np.arange(COLUMNS * CELL) // (STEP * CELL)
    labels = (down[:, None] * (COLUMNS // STEP) + across[None]).astype(np.int32)
    return Pieces.of(labels, [maps])


def groups_like(layers: npt.NDArray[np.int_]) -> Labels:
    return layers[STEP // 2 :: STEP, STEP // 2 :: STEP].ravel().astype(np.int32)


def full(layers: npt.NDArray[np.int_]) -> Labels:
    return np.kron(layers, np.ones((CELL, CELL), np.int32)).astype(np.int32)


def test_weak_pixels_count_only_next_to_strong_ones() -> None:
    distance = np.zeros((5, 12), np.float32)
    distance[2, 1:5], distance[2, 3] = 6, 20
    distance[2, 8:11] = 6
    kept = _hysteresis(distance, 5, 13)
    assert np.flatnonzero(kept[2]).tolist() == [1, 2, 3, 4]
    assert not kept[[0, 1, 3, 4]].any()
    assert not _hysteresis(np.zeros((3, 3), np.float32), 5, 13).any()


@pytest.mark.parametrize("pair", [(1, 2), (2, 3)])
def test_of_three_elements_the_two_that_agree_are_joined(pair: tuple[int, int]) -> None:
    layers = strips()
    groups = _reduced(pieces_of(maps_of(layers, alike={pair: 0.8})), groups_like(layers), 2, DROP)
    before = groups_like(layers)
    assert groups.max() == 2
    first, second = (groups[before == k] for k in pair)
    (other,) = {1, 2, 3} - set(pair)
    assert len({*first.tolist(), *second.tolist()}) == 1
    assert first[0] != groups[before == other][0]
    assert np.array_equal(groups == 0, before == 0), "nothing went to the plate"


@pytest.mark.parametrize(("touching", "joined"), [(0.3, (1, 3)), (0.6, (1, 2))])
def test_elements_that_do_not_touch_are_joined_only_when_they_agree_much_more(touching: float, joined: tuple[int, int]) -> None:
    layers = strips()
    maps = maps_of(layers, alike={(1, 2): touching, (1, 3): 0.8})
    groups = _reduced(pieces_of(maps), groups_like(layers), 2, DROP)
    before = groups_like(layers)
    assert groups[before == joined[0]][0] == groups[before == joined[1]][0]


def test_what_the_network_hardly_believes_in_goes_to_the_plate_first() -> None:
    layers = strips()
    maps = maps_of(layers)
    maps.element[layers == 2] = 0.3
    groups = _reduced(pieces_of(maps), groups_like(layers), 2, 1.0)
    before = groups_like(layers)
    assert not groups[before == 2].any()
    assert groups[before == 1].all()
    assert groups[before == 3].all()


@pytest.mark.parametrize(("alike", "count"), [(0.9, 2), (0.8, 2), (0.6, 3), (0.05, 3)])
def test_without_a_number_elements_are_joined_while_the_network_takes_them_for_nearly_the_same(alike: float, count: int) -> None:
    layers = strips()
    groups = _reduced(pieces_of(maps_of(layers, alike={(1, 2): alike})), groups_like(layers), 7, DROP, auto=True)
    assert groups.max() == count


@pytest.mark.parametrize(("believed", "count"), [(0.45, 2), (0.6, 2), (0.7, 3)])
def test_without_a_number_an_element_that_is_hardly_believed_in_goes_to_the_plate(believed: float, count: int) -> None:
    layers = strips()
    maps = maps_of(layers)
    maps.element[layers == 2] = believed
    groups = _reduced(pieces_of(maps), groups_like(layers), 7, 3.0, auto=True)
    assert groups.max() == count
    assert (groups[groups_like(layers) == 2] > 0).all() == (count == 3)


def test_the_only_element_is_given_up_later_than_one_of_several() -> None:
    layers = np.minimum(strips(), 1)
    maps = maps_of(layers)
    for believed, count in ((0.6, 1), (0.45, 0)):
        maps.element[layers == 1] = believed
        assert _reduced(pieces_of(maps), groups_like(layers), 7, 3.0, auto=True).max() == count


def test_a_number_is_reached_however_dear_the_last_joins_are_and_not_passed() -> None:
    layers = strips()
    pieces = pieces_of(maps_of(layers, alike={(1, 2): 0.8}))
    assert _reduced(pieces, groups_like(layers), 1, DROP, auto=True).max() == 1
    assert _reduced(pieces, groups_like(layers), 3, DROP).max() == 3, "the cheap join is not made when three are asked for"


def test_the_second_cheapest_join_is_made_when_it_is_asked_for() -> None:
    layers = strips()
    pieces, before = pieces_of(maps_of(layers, alike={(1, 2): 0.8, (2, 3): 0.7})), groups_like(layers)
    first, second = (_reduced(pieces, before, 2, DROP, second=second) for second in (False, True))
    assert first[before == 1][0] == first[before == 2][0] != first[before == 3][0]
    assert second[before == 2][0] == second[before == 3][0] != second[before == 1][0]
    assert np.array_equal(_reduced(pieces, before, 3, DROP, second=True), before), "nothing has to go"


def test_no_elements_are_left_when_none_are_wanted() -> None:
    layers = strips()
    assert _reduced(pieces_of(maps_of(layers)), groups_like(layers), 0, DROP).max() == 0


def test_an_element_of_two_halves_is_taken_apart_where_they_meet() -> None:
    layers = np.where(strips() == 3, 0, strips())
    one = np.minimum(groups_like(layers), 1)
    groups = _split(pieces_of(maps_of(layers)), one, 2)
    before = groups_like(layers)
    assert groups.max() == 2
    assert len(set(groups[before == 1].tolist())) == 1
    assert len(set(groups[before == 2].tolist())) == 1
    assert groups[before == 1][0] != groups[before == 2][0]
    assert not groups[before == 0].any()


def test_what_may_be_an_element_comes_out_of_the_plate_when_more_are_wanted() -> None:
    layers = strips()
    before = groups_like(layers)
    groups = _split(pieces_of(maps_of(layers)), np.where(before == 3, 0, before).astype(np.int32), 3)
    assert groups.max() == 3
    assert (groups[before == 3] == 3).all()


def test_one_solid_element_is_not_cut_to_reach_a_number() -> None:
    layers = np.minimum(strips(), 1)
    before = groups_like(layers)
    assert np.array_equal(_split(pieces_of(maps_of(layers)), before, 5), before)


@pytest.mark.parametrize("names", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_elements_are_numbered_from_the_lowest_to_the_topmost(names: tuple[int, int, int]) -> None:
    layers = strips()
    shuffled = full(np.array([0, *names])[layers])
    assert np.array_equal(in_order(shuffled, [maps_of(layers)]), full(layers))


def test_the_true_elements_are_likelier_than_others() -> None:
    layers = strips()
    looks = [maps_of(layers)]
    truth = likelihood(full(layers), looks)
    assert truth > likelihood(full(np.where(layers == 3, 0, layers)), looks), "one is missing"
    assert truth > likelihood(full(np.roll(layers, 2, axis=1)), looks), "all are shifted"


def test_gaps_are_measured_between_elements_and_not_to_the_plate() -> None:
    labels = np.zeros((6, 30), np.int32)
    labels[:, 2:8], labels[:, 10:16], labels[:, 22:28] = 1, 2, 3
    gaps = _gaps(labels) * 30
    assert gaps[1, 2] == gaps[2, 1] == pytest.approx(3, rel=0.1)
    assert gaps[2, 3] == pytest.approx(7, rel=0.1)
    assert np.isinf(gaps[0]).all()
    assert np.isinf(gaps[:, 0]).all()


def test_of_elements_that_do_not_touch_the_nearest_are_joined() -> None:
    layers = np.repeat(np.repeat([1, 0, 2, 0, 0, 3], STEP)[None], ROWS, axis=0)
    groups = _reduced(pieces_of(maps_of(layers)), groups_like(layers), 2, DROP)
    before = groups_like(layers)
    first, second, third = (groups[before == k] for k in (1, 2, 3))
    assert (first == first[0]).all()
    assert (second == first[0]).all()
    assert third[0] not in (0, first[0])


def test_the_element_map_is_the_mean_of_all_looks_at_the_size_of_the_picture() -> None:
    one, none = maps_of(np.ones((4, 4), int)), maps_of(np.zeros((8, 8), int))
    assert element_map([one, none], 30, 20).shape == (20, 30)
    assert element_map([one, none], 30, 20) == pytest.approx(0.5)


def test_dust_goes_to_what_it_touches_most() -> None:
    labels = np.zeros((100, 100), np.int32)
    labels[10:50, 10:50] = 1
    labels[20:22, 20:23] = 2
    labels[80, 80:83] = 3
    labels[60:90, 10:40] = 4
    cleaned = _without_dust(labels)
    assert cleaned[21, 21] == 1
    assert cleaned[80, 81] == 0
    assert cleaned[70, 20] == 2
    assert cleaned.max() == 2


def test_a_subject_that_several_elements_fill_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = strips()
    looks = [maps_of(layers)]
    pieces = pieces_of(looks[0])
    draft = Draft("photo", pieces, groups_like(layers))
    shown = full(layers)
    work = np.zeros((*shown.shape, 3), np.uint8)

    def found(mask: npt.NDArray[np.bool_]) -> Draft:
        monkeypatch.setattr(elements, "find_subject", lambda work, looks: Subject(mask, 0.9))
        return with_subject(draft, shown, work, looks)

    assert found((shown == 1) | (shown == 2)) is draft
    one = found(shown == 2)
    assert one.subject
    assert (one.groups[one.pieces.labels] == 1).sum() == (shown == 2).sum()
    assert found((shown == 1) | (shown == 0)).subject, "an element fills a small part of it only"


def test_a_subject_that_is_hardly_believed_in_is_taken_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = strips()
    shown = full(layers)
    draft = Draft("photo", pieces_of(maps_of(layers)), groups_like(layers))
    monkeypatch.setattr(elements, "find_subject", lambda work, looks: Subject(shown == 2, 0.1))
    work = np.zeros((*shown.shape, 3), np.uint8)
    assert with_subject(draft, shown, work, [maps_of(layers)]) is draft
    assert with_subject(draft, shown, work, [maps_of(layers)], always=True).subject
