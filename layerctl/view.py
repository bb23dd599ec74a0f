"""A source and its layers as arrays, reduced to a size at which they can be measured quickly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.scale import at_size
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

SIDE = 640
"""Long side, in pixels, of the copy that is looked at; smaller stacks are looked at as they are."""


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
    width, height = max(1, round(stack.width * factor)), max(1, round(stack.height * factor))
    small = at_size(stack, width, height)
    pixels = source.pixels
    if pixels.shape[:2] != (height, width):
        alpha = pixels[..., 3:].astype(np.float32)
        weighted = cv2.resize(np.dstack([pixels[..., :3] * alpha, alpha]), (width, height), interpolation=cv2.INTER_AREA)
        reduced = np.asarray(np.dstack([weighted[..., :3] / np.maximum(weighted[..., 3:], 1e-3), weighted[..., 3]]), np.float32)
    else:
        reduced = pixels.astype(np.float32)
    alphas, colours = [], []
    for layer in small.walk():
        canvas = on_canvas(layer, width, height)
        unit = np.float32(255 / np.iinfo(canvas.dtype).max)
        alphas.append(canvas[..., 3] * np.float32(unit / 255 * layer.opacity * layer.visible))
        colours.append(canvas[..., :3] * unit)
    shares, clear = [], np.ones((height, width), np.float32)
    for alpha in reversed(alphas):
        shares.append(alpha * clear)
        clear = clear * (1 - alpha)
    return View(np.ascontiguousarray(reduced[..., :3]), reduced[..., 3] / np.float32(255), alphas, colours, shares[::-1])


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
