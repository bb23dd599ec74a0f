from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from layerctl.engines.classic.engine import ENGINE, count_layers
from layerctl.engines.classic.proposals import WAYS, Sight, Way, choose, see
from layerctl.registry import DecomposeRequest, PictureKind
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
COLOURS = ((205, 40, 40), (40, 90, 200), (40, 150, 70))


@pytest.fixture(scope="module")
def rgb() -> U8:
    """Three rectangles on a light ground, two of them side by side."""
    picture = np.full((150, 200, 3), (238, 236, 228), np.uint8)
    for colour, (left, top, right, bottom) in zip(COLOURS, ((15, 20, 75, 70), (85, 20, 140, 70), (60, 95, 170, 135)), strict=True):
        picture[top:bottom, left:right] = colour
    return picture


@pytest.fixture(scope="module")
def sight(rgb: U8) -> Sight:
    return see(rgb)


def opaque(rgb: U8) -> SourceImage:
    return SourceImage(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]))


def test_the_network_looks_once_at_every_size(sight: Sight) -> None:
    assert sight.look(256) is sight.look(256)
    assert sight.look(256) is not sight.look(320)


def test_three_things_are_counted_without_being_asked_for(rgb: U8, sight: Sight) -> None:
    assert choose(sight, DecomposeRequest()).layers == 4
    assert count_layers(opaque(rgb)) == 4


def test_a_plain_picture_counts_as_two_layers_for_engines_that_need_a_number() -> None:
    plain = np.full((60, 80, 3), (90, 140, 200), np.uint8)
    assert choose(see(plain), DecomposeRequest()).layers == 1
    assert count_layers(opaque(plain)) == 2


@pytest.mark.parametrize("kind", ["design", "photo"])
def test_every_kind_has_eight_ways_that_are_all_different(kind: PictureKind) -> None:
    assert kind != "auto"
    ways = {Way(), *WAYS[kind]}
    assert len(ways) == 1 + len(WAYS[kind]) >= 8
    assert all(len(way.kinds) == 1 for way in WAYS[kind]), "the likelier kind is the first choice's"


def test_candidates_start_again_after_the_last_and_say_so(rgb: U8, sight: Sight) -> None:
    number = 1 + len(WAYS["design"])
    first, again = (choose(sight, DecomposeRequest(4, candidate=candidate)) for candidate in (0, number))
    assert first.again is None
    assert again.again == 0
    assert np.array_equal(first.elements.labels, again.elements.labels)
    proposal = ENGINE.decompose(opaque(rgb), DecomposeRequest(4, candidate=number), lambda what, share: None)
    assert any(f"no candidate {number}" in warning for warning in proposal.warnings)


def test_the_same_candidate_is_the_same_every_time_and_others_differ(rgb: U8, sight: Sight) -> None:
    second = 1 + next(place for place, way in enumerate(WAYS["design"]) if way.second)
    first, other = (choose(sight, DecomposeRequest(3, candidate=candidate)) for candidate in (0, second))
    assert first.layers == other.layers == 3
    assert not np.array_equal(first.elements.labels, other.elements.labels), "another pair of the three is joined"
    assert np.array_equal(choose(see(rgb), DecomposeRequest(3, candidate=second)).elements.labels, other.elements.labels)


@pytest.mark.parametrize("kind", ["design", "photo"])
def test_candidates_keep_to_the_kind_that_was_asked_for(kind: PictureKind, sight: Sight) -> None:
    assert {choose(sight, DecomposeRequest(4, kind, candidate=candidate)).elements.kind for candidate in (1, 3)} == {kind}
