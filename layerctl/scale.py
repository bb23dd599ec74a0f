"""A stack at another size, by plain resampling."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.layers import Group, Layer, LayerStack, crop_to_content

F32 = npt.NDArray[np.float32]

FILTER_REACH = 4
"""Pixels of the larger grid around a layer that its edges may reach when it is scaled."""


def at_size(stack: LayerStack, width: int, height: int) -> LayerStack:
    """The stack scaled to another canvas, each layer cropped to its content; the same object if it has that size.

    Colours are weighted by alpha, so that what is hidden does not show at edges. Positions are scaled without rounding: what met at a
    fraction of a pixel still meets.
    """
    if (stack.width, stack.height) == (width, height):
        return stack
    layers = tuple(_scaled_node(node, stack, width, height) for node in stack.layers)
    return replace(stack, width=width, height=height, layers=layers)


def _scaled_node(node: Layer | Group, stack: LayerStack, width: int, height: int) -> Layer | Group:
    if isinstance(node, Group):
        return replace(node, children=tuple(_scaled_node(child, stack, width, height) for child in node.children))
    left, top, right, bottom = node.box
    across, x = _scaled_span(left, right, stack.width, width)
    down, y = _scaled_span(top, bottom, stack.height, height)
    rims = top - down.start, down.stop - bottom, left - across.start, across.stop - right
    padded = cv2.copyMakeBorder(node.pixels, *rims, cv2.BORDER_CONSTANT)
    box = (
        x.start * stack.width / width - across.start,
        y.start * stack.height / height - down.start,
        x.stop * stack.width / width - across.start,
        y.stop * stack.height / height - down.start,
    )
    pixels = np.empty((len(y), len(x), 4), node.pixels.dtype)
    largest = np.iinfo(node.pixels.dtype).max
    weight = padded[..., 3].astype(np.float32)
    alpha = np.clip(_resized(weight, pixels.shape, box), 0, largest)
    pixels[..., 3] = np.rint(alpha)
    for channel in range(3):
        colour = _resized(padded[..., channel] * weight, pixels.shape, box) / np.maximum(alpha, 0.5)
        pixels[..., channel] = np.where(alpha < 0.5, 0, np.clip(np.rint(colour), 0, largest))
    return crop_to_content(replace(node, pixels=pixels, left=x.start, top=y.start))


def _scaled_span(start: int, stop: int, size: int, new_size: int) -> tuple[range, range]:
    """The span with room for the filter, and where it comes to lie. Room is made only inside of the canvas: its rim does not fade."""
    room = FILTER_REACH * max(1, -(-size // new_size))
    first = start if start == 0 else start - room
    last = stop if stop == size else stop + room
    return range(first, last), range(-(-first * new_size // size), last * new_size // size)


def _resized(plane: F32, shape: tuple[int, ...], box: tuple[float, float, float, float]) -> F32:
    # Catmull-Rom, widened where it shrinks: its one negative lobe leaves no ring of faint alpha around a hard edge, as Lanczos' does.
    return np.asarray(Image.fromarray(plane).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))
