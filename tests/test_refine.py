"""An engine's small layers at full size: exact whatever they are, and near the truth where they are any good."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from layerctl.composite import flatten, largest_difference
from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.refine import refine
from layerctl.scale import at_size
from layerctl.source import SourceImage
from layerctl.testing import scene

U8 = npt.NDArray[np.uint8]
SIZE, SMALL = 480, 120


def strands(rng: np.random.Generator) -> U8:
    """A dark disc with strands a pixel or two wide, SIZE x SIZE."""
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., :3] = (40, 30, 25)
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    middle = SIZE // 2
    cv2.circle(alpha, (middle, middle), SIZE // 6, 255, -1, cv2.LINE_AA)
    for angle in rng.uniform(0, 2 * np.pi, 60):
        end = (int(middle + 0.36 * SIZE * np.cos(angle)), int(middle + 0.36 * SIZE * np.sin(angle)))
        cv2.line(alpha, (middle, middle), end, 255, int(rng.integers(1, 3)), cv2.LINE_AA)
    pixels[..., 3] = alpha
    return pixels


@pytest.fixture(scope="module")
def truth() -> LayerStack:
    rng = np.random.default_rng(3)
    ground = np.full((SIZE, SIZE, 4), 255, np.uint8)
    texture = cv2.resize(rng.uniform(120, 250, (24, 24, 3)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    ground[..., :3] = np.clip(texture + rng.normal(0, 2, texture.shape), 0, 255)
    return LayerStack(SIZE, SIZE, (Layer("Background", ground, kind="background"), Layer("Hair", strands(rng))))


@pytest.fixture(scope="module")
def source(truth: LayerStack) -> SourceImage:
    return SourceImage(flatten(truth))


def as_from_a_model(truth: LayerStack, shift: tuple[float, float] = (0.5, 0.5), gain: float = 1.03, offset: float = 4) -> LayerStack:
    """The stack at SMALL, moved, softened, drifted and with a little noise."""
    rng = np.random.default_rng(5)
    layers = []
    for layer in at_size(truth, SMALL, SMALL).walk():
        canvas = on_canvas(layer, SMALL, SMALL).astype(np.float32)
        planes = np.concatenate([canvas[..., :3] * canvas[..., 3:] / 255, canvas[..., 3:]], axis=2)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        planes = cv2.GaussianBlur(cv2.warpAffine(planes, matrix, (SMALL, SMALL), borderMode=cv2.BORDER_REPLICATE), (0, 0), 0.6)
        colour = planes[..., :3] * 255 / np.maximum(planes[..., 3:], 4) * gain + offset + rng.normal(0, 2, (SMALL, SMALL, 3))
        pixels = np.clip(np.rint(np.concatenate([colour, planes[..., 3:]], axis=2)), 0, 255).astype(np.uint8)
        layers.append(replace(layer, pixels=pixels, left=0, top=0))
    return LayerStack(SMALL, SMALL, tuple(layers))


def band_error(truth: LayerStack, stack: LayerStack) -> float:
    """Mean difference of the top layer's alpha, in levels, where the true one is soft and two pixels around."""
    true, found = (on_canvas(list(each.walk())[-1], SIZE, SIZE)[..., 3].astype(np.int16) for each in (truth, stack))
    band = cv2.dilate(((true > 4) & (true < 251)).astype(np.uint8), np.ones((5, 5))) > 0
    return float(np.abs(true - found)[band].mean())


def colour_error(truth: LayerStack, stack: LayerStack) -> float:
    """Mean difference of visible colours, in levels, each pixel by how much of its layer shows."""
    left, error, weight = np.ones((SIZE, SIZE)), 0.0, 0.0
    for true, found in reversed(list(zip(truth.walk(), stack.walk(), strict=True))):
        a, b = (on_canvas(layer, SIZE, SIZE).astype(np.int16) for layer in (true, found))
        share = left * a[..., 3] / 255
        error += float((np.abs(a - b)[..., :3].mean(axis=2) * share).sum())
        weight += float(share.sum())
        left = left - share
    return error / weight


def test_strands_come_back_at_full_size_far_better_than_by_bicubic(truth: LayerStack, source: SourceImage) -> None:
    small = as_from_a_model(truth)
    refined, plain = refine(source, small).stack, at_size(small, SIZE, SIZE)
    assert largest_difference(flatten(refined), source.pixels) <= 1
    assert band_error(truth, refined) < 0.5 * band_error(truth, plain)
    assert colour_error(truth, refined) < 0.2 * colour_error(truth, plain)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (-0.3, 0.8)])
def test_shift_and_drift_are_found_and_told(truth: LayerStack, source: SourceImage, shift: tuple[float, float]) -> None:
    fidelity = refine(source, as_from_a_model(truth, shift, gain=1.04, offset=0)).fidelity
    assert (fidelity.shift_x, fidelity.shift_y) == pytest.approx((-shift[0], -shift[1]), abs=0.1)
    assert fidelity.drift == pytest.approx(255 * 0.04, abs=6)


def test_layers_of_the_sources_size_keep_their_alpha(truth: LayerStack, source: SourceImage) -> None:
    refined = refine(source, truth)
    assert refined.fidelity.mean_error == 0
    assert refined.warnings == ()
    # The solve drops alpha up to 2 % where the picture is right without it.
    assert band_error(truth, refined.stack) < 0.01


def noise(rng: np.random.Generator) -> U8:
    return rng.integers(0, 256, (SMALL, SMALL, 4), np.uint8)


