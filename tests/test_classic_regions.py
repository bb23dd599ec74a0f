from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from layerctl.composite import flatten, largest_difference
from layerctl.decompose import Decomposition, decompose
from layerctl.engines.classic.proposals import Sight
from layerctl.engines.classic.regions import Lifted, find_thing, lift, share_out
from layerctl.engines.classic.text import TextBlock
from layerctl.errors import UsageError
from layerctl.layers import Layer, on_canvas
from layerctl.regions import box_region
from layerctl.registry import DecomposeRequest, Engine, Region, load
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
WIDTH, HEIGHT = 240, 180
ENGINE: Engine = load("engines", "classic")
RED, BLUE, GREEN = (205, 40, 40), (40, 90, 200), (40, 150, 70)
DISC_BOX, CARD_BOX = "16,21,90,95", "140,15,226,81"


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A red disc left, a blue card right and a green one below, on a light gradient."""

    source: SourceImage
    plate: Floats
    disc: Floats
    card: Floats
    low: Floats


def drawn(kind: str, corners: list[int]) -> Floats:
    """Coverage 0..1 of a shape with a smooth edge."""
    large = Image.new("L", (WIDTH * 4, HEIGHT * 4))
    pen = ImageDraw.Draw(large)
    {"ellipse": pen.ellipse, "rectangle": pen.rectangle}[kind]([4 * corner for corner in corners], fill=255)
    return (np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) / 255).astype(np.float32)


def over(below: Floats, mask: Floats, colour: tuple[int, int, int]) -> Floats:
    return (below * (1 - mask[..., None]) + np.array(colour, np.float32) * mask[..., None]).astype(np.float32)


def opaque(picture: Floats) -> SourceImage:
    return SourceImage(np.dstack([np.rint(picture), np.full(picture.shape[:2], 255)]).astype(np.uint8))


def soft_iou(mask: Floats, layer: Layer) -> float:
    alpha = on_canvas(layer, WIDTH, HEIGHT)[..., 3] / np.float32(255)
    return float(np.minimum(mask, alpha).sum() / np.maximum(mask, alpha).sum())


def outline(mask: Floats) -> Region:
    return Region(np.rint(mask * 255).astype(np.uint8), is_outline=True)


def box(text: str) -> Region:
    return box_region(text, WIDTH, HEIGHT)


def result_of(source: SourceImage, layers: int | None, *regions: Region) -> Decomposition:
    result = decompose(source, ENGINE, DecomposeRequest(layers, regions=regions), lambda what, share: None)
    assert largest_difference(flatten(result.stack), source.pixels) <= 1
    return result


def lifted(source: SourceImage, layers: int | None, *regions: Region) -> Lifted:
    """What is lifted off a picture without text."""
    rgb = np.ascontiguousarray(source.pixels[..., :3])
    nowhere = np.zeros(rgb.shape[:2], bool)
    return lift(Sight(rgb, nowhere, (), rgb, nowhere), rgb, rgb, rgb, DecomposeRequest(layers, regions=regions))


def named(layers: Iterable[Layer], start: str) -> Layer:
    (found,) = [layer for layer in layers if layer.name.startswith(start)]
    return found


def block(left: int, top: int, width: int, height: int) -> TextBlock:
    return TextBlock("text", 1.0, left, top, np.full((height, width), 255, np.uint8), np.zeros((height, width, 3), np.uint8), ())


@pytest.fixture(scope="module")
def design() -> Design:
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    plate = np.stack([230 - across * 0.05, 225 - down * 0.08, 210 + across * 0.06], axis=2).astype(np.float32)
    disc, card = drawn("ellipse", [20, 25, 85, 90]), drawn("rectangle", [145, 20, 220, 75])
    low = drawn("rectangle", [80, 110, 175, 160])
    return Design(opaque(over(over(over(plate, disc, RED), card, BLUE), low, GREEN)), plate, disc, card, low)


@pytest.fixture(scope="module")
def boxed(design: Design) -> Decomposition:
    return result_of(design.source, 4, box(DISC_BOX), box(CARD_BOX))


def test_what_is_inside_of_a_box_is_a_layer_of_its_own_shape(design: Design, boxed: Decomposition) -> None:
    assert soft_iou(design.disc, named(boxed.stack.walk(), "Target 1")) > 0.95
    assert soft_iou(design.card, named(boxed.stack.walk(), "Target 2")) > 0.95


def test_targets_are_named_by_number_colour_and_place_and_lie_above_the_elements(boxed: Decomposition) -> None:
    names = [layer.name for layer in boxed.stack.walk()]
    assert names[0] == "Background"
    assert names[1].endswith("(green, bottom)")
    assert names[2:] == ["Target 1 (red, top left)", "Target 2 (blue, top right)"]


def test_what_lies_below_a_target_is_completed(design: Design, boxed: Decomposition) -> None:
    background = on_canvas(next(boxed.stack.walk()), WIDTH, HEIGHT)[..., :3]
    assert np.abs(background - design.plate)[(design.disc > 0.99) | (design.card > 0.99)].max() <= 8


def test_targets_count_and_come_first(design: Design) -> None:
    result = lifted(design.source, 3, box(CARD_BOX), box(DISC_BOX))
    assert [layer.name for layer in result.layers] == ["Target 1 (blue, top right)", "Target 2 (red, top left)"]
    assert (result.request.layers, result.request.regions) == (1, ())


def test_more_targets_than_layers_above_the_background_are_refused(design: Design) -> None:
    with pytest.raises(UsageError, match="2 wanted regions and a Background are more than the 2 layers") as caught:
        lifted(design.source, 2, box(DISC_BOX), box(CARD_BOX))
    assert "--layers 3" in str(caught.value.hint)


def test_without_regions_nothing_is_changed(design: Design) -> None:
    result = lifted(design.source, 4)
    assert (result.layers, result.text, result.request.layers) == ((), (), 4)
    assert result.own is result.sight.clean


def test_the_alpha_of_an_outline_is_the_layers_and_its_soft_edge_has_the_things_own_colour(design: Design) -> None:
    target = on_canvas(named(lifted(design.source, 2, outline(design.disc)).layers, "Target 1"), WIDTH, HEIGHT)
    mask = np.rint(design.disc * 255).astype(np.uint8)
    assert np.array_equal(target[..., 3], mask)
    soft = (mask > 100) & (mask < 250)
    assert soft.sum() > 50
    assert np.abs(target[soft][:, :3].astype(int) - RED).max() <= 12


def test_of_overlapping_targets_the_later_lies_above_and_the_earlier_goes_on_below_it(design: Design) -> None:
    bar = drawn("rectangle", [60, 40, 190, 60])
    source = opaque(over(over(design.plate, design.disc, RED), bar, GREEN))
    below, above = lifted(source, None, outline(design.disc), outline(bar)).layers
    assert soft_iou(design.disc, below) > 0.99
    assert soft_iou(bar, above) > 0.99
    hidden = on_canvas(below, WIDTH, HEIGHT)[(bar == 1) & (design.disc == 1)]
    assert len(hidden) > 200
    assert np.abs(hidden[:, :3].astype(int) - GREEN).max(axis=1).min() > 60


def test_a_box_around_nothing_is_a_layer_of_the_whole_box_and_says_so(design: Design) -> None:
    result = lifted(design.source, 3, box("10,110,70,170"))
    assert np.array_equal(on_canvas(result.layers[0], WIDTH, HEIGHT)[..., 3], box("10,110,70,170").mask)
    assert result.warnings == ("nothing stands out inside of target 1: the whole box is its layer",)


def test_text_on_a_wanted_card_stays_on_it_and_other_text_is_a_layer(design: Design) -> None:
    large = Image.fromarray(design.source.pixels[..., :3]).resize((480, 360), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(large)
    pen.text((305, 72), "SAILING", fill="white", font=ImageFont.load_default(30))
    pen.text((20, 305), "HARBOUR", fill=(30, 40, 90), font=ImageFont.load_default(34))
    source = opaque(np.asarray(large, np.float32))
    result = result_of(source, 4, box_region("280,30,452,162", 480, 360))
    texts = [layer.text for layer in result.stack.walk() if layer.kind == "text"]
    assert texts == ["HARBOUR"]
    target = on_canvas(named(result.stack.walk(), "Target 1"), 480, 360)
    letters = (np.asarray(large)[72:110, 300:440] > 240).all(axis=2)
    assert letters.sum() > 300
    assert (target[72:110, 300:440][letters] > 240).all()


def test_a_box_around_text_alone_wants_that_text() -> None:
    text, far = block(40, 20, 100, 20), block(40, 120, 100, 20)
    lettering = share_out((text, far), (box("35,14,146,46"),))
    assert lettering.alone[0] is not None
    assert lettering.alone[0].left == 40
    assert lettering.inside == ((),)
    assert lettering.others == (far,)


def test_text_goes_with_the_topmost_region_that_most_of_it_is_inside_of() -> None:
    text, crossing = block(40, 40, 40, 10), block(110, 40, 40, 10)
    wide, narrow = box("10,10,120,100"), box("30,20,100,90")
    lettering = share_out((text, crossing), (wide, narrow))
    assert lettering.inside == ((), (text,))
    assert lettering.others == (crossing,)
    assert share_out((text,), (narrow, wide)).inside == ((), (text,))


def test_letters_that_fill_a_region_and_go_on_outside_of_it_are_no_text() -> None:
    row, caption = block(20, 40, 200, 40), block(20, 85, 200, 6)
    lettering = share_out((row, caption), (box("20,30,90,95"),))
    assert lettering.misread == (row,)
    assert lettering.others == (caption,)


def test_a_thing_that_the_network_takes_for_none_is_told_by_its_colour() -> None:
    rng = np.random.default_rng(4)
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    blob = np.hypot(across - 120, down - 90) < 40
    noise = rng.normal(0, 12, (HEIGHT, WIDTH, 1))
    rgb = np.clip(np.where(blob[..., None], (120, 90, 60), (95, 115, 90)) + noise, 0, 255).astype(np.uint8)
    thing = find_thing(rgb, (75, 45, 165, 135))
    assert thing is not None
    found = thing.alpha(rgb) > 127
    assert (found & blob).sum() / (found | blob).sum() > 0.85


def test_an_outline_never_wants_text_alone() -> None:
    text = block(40, 40, 40, 10)
    exact = box("40,40,80,50")
    lettering = share_out((text,), (Region(exact.mask, is_outline=True),))
    assert (lettering.alone, lettering.inside) == ((None,), ((text,),))


@pytest.mark.parametrize("corners", [(0, 0, 1, 1), (0, 0, 40, 3), (19, 0, 20, 3)])
def test_a_thing_is_looked_for_in_the_smallest_pictures(corners: tuple[int, int, int, int]) -> None:
    width, height = max(corners[2], 20), max(corners[3], 3)
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    thing = find_thing(noise, corners)
    assert thing is None or thing.alpha(noise).shape == (height, width)


def test_the_same_box_gives_the_same_thing(design: Design) -> None:
    rgb = np.ascontiguousarray(design.source.pixels[..., :3])
    things = [find_thing(rgb, (16, 21, 90, 95)) for _ in range(2)]
    first, second = (thing.alpha(rgb) for thing in things if thing)
    assert np.array_equal(first, second)
