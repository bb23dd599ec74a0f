from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerctl.composite import flatten, largest_difference
from layerctl.exact import _take_remainder, solve_exact
from layerctl.layers import Group, Layer, LayerStack, Pixels
from layerctl.scale import at_size
from layerctl.source import SourceImage
from layerctl.testing import specimen

ALPHAS = ("noise", "blank", "opaque", "faint", "extreme")
SOURCES = ("opaque", "noise", "steps", "empty")


def picture(rng: np.random.Generator, width: int, height: int, transparency: str) -> SourceImage:
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if transparency == "opaque":
        pixels[..., 3] = 255
    elif transparency == "steps":
        pixels[..., 3] = rng.choice([0, 1, 128, 254, 255], (height, width))
    elif transparency == "empty":
        pixels[..., 3] = 0
    return SourceImage(pixels, has_alpha=transparency != "opaque")


def layer(rng: np.random.Generator, name: str, alphas: str, reach: int) -> Layer:
    height, width = (int(v) for v in rng.integers(1, reach + 2, 2))
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if alphas == "blank":
        pixels[..., 3] = 0
    elif alphas == "opaque":
        pixels[..., 3] = 255
    elif alphas == "faint":
        pixels[..., 3] = 1
    elif alphas == "extreme":
        pixels[..., 3] = rng.choice([0, 1, 2, 254, 255], (height, width))
    left, top = (int(v) for v in rng.integers(-reach, reach, 2))
    return Layer(name, pixels, left, top)


def opaque_picture(colour: tuple[int, int, int], width: int = 6, height: int = 4) -> SourceImage:
    return SourceImage(np.full((height, width, 4), (*colour, 255), np.uint8))


def filled(name: str, colour: tuple[int, int, int, int], width: int = 6, height: int = 4) -> Layer:
    return Layer(name, np.full((height, width, 4), colour, np.uint8))


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    transparency=st.sampled_from(SOURCES),
    alphas=st.lists(st.sampled_from(ALPHAS), min_size=1, max_size=20),
)
def test_any_stack_flattens_to_the_source_within_one_level(seed: int, size: tuple[int, int], transparency: str, alphas: list[str]) -> None:
    rng = np.random.default_rng(seed)
    source = picture(rng, *size, transparency)
    stack = LayerStack(*size, tuple(layer(rng, f"layer {i}", a, max(size)) for i, a in enumerate(alphas)))
    assert largest_difference(flatten(solve_exact(source, stack)), source.pixels) <= 1


@pytest.mark.parametrize("alphas", ALPHAS)
@pytest.mark.parametrize("transparency", SOURCES)
@pytest.mark.parametrize("count", [1, 2, 20])
def test_full_size_noise_flattens_to_the_source_within_one_level(alphas: str, transparency: str, count: int) -> None:
    rng = np.random.default_rng(count)
    source = picture(rng, 61, 53, transparency)
    layers = [Layer(str(i), np.resize(layer(rng, str(i), alphas, 60).pixels, (53, 61, 4)).astype(np.uint8)) for i in range(count)]
    assert largest_difference(flatten(solve_exact(source, LayerStack(61, 53, tuple(layers)))), source.pixels) <= 1


def test_names_kinds_texts_and_order_stay() -> None:
    layers = (
        filled("Background", (0, 0, 0, 255)),
        replace(filled("Hi", (9, 9, 9, 80)), kind="text", text="Hi"),
        filled("Top", (1, 2, 3, 0)),
    )
    solved = solve_exact(opaque_picture((50, 60, 70)), LayerStack(6, 4, layers, icc=b"profile", dpi=(72.0, 72.0)))
    assert [(one.name, one.kind, one.text) for one in solved.walk()] == [(one.name, one.kind, one.text) for one in layers]
    assert (solved.icc, solved.dpi) == (b"profile", (72.0, 72.0))


def test_the_layers_given_are_not_changed() -> None:
    layers = (filled("Background", (0, 0, 0, 255)), filled("Veil", (9, 9, 9, 80)))
    solve_exact(opaque_picture((50, 60, 70)), LayerStack(6, 4, layers))
    assert [one.pixels[0, 0].tolist() for one in layers] == [[0, 0, 0, 255], [9, 9, 9, 80]]


def test_hidden_colour_of_a_lower_layer_stays() -> None:
    rng = np.random.default_rng(3)
    plate = Layer("Background", np.dstack([rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), np.full((40, 50), 255, np.uint8)]))
    source = picture(rng, 50, 40, "opaque")
    cover = Layer("Subject", np.full((20, 30, 4), 255, np.uint8), 5, 6)
    solved = list(solve_exact(source, LayerStack(50, 40, (plate, cover))).walk())
    assert np.array_equal(solved[0].pixels[6:26, 5:35], plate.pixels[6:26, 5:35])
    assert np.array_equal(solved[1].pixels, source.pixels[6:26, 5:35])


