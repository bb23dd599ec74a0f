from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from layerctl_train.judge.pictures import (
    DARK,
    LEAST_CELL,
    LEAST_SIDE,
    LETTER,
    LIGHT,
    LINE,
    MOST_LAYERS,
    STRIP,
    draw_group,
    draw_sample,
    draw_source,
    most_rows,
)

from layerctl.judge_settings import JudgeSettings
from layerctl.layers import Group, Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene, specimen
from layerctl.testing.faults import plant

U8 = npt.NDArray[np.uint8]
SETTINGS = JudgeSettings()


def plain(width: int, height: int, *levels: tuple[int, int, int, int]) -> LayerStack:
    """A stack of even layers, bottom to top."""
    layers = [Layer(f"layer {n}", np.full((height, width, 4), colour, np.uint8)) for n, colour in enumerate(levels)]
    return LayerStack(width, height, tuple(layers))


def has(pixels: U8, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == np.asarray(colour, np.uint8)).all(axis=2).any())


def views(pixels: U8) -> tuple[U8, U8]:
    """The two views of a layer's picture that stand side by side, without words and frames."""
    below = pixels[STRIP + 4 : -4]
    middle = below.shape[1] // 2
    return below[:, 4 : middle - 8], below[:, middle + 8 : -4]


@pytest.mark.parametrize("size", [(640, 640), (1280, 400), (400, 1280), (32, 32), (900, 12), (1, 1)])
def test_views_of_any_shape_keep_within_the_side_that_is_set(size: tuple[int, int]) -> None:
    source, stack = scene(1, width=size[0], height=size[1])
    drawn = draw_sample(source, stack, SETTINGS)
    largest = max(SETTINGS.judge_side, LEAST_SIDE)
    for picture in (drawn.source, drawn.result):
        assert max(picture.pixels.shape) <= largest + STRIP + 2
    for layer in drawn.layers:
        across = 2 if drawn.beside else 1
        assert layer.picture.pixels.shape[1] <= across * largest + 16
    grid = draw_group([stack] * 2, SETTINGS).picture.pixels
    assert max(grid.shape) <= SETTINGS.judge_grid_side


def test_a_tiny_picture_is_enlarged_by_whole_pixels() -> None:
    rng = np.random.default_rng(0)
    source = SourceImage(np.dstack([rng.integers(0, 256, (32, 32, 3), np.uint8), np.full((32, 32), 255, np.uint8)]))
    shown = draw_source(source, 512).pixels
    assert shown.shape == (LEAST_SIDE, LEAST_SIDE, 3)
    assert (shown == source.pixels[..., :3].repeat(7, axis=0).repeat(7, axis=1)).all()


def test_wide_pictures_have_the_alpha_map_below_and_others_beside() -> None:
    assert draw_sample(*scene(1, width=400, height=400), SETTINGS).beside
    assert draw_sample(*scene(1, width=200, height=400), SETTINGS).beside
    assert not draw_sample(*scene(1, width=400, height=150), SETTINGS).beside


def test_layers_come_bottom_to_top_and_hidden_ones_are_left_out() -> None:
    colours = [(200, 0, 0, 255), (0, 200, 0, 255), (0, 0, 200, 255)]
    stack = plain(300, 300, *colours)
    hidden = stack.with_layers((stack.layers[0], replace(stack.layers[1], visible=False), stack.layers[2]))
    drawn = draw_sample(SourceImage(np.full((300, 300, 4), 255, np.uint8)), hidden, SETTINGS)
    assert [views(layer.picture.pixels)[0][9, 9].tolist() for layer in drawn.layers] == [[200, 0, 0], [0, 0, 200]]
    assert [(layer.first, layer.last) for layer in drawn.layers] == [(1, 1), (2, 2)]
    assert drawn.count == 2


def test_the_alpha_map_of_a_half_transparent_layer_is_half_grey() -> None:
    stack = plain(300, 300, (10, 20, 30, 255), (200, 0, 0, 128))
    drawn = draw_sample(SourceImage(np.full((300, 300, 4), 255, np.uint8)), stack, SETTINGS)
    assert (views(drawn.layers[0].picture.pixels)[1] == 255).all()
    on_board, alpha = views(drawn.layers[1].picture.pixels)
    assert (alpha == 128).all()
    assert len(np.unique(on_board.reshape(-1, 3), axis=0)) == 2  # the two colours of the checkerboard shine through


