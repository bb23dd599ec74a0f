"""Flattening a stack as editors do, and the difference of two pictures in levels."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.layers import Group, Layer, LayerStack, crop_to_content

U8 = npt.NDArray[np.uint8]

BAND_ROWS = 256
TILE = 256


def flatten(stack: LayerStack) -> U8:
    """The picture that an editor shows: H x W x 4, straight alpha, 8 bits.

    Layers go over each other bottom to top by Pillow's 8-bit `alpha_composite`. Hidden layers are left out; a group that is not opaque is
    flattened by itself first; 16-bit layers are rounded to 8 bits. Memory beyond the result is a few tiles, and a canvas a level of such
    groups.
    """
    picture = np.empty((stack.height, stack.width, 4), np.uint8)
    layers = list(_shown(stack.layers, stack))
    for top in range(0, stack.height, TILE):
        for left in range(0, stack.width, TILE):
            tile = picture[top : top + TILE, left : left + TILE]
            _flatten_tile(layers, left, top, tile)
    return picture


def _flatten_tile(layers: list[Layer], left: int, top: int, tile: U8) -> None:
    """Fill the tile, whose corner lies at `left`, `top`. Layers that are blank or covered there cost nothing: most are, in most tiles."""
    height, width = tile.shape[:2]
    pieces: list[tuple[U8, int, int]] = []
    for layer in reversed(layers):
        x0, y0, x1, y1 = layer.box
        x0, y0, x1, y1 = max(x0, left), max(y0, top), min(x1, left + width), min(y1, top + height)
        if x0 >= x1 or y0 >= y1:
            continue
        piece = _as_8_bit(layer.pixels[y0 - layer.top : y1 - layer.top, x0 - layer.left : x1 - layer.left], layer.opacity)
        alpha = cv2.extractChannel(piece, 3)
        if cv2.countNonZero(alpha) == 0:
            continue
        if piece.shape == tile.shape and alpha.min() == 255:
            tile[...] = piece
            break
        pieces.append((piece, x0 - left, y0 - top))
    else:
        tile[...] = 0
    if not pieces:
        return
    image = Image.fromarray(tile)
    for piece, x, y in reversed(pieces):
        image.alpha_composite(Image.fromarray(piece), (x, y))
    tile[...] = np.asarray(image)


def difference(a: U8, b: U8) -> U8:
    """H x W: the largest difference of a pixel's premultiplied colours and of its alphas, in levels 0..255, fractions rounded up.

    `a`, `b`: H x W x 4, straight alpha. Raises ValueError when the sizes differ.
    """
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 4:
        raise ValueError(f"pictures of shapes {a.shape} and {b.shape} cannot be compared")
    result = np.empty(a.shape[:2], np.uint8)
    for top in range(0, a.shape[0], BAND_ROWS):
        rows = slice(top, top + BAND_ROWS)
        result[rows] = _difference(a[rows], b[rows])
    return result


def largest_difference(a: U8, b: U8) -> int:
    """The largest value of `difference`; 1 means "within 1/255 at every pixel"."""
    return int(difference(a, b).max(initial=0))


def _difference(a: U8, b: U8) -> U8:
    if min(cv2.extractChannel(a, 3).min(), cv2.extractChannel(b, 3).min()) == 255:
        red, green, blue, _ = cv2.split(cv2.absdiff(a, b))
        return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)
    scaled: npt.NDArray[np.int32] = np.abs(_premultiplied(a) - _premultiplied(b)).max(axis=2)
    levels: U8 = ((scaled + 254) // 255).astype(np.uint8)
    return levels


def _premultiplied(pixels: U8) -> npt.NDArray[np.int32]:
    """Colours times alpha and alpha times 255: all four channels 0..65025."""
    alpha = pixels[..., 3:].astype(np.int32)
    return np.concatenate([pixels[..., :3] * alpha, alpha * 255], axis=2)


def _shown(nodes: tuple[Layer | Group, ...], stack: LayerStack) -> Iterator[Layer]:
    for node in nodes:
        if not node.visible or node.opacity == 0:
            continue
        if isinstance(node, Layer):
            yield node
        elif node.opacity == 1:
            yield from _shown(node.children, stack)
        else:
            yield crop_to_content(Layer(node.name, flatten(stack.with_layers(node.children)), opacity=node.opacity))


def _as_8_bit(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], opacity: float) -> U8:
    if pixels.dtype == np.uint16:
        reduced = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        reduced = np.ascontiguousarray(pixels, dtype=np.uint8)
    if opacity < 1:
        reduced = reduced.copy() if reduced.base is not None or reduced is pixels else reduced
        reduced[..., 3] = np.rint(reduced[..., 3] * opacity).astype(np.uint8)
    return reduced