def test_where_no_upper_layer_covers_the_bottom_is_the_source() -> None:
    source = picture(np.random.default_rng(4), 20, 10, "opaque")
    stack = LayerStack(20, 10, (filled("Background", (7, 7, 7, 255), 20, 10), Layer("Dot", np.full((2, 2, 4), 255, np.uint8))))
    bottom = next(solve_exact(source, stack).walk()).pixels.copy()
    bottom[:2, :2] = source.pixels[:2, :2]
    assert np.array_equal(bottom, source.pixels)


def test_a_bottom_with_holes_becomes_opaque_under_an_opaque_source() -> None:
    source = picture(np.random.default_rng(5), 20, 10, "opaque")
    bottom = Layer("Background", np.full((3, 3, 4), 90, np.uint8), 2, 2)
    solved = next(solve_exact(source, LayerStack(20, 10, (bottom, filled("Veil", (0, 0, 0, 60), 20, 10)))).walk())
    assert solved.box == (0, 0, 20, 10)
    assert (solved.pixels[..., 3] == 255).all()


def test_a_right_stack_keeps_its_alphas_and_colours() -> None:
    plate, glass = (200, 100, 50), (20, 220, 120)
    stack = LayerStack(6, 4, (filled("Background", (*plate, 255)), filled("Glass", (*glass, 150))))
    solved = list(solve_exact(SourceImage(flatten(stack)), stack).walk())
    assert (solved[1].pixels[..., 3] == 150).all()
    assert np.abs(solved[0].pixels[..., :3].astype(int) - plate).max() <= 1
    assert np.abs(solved[1].pixels[..., :3].astype(int) - glass).max() <= 1


def test_a_plate_that_hardly_shows_keeps_its_colour_and_the_alpha_above_it_gives_way() -> None:
    rng = np.random.default_rng(0)
    plate, above = filled("Plate", (20, 30, 60, 255)), filled("Above", (250, 250, 250, 240))
    pixels = above.pixels.copy()
    pixels[..., 3] = rng.integers(231, 256, pixels.shape[:2])
    solved = list(solve_exact(opaque_picture((255, 254, 253)), LayerStack(6, 4, (plate, replace(above, pixels=pixels)))).walk())
    assert np.abs(solved[0].pixels[..., :3].astype(int) - plate.pixels[..., :3]).max() <= 4
    assert (solved[1].pixels[..., 3] >= pixels[..., 3]).all()


def test_colours_mostly_give_way_before_an_alpha_does() -> None:
    rng = np.random.default_rng(6)
    source = picture(rng, 60, 50, "opaque")
    pixels = rng.integers(0, 256, (5, 50, 60, 4), dtype=np.uint8)
    pixels[0, ..., 3] = 255
    pixels[1:, ..., 3] = np.clip(pixels[1:, ..., 3], 20, 254)
    stack = LayerStack(60, 50, tuple(Layer(str(i), one) for i, one in enumerate(pixels)))
    raised = [one.pixels[..., 3] > given for one, given in zip(solve_exact(source, stack).walk(), pixels[..., 3], strict=True)]
    assert np.mean(raised) < 0.04


def test_an_alpha_that_no_colour_fits_is_raised_to_the_least_that_one_does() -> None:
    below, wanted = np.array([[100], [100], [100]], np.int32), np.array([[177], [100], [60]], np.int32)
    solved = _take_remainder(wanted, np.array([[255], [0], [0], [50]], np.uint8), below)
    assert solved[3, 0] == 126
    assert solved[0, 0] == 255


def test_a_faint_veil_that_changes_nothing_is_cleared_and_the_layer_comes_back_blank() -> None:
    layers = (filled("Background", (80, 80, 80, 255)), filled("Dust", (200, 0, 0, 2)))
    solved = list(solve_exact(opaque_picture((80, 80, 80)), LayerStack(6, 4, layers)).walk())
    assert solved[1].pixels.shape == (1, 1, 4)
    assert solved[1].pixels[0, 0, 3] == 0
    assert np.array_equal(solved[0].pixels, opaque_picture((80, 80, 80)).pixels)


def test_the_soft_end_of_a_shadow_that_shows_stays() -> None:
    layers = (filled("Background", (250, 250, 250, 255)), filled("Shadow", (0, 0, 0, 4)))
    solved = list(solve_exact(opaque_picture((246, 246, 246)), LayerStack(6, 4, layers)).walk())
    assert (solved[1].pixels[..., 3] == 4).all()


def test_a_half_transparent_pixel_goes_to_the_layer_with_the_largest_share() -> None:
    source = SourceImage(np.full((4, 6, 4), (10, 20, 30, 128), np.uint8), has_alpha=True)
    layers = (filled("Panel", (0, 0, 0, 200)), filled("Edge of a letter", (9, 9, 9, 60)))
    solved = list(solve_exact(source, LayerStack(6, 4, layers)).walk())
    assert np.array_equal(solved[0].pixels, source.pixels)
    assert not solved[1].pixels[..., 3].any()


