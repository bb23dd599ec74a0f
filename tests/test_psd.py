from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerctl_exporters.bleed import bleed
from layerctl_exporters.psd import EXPORTER
from PIL import Image
from psd_tools import PSDImage
from psd_tools.api.layers import Group as PsdGroup
from psd_tools.constants import Resource, Tag

from layerctl.errors import OutputError
from layerctl.layers import Group, Layer, LayerStack, on_canvas
from layerctl.metadata import Metadata, read_metadata
from layerctl.names import clusters, fitted, printable, utf16_units
from layerctl.registry import ExportOptions
from layerctl.source import SourceImage
from layerctl.testing import scene, specimen


def test_layers_are_cropped_to_what_they_show(tmp_path: Path) -> None:
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[10:20, 5:9] = 200
    psd = written(LayerStack(50, 40, (Layer("spot", pixels),)), tmp_path)
    assert psd[0].bbox == (5, 10, 9, 20)


def test_full_canvas_layers_are_as_large_as_the_canvas(tmp_path: Path) -> None:
    stack = specimen()
    psd = written(stack, tmp_path, ExportOptions(full_canvas=True))
    boxes = {node.bbox for node in psd.descendants() if not node.is_group()}
    assert boxes == {(0, 0, stack.width, stack.height)}
    bottom = next(stack.walk())
    np.testing.assert_array_equal(pixels_of(psd[0]), on_canvas(bottom, stack.width, stack.height))


def test_a_negative_layer_count_says_that_the_fourth_channel_is_transparency(tmp_path: Path) -> None:
    psd = written(specimen(), tmp_path)
    info = psd._record.layer_and_mask_information.layer_info
    assert info is not None
    assert info.layer_count == -len(info.layer_records)
    assert psd._record.header.channels == 4


def test_profile_resolution_and_thumbnail_are_resources(tmp_path: Path) -> None:
    stack = specimen()
    psd = written(stack, tmp_path)
    resources = psd.image_resources
    assert resources.get_data(Resource.ICC_PROFILE) == stack.icc
    resolution: Any = resources.get_data(Resource.RESOLUTION_INFO)
    assert (resolution.horizontal / 65536, resolution.vertical / 65536) == stack.dpi
    thumbnail: Any = resources.get_data(Resource.THUMBNAIL_RESOURCE)
    picture = Image.open(io.BytesIO(thumbnail.data))
    assert picture.size == (thumbnail.width, thumbnail.height) == (stack.width, stack.height)


def test_rights_author_description_and_place_come_back_from_the_resources(tmp_path: Path) -> None:
    place = Image.Exif()
    place[0x8825] = {1: "N", 2: (59.0, 19.0, 46.25)}
    about = Metadata("© 2024 Zoë <zoe@example.org>", "Zoë", "城", place.tobytes().removeprefix(b"Exif\0\0"))
    source, stack = scene(1)
    resources = written(stack, tmp_path, ExportOptions(source=replace(source, metadata=about))).image_resources
    exif = Image.Exif()
    exif.load(resources.get_data(Resource.EXIF_DATA_1))
    xmp = resources.get_data(Resource.XMP_METADATA)
    assert read_metadata(exif, xmp, {}) == about
    assert read_metadata(exif, None, {}) == about
    assert resources.get_data(Resource.COPYRIGHT_FLAG) == 1


@pytest.mark.parametrize("stripped", [Metadata(), Metadata(location=b"MM").without_location()])
def test_a_picture_that_says_nothing_gives_no_metadata(stripped: Metadata, tmp_path: Path) -> None:
    source, stack = scene(1)
    resources = written(stack, tmp_path, ExportOptions(source=replace(source, metadata=stripped))).image_resources
    assert not {Resource.EXIF_DATA_1, Resource.XMP_METADATA, Resource.COPYRIGHT_FLAG} & set(resources)


@pytest.mark.parametrize(("dpi", "expected"), [(72.009, 72.009), (0.000001, 1 / 65536), (999_999.0, 65536 - 1 / 65536)])
def test_any_resolution_is_the_nearest_that_fits(dpi: float, expected: float, tmp_path: Path) -> None:
    _, stack = scene(1)
    psd = written(replace(stack, dpi=(dpi, dpi)), tmp_path)
    resolution: Any = psd.image_resources.get_data(Resource.RESOLUTION_INFO)
    assert resolution.horizontal / 65536 == pytest.approx(expected, abs=1e-5)