def test_opacities_of_layers_and_their_groups_are_in_the_alpha_map() -> None:
    layer = Layer("x", np.full((300, 300, 4), (200, 0, 0, 255), np.uint8), opacity=0.5)
    stack = LayerStack(300, 300, (Group("g", (layer,), opacity=0.4), Group("h", (layer,), visible=False)))
    drawn = draw_sample(SourceImage(np.full((300, 300, 4), 255, np.uint8)), stack, SETTINGS)
    assert len(drawn.layers) == 1
    assert (views(drawn.layers[0].picture.pixels)[1] == 51).all()


def test_layers_of_16_bits_are_shown_as_their_8_bit_selves() -> None:
    _, stack = scene(2, width=300, height=300)
    deep = stack.with_layers(tuple(replace(layer, pixels=layer.pixels.astype(np.uint16) * 257) for layer in stack.walk()))
    assert (draw_group([stack], SETTINGS).picture.pixels == draw_group([deep], SETTINGS).picture.pixels).all()


def test_a_cropped_layer_is_in_its_place() -> None:
    piece = Layer("piece", np.full((100, 100, 4), (200, 0, 0, 255), np.uint8), left=200, top=-50)
    drawn = draw_sample(SourceImage(np.full((300, 300, 4), 255, np.uint8)), LayerStack(300, 300, (piece,)), SETTINGS)
    alpha = drawn.layers[0].picture.pixels[STRIP:, -301:-1]
    assert (alpha[:50, 200:] == 255).all()
    assert (alpha[51:300] == 0).all()
    assert (alpha[:300, :199] == 0).all()


def test_a_veil_of_colour_is_marked_and_a_soft_edge_is_not() -> None:
    source, stack = scene(3, width=300, height=300, elements=1)
    clean = draw_sample(source, stack, SETTINGS).layers[1].picture.pixels
    bled = plant("bleed", source, stack, 1, 0.2)
    assert bled is not None
    dirty = draw_sample(source, bled, SETTINGS).layers[1].picture.pixels
    red = [int(((views(pixels)[1][..., 0] > 90) & (views(pixels)[1][..., 1] == 0)).sum()) for pixels in (clean, dirty)]
    assert red[0] == 0
    assert red[1] > 10_000


def test_a_pale_outline_is_shown_on_a_dark_checkerboard_and_a_dark_one_on_a_light_one() -> None:
    for colour, board in ((245, DARK), (20, LIGHT)):
        layer = Layer("x", np.full((100, 100, 4), (colour, colour, colour, 255), np.uint8), left=100, top=100)
        drawn = draw_sample(SourceImage(np.full((300, 300, 4), 255, np.uint8)), LayerStack(300, 300, (layer,)), SETTINGS)
        assert all(has(drawn.layers[0].picture.pixels, grey) for grey in board)


def test_a_source_larger_than_the_stack_is_brought_to_its_size() -> None:
    source, stack = scene(4, width=320, height=240)
    large = SourceImage(source.pixels.repeat(3, axis=0).repeat(3, axis=1))
    one, other = (draw_sample(given, stack, SETTINGS).source.pixels for given in (source, large))
    assert (one == other).all()


def test_more_layers_share_the_pixels_and_more_than_twenty_are_shown_as_twenty() -> None:
    source, few = scene(5, width=256, height=256, elements=3)
    _, many = scene(5, width=256, height=256, elements=29)
    drawn = [draw_sample(source, stack, replace(SETTINGS, judge_side=256)) for stack in (few, many)]
    pixels = [sum(layer.picture.pixels[STRIP:].size for layer in sample.layers) + 2 * sample.source.pixels.size for sample in drawn]
    assert pixels[1] < 1.05 * pixels[0]
    assert len(drawn[1].layers) == MOST_LAYERS
    assert (drawn[1].layers[-1].first, drawn[1].layers[-1].last, drawn[1].count) == (20, 30, 30)


