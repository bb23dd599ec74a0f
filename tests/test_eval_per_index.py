"""The L1 by index, by hand, and what planted faults do to the reference-free measures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerctl_train.evaluate.layerd import canvases
from layerctl_train.evaluate.per_index import PerIndex, by_layer_count, per_index_l1, soundness

from layerctl.layers import Group, Layer, LayerStack
from layerctl.quality import CRITERIA, assess
from layerctl.testing import scene
from layerctl.testing.faults import plant

U8 = npt.NDArray[np.uint8]


def pixels(*colours: tuple[int, int, int, int]) -> U8:
    """One row."""
    return np.array([colours], np.uint8)


RED, CLEAR = (255, 0, 0, 255), (0, 0, 0, 0)


def test_a_layer_is_compared_premultiplied_and_over_white() -> None:
    found = per_index_l1([pixels(RED, CLEAR)], [pixels((0, 0, 0, 255), CLEAR)])
    # Red for black at one of two pixels. Four channels: (1 + 0 + 0 + 0) / 4 / 2. Over white, three: (1 + 0 + 0) / 3 / 2.
    assert found == PerIndex((1 / 8,), (1 / 6,), 0, ())


def test_half_transparent_layers_differ_by_half() -> None:
    found = per_index_l1([pixels((255, 0, 0, 51))], [pixels((255, 0, 0, 255))])
    # Alpha .2 for 1. Premultiplied: red .2 for 1, alpha .2 for 1: (.8 + 0 + 0 + .8) / 4. Over white: (1, .8, .8) for (1, 0, 0): 1.6 / 3.
    assert found.premultiplied == pytest.approx((0.4,))
    assert found.over_white == pytest.approx((1.6 / 3,))


def test_colour_that_nobody_sees_does_not_count() -> None:
    assert per_index_l1([pixels((9, 99, 199, 0))], [pixels(CLEAR)]) == PerIndex((0,), (0,), 0, ())


def test_a_missing_prediction_counts_as_blank_and_extra_ones_stand_apart() -> None:
    truth = [pixels(RED), pixels((0, 0, 0, 255))]
    few = per_index_l1([pixels(RED)], truth)
    # Blank for black: alpha alone differs, 1/4; over white all three channels do.
    assert few == PerIndex((0, 1 / 4), (0, 1), 1, ())
    assert per_index_l1([], truth).premultiplied == (1 / 2, 1 / 4)
    # Red against nothing: red and alpha of four channels.
    many = per_index_l1([*truth, pixels(RED), pixels(CLEAR)], truth)
    assert many == PerIndex((0, 0), (0, 0), 0, (1 / 2, 0))


def test_the_table_groups_pictures_by_their_number_of_true_layers() -> None:
    rows = by_layer_count([PerIndex((0.2, 0.4), (0.1, 0), 0, ()), PerIndex((1,), (0.5,), 0, (0.9,)), PerIndex((0.4, 0.8), (0.3, 0), 1, ())])
    assert [(row.layers, row.pictures) for row in rows] == [(1, 1), (2, 2)]
    assert rows[0].premultiplied == (1.0,)
    assert rows[1].premultiplied == pytest.approx((0.3, 0.6))
    assert rows[1].over_white == pytest.approx((0.2, 0))


def test_layers_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        per_index_l1([pixels(RED)], [pixels(RED, RED)])
    with pytest.raises(ValueError, match="cannot be compared"):
        per_index_l1([pixels(RED)], [])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8))
def test_the_l1_follows_its_definition_on_any_pixels(seed: int, height: int, width: int) -> None:
    one, other = np.random.default_rng(seed).integers(0, 256, (2, height, width, 4), np.uint8)
    laid = []
    for layer in (one / 255, other / 255):
        alpha = layer[..., 3:]
        laid.append((np.concatenate([layer[..., :3] * alpha, alpha], axis=2), layer[..., :3] * alpha + 1 - alpha))
    found = per_index_l1([one], [other])
    assert found.premultiplied[0] == pytest.approx(np.abs(laid[0][0] - laid[1][0]).mean(), abs=1e-12)
    assert found.over_white[0] == pytest.approx(np.abs(laid[0][1] - laid[1][1]).mean(), abs=1e-12)


def test_true_layers_are_sound() -> None:
    source, stack = scene(0, width=240, height=180, elements=3)
    found = soundness(source, stack)
    quality = assess(source, stack)
    assert (found.layers, found.blank, found.duplicate, found.composite_copy) == (4, 0, 0, 0)
    assert found.recomposition < 1 / 255
    assert found.criteria == tuple(getattr(quality, name) for name in CRITERIA)
    assert found.overall == quality.overall
    assert not any(per_index_l1(canvases(stack), canvases(stack)).premultiplied)


@pytest.mark.parametrize(("fault", "rate"), [("blank", "blank"), ("duplicate", "duplicate"), ("composite_copy", "composite_copy")])
def test_a_planted_fault_is_one_layer_of_all(fault: str, rate: str) -> None:
    source, stack = scene(8, width=240, height=180, elements=3)
    faulty = plant(fault, source, stack, seed=1, severity=1)
    assert faulty is not None
    found = soundness(source, faulty)
    assert getattr(found, rate) == 1 / found.layers


def test_recomposition_is_the_mean_difference_from_the_source() -> None:
    source, _ = scene(0, width=40, height=30)
    lighter = source.pixels.copy()
    lighter[..., :3] = np.where(lighter[..., :3] < 128, lighter[..., :3] + 51, lighter[..., :3] - 51)
    assert soundness(source, LayerStack(40, 30, (Layer("all", lighter),))).recomposition == pytest.approx(51 / 255, abs=1e-5)


def test_layers_of_one_name_are_told_apart_and_none_at_all_are_one_blank_layer() -> None:
    source, _ = scene(0, width=40, height=30)
    same = Layer("layer", source.pixels)
    nothing = Layer("layer", np.zeros((1, 1, 4), np.uint8))
    found = soundness(source, LayerStack(40, 30, (same, Group("folder", (nothing, same, nothing)))))
    assert (found.layers, found.blank, found.duplicate) == (4, 1 / 2, 1 / 4)
    empty = soundness(source, LayerStack(40, 30))
    assert (empty.layers, empty.blank, empty.duplicate) == (1, 1, 0)
    assert empty.recomposition > 0.1
