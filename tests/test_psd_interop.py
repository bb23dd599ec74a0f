"""What other programs read from our PSD files, pixel for pixel: psd-tools, ag-psd, ImageMagick and GIMP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from layerctl_exporters.bleed import bleed
from layerctl_exporters.psd import EXPORTER, over_white
from PIL import Image
from psd_tools import PSDImage

from layerctl.composite import flatten, largest_difference
from layerctl.layers import Group, Layer, LayerStack
from layerctl.registry import ExportOptions
from layerctl.testing import assert_stacks_equal, scene, specimen

U8 = npt.NDArray[np.uint8]
Reading = tuple[LayerStack, U8]
"""The layers and the merged image as a program reads them."""

INTEROP = Path(__file__).parent / "interop"
IMAGEMAGICK = next((name for name in ("magick", "convert-im6.q16", "/usr/bin/convert") if shutil.which(name)), None)


def read_with_psd_tools(path: Path, folder: Path) -> Reading:
    psd = PSDImage.open(path)
    planes = psd._record.image_data.get_data(psd._record.header)
    assert isinstance(planes, list)
    merged = _interleaved(planes, psd.width, psd.height)
    return LayerStack(psd.width, psd.height, tuple(_from_psd_tools(node, psd.version) for node in psd)), merged


def read_with_ag_psd(path: Path, folder: Path) -> Reading:
    _need(shutil.which("node") is not None and (INTEROP / "node_modules" / "ag-psd").is_dir(), "ag-psd", "npm ci --prefix tests/interop")
    psd = json.loads(_run("node", str(INTEROP / "read_psd.mjs"), str(path)))
    stack = LayerStack(psd["width"], psd["height"], tuple(_from_ag_psd(node) for node in psd["children"]))
    return stack, _pixels(psd["merged"], psd["width"], psd["height"])


def read_with_imagemagick(path: Path, folder: Path) -> Reading:
    """ImageMagick knows no groups and no hidden layers, and multiplies a layer's opacity into its alpha."""
    _need(IMAGEMAGICK is not None, "ImageMagick", "apt-get install imagemagick")
    assert IMAGEMAGICK is not None
    lines = _run(IMAGEMAGICK, str(path), "-format", "%w %h %X %Y %l\n", "info:").decode("mac_roman").splitlines()
    data = _run(IMAGEMAGICK, str(path), "-depth", "8", "rgba:-")
    pictures = []
    for line in lines:
        width, height, left, top, name = line.split(" ", 4) if line.count(" ") >= 4 else (*line.split(" ", 3), "")
        size = 4 * int(width) * int(height)
        pixels, data = np.frombuffer(data[:size], np.uint8).reshape(int(height), int(width), 4), data[size:]
        pictures.append(Layer(name or "merged", pixels, int(left), int(top)))
    merged, *layers = pictures
    return LayerStack(merged.width, merged.height, tuple(layers)), merged.pixels.astype(np.uint8)


def read_with_gimp(path: Path, folder: Path) -> Reading:
    _need(shutil.which("gimp") is not None, "GIMP", "apt-get install gimp")
    script = (INTEROP / "read_psd.scm").read_text()
    command = f'(begin {script} (read-psd "{path}" "{folder}") (gimp-quit 1))'
    _run("gimp", "-i", "-d", "-f", "--batch-interpreter", "plug-in-script-fu-eval", "-b", command)
    lines = [line.split("\t") for line in (folder / "layers.txt").read_text().splitlines()]
    nodes, rest = _from_gimp(lines, 0)
    assert rest == []
    merged = np.asarray(Image.open(folder / "merged.png").convert("RGBA"))
    return LayerStack(merged.shape[1], merged.shape[0], nodes), merged


READERS = (read_with_psd_tools, read_with_ag_psd, read_with_imagemagick, read_with_gimp)


@pytest.mark.interop
@pytest.mark.parametrize("read", READERS)
def test_every_layer_and_the_merged_image_come_back_exactly(read: Callable[[Path, Path], Reading], tmp_path: Path) -> None:
    stack = specimen()
    path = tmp_path / "specimen.psd"
    EXPORTER.export(stack, path, ExportOptions())
    layers, merged = read(path, tmp_path)
    expected = as_written(stack)
    if read is read_with_imagemagick:
        layers, expected = _as_imagemagick_sees(layers, layers), _as_imagemagick_sees(expected, layers)
    if read is read_with_gimp:
        expected = expected.with_layers(_as_gimp_names(expected.layers))
    assert_stacks_equal(layers, expected, kinds=False)
    np.testing.assert_array_equal(merged, over_white(flatten(stack)))


@pytest.mark.interop
@pytest.mark.parametrize("read", [read_with_psd_tools, read_with_ag_psd])
def test_a_canvas_over_30000_pixels_comes_back_from_a_psb(read: Callable[[Path, Path], Reading], tmp_path: Path) -> None:
    _, stack = scene(3, width=30_001, height=3, elements=1)
    assert EXPORTER.suffix_for(stack, ExportOptions()) == ".psb"
    path = tmp_path / "long.psb"
    EXPORTER.export(stack, path, ExportOptions())
    layers, merged = read(path, tmp_path)
    assert_stacks_equal(layers, as_written(stack), kinds=False)
    np.testing.assert_array_equal(merged, flatten(stack))