def blank(_: np.random.Generator) -> U8:
    return np.zeros((SMALL, SMALL, 4), np.uint8)


def opaque(rng: np.random.Generator) -> U8:
    pixels = noise(rng)
    pixels[..., 3] = 255
    return pixels


@pytest.mark.parametrize("garbage", [noise, blank, opaque])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_garbage_in_exactness_out(source: SourceImage, garbage: object, has_alpha: bool) -> None:
    assert callable(garbage)
    picture = source
    if has_alpha:
        pixels = source.pixels.copy()
        pixels[:, :100, 3] = np.linspace(0, 255, 100)
        picture = SourceImage(pixels, has_alpha=True)
    rng = np.random.default_rng(1)
    stack = LayerStack(SMALL, SMALL, tuple(Layer(f"garbage {number}", garbage(rng)) for number in range(3)))
    refined = refine(picture, stack)
    assert largest_difference(flatten(refined.stack), picture.pixels) <= 1
    assert refined.fidelity.mean_error > 12
    assert any("levels off the picture" in warning for warning in refined.warnings)


def test_layers_of_another_place_or_in_the_wrong_order_are_exact_too(truth: LayerStack, source: SourceImage) -> None:
    small = as_from_a_model(truth, (9.0, -7.0))
    for stack in (small, small.with_layers(tuple(reversed(small.layers)))):
        refined = refine(source, stack)
        assert largest_difference(flatten(refined.stack), source.pixels) <= 1
        assert (refined.fidelity.shift_x, refined.fidelity.shift_y) == pytest.approx((0, 0), abs=1.5)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (500, 40), (600, 600)])
def test_layers_of_any_size_and_shape_are_exact(truth: LayerStack, source: SourceImage, size: tuple[int, int]) -> None:
    assert largest_difference(flatten(refine(source, at_size(truth, *size)).stack), source.pixels) <= 1


@pytest.mark.parametrize("opaque", [True, False])
def test_scenes_with_and_without_transparency_are_exact(opaque: bool) -> None:
    picture, stack = scene(4, width=300, height=200, elements=4, opaque=opaque)
    refined = refine(picture, at_size(stack, 150, 100))
    assert largest_difference(flatten(refined.stack), picture.pixels) <= 1
    assert [layer.name for layer in refined.stack.walk()] == [layer.name for layer in stack.walk()]


def test_the_error_map_shows_where_the_engine_was_off(truth: LayerStack, source: SourceImage) -> None:
    small = as_from_a_model(truth, (0, 0), 1, 0)
    wrong = next(small.walk()).pixels.copy()
    wrong[10:20, 30:50, :3] = 255 - wrong[10:20, 30:50, :3]
    error = refine(source, small.with_layers((replace(next(small.walk()), pixels=wrong), *list(small.walk())[1:]))).error
    assert error.shape == (SMALL, SMALL)
    assert error[12:18, 32:48].mean() > 50
    assert np.median(error) < 5


@pytest.mark.parametrize(("visible", "opacity"), [(False, 1.0), (True, 0.5)])
def test_stacks_that_the_solve_cannot_take_are_refused(truth: LayerStack, source: SourceImage, visible: bool, opacity: float) -> None:
    ground, hair = as_from_a_model(truth).walk()
    with pytest.raises(ValueError, match="Hair"):
        refine(source, LayerStack(SMALL, SMALL, (ground, replace(hair, visible=visible, opacity=opacity))))


def test_what_is_hidden_in_transparent_pixels_neither_counts_nor_moves_anything() -> None:
    """An engine that sees the colours only, and is right, is right."""
    pixels = np.zeros((480, 640, 4), np.uint8)
    cv2.circle(pixels, (320, 240), 150, (100, 120, 140, 255), -1)
    cv2.rectangle(pixels, (280, 200), (379, 259), (200, 40, 30, 255), -1)
    for hidden in (0, 255):
        picture = pixels.copy()
        picture[picture[..., 3] == 0, :3] = hidden
        opaque = picture.copy()
        opaque[..., 3] = 255
        element = np.zeros_like(pixels)
        element[200:260, 280:380] = (200, 40, 30, 255)
        plate = np.full_like(opaque, 255)
        plate[..., :3] = np.where(element[..., 3:] > 0, np.array([100, 120, 140], np.uint8), opaque[..., :3])
        stack = at_size(LayerStack(640, 480, (Layer("Background", plate, kind="background"), Layer("Box", element))), 160, 120)
        refined = refine(SourceImage(picture, has_alpha=True), stack)
        assert largest_difference(flatten(refined.stack), picture) <= 1
        assert refined.fidelity.mean_error < 2
        assert refined.warnings == ()
        assert (refined.fidelity.shift_x, refined.fidelity.shift_y) == pytest.approx((0, 0), abs=0.1)


@pytest.mark.parametrize("count", [17, 33, 64])
def test_many_layers_are_exact(count: int) -> None:
    rng = np.random.default_rng(count)
    picture = SourceImage(np.dstack([rng.integers(0, 256, (20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8)]))
    stack = LayerStack(30, 20, tuple(Layer(str(number), rng.integers(0, 256, (20, 30, 4), np.uint8)) for number in range(count)))
    assert largest_difference(flatten(refine(picture, stack).stack), picture.pixels) <= 1


def test_more_layers_than_the_solve_can_tell_apart_are_refused() -> None:
    pixel = np.full((1, 1, 4), 255, np.uint8)
    with pytest.raises(ValueError, match="more than 64"):
        refine(SourceImage(pixel), LayerStack(1, 1, tuple(Layer(str(number), pixel) for number in range(65))))
