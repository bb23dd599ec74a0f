"""An engine's small layer at the size of the source: alpha follows the source's own edges, colours are the source's where they show.

Alpha: within a small window the alpha of a layer is taken for a linear function of the picture, alpha = a · I + b (the colour line model
of Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting", 2008; fitted window by window at the small size and
applied at the large one as in He and Sun, "Fast Guided Filter", arXiv 1505.00996). Ours: the fit is weighted by how much of the layer
shows, made against the source softened as much as the engine's picture is, and where it explains little, plain interpolation remains.
At edges between two calm colours the fit only says which pixels lie on which side: alpha is the place of the source's colour on the line
between the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""left, top, right, bottom."""

RADIUS = 2
"""Half the window of the fit, in pixels of the small size, the middle one not counted."""
NOISE = 3 / 255
"""Changes of the picture below this carry no edge of a layer."""
SURE = 0.03
"""Alpha within this of 0 or 1 all around is 0 or 1."""
ENDS = 0.03
"""What of the fitted alpha is cut off at both ends: noise of the fit in what is wholly there or not there."""
STEEP = 0.25
"""Squared slope, alpha from 0 to 1 a full change of the picture, from which on alpha follows the picture."""
AROUND = 8
"""Pixels of the source, to each side, in which the colours on both sides of an edge are looked for."""
ENOUGH = 4
"""Pixels that tell the colour of a side."""
DOUBT = 0.0005
"""Squared noise of an alpha, from 0 to 1, up to which the projection on the line between both colours is better than the fit."""
HALF_A_LEVEL = 0.5 / 255
TILE = 512
REACH = 3
"""Pixels of the small size that interpolation reaches beyond a box."""
NEAR = 2.5
"""Deviation, in pixels of the small size, of the window in which a layer's own colour is looked for."""
FAR = 24.0
"""The same for the offset that takes hidden colours to the source's."""
LARGEST_OFFSET = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class SmallLayer:
    """One layer at the engine's size, in place and without drift: alpha H x W and straight colour H x W x 3, 0..1.

    `shown`: H x W, how much of the layer would show if it were opaque: the product of (1 - alpha) of all layers above it.
    `residual`: H x W x 3, the source less the flattened layers, the same for all layers.
    """

    alpha: F32
    colour: F32
    shown: F32
    residual: F32


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What gives a layer at any size: alpha = slope · picture + offset, its colour, and how much shows; maps of the engine's size."""

    slope: F32
    offset: F32
    colour: F32
    shown: F32


def fit(layer: SmallLayer, picture: F32, softened: F32) -> Recipe:
    """The recipe of a layer. `picture`, `softened`: the source at the engine's size, H x W x 3, 0..1, and as soft as the layer is."""
    slope, offset = _colour_line(layer.alpha, softened, layer.shown)
    least, most = cv2.erode(layer.alpha, np.ones((3, 3))), cv2.dilate(layer.alpha, np.ones((3, 3)))
    for sure, value in ((least > 1 - SURE, 1.0), (most < SURE, 0.0)):
        slope[sure], offset[sure] = 0, value
    return Recipe(slope, offset, _own_colour(layer, picture), layer.shown)


def draw(recipe: Recipe, source: U8, box: Box) -> U8:
    """The layer in a box of the source (H x W x 4, uint8), straight alpha, in the box's size."""
    left, top, right, bottom = box
    pixels = np.zeros((bottom - top, right - left, 4), np.uint8)
    for tile in tiles(box):
        at = Sampler(recipe.offset.shape[:2], source.shape[:2], tile)
        if not recipe.offset[at.reach].any():
            continue
        part = pixels[tile[1] - top : tile[3] - top, tile[0] - left : tile[2] - left]
        part[..., 3] = np.rint(_alpha(recipe, source, tile) * 255)
        part[..., :3] = np.rint(np.clip(at(recipe.colour), 0, 1) * 255)
        part[part[..., 3] == 0] = 0
    return pixels


