"""A source and its layers as arrays, reduced to a size at which they can be measured quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.layers import Layer, LayerStack, Pixels, effective, on_canvas
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

SIDE = 640
"""Long side, in pixels, of the copy that is looked at; smaller stacks are looked at as they are."""

STRIP = 32
"""Rows of the copy that are made at once of a picture that is `LARGE` times as high or higher."""
LARGE = 4


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A source and a stack, reduced to `SIDE`, as arrays; K layers, bottom to top.

    `picture`: H x W x 3, levels. `opaque`: H x W, the source's own alpha. `alphas`: K of H x W. `colours`: K of H x W x 3. `shares`: K of
    H x W, v_k.
    """

    picture: F32
    opaque: F32
    alphas: list[F32]
    colours: list[F32]
    shares: list[F32]

    @property
    def height(self) -> int:
        return self.picture.shape[0]

    @property
    def width(self) -> int:
        return self.picture.shape[1]


def view(source: SourceImage, stack: LayerStack) -> View:
    """Groups are opened; hidden layers and opacities count as they show. The source is brought to the stack's size."""
    factor = min(1.0, SIDE / max(stack.width, stack.height))
    size = max(1, round(stack.width * factor)), max(1, round(stack.height * factor))
    picture, opaque = _reduced(Layer("source", source.pixels), source.width, source.height, size)
    alphas, colours = [], []
    for layer, opacity in effective(stack.layers):
        colour, alpha = _reduced(layer, stack.width, stack.height, size)
        alphas.append(alpha * np.float32(opacity))
        colours.append(colour)
    shares, clear = [], np.ones(opaque.shape, np.float32)
    for alpha in reversed(alphas):
        shares.append(alpha * clear)
        clear = clear * (1 - alpha)
    return View(picture, opaque, alphas, colours, shares[::-1])


def _reduced(layer: Layer, width: int, height: int, size: tuple[int, int]) -> tuple[F32, F32]:
    """Colours in levels and alpha of a layer on its canvas, brought to another size; as they are at that size already.

    A large canvas is reduced in strips of whole rows, the same for all layers, which moves them by less than one of its rows.
    """
    unit = np.float32(255 / np.iinfo(layer.pixels.dtype).max)
    if size == (width, height):
        canvas = on_canvas(layer, width, height).astype(np.float32) * unit
        return np.ascontiguousarray(canvas[..., :3]), canvas[..., 3] / np.float32(255)
    small = np.zeros((size[1], size[0], 4), np.float32)
    rows = STRIP if height > LARGE * size[1] else size[1]
    for top in range(0, size[1], rows):
        bottom = min(top + rows, size[1])
        first, last = top * height // size[1], max(bottom * height // size[1], top * height // size[1] + 1)
        if layer.box[1] < last and layer.box[3] > first:
            strip = on_canvas(replace(layer, top=layer.top - first), width, last - first)
            small[top:bottom] = _shrunk(strip, (size[0], bottom - top)) * unit
    alpha = np.minimum(small[..., 3] / np.float32(255), np.float32(1))
    return small[..., :3] / np.maximum(alpha, 1e-6)[..., None], alpha


def _shrunk(pixels: Pixels, size: tuple[int, int]) -> F32:
    """The mean of blocks, colours multiplied by alpha; in between where it is enlarged."""
    method = cv2.INTER_AREA if size[0] <= pixels.shape[1] and size[1] <= pixels.shape[0] else cv2.INTER_LINEAR
    if pixels[..., 3].min() < np.iinfo(pixels.dtype).max:
        floats = pixels.astype(np.float32)
        floats[..., :3] *= floats[..., 3:] / np.float32(np.iinfo(pixels.dtype).max)
        return np.asarray(cv2.resize(floats, size, interpolation=method), np.float32)
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.float32)


def lone_view(pixels: U8 | npt.NDArray[np.uint16]) -> View:
    """A layer's straight pixels, H x W x 4, as a picture of one layer, reduced to `SIDE`."""
    eight = np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else pixels // 257, np.uint8)
    height, width = eight.shape[:2]
    return view(SourceImage(eight), LayerStack(width, height, (Layer("layer", eight),)))


def flattened(seen: View) -> F32:
    """What the layers show, multiplied by alpha, H x W x 4: levels, and alpha 0..1."""
    colour = sum((share[..., None] * colours for share, colours in zip(seen.shares, seen.colours, strict=True)), np.float32(0))
    return np.dstack([colour, sum(seen.shares, np.zeros_like(seen.opaque))])


def carried_on(colours: F32, known: F32) -> F32:
    """Colours where `known` is 1, carried on smoothly over all other pixels: each takes those of ever larger blocks around it."""
    if known.all() or max(known.shape) == 1:
        return colours
    size = (-(-known.shape[1] // 2), -(-known.shape[0] // 2))
    weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(colours * known[..., None], size, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)[..., None]
    around = carried_on(np.asarray(mean, np.float32), (weight > 1e-3).astype(np.float32))
    around = cv2.resize(around, known.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(known[..., None] > 0, colours, around), np.float32)


def carried(colours: F32, known: F32, deviation: float) -> F32:
    """The mean of the colours around each pixel, by a Gaussian, of those where `known` is 1."""
    weight = softened(known, deviation)[..., None]
    return np.asarray(softened(colours * known[..., None], deviation) / np.maximum(weight, 1e-6), np.float32)


def softened(plane: F32, deviation: float) -> F32:
    """A Gaussian blur; a wide one is done on a reduced copy."""
    factor = max(1, int(deviation // 3))
    if factor == 1:
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), deviation, borderType=cv2.BORDER_REFLECT_101), np.float32)
    height, width = plane.shape[:2]
    small = cv2.resize(plane, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), deviation / factor, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
