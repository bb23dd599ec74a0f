"""The scenes of the lab."""

from __future__ import annotations

import numpy as np
from layerctl_train.lab_scenes import FAULT_RATE, lab_scene

from layerctl.composite import flatten
from layerctl.layers import fingerprint
from layerctl.measures import composite_copy, is_blank
from layerctl.view import view


def test_a_scene_flattens_to_its_picture_and_is_the_same_for_the_same_seed() -> None:
    for seed in range(12):
        source, stack = lab_scene(seed)
        assert np.array_equal(flatten(stack), source.pixels)
        assert len(stack.layers) == (2, 3, 4)[seed % 3]
        assert fingerprint(lab_scene(seed)[1]) == fingerprint(stack)
    assert len({fingerprint(lab_scene(seed)[1]) for seed in range(50)}) == 50


def test_a_larger_shape_lies_below_a_smaller_one() -> None:
    for seed in range(40):
        _, stack = lab_scene(seed, layers=4, side=64)
        areas = [float((layer.pixels[..., 3] / 255).sum()) for layer in stack.walk()]
        assert areas[1:] == sorted(areas[1:], reverse=True) or max(areas[2] / areas[1], areas[3] / areas[2]) < 1.5


def test_faults_come_as_often_as_they_are_said_to_and_leave_the_picture() -> None:
    blank, copied, count = 0, 0, 300
    for seed in range(count):
        source, stack = lab_scene(seed, faulty=True)
        assert np.array_equal(source.pixels, lab_scene(seed)[0].pixels)
        seen = view(source, stack)
        blank += is_blank(seen.alphas[0])
        copied += any(composite_copy(seen, place) > 0.9 for place in range(1, len(seen.alphas)))
    assert abs(blank / count - FAULT_RATE) < 0.08
    # A copy may be covered by emptiness, and a veil over a shape that is everywhere looks like one.
    assert 0.15 < copied / count < 0.45


def test_a_scene_without_faults_has_none() -> None:
    for seed in range(60):
        source, stack = lab_scene(seed)
        seen = view(source, stack)
        assert not any(is_blank(alpha) for alpha in seen.alphas)
        assert all(composite_copy(seen, place) < 0.5 for place in range(1, len(seen.alphas)))
