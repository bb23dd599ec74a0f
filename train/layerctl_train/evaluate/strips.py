"""A picture, its true layers and what each system made of it, below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.colour import converted
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, effective, on_canvas
from layerctl.lettering import MEDIUM, Colour, draw_text, shortened
from layerctl.names import printable

if TYPE_CHECKING:
    from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
Size = tuple[int, int]

SIDE, LEAST = 176, 24
GAP, MARGIN = 10, 12
LABEL, LETTERS, ABOUT, CAPTION, SMALL = 32, 18, 16, 18, 13
WIDEST = 1640
"""Of a strip; layers that do not fit beside each other go below."""
MOST = 16
"""Layers of a stack; what is above is shown flattened into the last one."""
LEAST_COLUMNS = 5
"""So that labels have room."""
PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 25, 30)
GREY: Colour = (92, 94, 102)
LINE: Colour = (186, 188, 194)
BOARD: tuple[Colour, Colour] = ((250, 250, 250), (224, 225, 229))
DARK_BOARD: tuple[Colour, Colour] = ((104, 106, 113), (84, 86, 93))
SQUARE, PALE = 8, 190


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a strip is drawn from. `stacks`: by system, None where there is no prediction."""

    source: SourceImage
    truth: LayerStack | None
    stacks: tuple[LayerStack | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """`views`: caption and picture; the first stands alone at the left."""

    label: str
    about: str
    views: tuple[tuple[str, U8], ...]


def draw_strip(shown: Shown, labels: Sequence[tuple[str, str]]) -> Image.Image:
    """In sRGB: the picture and its true layers, bottom to top, then for each system what its layers flatten to and the layers.

    `labels`: by system, its name and what is said of it.
    """
    size = _fitted(shown.source.width, shown.source.height)
    source = ("picture", _view(shown.source.srgb(), size))
    true = _layers(shown.truth, size) if shown.truth else ()
    bands = [_Band("True layers" if shown.truth else "Picture", "", (source, *true))]
    for (label, about), stack in zip(labels, shown.stacks, strict=True):
        views = (("flattened", _view(_srgb(flatten(stack), stack), size)), *_layers(stack, size)) if stack else ()
        bands.append(_Band(printable(label), printable(about), views))
    fitting = (WIDEST - 2 * MARGIN + GAP) // (size[0] + GAP)
    columns = max(LEAST_COLUMNS, *(min(fitting, len(band.views)) for band in bands))
    width = 2 * MARGIN + columns * (size[0] + GAP) - GAP
    return Image.fromarray(np.vstack([_drawn(band, width, columns - 1, size) for band in bands]))


def _drawn(band: _Band, width: int, per_line: int, size: Size) -> U8:
    lines = -(-max(len(band.views) - 1, min(len(band.views), 1)) // per_line)
    canvas = np.full((MARGIN // 2 + LABEL + lines * (CAPTION + size[1] + GAP), width, 3), PAPER, np.uint8)
    room, baseline = width - 2 * MARGIN, LETTERS + 6
    end = draw_text(
        canvas, MARGIN, baseline, shortened(band.label, LETTERS, room if not band.about else room // 2, MEDIUM), LETTERS, INK, MEDIUM
    )
    if band.about:
        draw_text(canvas, end + 14, baseline, shortened(band.about, ABOUT, MARGIN + room - end - 14), ABOUT, GREY)
    for place, (caption, view) in enumerate(band.views):
        line, column = divmod(place - 1, per_line) if place else (0, -1)
        x, y = MARGIN + (column + 1) * (size[0] + GAP), LABEL + line * (CAPTION + size[1] + GAP)
        draw_text(canvas, x, y + SMALL - 1, shortened(caption, SMALL, size[0]), SMALL, GREY)
        canvas[y + CAPTION : y + CAPTION + size[1], x : x + size[0]] = view
        cv2.rectangle(canvas, (x - 1, y + CAPTION - 1), (x + size[0], y + CAPTION + size[1]), LINE)
    return canvas


def _layers(stack: LayerStack, size: Size) -> tuple[tuple[str, U8], ...]:
    layers = [replace(layer, opacity=opacity, visible=True) for layer, opacity in effective(stack.layers) if opacity > 0]
    captions = [str(number) for number in range(1, len(layers) + 1)]
    if len(layers) > MOST:
        captions[MOST - 1 :] = [f"{MOST} to {len(layers)}"]
        layers[MOST - 1 :] = [Layer("rest", flatten(stack.with_layers(tuple(layers[MOST - 1 :]))))]
    return tuple((caption, _layer_view(layer, stack, size)) for caption, layer in zip(captions, layers, strict=True))


def _layer_view(layer: Layer, stack: LayerStack, size: Size) -> U8:
    pixels = on_canvas(layer, stack.width, stack.height)
    eight = (pixels // 257).astype(np.uint8) if pixels.dtype == np.uint16 else np.array(pixels, np.uint8)
    eight[..., 3] = np.rint(eight[..., 3] * layer.opacity)
    return _view(_srgb(eight, stack), size)


def _srgb(pixels: U8, stack: LayerStack) -> U8:
    return converted(pixels, stack.icc, None)


def _view(pixels: U8, size: Size) -> U8:
    """Straight RGBA on the checkerboard that pale layers stand out from, too."""
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    alpha = np.asarray(small)[..., 3].astype(np.float32)
    brightness = float((np.asarray(small)[..., :3].mean(axis=2) * alpha).sum() / max(alpha.sum(), 1))
    y, x = np.ogrid[: size[1], : size[0]]
    board = np.asarray(DARK_BOARD if brightness > PALE else BOARD, np.uint8)[(y // SQUARE + x // SQUARE) % 2]
    return np.asarray(Image.alpha_composite(Image.fromarray(board).convert("RGBA"), small).convert("RGB"))


def _fitted(width: int, height: int) -> Size:
    """Of a view: its longest side is `SIDE`, and neither is too small to be seen."""
    longest = max(width, height)
    return max(LEAST, width * SIDE // longest), max(LEAST, height * SIDE // longest)
