"""A design of Crello as a picture and its layers, by the rules of LayerD's published code (github.com/CyberAgentAILab/LayerD, `data/`).

- The canvas is scaled so that its shorter side has 512 pixels; fractions of a pixel of the other side are cut off.
- Every element is a layer: its picture stretched into its box, turned around the box's centre, times its opacity, without filtering of
  pixels (Skia's default) and with soft edges.
- An element whose own picture is nowhere opaque is dropped. So is what lies below an element that covers the canvas.
- A white background is added when the bottom layer has holes; what has fewer than two layers before that is no example.
- The picture is the layers over white.

Where we differ: LayerD draws text anew from its fonts, here it is the dataset's own picture of it, as its renderer has it with
`render_text=False`. A soft edge is the overlap of pixel and box, exact for boxes that are not turned; Skia has a way of its own. Colours
are not rounded to premultiplied bytes. The two have not been compared pixel by pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.errors import InputError
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.settings import MAX_PIXELS
from layerctl.source import SourceImage
from layerctl_train.evaluate.example import picture_of

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

SHORT_SIDE = 512

_FORMATS = ("PNG", "JPEG", "WEBP")
_DECODER_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Element:
    """`picture`: of a file. `box`: left, top, width and height in pixels of the canvas. `angle`: degrees, clockwise."""

    type: str
    text: str
    picture: bytes
    box: tuple[float, float, float, float]
    angle: float = 0.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Design:
    """`elements`: bottom to top."""

    id: str
    width: float
    height: float
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    source: SourceImage
    layers: LayerStack


def draw(design: Design, short_side: int = SHORT_SIDE) -> Drawn | None:
    """The picture and its layers, None for a design of which fewer than two are left. Raises InputError for a damaged one."""
    width, height, scale = _canvas(design, short_side)
    drawn = []
    kept = list(range(len(design.elements)))
    for at, element in enumerate(design.elements):
        picture = _decoded(design, at)
        drawn.append(_layer(element, picture, at, (width, height), scale))
        if picture[..., 3].max() < 255 and at in kept:
            kept.remove(at)
        if at > 0 and _lowest_alpha(drawn[at], width, height) == 255:
            # Counts among all elements although some are gone, as in LayerD: its numbers are for these layers.
            kept = kept[at:]
    layers = [drawn[at] for at in kept]
    if len(layers) < 2:
        return None
    white = Layer("White", np.full((height, width, 4), 255, np.uint8))
    over_white = LayerStack(width, height, (white, *layers))
    if _has_ground(layers, width, height):
        ground, *others = layers
        stack = over_white.with_layers((replace(ground, kind="background"), *others))
    else:
        stack = over_white.with_layers((replace(white, kind="background"), *layers))
    return Drawn(picture_of(over_white), stack)


def _canvas(design: Design, short_side: int) -> tuple[int, int, float]:
    if min(design.width, design.height) > 0:
        scale = short_side / min(design.width, design.height)
        width, height = int(design.width * scale), int(design.height * scale)
        if 0 < width * height <= MAX_PIXELS:
            return width, height, scale
    raise InputError(f"{design.id}: its canvas has {design.width} x {design.height} pixels")


def _decoded(design: Design, at: int) -> U8:
    try:
        return np.asarray(Image.open(BytesIO(design.elements[at].picture), formats=_FORMATS).convert("RGBA"))
    except _DECODER_FAULTS as error:
        raise InputError(f"{design.id}: the picture of element {at + 1} is damaged: {error}") from error


def _has_ground(layers: list[Layer], width: int, height: int) -> bool:
    """Whether the layers furthest back, those that are left when all that nothing overlaps is taken away again and again, have no holes.

    That is so if the lowest layer has none and is overlapped. Layers that show nothing overlap nothing.
    """
    showing = [layer for layer in layers if layer.pixels[..., 3].any()]
    return len(showing) > 1 and _lowest_alpha(showing[0], width, height) > 0


def _lowest_alpha(layer: Layer, width: int, height: int) -> int:
    """On the canvas."""
    return int(layer.pixels[..., 3].min()) if layer.box == (0, 0, width, height) else 0


def _layer(element: Element, picture: U8, at: int, canvas: tuple[int, int], scale: float) -> Layer:
    text = element.text if element.type == "TextElement" else None
    blank = Layer(f"{element.type} {at + 1}", np.zeros((1, 1, 4), np.uint8), kind="element" if text is None else "text", text=text)
    left, top, width, height = (value * scale for value in element.box)
    if not (width > 0 and height > 0):
        return blank
    cosine, sine = math.cos(math.radians(element.angle)), math.sin(math.radians(element.angle))
    x, y = left + width / 2, top + height / 2
    columns = _pixels(x, abs(width * cosine) + abs(height * sine), canvas[0])
    rows = _pixels(y, abs(width * sine) + abs(height * cosine), canvas[1])
    if not (columns and rows):
        return blank
    # Pixel centres as seen from the box: `along` its width, `down` its height.
    right, below = np.array(columns) + 0.5 - x, (np.array(rows) + 0.5 - y)[:, None]
    along, down = right * cosine + below * sine + width / 2, below * cosine - right * sine + height / 2
    pixels = picture[_nearest(down / height, picture.shape[0]), _nearest(along / width, picture.shape[1])]
    shown = _overlap(along, width) * _overlap(down, height) * min(max(element.opacity, 0.0), 1.0)
    pixels[..., 3] = np.rint(pixels[..., 3] * shown)
    pixels[pixels[..., 3] == 0] = 0
    return crop_to_content(replace(blank, pixels=pixels, left=columns[0], top=rows[0]))


def _pixels(centre: float, extent: float, size: int) -> range:
    """The pixels of an axis that something touches, those outside of the canvas left out."""
    first, last = (min(max(centre + half, 0), size) for half in (-extent / 2, extent / 2))
    return range(math.floor(first), math.ceil(last))


def _nearest(place: F64, size: int) -> npt.NDArray[np.intp]:
    """The pixel at a place from 0 to 1."""
    return np.clip(np.floor(place * size), 0, size - 1).astype(np.intp)


def _overlap(centre: F64, length: float) -> F64:
    """How much of the pixel around `centre` lies between 0 and `length`."""
    covered: F64 = np.clip(np.minimum(centre + 0.5, length) - np.maximum(centre - 0.5, 0), 0, 1)
    return covered
