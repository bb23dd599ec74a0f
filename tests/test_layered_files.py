"""What a layered file holds, read back as a stack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from layerctl_exporters.png import EXPORTER as PNG
from layerctl_exporters.psd import EXPORTER as PSD
from PIL import Image
from psd_tools import PSDImage
from psd_tools.constants import BlendMode, Compression, Tag

from layerctl import cli, registry
from layerctl.composite import flatten
from layerctl.errors import InputError
from layerctl.layered_files import read_stack
from layerctl.layers import Group, Layer, LayerStack, mapped
from layerctl.names import fitted, utf16_units
from layerctl.registry import DecomposeRequest, ExportOptions, Progress, Proposal
from layerctl.source import SourceImage
from layerctl.testing import assert_stacks_equal, scene, specimen

if TYPE_CHECKING:
    from tests.conftest import DrawPicture


class Lettered:
    """An engine that finds a headline, a dot and what lies below them."""

    name = "lettered"
    version = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        piece = np.ascontiguousarray(source.pixels[2:9, 3:15])
        layers = (
            Layer("Background", source.pixels, kind="background"),
            Layer("A dot", piece, 3, 2),
            Layer("Sale / now", piece, 5, 6, kind="text", text="Sale\nnow"),
        )
        return Proposal(LayerStack(source.width, source.height, layers))


LETTERED = Lettered()


@pytest.fixture
def decomposed(folder: Path, draw: DrawPicture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a result folder with the engine above; what is typed further chooses its formats."""
    monkeypatch.setitem(registry.BUILT_IN["engines"], "lettered", f"{__name__}:LETTERED")
    draw(Path("photo.png"))

    def decompose(*arguments: str) -> Path:
        assert cli.main(["decompose", "photo.png", "--engine", "lettered", "-q", *arguments]) == 0
        return Path("photo-layers")

    return decompose


def written(stack: LayerStack, folder: Path, options: ExportOptions | None = None) -> Path:
    path = folder / "a.psd"
    PSD.export(stack, path, options or ExportOptions())
    return path


def test_a_stack_comes_back_from_a_photoshop_file(tmp_path: Path) -> None:
    stack = specimen()
    expected = stack.with_layers(mapped(stack.layers, lambda layer: replace(layer, name=fitted(layer.name, 255, utf16_units))))
    assert_stacks_equal(read_stack(written(stack, tmp_path)), expected, hidden_colour=False)


def test_layer_masks_are_applied(tmp_path: Path) -> None:
    source, stack = scene(2)
    path = written(stack, tmp_path, ExportOptions(masks=True, source=source))
    assert_stacks_equal(read_stack(path), stack, hidden_colour=False)


def test_a_mask_hides_what_lies_outside_of_its_box_only_if_its_ground_is_black(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    for ground, expected in ((0, 9), (255, 64)):
        psd = PSDImage.new("RGB", (8, 8))
        layer = psd.create_pixel_layer(Image.fromarray(pixels), name="masked")
        layer.remove_mask()
        mask = layer.create_mask(Image.new("L", (3, 3), 255), 2, 2)
        mask.data.background_color = ground
        psd.save(tmp_path / "a.psd")
        (read,) = read_stack(tmp_path / "a.psd").walk()
        assert int((read.pixels[..., 3] == 255).sum()) == expected


def test_a_layer_without_a_transparency_channel_is_opaque(tmp_path: Path) -> None:
    psd = PSDImage.open(written(LayerStack(6, 5, (Layer("Background", np.full((5, 6, 4), 90, np.uint8)),)), tmp_path))
    del psd[0]._record.channel_info[0], psd[0]._channels[0]
    with (tmp_path / "b.psd").open("wb") as file:
        psd._record.write(file)
    (layer,) = read_stack(tmp_path / "b.psd").walk()
    np.testing.assert_array_equal(layer.pixels[2, 3], (90, 90, 90, 255))


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 6, 4), np.uint16)
    pixels[..., 3] |= 1
    psd = PSDImage.new("RGB", (9, 9), depth=16)
    psd.create_pixel_layer_from_array(pixels, name="deep", left=2, top=1)
    psd.save(tmp_path / "a.psd")
    assert_stacks_equal(read_stack(tmp_path / "a.psd"), LayerStack(9, 9, (Layer("deep", pixels, 2, 1),)))


def test_a_canvas_beyond_30000_pixels_is_read(tmp_path: Path) -> None:
    _, stack = scene(3, width=30_001, height=3, elements=1)
    assert_stacks_equal(read_stack(written(stack, tmp_path)), stack, hidden_colour=False)


@pytest.mark.parametrize("formats", [("--png",), ("--psd",), ("--png", "--full-canvas"), ("--psd", "--original", "--masks")])
def test_a_result_gives_back_names_kinds_and_text(formats: tuple[str, ...], decomposed: Callable[..., Path]) -> None:
    stack = read_stack(decomposed(*formats))
    assert [(layer.name, layer.kind, layer.text) for layer in stack.walk()] == [
        ("Background", "background", None),
        ("A dot", "element", None),
        ("Sale / now", "text", "Sale\nnow"),
    ]
    assert [layer.box for layer in stack.walk()][1:] == [(3, 2, 15, 9), (5, 6, 17, 13)]
    np.testing.assert_array_equal(flatten(stack)[..., :3], np.asarray(Image.open("photo.png")))


