"""Planted faults lower the criterion that they are about, and are named."""

from __future__ import annotations

import pytest

from layerctl.composite import flatten, largest_difference
from layerctl.layers import Layer, LayerStack
from layerctl.quality import CRITERIA, Quality, assess
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import EXACT, PLANTERS, plant

SCENES = (0, 8, 17)
OWN = {
    "blank": ("validity", "blank"), "composite_copy": ("validity", "composite copy"), "duplicate": ("validity", "duplicate"),
    "drift": ("validity", "recomposition"), "halo": ("alpha", "halo"), "dust": ("alpha", "dust"), "bleed": ("alpha", "bleed"),
    "hole": ("background", "hole"), "ghost": ("background", "ghost"), "split": ("separation", "split"), "merge": ("separation", None),
    "wrong_order": ("separation", "order"), "bitten": ("separation", None), "ragged": ("alpha", None),
}  # fmt: skip
"""The criterion that each planted fault is about, and the name it is given; None for what may be too slight to be named."""


@pytest.fixture(scope="module")
def scenes() -> list[tuple[SourceImage, LayerStack, Quality]]:
    made = [scene(seed, width=480, height=360, elements=3) for seed in SCENES]
    return [(source, stack, assess(source, stack)) for source, stack in made]


def test_true_layers_are_good_and_have_no_faults(scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    for _, _, quality in scenes:
        assert quality.faults == ()
        assert quality.overall > 0.6
        assert all(0 <= getattr(quality, name) <= 1 for name in CRITERIA)


@pytest.mark.parametrize("fault", sorted(OWN))
def test_a_planted_fault_lowers_its_criterion_and_is_named(fault: str, scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    criterion, name = OWN[fault]
    planted = 0
    for source, stack, true in scenes:
        faulty = plant(fault, source, stack, seed=1, severity=0.6)
        if faulty is None:
            continue
        planted += 1
        found = assess(source, faulty)
        assert found.overall < true.overall
        assert getattr(found, criterion) < getattr(true, criterion)
        assert name is None or name in {fault.kind for fault in found.faults}
    assert planted > 0


@pytest.mark.parametrize("fault", sorted(EXACT))
def test_exact_faults_leave_the_picture_as_it_was(fault: str, scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    for source, stack, _ in scenes:
        faulty = plant(fault, source, stack, seed=3, severity=0.5)
        assert faulty is None or largest_difference(flatten(faulty), source.pixels) <= 1


def test_planting_is_repeatable_and_refuses_unknown_faults(scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    source, stack, _ = scenes[0]
    first, again = (plant("dust", source, stack, seed=5) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (flatten(first) == flatten(again)).all()
    with pytest.raises(KeyError):
        plant("rust", source, stack, seed=1)


def test_faults_that_need_a_second_element_or_text_are_not_forced(scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    source, stack, _ = scenes[0]
    alone = stack.with_layers(stack.layers[:1])
    assert all(plant(fault, source, alone, seed=1) is None for fault in sorted(PLANTERS.keys() - {"blank", "composite_copy", "drift"}))
    assert plant("text_altered", source, stack, seed=1) is None


def test_an_empty_stack_and_a_lone_background_are_poor() -> None:
    source, stack = scene(2, width=120, height=90)
    assert assess(source, stack.with_layers(())).overall == 0
    alone = stack.with_layers((Layer("Background", source.pixels, kind="background"),))
    lonely = assess(source, alone)
    assert lonely.distribution == 0
    assert lonely.overall == 0


def test_the_score_does_not_hang_on_the_size(scenes: list[tuple[SourceImage, LayerStack, Quality]]) -> None:
    from layerctl.scale import at_size

    source, stack, true = scenes[0]
    large = at_size(stack, 960, 720)
    assert assess(SourceImage(flatten(large)), large).overall == pytest.approx(true.overall, abs=0.08)
    assert assess(source, at_size(stack, 240, 180)).overall == pytest.approx(true.overall, abs=0.12)