def _alpha(recipe: Recipe, source: U8, tile: Box) -> F32:
    """Alpha of a tile of the source, 0..1."""
    left, top, right, bottom = tile
    height, width = source.shape[:2]
    # Windows at the rim of the tile need what lies around it.
    wide = max(0, left - AROUND), max(0, top - AROUND), min(width, right + AROUND), min(height, bottom + AROUND)
    at = Sampler(recipe.offset.shape[:2], (height, width), wide)
    alpha = at(recipe.offset)
    if recipe.slope[at.reach].any():
        slope = at(recipe.slope)
        rgb = source[wide[1] : wide[3], wide[0] : wide[2], :3].astype(np.float32) * np.float32(1 / 255)
        alpha += np.einsum("ijk,ijk->ij", slope, rgb)
        # Only what follows the picture carries its noise to the ends.
        follows = np.einsum("ijk,ijk->ij", slope, slope) > STEEP
        np.copyto(alpha, (alpha - ENDS) * np.float32(1 / (1 - 2 * ENDS)), where=follows)
        np.clip(alpha, 0, 1, out=alpha)
        _project(alpha, rgb, at(recipe.shown) > 1 - SURE)
    return np.clip(alpha[top - wide[1] : bottom - wide[1], left - wide[0] : right - wide[0]], 0, 1)


def _project(alpha: F32, rgb: F32, shown: Mask) -> None:
    """Alpha of edges, in place: where a pixel lies on the line between the colours on both sides of its edge, how far along it lies."""
    ends = alpha > 1 - HALF_A_LEVEL, alpha < HALF_A_LEVEL
    inside, outside = (cv2.erode((end & shown).view(np.uint8), np.ones((3, 3))) for end in ends)
    if not inside.any() or not outside.any():
        return
    edge = shown & (inside == 0) & (outside == 0)
    front, back = (_colours_around(rgb, sure, edge) for sure in (inside, outside))
    line = front.mean - back.mean
    length = np.maximum(np.einsum("nk,nk->n", line, line), NOISE**2)
    along = rgb[edge] - back.mean
    share = np.einsum("nk,nk->n", along, line) / length
    off = along - share[:, None] * line
    doubt = (np.einsum("nk,nk->n", off, off) + front.variance + back.variance) / length
    clear = (doubt < DOUBT) & (np.minimum(front.count, back.count) >= ENOUGH)
    alpha[edge] = np.where(clear, np.clip(share, 0, 1), alpha[edge])


@dataclass(frozen=True, slots=True, eq=False)
class _Colours:
    """Of N pixels: the mean of the colours around each, N x 3, their summed variance, and how many they are."""

    mean: F32
    variance: F32
    count: F32


def _colours_around(rgb: F32, sure: U8, where: Mask) -> _Colours:
    weight = sure.astype(np.float32)
    count = _around(weight)[where]
    total = np.maximum(count, 1)
    mean = np.asarray(_around(rgb * weight[..., None])[where] / total[:, None], np.float32)
    squares = _around(np.einsum("ijk,ijk->ij", rgb, rgb) * weight)[where] / total
    return _Colours(mean, np.maximum(squares - np.einsum("nk,nk->n", mean, mean), 0), count)


def _around(values: F32) -> F32:
    side = 2 * AROUND + 1
    return np.asarray(cv2.boxFilter(values, -1, (side, side), normalize=False, borderType=cv2.BORDER_REPLICATE), np.float32)


def tiles(box: Box) -> Iterator[Box]:
    """The box in squares of TILE pixels, row by row."""
    left, top, right, bottom = box
    for y in range(top, bottom, TILE):
        for x in range(left, right, TILE):
            yield x, y, min(x + TILE, right), min(y + TILE, bottom)