def test_a_cut_out_on_nothing_does_not_get_a_copy_of_what_lies_over_it() -> None:
    pixels = np.full((4, 6, 4), (200, 10, 10, 255), np.uint8)
    pixels[:, 4:] = 0
    left, right = Layer("Left", pixels[:, :2].copy()), Layer("Right", pixels[:, 2:4].copy(), 2)
    solved = list(solve_exact(SourceImage(pixels, has_alpha=True), LayerStack(6, 4, (left, right))).walk())
    assert [one.box for one in solved] == [(0, 0, 2, 4), (2, 0, 4, 4)]


def test_the_part_of_a_layer_outside_of_the_canvas_stays() -> None:
    layers = (filled("Background", (0, 0, 0, 255)), Layer("Banner", np.full((2, 30, 4), 255, np.uint8), -10, 1))
    solved = list(solve_exact(opaque_picture((50, 60, 70)), LayerStack(6, 4, layers)).walk())
    assert solved[1].box == (-10, 1, 20, 3)
    assert (solved[1].pixels[:, :10] == 255).all()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((), "without layers"),
        ((Group("Folder", (filled("a", (0, 0, 0, 255)),)),), "Folder"),
        ((replace(filled("Ghost", (0, 0, 0, 255)), opacity=0.5),), "Ghost"),
        ((replace(filled("Hidden", (0, 0, 0, 255)), visible=False),), "Hidden"),
        ((Layer("Deep", np.zeros((4, 6, 4), np.uint16)),), "Deep"),
    ],
)
def test_a_stack_that_is_not_flat_and_plain_is_refused_by_name(layers: tuple[Layer | Group, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        solve_exact(opaque_picture((1, 2, 3)), LayerStack(6, 4, layers))


def test_a_stack_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 4 pixels for a source of 6 x 4"):
        solve_exact(opaque_picture((1, 2, 3)), LayerStack(7, 4, (filled("a", (0, 0, 0, 255)),)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(24, 16), (50, 33), (11, 7), (1, 1), (96, 5)])
def test_scaling_moves_an_edge_to_where_it_belongs(size: tuple[int, int], dtype: type[np.uint8 | np.uint16]) -> None:
    white: Pixels = np.full((8, 9, 4), 255, np.uint8) if dtype is np.uint8 else np.full((8, 9, 4), 65535, np.uint16)
    stack = LayerStack(24, 16, (Layer("half", white, 5, 4),))
    scaled = at_size(stack, *size)
    assert (scaled.width, scaled.height) == size
    (half,) = scaled.walk()
    alpha = half.pixels[..., 3] / np.iinfo(dtype).max
    across, down = size[0] / 24, size[1] / 16
    middle = (alpha.sum(axis=0) * (np.arange(half.width) + half.left + 0.5)).sum() / alpha.sum()
    assert alpha.sum() == pytest.approx(72 * across * down, rel=0.06, abs=0.2)
    assert middle == pytest.approx(9.5 * across, abs=0.6 if across < 1 else 0.1)
    assert half.left == pytest.approx(5 * across, abs=2 * max(1, across) + 1)


@pytest.mark.parametrize("size", [(37, 41), (7, 5), (6, 13), (13, 8)])
def test_a_scaled_background_covers_the_canvas_to_its_rim(size: tuple[int, int]) -> None:
    (background,) = at_size(LayerStack(13, 8, (filled("Background", (10, 200, 30, 255), 13, 8),)), *size).walk()
    assert background.box == (0, 0, *size)
    assert (background.pixels == (10, 200, 30, 255)).all()


def test_hidden_colour_does_not_show_at_the_edges_of_a_scaled_layer() -> None:
    pixels = np.full((8, 8, 4), (0, 255, 0, 0), np.uint8)
    pixels[2:6, 2:6] = (255, 0, 0, 255)
    (element,) = at_size(LayerStack(8, 8, (Layer("red", pixels),)), 23, 21).walk()
    shown = element.pixels[element.pixels[..., 3] > 0]
    assert (shown[:, :3] == (255, 0, 0)).all()
    assert 0 < shown[:, 3].min() < 255


def test_a_hard_edge_has_no_ring_of_faint_alpha_after_scaling() -> None:
    (element,) = at_size(LayerStack(40, 40, (filled("square", (9, 9, 9, 255), 20, 20),)), 400, 400).walk()
    assert element.pixels[206:, :, 3].max(initial=0) <= 1
    assert element.pixels[:, 206:, 3].max(initial=0) <= 1


def test_scaling_keeps_groups_names_and_what_hangs_over_the_rim() -> None:
    stack = specimen()
    scaled = at_size(stack, 2 * stack.width, 2 * stack.height)
    for before, after in zip(stack.walk(), scaled.walk(), strict=True):
        assert (before.name, before.opacity, before.visible, before.kind, before.text) == (
            after.name,
            after.opacity,
            after.visible,
            after.kind,
            after.text,
        )
    assert [type(node) for node in scaled.layers] == [type(node) for node in stack.layers]
    assert any(min(layer.left, layer.top) < -1 for layer in scaled.walk())
    assert at_size(stack, stack.width, stack.height) is stack
