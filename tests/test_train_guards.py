"""Faults in pixels cost their points, and nothing else does."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from layerctl_train.guards import FULL, Penalties, disagreement, penalties, texture
from layerctl_train.metrics import GUARDS
from layerctl_train.training_settings import TrainingSettings
from PIL import Image

from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant

SETTINGS = TrainingSettings()
PHOTOGRAPHS = sorted((Path(__file__).parent.parent / "examples" / "photographs").glob("*.[jp][pn]g"))
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


def planted(fault: str, seed: int, severity: float = 1.0) -> Penalties:
    source, stack = scene(seed, width=160, height=120)
    faulty = plant(fault, source, stack, seed, severity)
    assert faulty is not None
    return penalties(source, faulty, SETTINGS)


def waves(height: int, width: int, period: int, kind: str) -> F64:
    """A pattern of amplitude 1."""
    y, x = np.mgrid[:height, :width]
    half = period // 2
    return np.where((x // half + y // half) % 2, 1.0, -1.0) if kind == "checks" else np.cos(2 * np.pi * x / period)


def opaque(colours: npt.NDArray[np.generic]) -> U8:
    pixels = np.full((*colours.shape[:2], 4), 255, np.uint8)
    pixels[..., :3] = np.clip(np.rint(colours.astype(np.float64)), 0, 255)
    return pixels


def alone(pixels: U8) -> LayerStack:
    height, width = pixels.shape[:2]
    return LayerStack(width, height, (Layer("only", pixels),))


def patterned(stack: LayerStack, at: int, period: int, levels: float, kind: str) -> LayerStack:
    layers = list(stack.walk())
    pixels = layers[at].pixels.astype(np.float64)
    pixels[..., :3] += levels * waves(layers[at].height, layers[at].width, period, kind)[..., None]
    changed = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return stack.with_layers(tuple(replace(layer, pixels=changed) if k == at else layer for k, layer in enumerate(layers)))


def photograph(path: Path, side: int) -> npt.NDArray[np.float32]:
    with Image.open(path) as image:
        return np.asarray(
            image.convert("RGB").resize((side, round(side * image.height / image.width)), Image.Resampling.LANCZOS), np.float32
        )


def test_the_penalties_are_the_guards_of_the_metrics_and_their_sum() -> None:
    assert tuple(field.name for field in fields(Penalties)) == GUARDS
    assert Penalties(1, 2, 3, 4, 5).total == 15


@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
@pytest.mark.parametrize("is_opaque", [True, False])
def test_true_layers_cost_next_to_nothing(size: tuple[int, int], is_opaque: bool) -> None:
    for seed in range(40):
        source, stack = scene(seed, width=size[0], height=size[1], opaque=is_opaque)
        found = penalties(source, stack, SETTINGS)
        assert (found.blank, found.copy, found.duplicate, found.texture) == (0, 0, 0, 0)
        assert found.recomposition < 0.01


def test_each_blank_layer_costs_its_points() -> None:
    source, stack = scene(0)
    empty = Layer("nothing", np.zeros((64, 96, 4), np.uint8))
    found = penalties(source, stack.with_layers((*stack.layers, empty, replace(empty, name="nothing again"))), SETTINGS)
    assert found.blank == 2 * SETTINGS.guard_blank
    assert found.total == pytest.approx(found.blank, abs=0.01)
    assert planted("blank", 1, 0.5).blank == SETTINGS.guard_blank


@pytest.mark.parametrize("severity", [0.2, 1.0])
def test_a_layer_that_shows_the_whole_picture_costs_its_points(severity: float) -> None:
    for seed in range(3):
        assert planted("composite_copy", seed, severity).copy == pytest.approx(SETTINGS.guard_copy, rel=0.1)


def test_a_bottom_layer_that_shows_what_lies_above_it_is_a_copy_too() -> None:
    for seed in range(3):
        assert planted("ghost", seed).copy > 0.8 * SETTINGS.guard_copy


def test_a_picture_that_was_not_split_is_no_copy_but_has_blank_layers() -> None:
    source, _ = scene(0)
    empty = Layer("nothing", np.zeros((64, 96, 4), np.uint8))
    found = penalties(source, LayerStack(96, 64, (Layer("all", source.pixels), empty)), SETTINGS)
    assert (found.copy, found.blank) == (0, SETTINGS.guard_blank)


def test_the_same_element_twice_costs_its_points_once() -> None:
    for seed in range(2):
        assert planted("duplicate", seed).duplicate == pytest.approx(SETTINGS.guard_duplicate, rel=0.05)
        assert planted("duplicate", seed, 0.2).duplicate > 0.5 * SETTINGS.guard_duplicate


def test_layers_that_do_not_show_the_picture_cost_by_how_far_they_are_off() -> None:
    pixels = opaque(np.full((64, 64, 3), 100))
    for levels in (0, 10, 51):
        found = penalties(SourceImage(pixels), alone(opaque(np.full((64, 64, 3), 100 + levels))), SETTINGS)
        assert found.total == found.recomposition == pytest.approx(SETTINGS.guard_recomposition * levels / 255, abs=1e-5)
    assert planted("drift", 0).recomposition > 5 * planted("drift", 0, 0.02).recomposition > 0


def test_weights_of_0_cost_nothing() -> None:
    free = TrainingSettings(guard_blank=0, guard_copy=0, guard_duplicate=0, guard_recomposition=0, guard_texture=0)
    source, stack = scene(0)
    faulty = plant("composite_copy", source, patterned(stack, 0, 2, 8, "checks"), 0)
    assert faulty is not None
    assert penalties(source, faulty, free).total == 0


@pytest.mark.parametrize("kind", ["checks", "waves"])
@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_faint_fine_pattern_is_found(period: int, kind: str) -> None:
    for size in ((160, 120), (320, 240)):
        source, stack = scene(3, width=size[0], height=size[1])
        assert FULL * texture(source, patterned(stack, 0, period, 3, kind)) > 1


def test_large_pictures_are_looked_at_as_they_are() -> None:
    source, stack = scene(3, width=1024, height=640)
    assert texture(source, stack) == 0
    assert FULL * texture(source, patterned(stack, 0, 2, 3, "checks")) > 1


@pytest.mark.parametrize(("kind", "period"), [("checks", 2), ("checks", 4), ("waves", 2), ("waves", 4)])
def test_in_the_smallest_pictures_only_the_finest_patterns_are_found(kind: str, period: int) -> None:
    for seed in range(4):
        source, stack = scene(seed, width=32, height=32)
        assert FULL * texture(source, patterned(stack, 0, period, 6, kind)) > 1


def test_a_pattern_of_an_element_or_under_one_is_found() -> None:
    source, stack = scene(3, width=320, height=240)
    assert FULL * texture(source, patterned(stack, 2, 4, 3, "checks")) > 1
    below = patterned(alone(source.pixels), 0, 4, 3, "checks")
    assert FULL * texture(source, below.with_layers((*below.layers, Layer("cover", source.pixels)))) > 1


def test_a_pattern_of_alpha_is_found() -> None:
    plain = opaque(np.full((160, 160, 3), 90))
    holed = plain.copy()
    holed[..., 3] = np.rint(230 + 8 * waves(160, 160, 2, "checks"))
    assert texture(SourceImage(plain), alone(holed)) == 1


def test_a_pattern_costs_the_more_the_stronger_it_is() -> None:
    source, stack = scene(3, width=160, height=120)
    found = [penalties(source, patterned(stack, 0, 4, levels, "checks"), SETTINGS).texture for levels in (1.5, 3, 6, 40)]
    assert 0 < found[0] < found[1] < found[2] < found[3] == SETTINGS.guard_texture


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("side", [64, 240])
def test_a_photograph_is_no_pattern_whatever_an_engine_loses_of_it(path: Path, side: int) -> None:
    colours = photograph(path, side)
    source = SourceImage(opaque(colours))
    noisy = colours + np.random.default_rng(0).normal(0, 4, colours.shape)
    for seen in (colours, noisy, cv2.GaussianBlur(colours, (0, 0), 1.2), 0.8 * colours + 20, np.roll(colours, 2, axis=1), colours[::-1]):
        assert texture(source, alone(opaque(seen))) == 0
    blank = SourceImage(opaque(np.full_like(colours, 128)))
    assert texture(blank, alone(opaque(colours))) == 0


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_a_pattern_over_a_photograph_is_found(path: Path) -> None:
    colours = photograph(path, 240)
    source = SourceImage(opaque(colours))
    for period in (2, 4, 8):
        assert (
            FULL * texture(source, alone(opaque(colours + 3 * waves(colours.shape[0], colours.shape[1], period, "checks")[..., None]))) > 1
        )


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("kind", ["checks", "waves"])
def test_a_design_that_has_a_pattern_may_have_it_in_its_layers_completed_and_alone(period: int, kind: str) -> None:
    ground = opaque(120 + np.repeat(40 * waves(160, 240, period, kind)[..., None], 3, axis=2))
    element = np.zeros_like(ground)
    element[30:130, 60:200] = (200, 60, 40, 255)
    picture = np.where(element[..., 3:] > 0, element, ground)
    stack = LayerStack(240, 160, (Layer("ground", ground), Layer("element", element)))
    assert texture(SourceImage(picture), stack) == 0
    softer = opaque(120 + np.repeat(25 * waves(160, 240, period, kind)[..., None], 3, axis=2))
    assert texture(SourceImage(picture), stack.with_layers((Layer("ground", softer), stack.layers[1]))) == 0


def test_a_design_that_has_a_pattern_may_not_have_another() -> None:
    ground = opaque(120 + np.repeat(40 * waves(160, 240, 2, "checks")[..., None], 3, axis=2))
    assert FULL * texture(SourceImage(ground), patterned(alone(ground), 0, 6, 3, "waves")) > 1


def test_a_pattern_in_a_corner_of_the_picture_may_be_a_layer() -> None:
    picture = opaque(np.full((240, 320, 3), 120))
    picture[20:120, 20:130, :3] = np.rint(120 + 50 * waves(100, 110, 4, "waves"))[..., None]
    patch = np.zeros_like(picture)
    patch[20:120, 20:130] = picture[20:120, 20:130]
    stack = LayerStack(320, 240, (Layer("ground", opaque(np.full((240, 320, 3), 120))), Layer("patch", patch)))
    assert texture(SourceImage(picture), stack) == 0


def test_pictures_too_small_for_a_spectrum_and_other_sizes_than_the_source_are_taken() -> None:
    source, stack = scene(0, width=8, height=12, elements=1)
    assert texture(source, stack) == 0
    large, _ = scene(3, width=320, height=240)
    _, small = scene(3, width=160, height=120)
    assert texture(large, small) == 0


def test_disagreement_counts_the_pairs_that_the_judge_ranks_the_other_way_round() -> None:
    assert disagreement([5, 7, 6], [0, 2, 0]) == (2, 2)
    assert disagreement([7, 5, 6], [0, 2, 0]) == (0, 2)
    assert disagreement([5, 5], [0, 2]) == (0, 1)


def test_disagreement_leaves_out_what_has_no_score_or_hardly_differs() -> None:
    assert disagreement([5, math.nan, 6], [0, 2, 0.01]) == (0, 0)
    assert disagreement([math.inf, 3], [0, 0]) == (0, 0)
