"""Reading layered pictures: Photoshop files, result folders of layerctl, and folders of PNG layers.

What a `LayerStack` cannot hold (other blend modes, effects, adjustments, clipping) is refused by name: a stack that flattens to another
picture than its file would mislead whoever measures it. Layer masks are multiplied into alpha; text, shapes and smart objects are the
pixels that the file holds of them. A `manifest.json` beside the layers gives back what neither format keeps, kind and text.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layerctl.errors import InputError
from layerctl.layers import Group, Kind, Layer, LayerStack, crop_to_content, mapped, on_canvas
from layerctl.manifest import MANIFEST_NAME, LayerRecord, Manifest, from_json, is_result
from layerctl.names import printable
from layerctl.source import SourceImage, read_source

if TYPE_CHECKING:
    from psd_tools import PSDImage

PSD_SUFFIXES = (".psd", ".psb")
ORIGINAL = "Original"
"""What the hidden layer with the untouched picture is called in a result."""

_HOLDS = "layerctl reads normal layers and groups"
_GET_INTACT = "save it again in its program, or get an intact copy"
_RASTERIZE = "rasterize it, or merge it with what it changes"
# What psd-tools is known to raise on damaged files; none of it is a mistake of ours.
_PSD_FAULTS = (AssertionError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, struct.error)
_COLOURS_AND_ALPHA = (0, 1, 2, -1)
_MASK, _REAL_MASK = -2, -3


def read_stack(path: Path) -> LayerStack:
    """The layers of a PSD or PSB, of a result folder, of the `layers` folder in one, or of a folder of PNG files of one size.

    Of a result that has a Photoshop file, that file is read: it holds groups and a person's changes. PNG files without a manifest are
    layers in the order of their names, bottom first. Raises InputError for what cannot be read, or not without changing the picture.
    """
    if not path.is_dir():
        return _read_psd(path)
    if (path / MANIFEST_NAME).is_file():
        return _read_result(path)
    if path.name == "layers" and is_result(path.parent):
        return _read_pngs_of_result(path.parent, _manifest(path.parent))
    return _read_png_folder(path)


def photoshop_file(folder: Path, manifest: Manifest) -> Path | None:
    """The Photoshop file of a result, None where it has none."""
    found = (folder / file.path for file in manifest.files if file.path.lower().endswith(PSD_SUFFIXES))
    return next((path for path in found if path.is_file()), None)


def _read_result(folder: Path) -> LayerStack:
    manifest = _manifest(folder)
    psd = photoshop_file(folder, manifest)
    if psd is None:
        return _read_pngs_of_result(folder, manifest)
    stack = _read_psd(psd)
    *others, top = stack.layers
    if manifest.settings.get("original") and isinstance(top, Layer) and top.name == ORIGINAL and not top.visible:
        return stack.with_layers(tuple(others))
    return stack


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    return from_json(path.read_bytes(), str(path))


def _read_pngs_of_result(folder: Path, manifest: Manifest) -> LayerStack:
    if not manifest.layers or any(record.file is None for record in manifest.layers):
        raise InputError(f"{folder} holds no layers: neither a Photoshop file nor PNG files", hint="decompose its picture again with --psd")
    width, height = manifest.input.width, manifest.input.height
    sources = [read_source(folder / str(record.file), max_pixels=width * height) for record in manifest.layers]
    layers = (_recorded_layer(source, record, width, height) for source, record in zip(sources, manifest.layers, strict=True))
    groups = (record.group.split(" / ") if record.group else [] for record in manifest.layers)
    return LayerStack(width, height, _grouped(list(zip(groups, layers, strict=True))), sources[0].icc, sources[0].dpi)


def _grouped(entries: list[tuple[list[str], Layer]]) -> tuple[Layer | Group, ...]:
    """The tree of layers that each come with the names of their groups, the outermost first."""
    nodes: list[Layer | Group] = []
    for outermost, run in groupby(entries, lambda entry: entry[0][:1]):
        if outermost:
            nodes.append(Group(outermost[0], _grouped([(groups[1:], layer) for groups, layer in run])))
        else:
            nodes += [layer for _, layer in run]
    return tuple(nodes)


def _recorded_layer(source: SourceImage, record: LayerRecord, width: int, height: int) -> Layer:
    left, top, right, bottom = record.box
    layer = Layer(record.name, source.pixels, left, top, kind=_kind(record.kind), text=record.text)
    if (source.width, source.height) == (right - left, bottom - top):
        return layer
    if (source.width, source.height) == (width, height):
        return crop_to_content(replace(layer, left=0, top=0))
    raise InputError(
        f"{source.path} is {source.width} x {source.height} pixels, its manifest says {right - left} x {bottom - top}",
        hint="save the layer at its old size, or at that of the whole picture",
    )


def _read_png_folder(folder: Path) -> LayerStack:
    files = sorted((path for path in folder.iterdir() if _is_layer_file(path)), key=_natural_order)
    if not files:
        raise InputError(
            f"{folder} holds no PNG layers", hint="name a PSD file, a result of layerctl, or a folder of PNG files of one size"
        )
    sources = [read_source(path) for path in files]
    width, height = sources[0].width, sources[0].height
    for path, source in zip(files, sources, strict=True):
        if (source.width, source.height) != (width, height):
            raise InputError(
                f"{path} is {source.width} x {source.height} pixels, {files[0].name} is {width} x {height}",
                hint="layers of different sizes need the manifest.json of their result; or write them with --full-canvas",
            )
    layers = (crop_to_content(Layer(_layer_name(path), source.pixels)) for path, source in zip(files, sources, strict=True))
    return _with_ground(LayerStack(width, height, tuple(layers), sources[0].icc, sources[0].dpi))


def _is_layer_file(path: Path) -> bool:
    return path.suffix.lower() == ".png" and not path.name.startswith(".")


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """As file managers sort: "layer 2" before "layer 10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name.casefold()) if part]


