"""Known answers of the measures that quality is made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from layerctl import measures
from layerctl.layers import Group, Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.view import View, carried_on, lone_view, view

U8 = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 200, 160
RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 60)


def box(colour: tuple[int, int, int], left: int = 0, top: int = 0, right: int = WIDTH, bottom: int = HEIGHT) -> U8:
    """A canvas with one opaque rectangle."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[top:bottom, left:right] = (*colour, 255)
    return pixels


def seen(picture: U8, *layers: U8) -> View:
    stack = LayerStack(WIDTH, HEIGHT, tuple(Layer(f"layer {k}", pixels) for k, pixels in enumerate(layers)))
    return view(SourceImage(picture), stack)


def over(*layers: U8) -> U8:
    picture = layers[0].copy()
    for layer in layers[1:]:
        picture = np.where(layer[..., 3:] == 255, layer, picture)
    return picture


def alpha_of(pixels: U8) -> npt.NDArray[np.float32]:
    return pixels[..., 3].astype(np.float32) / np.float32(255)


PLATE, RECTANGLE = box(BLUE), box(RED, 40, 40, 100, 100)
PICTURE = over(PLATE, RECTANGLE)


def test_a_view_is_reduced_and_keeps_what_each_layer_shows() -> None:
    big = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8))
    wide = LayerStack(8 * WIDTH, 8 * HEIGHT, (Layer("plate", big),))
    looked = view(SourceImage(big), wide)
    assert (looked.width, looked.height) == (640, 512)
    assert measures.recomposition(looked) < 0.002
    both = seen(PICTURE, PLATE, RECTANGLE)
    assert both.shares[0][60, 60] == 0
    assert both.shares[1][60, 60] == 1


