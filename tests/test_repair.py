"""Blank layers and copies are left out before layers are refined."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerctl.composite import flatten, largest_difference
from layerctl.layers import Layer, LayerStack
from layerctl.repair import Repair, repaired
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant


@pytest.fixture(scope="module")
def made() -> tuple[SourceImage, LayerStack]:
    return scene(8, width=240, height=180)


def test_true_layers_stay_as_they_are(made: tuple[SourceImage, LayerStack]) -> None:
    source, stack = made
    mended = repaired(source, stack)
    assert mended.repairs == ()
    assert list(mended.stack.walk()) == list(stack.walk())


@pytest.mark.parametrize(("fault", "name"), [("blank", "blank"), ("composite_copy", "composite copy")])
def test_what_shows_nothing_of_its_own_is_left_out(made: tuple[SourceImage, LayerStack], fault: str, name: str) -> None:
    source, stack = made
    faulty = plant(fault, source, stack, seed=4, severity=0.8)
    assert faulty is not None
    mended = repaired(source, faulty)
    assert list(mended.stack.walk()) == list(stack.walk())
    assert [repair.fault for repair in mended.repairs] == [name]
    assert "--keep-faulty" in str(mended.repairs[0])


def test_of_two_copies_the_one_that_covers_stays(made: tuple[SourceImage, LayerStack]) -> None:
    source, stack = made
    twice = stack.with_layers((*stack.layers, replace(next(reversed(list(stack.walk()))), name="again")))
    mended = repaired(source, twice)
    assert mended.repairs == (Repair("Element 3", "duplicate", into="again"),)
    assert len(mended.stack.layers) == len(stack.layers)
    assert largest_difference(flatten(mended.stack), flatten(twice)) <= 24  # a soft edge that was there twice


def test_two_half_transparent_halves_of_one_thing_become_one_layer(made: tuple[SourceImage, LayerStack]) -> None:
    source, stack = made
    *rest, last = stack.walk()
    pixels = last.pixels.copy()
    pixels[..., 3] //= 2
    halves = stack.with_layers((*rest, replace(last, pixels=pixels, name="half"), replace(last, pixels=pixels, name="other half")))
    mended = repaired(source, halves)
    assert [layer.name for layer in mended.stack.walk()] == [*(layer.name for layer in rest), "other half"]
    assert largest_difference(flatten(mended.stack), flatten(halves)) <= 1


def test_the_bottom_layer_always_stays() -> None:
    source, stack = scene(1, width=64, height=48)
    copies = stack.with_layers((Layer("Background", source.pixels), Layer("Copy", source.pixels)))
    assert [layer.name for layer in repaired(source, copies).stack.walk()] == ["Background"]