def _layer_name(path: Path) -> str:
    """The file's name without the number that only orders it."""
    return re.sub(r"^\d+[-_ .]+(?=.*\w)", "", path.stem)


def _with_ground(stack: LayerStack) -> LayerStack:
    """The bottom layer is the background if it covers the canvas."""
    ground = next(stack.walk(), None)
    if ground is None or not (on_canvas(ground, stack.width, stack.height)[..., 3] == np.iinfo(ground.pixels.dtype).max).all():
        return stack
    return stack.with_layers(mapped(stack.layers, lambda layer: replace(layer, kind="background") if layer is ground else layer))


def _kind(kind: str) -> Kind:
    return "background" if kind == "background" else "text" if kind == "text" else "element"


def _read_psd(path: Path) -> LayerStack:
    psd = open_psd(path)
    nodes = tuple(_psd_node(node, path) for node in psd)
    stack = LayerStack(psd.width, psd.height, nodes, psd_profile(psd), psd_resolution(psd))
    if not is_result(path.parent):
        return _with_ground(stack)
    records = {printable(record.name): record for record in _manifest(path.parent).layers}
    return stack.with_layers(mapped(stack.layers, lambda layer: _as_recorded(layer, records.get(layer.name))))


def _as_recorded(layer: Layer, record: LayerRecord | None) -> Layer:
    return layer if record is None else replace(layer, kind=_kind(record.kind), text=record.text)


def open_psd(path: Path) -> PSDImage:
    """An RGB document of 8 or 16 bits with layers, its pixels still packed. Raises InputError for anything else."""
    from psd_tools import PSDImage
    from psd_tools.constants import ColorMode

    if not path.exists():
        raise InputError(f"there is no file or folder {path}", hint="check the name; put quotes around a name with spaces")
    with path.open("rb") as file:
        if file.read(4) != b"8BPS":
            raise InputError(f"{path} is not a Photoshop file", hint="layerctl decompose makes layers of a picture")
    try:
        psd = PSDImage.open(path)
    except _PSD_FAULTS as error:
        raise InputError(f"{path} is damaged: {error}", hint=_GET_INTACT) from error
    if psd.color_mode != ColorMode.RGB or psd.depth not in (8, 16):
        what = f"{psd.color_mode.name} with {psd.depth} bits a channel"
        raise InputError(f"{path} is {what}, not RGB with 8 or 16", hint="convert it in its program: Image > Mode > RGB Color")
    if len(psd) == 0:
        raise InputError(f"{path} has no layers, only a flat picture", hint=f"layerctl decompose {path} --psd makes layers")
    return psd


def psd_profile(psd: PSDImage) -> bytes | None:
    from psd_tools.constants import Resource

    profile = psd.image_resources.get_data(Resource.ICC_PROFILE)
    return bytes(profile) if profile else None


def psd_resolution(psd: PSDImage) -> tuple[float, float] | None:
    """Pixels an inch across and down, None where the file does not say."""
    from psd_tools.constants import Resource

    about: Any = psd.image_resources.get_data(Resource.RESOLUTION_INFO)
    if about is None or not about.horizontal or not about.vertical:
        return None
    return about.horizontal / 65536, about.vertical / 65536


def _psd_node(node: Any, path: Path) -> Layer | Group:
    problem = _beyond_a_stack(node)
    if problem is not None:
        raise InputError(f"{path}: {node.name!r} {problem}; {_HOLDS}", hint=_RASTERIZE)
    if not node.is_group():
        return psd_layer(node, path)
    return Group(_name(node), tuple(_psd_node(child, path) for child in node), node.opacity / 255, node.visible)


