from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from layerctl.colour import is_srgb, srgb_profile
from layerctl.composite import flatten, largest_difference
from layerctl.decompose import Decomposition, decompose
from layerctl.engines.classic.text import find_text
from layerctl.layers import Layer, on_canvas
from layerctl.registry import DecomposeRequest, Engine, load
from layerctl.source import SourceImage
from layerctl.testing import assert_stacks_equal

U8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
WIDTH, HEIGHT = 240, 180
ENGINE: Engine = load("engines", "classic")
P3_COLOURANTS = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.15710, 0.06657, 0.78407)}


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A red disc, a blue card and a green triangle, soft-edged and well apart, on a light gradient."""

    rgb: U8
    masks: tuple[Floats, Floats, Floats]
    plate: Floats


def gradient() -> Floats:
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([230 - across * 0.05, 225 - down * 0.08, 210 + across * 0.06], axis=2).astype(np.float32)


def drawn(kind: str, corners: list[tuple[int, int]]) -> Floats:
    """Coverage 0..1 of a shape, antialiased over about three pixels."""
    large = Image.new("L", (WIDTH * 4, HEIGHT * 4))
    points = [(x * 4, y * 4) for x, y in corners]
    pen = ImageDraw.Draw(large)
    {"ellipse": pen.ellipse, "rectangle": pen.rectangle, "polygon": pen.polygon}[kind](points, fill=255)
    small = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) / 255
    padded = np.pad(small, 1, mode="edge")
    return np.mean([padded[dy : dy + HEIGHT, dx : dx + WIDTH] for dy in range(3) for dx in range(3)], axis=0, dtype=np.float32)


def composed(plate: Floats, *elements: tuple[Floats, tuple[int, int, int]]) -> U8:
    picture = plate
    for mask, colour in elements:
        picture = picture * (1 - mask[..., None]) + np.array(colour, np.float32) * mask[..., None]
    return np.rint(picture).astype(np.uint8)


def source(rgb: U8, alpha: U8 | None = None, icc: bytes | None = None) -> SourceImage:
    opaque = np.full(rgb.shape[:2], 255, np.uint8)
    return SourceImage(np.dstack([rgb, opaque if alpha is None else alpha]), icc=icc, has_alpha=alpha is not None)


def result_of(picture: SourceImage, layers: int | None) -> Decomposition:
    """What the engine and the exact solve make of a picture, with what holds of every result checked."""
    result = decompose(picture, ENGINE, DecomposeRequest(layers), lambda what, share: None)
    found = list(result.stack.walk())
    names = [layer.name for layer in found]
    assert largest_difference(flatten(result.stack), picture.pixels) <= 1
    assert len({name.casefold() for name in names}) == len(names)
    assert not any(name.casefold().startswith("layer") for name in names)
    assert all(layer.pixels[..., 3].any() for layer in found), "no layer is blank"
    assert (found[0].name, found[0].kind) == ("Background", "background")
    assert len(found) <= (layers or 8)
    return result


def elements_of(result: Decomposition) -> list[Layer]:
    return [layer for layer in result.stack.walk() if layer.kind == "element"]


def best_iou(mask: Floats, layers: list[Layer]) -> float:
    """Soft overlap of a mask with the layer that fits it best."""
    alphas = [on_canvas(layer, mask.shape[1], mask.shape[0])[..., 3] / 255 for layer in layers]
    return max(float(np.minimum(mask, alpha).sum() / np.maximum(mask, alpha).sum()) for alpha in alphas)


def display_p3() -> bytes:
    """An sRGB profile with the primaries of Display P3."""
    profile = bytearray(srgb_profile())
    for number in range(struct.unpack_from(">I", profile, 128)[0]):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if tag in P3_COLOURANTS:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in P3_COLOURANTS[tag]))
    return bytes(profile)


@pytest.fixture(scope="module")
def design() -> Design:
    masks = (
        drawn("ellipse", [(20, 25), (85, 90)]),
        drawn("rectangle", [(145, 20), (220, 75)]),
        drawn("polygon", [(120, 95), (175, 165), (70, 165)]),
    )
    colours = ((205, 40, 40), (40, 90, 200), (40, 150, 70))
    return Design(composed(gradient(), *zip(masks, colours, strict=True)), masks, gradient())


@pytest.fixture(scope="module")
def four(design: Design) -> Decomposition:
    return result_of(source(design.rgb), 4)


def test_three_things_on_a_plate_are_four_layers_of_their_shapes(design: Design, four: Decomposition) -> None:
    assert len(list(four.stack.walk())) == 4
    for mask in design.masks:
        assert best_iou(mask, elements_of(four)) > 0.9


def test_the_background_goes_on_under_the_elements(design: Design, four: Decomposition) -> None:
    background = on_canvas(next(four.stack.walk()), WIDTH, HEIGHT)
    assert (background[..., 3] == 255).all()
    # A rim pixel that an element covers by 3 % may stay in the plate: 8 levels at this contrast.
    assert np.abs(background[..., :3] - design.plate).max() <= 8


def test_elements_are_named_by_colour_and_place(four: Decomposition) -> None:
    words = {layer.name.split(" (")[1] for layer in elements_of(four)}
    assert words == {"red, top left)", "blue, top right)", "green, bottom)"}


def test_the_same_input_gives_the_same_bytes(design: Design, four: Decomposition) -> None:
    again = result_of(source(design.rgb), 4)
    assert_stacks_equal(again.stack, four.stack)
    assert again.warnings == four.warnings


def test_the_number_asked_for_counts_the_background(design: Design) -> None:
    assert len(list(result_of(source(design.rgb), 3).stack.walk())) == 3


def test_fewer_layers_than_asked_for_come_with_a_warning(design: Design, four: Decomposition) -> None:
    many = result_of(source(design.rgb), 12)
    count = len(list(many.stack.walk()))
    assert count < 12
    assert any(f"{count} of 12 layers" in warning for warning in many.warnings)
    assert not any("of 4 layers" in warning for warning in four.warnings)
    for mask in design.masks:
        assert best_iou(mask, elements_of(many)) > 0.9


def test_a_plain_picture_is_a_background_alone_and_says_so() -> None:
    plain = np.full((60, 80, 3), (90, 140, 200), np.uint8)
    asked = result_of(source(plain), 4)
    assert [layer.name for layer in asked.stack.walk()] == ["Background"]
    assert any(warning.startswith("1 of 4 layers") for warning in asked.warnings)
    assert result_of(source(plain), None).warnings == (), "nothing was asked for, nothing is missing"


def test_a_transparent_picture_keeps_its_transparency(design: Design) -> None:
    alpha = np.rint(255 * np.maximum.reduce([*design.masks, drawn("rectangle", [(0, 0), (239, 12)]) * 0.5])).astype(np.uint8)
    picture = source(np.where(alpha[..., None] > 0, design.rgb, 0).astype(np.uint8), alpha)
    result = result_of(picture, 4)
    assert np.array_equal(flatten(result.stack)[..., 3] == 0, alpha == 0)
    assert len(list(result.stack.walk())) > 1


def test_a_display_p3_picture_keeps_its_numbers(design: Design, four: Decomposition) -> None:
    icc = display_p3()
    assert not is_srgb(icc)
    picture = source(design.rgb, icc=icc)
    assert np.abs(picture.srgb().astype(int) - picture.pixels).max() > 15
    result = result_of(picture, 4)
    assert result.stack.icc == icc
    for layer in elements_of(result):
        shown = on_canvas(layer, WIDTH, HEIGHT)
        solid = shown[..., 3] == 255
        assert solid.sum() > 500
        assert np.array_equal(shown[solid][:, :3], design.rgb[solid])


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (3, 500), (500, 3), (20, 20)])
def test_tiny_and_narrow_pictures_work(size: tuple[int, int]) -> None:
    result_of(source(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)), 4)


def test_noise_flattens_exactly_whatever_is_cut_from_it() -> None:
    result_of(source(np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)), 20)


def test_text_on_a_gradient_is_a_layer_of_its_string_and_the_background_is_clean() -> None:
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).text((30, 60), "HARBOUR", fill=255, font=ImageFont.load_default(40))
    letters = (np.asarray(mask, np.float32) / 255).astype(np.float32)
    result = result_of(source(composed(gradient(), (letters, (30, 40, 90)))), None)
    background, *others = result.stack.walk()
    assert [(layer.kind, layer.name, layer.text) for layer in others] == [("text", "HARBOUR", "HARBOUR")]
    assert best_iou(letters, others) > 0.85
    plate = np.ascontiguousarray(on_canvas(background, WIDTH, HEIGHT)[..., :3])
    wrong = np.abs(plate.astype(np.float32) - gradient())
    assert np.percentile(wrong, 99) <= 2
    assert wrong.max() <= 40, "what the exact solve leaves at the rims of letters"
    assert find_text(plate.astype(np.uint8)) == ()