@pytest.mark.interop
@pytest.mark.parametrize("read", [read_with_psd_tools, read_with_ag_psd])
def test_a_transparent_canvas_is_merged_over_white_with_its_alpha(read: Callable[[Path, Path], Reading], tmp_path: Path) -> None:
    source, stack = scene(5, opaque=False)
    path = tmp_path / "transparent.psd"
    EXPORTER.export(stack, path, ExportOptions())
    _, merged = read(path, tmp_path)
    np.testing.assert_array_equal(merged[..., 3], source.pixels[..., 3])
    if read is read_with_psd_tools:
        np.testing.assert_array_equal(merged, over_white(source.pixels))
    else:
        # ag-psd takes the white out again.
        assert largest_difference(merged, source.pixels) <= 2


def as_written(stack: LayerStack) -> LayerStack:
    """The stack as a PSD holds it: names cut, edge colours bled, no profile or resolution (which readers give elsewhere)."""
    return replace(stack.with_layers(tuple(_as_written(node) for node in stack.layers)), icc=None, dpi=None)


def _as_written(node: Layer | Group) -> Layer | Group:
    name = node.name if len(node.name) < 255 else ("long " * 51)[:254] + "…"
    if isinstance(node, Group):
        return replace(node, name=name, children=tuple(_as_written(child) for child in node.children))
    return replace(node, name=name, pixels=bleed(node.pixels))


def _as_imagemagick_sees(stack: LayerStack, readings: LayerStack) -> LayerStack:
    """Without groups, hidden layers and names outside of MacRoman; opacity is in the alpha, rounded up or down."""
    seen = []
    for layer, reading in zip(stack.walk(), readings.walk(), strict=True):
        pixels = layer.pixels.copy()
        faded = pixels[..., 3] * (round(layer.opacity * 255) / 255)
        assert np.abs(faded - reading.pixels[..., 3]).max() <= 1
        pixels[..., 3] = reading.pixels[..., 3]
        name = "?" if "?" in reading.name else layer.name
        seen.append(replace(layer, name=name, pixels=pixels, opacity=1.0, visible=True))
    return stack.with_layers(tuple(seen))


def _as_gimp_names(nodes: Iterable[Layer | Group]) -> tuple[Layer | Group, ...]:
    """GIMP numbers the upper of two layers with the same name."""
    twins = 0
    named: list[Layer | Group] = []
    for node in nodes:
        if isinstance(node, Group):
            named.append(replace(node, children=_as_gimp_names(node.children)))
            continue
        named.append(replace(node, name="twin #1") if node.name == "twin" and twins else node)
        twins += node.name == "twin"
    return tuple(named)


def _from_psd_tools(node: Any, version: int) -> Layer | Group:
    """The stored planes, because topil() refuses a width over 30 000 and numpy() gives floats."""
    visible = node._record.flags.visible
    if node.is_group():
        return Group(node.name, tuple(_from_psd_tools(child, version) for child in node), node.opacity / 255, visible)
    ids = [info.id for info in node._record.channel_info]
    planes = dict(zip(ids, (data.get_data(node.width, node.height, 8, version) for data in node._channels), strict=True))
    pixels = _interleaved([planes[channel] for channel in (0, 1, 2, -1)], node.width, node.height)
    return Layer(node.name, pixels, node.left, node.top, node.opacity / 255, visible)


def _interleaved(planes: list[bytes], width: int, height: int) -> U8:
    return np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=-1).reshape(height, width, 4)


def _from_ag_psd(node: dict[str, Any]) -> Layer | Group:
    visible = not node["hidden"]
    if "children" in node:
        return Group(node["name"], tuple(_from_ag_psd(child) for child in node["children"]), node["opacity"], visible)
    pixels = _pixels(node["pixels"], node["right"] - node["left"], node["bottom"] - node["top"])
    return Layer(node["name"], pixels, node["left"], node["top"], node["opacity"], visible)


def _from_gimp(lines: list[list[str]], depth: int) -> tuple[tuple[Layer | Group, ...], list[list[str]]]:
    """The nodes of one depth, bottom to top, and the lines after them."""
    nodes: list[Layer | Group] = []
    while lines and int(lines[0][0]) == depth:
        (_, name, left, top, _, _, opacity, visible, is_group, _), *lines = lines
        if is_group == "1":
            children, lines = _from_gimp(lines, depth + 1)
            nodes.append(Group(name, children, float(opacity) / 100, visible == "1"))
        else:
            (_, path, _), *lines = lines
            pixels = np.asarray(Image.open(path).convert("RGBA"))
            nodes.append(Layer(name, pixels, int(left), int(top), float(opacity) / 100, visible == "1"))
    return tuple(reversed(nodes)), lines


def _pixels(text: str, width: int, height: int) -> U8:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def _need(is_there: bool, name: str, command: str) -> None:
    if not is_there and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing: {command}")
    if not is_there:
        pytest.skip(f"{name} is not installed: {command}")


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=240).stdout