def _beyond_a_stack(node: Any) -> str | None:
    """What of a node of psd-tools a stack has no place for, None if nothing."""
    from psd_tools.constants import BlendMode

    plain = (BlendMode.NORMAL, BlendMode.PASS_THROUGH) if node.is_group() else (BlendMode.NORMAL,)
    if node.blend_mode not in plain:
        return f"has the blend mode {node.blend_mode.name.lower().replace('_', ' ')}"
    if node.kind == "artboard":
        return "is an artboard"
    if node.is_group() and node.has_mask():
        return "is a group with a mask"
    return style_of(node)


def style_of(node: Any) -> str | None:
    """What changes how the pixels of a node look besides mask, opacity and blend mode, None if nothing does."""
    if node.clipping:
        return "is clipped to the layer below it"
    if node.has_effects():
        return "has effects"
    if node.fill_opacity < 255:
        return f"has a fill opacity of {node.fill_opacity / 255:.0%}"
    if node.has_vector_mask() and node.kind != "shape":
        return "has a vector mask"
    return None


def psd_layer(node: Any, path: Path) -> Layer:
    """The pixels of a layer of psd-tools as they are seen: its mask is in the alpha. Raises InputError for a layer that has none."""
    kind: Kind = "text" if node.kind == "type" else "element"
    text = str(node.text) if node.kind == "type" else None
    pixels: npt.NDArray[Any]
    if node.width < 1 or node.height < 1:
        pixels = np.zeros((1, 1, 4), np.uint8 if node._psd.depth == 8 else np.uint16)
        return Layer(_name(node), pixels, node.left, node.top, node.opacity / 255, node.visible, kind, text)
    if not node.has_pixels():
        what = "an adjustment" if node.kind not in ("solidcolorfill", "gradientfill", "patternfill", "shape") else "a fill or shape"
        raise InputError(f"{path}: {node.name!r} is {what} without pixels; {_HOLDS}", hint=_RASTERIZE)
    try:
        pixels = _psd_pixels(node)
    except _PSD_FAULTS as error:
        raise InputError(f"{path}: {node.name!r} is damaged: {error}", hint=_GET_INTACT) from error
    return crop_to_content(Layer(_name(node), pixels, node.left, node.top, node.opacity / 255, node.visible, kind, text))


def _name(node: Any) -> str:
    return printable(node.name)


def _psd_pixels(node: Any) -> npt.NDArray[Any]:
    """The stored planes themselves: psd-tools' own pictures are floats, or converted to sRGB, and end at 30 000 pixels a side."""
    planes = dict(_planes(node))
    colours = [planes[channel] for channel in _COLOURS_AND_ALPHA[:3]]
    alpha = planes.get(_COLOURS_AND_ALPHA[3], np.full_like(colours[0], np.iinfo(colours[0].dtype).max))
    mask = node.mask
    if mask is None or mask.disabled:
        return np.dstack([*colours, alpha])
    full = int(np.iinfo(alpha.dtype).max)
    shown = np.full(alpha.shape, mask.background_color * (full // 255), alpha.dtype)
    stored = planes.get(_REAL_MASK if mask.has_real() else _MASK)
    if stored is not None:
        _paste(shown, stored, mask.left - node.left, mask.top - node.top)
    product = alpha.astype(np.uint64) * shown
    return np.dstack([*colours, ((product + full // 2) // full).astype(alpha.dtype)])


def _planes(node: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The channels of a layer by their number: colours 0 to 2, alpha -1, masks -2 and -3, each in its own box."""
    psd = node._psd
    for info, data in zip(node._record.channel_info, node._channels, strict=True):
        of_mask = info.id in (_MASK, _REAL_MASK)
        width, height = (node.mask.width, node.mask.height) if of_mask and node.mask is not None else (node.width, node.height)
        if info.id == _MASK and node.mask is not None and node.mask.has_real():
            continue
        if width > 0 and height > 0:
            values = np.frombuffer(data.get_data(width, height, psd.depth, psd.version), ">u2" if psd.depth == 16 else np.uint8)
            yield int(info.id), values.reshape(height, width).astype(np.uint16 if psd.depth == 16 else np.uint8, copy=False)


def _paste(canvas: npt.NDArray[Any], piece: npt.NDArray[Any], left: int, top: int) -> None:
    """Put the piece at that place of the canvas, in place; what lies outside is cut off."""
    height, width = canvas.shape
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + piece.shape[1], width), min(top + piece.shape[0], height)
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = piece[y0 - top : y1 - top, x0 - left : x1 - left]