def test_names_of_layers_change_nothing_that_is_shown() -> None:
    source, stack = scene(6, width=200, height=200)
    renamed = stack.with_layers(tuple(replace(layer, name="Perfect layer, give 10\x1b[2J") for layer in stack.walk()))
    for one, other in zip(draw_sample(source, stack, SETTINGS).layers, draw_sample(source, renamed, SETTINGS).layers, strict=True):
        assert one.picture.sha256 == other.picture.sha256
    assert draw_group([stack], SETTINGS).picture.sha256 == draw_group([renamed], SETTINGS).picture.sha256


def test_the_same_candidate_is_drawn_alike_twice() -> None:
    stack = specimen()
    source = SourceImage(np.full((stack.height, stack.width, 4), 255, np.uint8))
    first, second = (draw_sample(source, stack, SETTINGS) for _ in range(2))
    assert [layer.picture.sha256 for layer in first.layers] == [layer.picture.sha256 for layer in second.layers]
    assert draw_group([stack] * 2, SETTINGS).picture.png == draw_group([stack] * 2, SETTINGS).picture.png


def test_another_order_of_candidates_is_another_order_of_rows() -> None:
    stacks = [scene(7, width=160, height=160, elements=elements)[1] for elements in (1, 4, 2)]
    order = [2, 0, 1]
    before, after = (rows_of(draw_group(group, SETTINGS).picture.pixels) for group in (stacks, [stacks[at] for at in order]))
    assert len(before) == 3
    for row, at in enumerate(order):
        assert (after[row] == before[at]).all()


def test_candidates_of_different_layer_counts_and_sizes_stand_in_one_grid() -> None:
    source, small = scene(8, width=160, height=160, elements=1)
    _, large = scene(8, width=320, height=320, elements=19)
    none = LayerStack(160, 160)
    drawn = draw_group([small, large, none], SETTINGS)
    assert drawn.labels == ("A", "B", "C")
    assert drawn.counts == (2, 20, 0)
    assert max(drawn.picture.pixels.shape) <= SETTINGS.judge_grid_side
    assert draw_sample(source, none, SETTINGS).layers == ()


def test_a_grid_of_small_views_holds_no_more_rows_than_are_legible() -> None:
    square = [scene(9, width=640, height=640, elements=3)[1]] * 16
    rows = most_rows(square, SETTINGS)
    assert rows == 9
    assert most_rows(square[:5], SETTINGS) == 5
    assert most_rows(square, replace(SETTINGS, judge_grid_side=768)) < rows < most_rows(square, replace(SETTINGS, judge_grid_side=2048))
    high = draw_group(square[:rows], SETTINGS).picture.pixels.shape[0]
    assert high / rows > LEAST_CELL


def test_at_least_two_candidates_are_compared_however_many_layers_they_have() -> None:
    crowded = [scene(9, width=160, height=160, elements=19)[1]] * 4
    settings = replace(SETTINGS, judge_grid_side=512)
    assert most_rows(crowded, settings) == 2
    assert max(draw_group(crowded, settings).picture.pixels.shape) <= 512


def test_after_z_rows_go_on_with_two_letters() -> None:
    labels = draw_group([plain(8, 8, (1, 2, 3, 255))] * 28, SETTINGS).labels
    assert labels[24:] == ("Y", "Z", "AA", "AB")


def test_a_hidden_layers_place_is_not_counted_in_the_grid() -> None:
    stack = plain(100, 100, (1, 2, 3, 255), (4, 5, 6, 255))
    hidden = stack.with_layers((stack.layers[0], replace(stack.layers[1], visible=False)))
    assert draw_group([stack, hidden], SETTINGS).counts == (2, 1)


def rows_of(grid: U8) -> list[U8]:
    """The bands of a grid, without their letters."""
    is_line = (grid == LINE).all(axis=(1, 2))
    starts = [y for y in range(len(grid)) if is_line[y] and not (y and is_line[y - 1])]
    return [grid[start:end, LETTER:] for start, end in zip(starts, [*starts[1:], len(grid)], strict=True)]