def test_views_of_odd_sizes_depths_and_places_have_one_size() -> None:
    for width, height in ((1, 1), (3, 2000), (2000, 1), (641, 641)):
        pixels = np.full((height, width, 4), 255, np.uint8)
        layers = (
            Layer("plain", pixels),
            Layer("deep", pixels.astype(np.uint16) * 257, left=-1, top=height),
            Layer("half", pixels, left=width // 2, opacity=0.5),
            Layer("hidden", pixels, visible=False),
        )
        looked = view(SourceImage(pixels), LayerStack(width, height, layers))
        assert max(looked.width, looked.height) <= 640
        assert {alpha.shape for alpha in looked.alphas} == {looked.opaque.shape}
        assert looked.alphas[0].min() == 1
        assert 0 < looked.alphas[2].max() <= 0.5
        assert looked.alphas[3].max() == looked.alphas[1].max() == 0
        assert looked.picture.max() == looked.colours[0].max() == 255


def test_recomposition_is_the_mean_difference() -> None:
    assert measures.recomposition(seen(PICTURE, PLATE, RECTANGLE)) == 0
    brighter = PLATE.copy()
    brighter[..., :3] += 20
    assert measures.recomposition(seen(PLATE, brighter)) == pytest.approx(20 / 255, abs=1e-6)
    assert measures.recomposition(seen(PLATE, np.zeros_like(PLATE))) == pytest.approx(1)


def test_a_layer_of_single_pixels_is_blank() -> None:
    assert measures.is_blank(np.zeros((20, 20), np.float32))
    lone = np.zeros((20, 20), np.float32)
    lone[::3, ::3] = 1
    assert measures.is_blank(lone)
    lone[4:7, 4:7] = 0.5
    assert not measures.is_blank(lone)


def test_a_thin_line_and_a_layer_of_a_tiny_picture_are_not_blank() -> None:
    line = np.zeros((40, 60), np.float32)
    line[20, 5:50] = 1
    assert not measures.is_blank(line)
    assert not measures.is_blank(np.ones((1, 1), np.float32))
    assert not measures.is_blank(np.ones((1, 300), np.float32))


def test_what_a_hidden_group_holds_is_not_seen() -> None:
    hidden = Group("closed", (Layer("copy", PICTURE),), visible=False)
    faint = Group("faint", (Layer("box", RECTANGLE),), opacity=0.5)
    looked = view(SourceImage(PICTURE), LayerStack(WIDTH, HEIGHT, (Layer("plate", PLATE), hidden, faint)))
    assert looked.alphas[1].max() == 0
    assert looked.alphas[2].max() == 0.5


def test_layers_are_measured_alike_beside_a_smaller_source() -> None:
    stack = LayerStack(WIDTH, HEIGHT, (Layer("plate", PLATE), Layer("box", RECTANGLE)))
    small = view(SourceImage(np.ascontiguousarray(PICTURE[::4, ::4])), stack)
    assert np.abs(small.picture - PICTURE[..., :3]).mean() < 6
    assert np.abs(small.picture[50:90, 50:90] - PICTURE[50:90, 50:90, :3]).max() == 0


def test_copies_of_a_layer_are_alike_and_others_are_not() -> None:
    assert measures.likeness(seen(PICTURE, PLATE, RECTANGLE, RECTANGLE), 1, 2) == pytest.approx(1)
    assert measures.likeness(seen(PICTURE, PLATE, RECTANGLE, box(GREEN, 40, 40, 100, 100)), 1, 2) == 0
    half = box(RED, 70, 40, 100, 100)
    assert measures.likeness(seen(PICTURE, PLATE, RECTANGLE, half), 1, 2) == pytest.approx(0.5)


def test_the_picture_once_more_is_a_copy_and_a_large_element_is_not() -> None:
    assert measures.composite_copy(seen(PICTURE, PLATE, PICTURE), 1) == 1
    assert measures.composite_copy(seen(PICTURE, PLATE, PICTURE, RECTANGLE), 1) == 1
    photo = box(RED, 1, 1, 199, 159)
    assert measures.composite_copy(seen(over(PLATE, photo), PLATE, photo), 1) == 0
    card = box(GREEN, 5, 5, 195, 155)
    assert measures.composite_copy(seen(over(PLATE, card, RECTANGLE), PLATE, card, RECTANGLE), 1) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_ghost_is_measured_by_its_strength(share: float) -> None:
    plate = PLATE.copy()
    plate[40:100, 40:100, :3] = np.rint((1 - share) * np.array(BLUE) + share * np.array(RED))
    looked = seen(PICTURE, plate, RECTANGLE)
    assert measures.repeats_below(looked, 0) == pytest.approx(share, abs=0.05)
    assert measures.seam(looked, 0) == pytest.approx(share, abs=0.1)


def test_a_layer_that_shows_what_it_covers_is_in_the_wrong_order() -> None:
    lower, upper = box(RED, 20, 20, 110, 110), box(GREEN, 60, 60, 160, 140)
    right = seen(over(PLATE, lower, upper), PLATE, lower, upper)
    assert measures.repeats_above(right, 2, 1) < 0.05
    shown = upper.copy()
    shown[60:110, 60:110, :3] = RED
    wrong = seen(over(PLATE, lower, shown), PLATE, lower, shown)
    assert measures.repeats_above(wrong, 2, 1) > 0.9


def test_a_rim_of_the_surroundings_is_contamination() -> None:
    assert measures.contamination(seen(PICTURE, PLATE, RECTANGLE), 1) == 0
    wide = box(BLUE, 38, 38, 102, 102)
    wide[40:100, 40:100, :3] = RED
    assert measures.contamination(seen(PICTURE, PLATE, wide), 1) > 0.5


def test_specks_away_from_a_layer_are_dust_and_the_dot_of_an_i_is_not() -> None:
    alpha = alpha_of(RECTANGLE)
    assert measures.dust(alpha) == 0
    dotted = alpha.copy()
    dotted[120:122, 20:190:20] = 1
    assert measures.dust(dotted) == pytest.approx(1 - np.exp(-9 / 6))
    letter = np.zeros_like(alpha)
    letter[50:70, 50:53] = 1
    letter[40:43, 50:53] = 1
    assert measures.dust(letter) == 0


def test_the_picture_in_transparent_parts_is_bleed() -> None:
    assert measures.bleed(seen(PICTURE, PLATE, RECTANGLE), 1) == 0
    faint = RECTANGLE.copy()
    faint[RECTANGLE[..., 3] == 0] = (*BLUE, 12)
    assert measures.bleed(seen(PICTURE, PLATE, faint), 1) == pytest.approx(1)
    glow = RECTANGLE.copy()
    glow[RECTANGLE[..., 3] == 0] = (255, 255, 200, 12)
    assert measures.bleed(seen(PICTURE, PLATE, glow), 1) == 0


def test_colour_that_cannot_be_seen_counts_a_quarter_where_it_varies() -> None:
    stripes = PLATE.copy()
    stripes[::8, :, :3] = 255
    picture = over(stripes, RECTANGLE)
    hidden = RECTANGLE.copy()
    around = RECTANGLE[..., 3] == 0
    hidden[around, :3] = picture[around, :3]
    assert measures.bleed(seen(picture, stripes, hidden), 1) == pytest.approx(0.25)
    filled = RECTANGLE.copy()
    filled[around, :3] = BLUE
    assert measures.bleed(seen(PICTURE, PLATE, filled), 1) == 0


def test_holes_are_the_share_of_the_picture_that_is_missing() -> None:
    plate = PLATE.copy()
    plate[:16, :100, 3] = 0
    assert measures.holes(seen(PLATE, plate)) == pytest.approx(0.05)
    assert measures.holes(seen(plate, plate)) == 0
    veiled = np.where(RECTANGLE[..., 3:] > 0, np.array([200, 30, 30, 128], np.uint8), PLATE).astype(np.uint8)
    emptied = PLATE.copy()
    emptied[RECTANGLE[..., 3] > 0] = 0
    assert measures.holes(seen(veiled, emptied)) == 0, "what is half transparent in the picture belongs to one layer"


def test_two_halves_meet_edge_to_edge_and_things_above_each_other_do_not() -> None:
    left, right = box(RED, 40, 40, 70, 100), box(RED, 70, 40, 100, 100)
    assert measures.abutment(seen(PICTURE, PLATE, left, right)) > 0.2
    lower, upper = box(RED, 20, 20, 110, 110), box(GREEN, 60, 60, 160, 140)
    assert measures.abutment(seen(over(PLATE, lower, upper), PLATE, lower, upper)) < 0.02


def test_outlines_need_edges_and_edges_need_outlines() -> None:
    true = seen(PICTURE, PLATE, RECTANGLE)
    assert measures.unsupported(true) == 0
    assert measures.unexplained(true) == 0
    assert measures.unsupported(seen(PLATE, PLATE, box(BLUE, 40, 40, 100, 100))) == 1
    assert measures.unexplained(seen(PICTURE, PICTURE)) == 1


def test_things_that_lie_apart_are_scattered_the_more_the_farther() -> None:
    def two(gap: int) -> float:
        alpha = np.zeros((HEIGHT, WIDTH), np.float32)
        alpha[40:80, 20:50] = alpha[40:80, 50 + gap : 80 + gap] = 1
        return measures.scatter(alpha)

    assert measures.scatter(alpha_of(RECTANGLE)) == 0
    assert two(2) == 0
    assert 0 < two(20) < two(90) < 1


def test_a_frayed_outline_is_ragged_and_letters_are_not() -> None:
    alpha = alpha_of(RECTANGLE)
    assert measures.raggedness(alpha) == 0
    frayed = alpha.copy()
    frayed[40:44, 40:100:3] = frayed[96:100, 41:100:3] = 0
    assert measures.raggedness(frayed) > 0.1
    thin = np.zeros_like(alpha)
    thin[20:140:8, 20:180] = 1
    assert measures.raggedness(thin) == 0


def test_layers_of_equal_area_count_fully() -> None:
    halves = [box(RED, 0, 0, 100, 160), box(BLUE, 100, 0, 200, 160)]
    assert measures.effective_layers(seen(over(*halves), *halves)) == pytest.approx(2)
    assert measures.effective_layers(seen(PICTURE, PICTURE)) == pytest.approx(1)


def test_what_is_drawn_inside_makes_a_layer_busy() -> None:
    assert measures.busyness(lone_view(RECTANGLE)) == 0
    card = box(GREEN, 20, 20, 180, 140)
    card[50:110, 60:80, :3] = card[50:110, 110:130, :3] = 255
    assert measures.busyness(lone_view(card)) > 0.2


def test_colours_are_carried_on_smoothly_from_the_nearest() -> None:
    ramp = np.repeat(np.linspace(0, 200, 64, dtype=np.float32)[None, :, None], 48, axis=0).repeat(3, axis=2)
    known = np.ones((48, 64), np.float32)
    known[10:30, 20:40] = 0
    filled = carried_on(ramp, known)
    assert np.abs(filled - ramp).max() < 32
    assert (filled[known > 0] == ramp[known > 0]).all()