def test_without_profile_or_resolution_the_file_has_none(tmp_path: Path) -> None:
    _, stack = scene(1)
    resources = written(stack, tmp_path).image_resources
    assert Resource.ICC_PROFILE not in resources
    assert Resource.RESOLUTION_INFO not in resources


def test_a_long_name_is_cut_between_whole_characters_and_said(tmp_path: Path) -> None:
    family = "👨‍👩‍👧‍👦"
    _, stack = scene(1, elements=1)
    bottom, top = stack.walk()
    remarks = EXPORTER.export(stack.with_layers((bottom, replace(top, name=family * 40))), tmp_path / "a.psd", ExportOptions())
    name = PSDImage.open(tmp_path / "a.psd")[1].name
    assert name == family * (254 // utf16_units(family)) + "…"
    assert len(remarks) == 1
    assert "cut to 255 characters" in remarks[0]


@given(st.text(min_size=1), st.integers(4, 30))
def test_a_fitted_name_fits_and_is_a_beginning_of_the_name(name: str, limit: int) -> None:
    name = printable(name)
    cut = fitted(name, limit, utf16_units)
    assert utf16_units(cut) <= limit
    assert cut == name or (cut.endswith("…") and name.startswith(cut[:-1]))
    assert "".join(clusters(name)) == name


@pytest.mark.parametrize("name", ["a\nb", "nul\x00", "\x07", "half \ud83c"])
def test_names_that_no_program_can_show_become_printable(name: str, tmp_path: Path) -> None:
    _, stack = scene(1, elements=0)
    psd = written(stack.with_layers((replace(next(stack.walk()), name=name),)), tmp_path)
    assert psd[0].name.isprintable()
    assert psd[0].name == printable(name)


def test_the_original_is_a_hidden_locked_layer_on_top(tmp_path: Path) -> None:
    source, stack = scene(2)
    psd = written(stack, tmp_path, ExportOptions(original=True, source=source, masks=True))
    assert [layer.name for layer in psd][-1] == "Original"
    assert not psd[-1].visible
    assert psd[-1].tagged_blocks.get_data(Tag.PROTECTED_SETTING) == 0x80000000
    np.testing.assert_array_equal(pixels_of(psd[-1]), source.pixels)


def test_masks_hold_the_alpha_and_uncover_the_source_when_painted_on(tmp_path: Path) -> None:
    source, stack = scene(2)
    psd = written(stack, tmp_path, ExportOptions(masks=True, source=source))
    assert not psd[0].has_mask()
    for node, layer in zip(list(psd)[1:], list(stack.walk())[1:], strict=True):
        mask = np.zeros((stack.height, stack.width), np.uint8)
        place = node.mask
        assert place is not None
        mask[place.top : place.bottom, place.left : place.right] = np.asarray(place.topil())
        pixels, expected = (
            on_canvas(replace(layer, pixels=pixels_of(node), left=node.left, top=node.top), *psd.size),
            on_canvas(layer, *psd.size),
        )
        np.testing.assert_array_equal(mask, expected[..., 3])
        shown, inside = expected[..., 3] > 0, pixels[..., 3] == 255
        np.testing.assert_array_equal(pixels[shown][:, :3], expected[shown][:, :3])
        uncovered = inside & ~shown
        assert uncovered.any()
        np.testing.assert_array_equal(pixels[uncovered][:, :3], source.pixels[uncovered][:, :3])


def test_a_masked_layer_over_the_rim_keeps_its_place(tmp_path: Path) -> None:
    stack = specimen()
    source = SourceImage(np.full((stack.height, stack.width, 4), 90, np.uint8))
    psd = written(stack, tmp_path, ExportOptions(masks=True, source=source))
    expected = {layer.name: layer for layer in stack.walk()}["عربي"]
    node = next(node for node in psd if node.name == "عربي")
    assert (node.left, node.top) == (expected.left, expected.top)
    assert node.mask is not None
    np.testing.assert_array_equal(np.asarray(node.mask.topil())[: expected.height, : expected.width], expected.pixels[..., 3])


@pytest.mark.parametrize("place", [(500, 500), (-500, 3), (3, -500)])
def test_a_masked_layer_outside_of_the_canvas_is_written(place: tuple[int, int], tmp_path: Path) -> None:
    source, stack = scene(1)
    outside = replace(list(stack.walk())[1], left=place[0], top=place[1])
    psd = written(stack.with_layers((outside,)), tmp_path, ExportOptions(masks=True, source=source))
    np.testing.assert_array_equal(pixels_of(psd[0])[..., 3], 255)
    assert psd[0].mask is not None
    assert np.asarray(psd[0].mask.topil()).max() == outside.pixels[..., 3].max()


def test_without_a_source_masks_uncover_the_colour_of_the_edge(tmp_path: Path) -> None:
    pixels = np.zeros((9, 9, 4), np.uint8)
    pixels[...] = (200, 100, 50, 255)
    pixels[4, 4] = 0
    psd = written(LayerStack(100, 100, (Layer("red", pixels, 40, 40),)), tmp_path, ExportOptions(masks=True))
    assert (pixels_of(psd[0]) == (200, 100, 50, 255)).all()
    assert psd[0].bbox == (8, 8, 81, 81)


def test_16_bit_layers_are_rounded_and_said(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 65535, np.uint16)
    pixels[..., 0] = 257 * 100 + 129
    stack = LayerStack(4, 4, (Group("folder", (Layer("deep", pixels),)),))
    remarks = EXPORTER.export(stack, tmp_path / "a.psd", ExportOptions())
    assert remarks == ("the layers have 16 bits a channel, the file has 8",)
    (folder,) = PSDImage.open(tmp_path / "a.psd")
    assert isinstance(folder, PsdGroup)
    assert pixels_of(folder[0])[0, 0].tolist() == [101, 255, 255, 255]


@pytest.mark.parametrize(
    ("size", "layers", "suffix"),
    [
        ((30_000, 2), 1, ".psd"),
        ((30_001, 2), 1, ".psb"),
        ((2, 30_001), 1, ".psb"),
        ((9_000, 9_000), 4, ".psd"),
        ((9_000, 9_000), 6, ".psb"),
    ],
)
def test_psb_is_chosen_by_side_and_by_bytes(size: tuple[int, int], layers: int, suffix: str) -> None:
    pixels = np.broadcast_to(np.zeros(4, np.uint8), (size[1], size[0], 4))
    stack = LayerStack(*size, tuple(Layer(f"layer {number}", pixels) for number in range(layers)))
    assert EXPORTER.suffix_for(stack, ExportOptions()) == suffix


def test_a_psb_says_why(tmp_path: Path) -> None:
    _, stack = scene(1, width=30_001, height=2, elements=0)
    (remark,) = EXPORTER.export(stack, tmp_path / "a.psb", ExportOptions())
    assert "PSB" in remark
    assert "30001 x 2 pixels" in remark
    assert PSDImage.open(tmp_path / "a.psb").version == 2


def test_a_canvas_beyond_psb_is_an_error_with_its_size(tmp_path: Path) -> None:
    stack = LayerStack(300_001, 1, (Layer("dot", np.zeros((1, 1, 4), np.uint8)),))
    with pytest.raises(OutputError, match="300001 x 1"):
        EXPORTER.export(stack, tmp_path / "a.psb", ExportOptions())


def test_the_same_stack_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.psd", "b.psd"):
        EXPORTER.export(specimen(), tmp_path / name, ExportOptions())
    assert (tmp_path / "a.psd").read_bytes() == (tmp_path / "b.psd").read_bytes()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_bleeding_keeps_what_is_seen_and_clears_what_is_far(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    pixels[..., 3] *= rng.random((height, width)) < 0.2
    bled = bleed(pixels, reach=2)
    shown = pixels[..., 3] > 0
    np.testing.assert_array_equal(bled[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(bled[shown], pixels[shown])
    y, x = np.mgrid[:height, :width]
    near = np.zeros_like(shown)
    for row, column in np.argwhere(shown):
        near |= (abs(y - row) <= 2) & (abs(x - column) <= 2)
    assert not bled[~near].any()


def test_the_colour_of_the_edge_is_carried_outward() -> None:
    pixels = np.zeros((9, 9, 4), np.uint8)
    pixels[4, 4] = (10, 200, 30, 255)
    bled = bleed(pixels, reach=3)
    assert (bled[1:8, 1:8, :3] == (10, 200, 30)).all()
    assert not bled[0].any()


def written(stack: LayerStack, folder: Path, options: ExportOptions | None = None) -> PSDImage:
    EXPORTER.export(stack, folder / "a.psd", options or ExportOptions())
    return PSDImage.open(folder / "a.psd")


def pixels_of(node: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The stored colour and transparency of a layer, without its mask."""
    return np.stack([plane for _, plane in sorted(_planes(node))], axis=-1)


def _planes(node: Any) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    for info, data in zip(node._record.channel_info, node._channels, strict=True):
        if info.id >= -1:
            plane = np.frombuffer(data.get_data(node.width, node.height, 8), np.uint8).reshape(node.height, node.width)
            yield (3 if info.id == -1 else int(info.id)), plane