class Sampler:
    """Samples maps of one size in a box of the same picture at another, bilinear; `reach` is the part of the maps that matters there."""

    def __init__(self, small: tuple[int, ...], full: tuple[int, ...], box: Box) -> None:
        down, across = small[0] / full[0], small[1] / full[1]
        left, top, right, bottom = box
        self.size = (right - left, bottom - top)
        self.reach = (
            slice(max(0, int(top * down) - REACH), int(np.ceil(bottom * down)) + REACH),
            slice(max(0, int(left * across) - REACH), int(np.ceil(right * across)) + REACH),
        )
        self.matrix = np.array([[across, 0, (left + 0.5) * across - 0.5], [0, down, (top + 0.5) * down - 0.5]], np.float32)

    def __call__(self, values: F32) -> F32:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(values, self.matrix, self.size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _colour_line(alpha: F32, guide: F32, weight: F32) -> tuple[F32, F32]:
    """Slope H x W x 3 and offset H x W of alpha over the guide, window by window, then averaged over the windows of a pixel."""
    weight = np.maximum(weight, 1e-3)
    total = _window(weight)

    def mean(values: F32) -> F32:
        spread = weight if values.ndim == 2 else weight[..., None]
        return np.asarray(_window(values * spread) / (total if values.ndim == 2 else total[..., None]), np.float32)

    mean_guide, mean_alpha = mean(guide), mean(alpha)
    products = np.stack([guide[..., i] * guide[..., j] for i, j in combinations_with_replacement(range(3), 2)], axis=2)
    moments = np.concatenate([mean(products[..., :3]), mean(products[..., 3:])], axis=2)
    covariance = np.empty((*alpha.shape, 3, 3), np.float32)
    for number, (i, j) in enumerate(combinations_with_replacement(range(3), 2)):
        covariance[..., i, j] = covariance[..., j, i] = moments[..., number] - mean_guide[..., i] * mean_guide[..., j]
    together = mean(guide * alpha[..., None]) - mean_guide * mean_alpha[..., None]
    slope = np.linalg.solve(covariance + NOISE**2 * np.eye(3, dtype=np.float32), together[..., None])[..., 0].astype(np.float32)
    variance = np.maximum(mean(alpha * alpha) - mean_alpha**2, 1e-6)
    explained = np.einsum("ijk,ijk->ij", slope, together) / variance
    # Three free slopes explain a part of anything in a window of this size.
    by_chance = 3 / ((2 * RADIUS + 1) ** 2 - 1)
    explained = np.clip((explained - by_chance) / (1 - by_chance), 0, 1)
    offset = mean_alpha - np.einsum("ijk,ijk->ij", slope, mean_guide)
    # Windows count by how well they explain their alpha, so that an edge's own windows decide at it.
    trust = weight * (explained + 0.02)
    total_trust = _window(trust)
    slope = _window(slope * trust[..., None]) / total_trust[..., None]
    offset = _window(offset * trust) / total_trust
    quality = _window(explained * trust) / total_trust
    contrast = np.sqrt(_window(variance * trust) / total_trust)
    seen = _ramp(np.asarray(total / (2 * RADIUS + 1) ** 2, np.float32), 0.1, 0.4)
    # What is smooth, or not explained by the picture, is as plain interpolation has it.
    share = np.asarray(seen * _ramp(quality, 0.3, 0.8) * _ramp(contrast, 0.02, 0.08), np.float32)
    slope = slope * share[..., None]
    offset = offset * share + alpha * (1 - share)
    return np.ascontiguousarray(slope, np.float32), np.ascontiguousarray(offset, np.float32)


def _ramp(values: F32, start: float, stop: float) -> F32:
    return np.asarray(np.clip((values - start) / (stop - start), 0, 1), np.float32)


def soften(values: F32, deviation: float) -> F32:
    """A Gaussian blur; a wide one is made at a smaller size, where it is the same."""
    shrink = max(1, int(deviation / 3))
    if shrink == 1:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), deviation), np.float32)
    height, width = values.shape[:2]
    size = (-(-width // shrink), -(-height // shrink))
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), deviation / shrink)
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _window(values: F32) -> F32:
    side = 2 * RADIUS + 1
    return np.asarray(cv2.boxFilter(values, -1, (side, side), normalize=False, borderType=cv2.BORDER_REFLECT), np.float32)


def _own_colour(layer: SmallLayer, picture: F32) -> F32:
    """At edges the colour of the layer's inside near by; where it is hidden, the engine's, moved to meet what shows."""
    share = layer.alpha * layer.shown
    offset = _spread(layer.residual, share**2, FAR)
    colour = layer.colour + np.clip(offset, -LARGEST_OFFSET, LARGEST_OFFSET)
    inside = np.where(share > 1 - SURE, np.float32(1), np.float32(0))
    near = cv2.GaussianBlur(inside, (0, 0), NEAR)
    own = cv2.GaussianBlur(picture * inside[..., None], (0, 0), NEAR) / np.maximum(near, 1e-4)[..., None]
    edge = np.clip(near * 20, 0, 1) * (layer.shown > 0.5) * (inside == 0)
    mixed = colour + (own - colour) * edge[..., None]
    return np.ascontiguousarray(np.where(inside[..., None] > 0, picture, mixed), np.float32)


def _spread(values: F32, weight: F32, deviation: float) -> F32:
    """The mean of the values around each pixel, near ones counting more; further off where nothing has weight near by."""
    result = np.zeros_like(values)
    left = np.ones_like(weight)
    for wider in (0.25, 1.0, 4.0):
        total = soften(weight, deviation * wider)
        mean = soften(values * weight[..., None], deviation * wider) / np.maximum(total, 1e-6)[..., None]
        certain = left * np.clip(total * 20, 0, 1)
        result += mean * certain[..., None]
        left -= certain
    return result
