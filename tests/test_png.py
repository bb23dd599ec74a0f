from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerctl_exporters.bleed import bleed
from layerctl_exporters.png import EXPORTER, LONGEST_NAME, file_names
from PIL import Image

from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.metadata import Metadata
from layerctl.registry import ExportOptions
from layerctl.source import SourceImage, read_source
from layerctl.testing import assert_stacks_equal, specimen

DOT = np.full((1, 1, 4), 255, np.uint8)
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def test_a_stack_comes_back_from_its_files(tmp_path: Path) -> None:
    stack = specimen()
    EXPORTER.export(stack, tmp_path / "layers", ExportOptions())
    layers = tuple(read(path, layer) for path, layer in zip(files(tmp_path / "layers"), stack.walk(), strict=True))
    expected = tuple(replace(layer, pixels=bleed(layer.pixels)) for layer in stack.walk())
    assert_stacks_equal(LayerStack(stack.width, stack.height, layers), LayerStack(stack.width, stack.height, expected))


def test_profile_resolution_and_metadata_are_in_every_file(tmp_path: Path) -> None:
    stack = specimen()
    about = Metadata("© Zoë <zoe@example.org>", "Zoë", "a castle")
    source = SourceImage(np.zeros((stack.height, stack.width, 4), np.uint8), metadata=about)
    EXPORTER.export(stack, tmp_path / "layers", ExportOptions(source=source))
    for path in files(tmp_path / "layers"):
        with Image.open(path) as picture:
            info = picture.info
        assert info["icc_profile"] == stack.icc
        assert info["dpi"] == pytest.approx(stack.dpi, abs=0.02)
        assert read_source(path).metadata == about


def test_full_canvas_files_are_as_large_as_the_canvas(tmp_path: Path) -> None:
    stack = specimen()
    EXPORTER.export(stack, tmp_path / "layers", ExportOptions(full_canvas=True))
    for path, layer in zip(files(tmp_path / "layers"), stack.walk(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), bleed(on_canvas(layer, stack.width, stack.height)))


def test_16_bit_layers_stay_16_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 6, 4), np.uint16)
    pixels[..., 3] = 65535
    EXPORTER.export(LayerStack(6, 5, (Layer("deep", pixels),)), tmp_path / "layers", ExportOptions())
    read_back = cv2.imread(str(tmp_path / "layers" / "00-deep.png"), cv2.IMREAD_UNCHANGED)
    assert read_back is not None
    np.testing.assert_array_equal(cv2.cvtColor(read_back, cv2.COLOR_BGRA2RGBA), pixels)


def test_opacity_that_a_png_cannot_hold_is_said(tmp_path: Path) -> None:
    (remark,) = EXPORTER.export(specimen(), tmp_path / "layers", ExportOptions())
    assert "'twin' 50%" in remark


def test_names_read_like_the_layers() -> None:
    names = ["Background", "Element 2 (red, top left)", "猫のロゴ", "🎈 balloon", "Ärger & Łódź"]
    assert named(*names) == [
        "00-background.png",
        "01-element-2-red-top-left.png",
        "02-猫のロゴ.png",
        "03-🎈-balloon.png",
        "04-ärger-łódź.png",
    ]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", 'a<b>c:d"e/f\\g|h?i*j', "dots...", "tab\tline\nbell\x07", "\u202egnp.exe", "...", "CON", "nul. "]
)
def test_names_are_safe_on_windows(name: str) -> None:
    check_safe(*named(name))


def test_composed_and_decomposed_names_give_the_same_file_name() -> None:
    name = "Café Ñandú"
    assert named(unicodedata.normalize("NFD", name)) == named(unicodedata.normalize("NFC", name))


def test_twins_that_differ_in_case_keep_apart() -> None:
    names = named("Logo", "LOGO", "logo")
    assert len({name.casefold() for name in names}) == 3


def test_more_than_a_hundred_layers_sort_by_name() -> None:
    names = named(*(f"layer {number}" for number in range(101)))
    assert names[7] == "007-layer-7.png"
    assert names == sorted(names)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_names_give_safe_and_unique_file_names(names: list[str]) -> None:
    given_names = named(*names)
    check_safe(*given_names)
    assert len({name.casefold() for name in given_names}) == len(names)


def check_safe(*names: str) -> None:
    for name in names:
        assert len(name.encode()) <= LONGEST_NAME
        assert not set(name) & set('<>:"/\\|?*')
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
        assert name == unicodedata.normalize("NFC", name)
        stem, _, suffix = name.partition(".")
        assert suffix == "png"
        assert stem.lower() not in RESERVED
        assert not stem.endswith((" ", "."))


def named(*names: str) -> list[str]:
    return file_names(LayerStack(1, 1, tuple(Layer(name, DOT) for name in names)))


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def read(path: Path, layer: Layer) -> Layer:
    """The layer with pixels and place as the file has them."""
    offsets = [struct.unpack(">ii", data[:8]) for kind, data in chunks(path.read_bytes()) if kind == b"oFFs"]
    left, top = offsets[0] if offsets else (0, 0)
    return replace(layer, pixels=np.asarray(Image.open(path)), left=left, top=top)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length