def test_the_photoshop_file_and_the_layers_folder_of_a_result_read_alike(decomposed: Callable[..., Path]) -> None:
    result = decomposed("--png", "--psd")
    stack = read_stack(result)
    for part in ("photo.psd", "layers"):
        assert_stacks_equal(read_stack(result / part), stack, hidden_colour=False)


def test_what_a_person_changed_in_the_photoshop_file_of_a_result_is_read(decomposed: Callable[..., Path]) -> None:
    result = decomposed("--png", "--psd")
    psd = PSDImage.open(result / "photo.psd")
    psd[1].name = "Moved"
    psd[1].left += 5
    psd.save(result / "photo.psd")
    assert [(layer.name, layer.left) for layer in read_stack(result).walk()] == [("Background", 0), ("Moved", 8), ("Sale / now", 5)]


def test_a_folder_of_png_files_is_a_stack_in_the_order_of_names(tmp_path: Path) -> None:
    source, stack = scene(4, elements=11)
    PNG.export(stack, tmp_path / "layers", ExportOptions(full_canvas=True))
    for number, path in enumerate(sorted((tmp_path / "layers").iterdir())):
        path.rename(path.with_name(f"{number} {path.name[3:]}"))
    read = read_stack(tmp_path / "layers")
    assert [layer.name for layer in read.walk()] == ["background", *(f"element-{number}" for number in range(1, 12))]
    assert [layer.kind for layer in read.walk()] == ["background"] + ["element"] * 11
    np.testing.assert_array_equal(flatten(read), source.pixels)


def multiplied(psd: PSDImage) -> None:
    psd[1].blend_mode = BlendMode.MULTIPLY


def clipped(psd: PSDImage) -> None:
    psd[1].clipping = True


def thinned(psd: PSDImage) -> None:
    psd[1].fill_opacity = 100


def inverting(psd: PSDImage) -> None:
    psd[1].tagged_blocks.set_data(Tag.INVERT)
    for info, data in zip(psd[1]._record.channel_info, psd[1]._channels, strict=True):
        info.length, data.compression, data.data = 2, Compression.RAW, b""


def masked_group(psd: PSDImage) -> None:
    psd[2].create_mask(Image.new("L", (4, 4), 255))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (multiplied, "'Element 1' has the blend mode multiply"),
        (clipped, "'Element 1' is clipped to the layer below"),
        (thinned, "'Element 1' has a fill opacity of 39%"),
        (inverting, "'Element 1' is an adjustment without pixels"),
        (masked_group, "'Folder' is a group with a mask"),
    ],
)
def test_what_would_flatten_to_another_picture_is_refused_by_name(change: Callable[[PSDImage], None], words: str, tmp_path: Path) -> None:
    ground, element, *others = scene(1)[1].layers
    psd = PSDImage.open(written(LayerStack(96, 64, (ground, element, Group("Folder", tuple(others)))), tmp_path))
    change(psd)
    with (tmp_path / "b.psd").open("wb") as file:
        psd._record.write(file)
    with pytest.raises(InputError, match=f"b.psd: {words}"):
        read_stack(tmp_path / "b.psd")


def test_a_group_of_normal_layers_may_be_passed_through(tmp_path: Path) -> None:
    psd = PSDImage.open(written(LayerStack(9, 9, (Group("all", tuple(scene(1, width=9, height=9)[1].layers)),)), tmp_path))
    psd[0].blend_mode = BlendMode.PASS_THROUGH
    psd.save(tmp_path / "b.psd")
    assert len(list(read_stack(tmp_path / "b.psd").walk())) == 4


def broken(path: Path) -> None:
    path.write_bytes(written(specimen(), path.parent).read_bytes()[:3000])


def cmyk(path: Path) -> None:
    PSDImage.new("CMYK", (4, 4)).save(path)


def flat(path: Path) -> None:
    PSDImage.new("RGB", (4, 4)).save(path)


def picture(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, "PNG")


def empty_folder(path: Path) -> None:
    path.mkdir()


def mixed_sizes(path: Path) -> None:
    PNG.export(scene(1)[1], path, ExportOptions())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no file or folder"),
        (broken, "is damaged"),
        (cmyk, "is CMYK with 8 bits a channel"),
        (flat, "has no layers"),
        (picture, "is not a Photoshop file"),
        (empty_folder, "holds no PNG layers"),
        (mixed_sizes, "is .* x .* pixels, 00-background.png is 96 x 64"),
    ],
)
def test_what_holds_no_layers_is_an_error_that_names_it(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "the thing"
    make(path)
    with pytest.raises(InputError, match=words) as caught:
        read_stack(path)
    assert "the thing" in caught.value.message
    assert caught.value.hint


def test_a_layer_of_a_result_that_was_cut_to_another_size_is_an_error(decomposed: Callable[..., Path]) -> None:
    result = decomposed("--png")
    Image.new("RGBA", (5, 5)).save(result / "layers" / "01-a-dot.png")
    with pytest.raises(InputError, match=r"01-a-dot\.png is 5 x 5 pixels, its manifest says 12 x 7"):
        read_stack(result)


def test_a_result_without_its_layers_says_so(decomposed: Callable[..., Path]) -> None:
    result = decomposed("--png")
    shutil.rmtree(result / "layers")
    with pytest.raises(InputError, match="00-background"):
        read_stack(result)
