"""The exact solve: layers of any quality become layers that flatten to the source within 1/255 at every pixel.

Alphas are taken as they are; colours move as little as possible. Where the source is opaque, each pixel is one of three cases:

* no upper layer covers it: the bottom layer is the source;
* the top-most covering layer is opaque: that layer is the source, all below is hidden and stays (the completion of hidden parts);
* otherwise the residual is spread over the visible layers by the least-norm correction, then the top-most covering layer takes what
  is left, F = (I - (1 - a) B) / a, against the rounded 8-bit composite B of all below it. Where F leaves 0..255 the alpha is raised to
  the least value with which it does not.

Where the source is transparent, no stack of opaque plates can show it: the layer with the largest share of the pixel takes colour and
alpha of the source, and the others become transparent there.

The solve itself works on lists of N pixels, channel by channel: `picture` is 3 x N, `layers` is L x 4 x N, bottom first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.layers import Layer, LayerStack, crop_to_content, on_canvas

if TYPE_CHECKING:
    from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

BAND_VALUES = 1 << 20
"""Pixels times layers of the rows that are in work at once."""
CHUNK = 1 << 14
"""Mixed pixels that are solved at once; few enough to stay in the processor's cache."""
PASSES = 6
"""Corrections after the first; noise in 20 layers is settled by then."""
MOST = 64
"""Layers of a stack."""
FAINT = 0.1
"""Share of a pixel up to which a layer's colour does not make up for what others cannot give."""
DUST = 5
"""An alpha up to this, 2 %, is dropped where the picture is right without it."""


def solve_exact(source: SourceImage, stack: LayerStack, *, in_place: bool = False) -> LayerStack:
    """The same layers, names and order, such that `flatten` gives the source with a `largest_difference` of at most 1.

    The layers are flat (no groups), visible, of opacity 1 and 8 bits, in boxes on the source's canvas. The bottom layer becomes
    opaque wherever an opaque source needs it to be: everywhere in a picture without transparency. Boxes are cropped to what is left; a
    layer of which nothing is left comes back blank. `in_place`: the given layers' pixels may be written to, which saves their copies.
    Raises ValueError for another canvas or a stack that is not as described.
    """
    _check(source, stack)
    layers = list(stack.walk())
    canvas = [on_canvas(layers[0], stack.width, stack.height).astype(np.uint8, copy=False)]
    layers[0] = replace(layers[0], pixels=canvas[0], left=0, top=0)
    if not in_place:
        layers[1:] = [replace(layer, pixels=layer.pixels.copy()) for layer in layers[1:]]
    opaque = bool((source.pixels[..., 3] == 255).all())
    rows = max(1, BAND_VALUES // (stack.width * len(layers)))
    for top in range(0, stack.height, rows):
        _solve_rows(source.pixels[top : top + rows], layers, top, opaque)
    return replace(stack, layers=tuple(crop_to_content(layer) for layer in layers))


def _check(source: SourceImage, stack: LayerStack) -> None:
    if (stack.width, stack.height) != (source.width, source.height):
        raise ValueError(f"a stack of {stack.width} x {stack.height} pixels for a source of {source.width} x {source.height}")
    check_flat(stack)


def check_flat(stack: LayerStack) -> None:
    """Raise ValueError unless all layers are visible, of opacity 1 and 8 bits, and in no group."""
    if not stack.layers:
        raise ValueError("a stack without layers cannot show the source")
    if sum(1 for _ in stack.walk()) > MOST:
        raise ValueError(f"a stack of more than {MOST} layers")
    for layer in stack.layers:
        if not isinstance(layer, Layer) or not layer.visible or layer.opacity != 1 or layer.pixels.dtype != np.uint8:
            raise ValueError(f"{layer.name!r} is not a visible 8-bit layer of opacity 1")


def _solve_rows(source: U8, layers: list[Layer], top: int, opaque_source: bool) -> None:
    """Solve the rows of `source`, which begin at canvas row `top`, and write them into the layers' pixels."""
    height, width = source.shape[:2]
    windows = [window for layer in layers if (window := _window(layer, top, height, width))]
    band = np.zeros((len(windows), height, width, 4), np.uint8)
    for index, (pixels, where) in enumerate(windows):
        band[index][where] = pixels

    covering = np.zeros((height, width), np.uint16)
    alpha = np.zeros((height, width), np.uint8)
    sealed = np.zeros((height, width), np.bool_)
    for index, (_, where) in enumerate(windows[1:], start=1):
        layer_alpha = band[index][where][..., 3]
        covers = layer_alpha > 0
        np.copyto(covering[where], np.uint16(index), where=covers)
        np.copyto(alpha[where], layer_alpha, where=covers)
        sealed[where] |= layer_alpha == 255

    opaque = source[..., 3] == 255
    must_hold = opaque if opaque_source else opaque & ~sealed
    _copy(source, must_hold & (band[0, ..., 3] == 0), band[0])
    band[0, ..., 3][must_hold] = 255
    _copy(source, opaque & (covering == 0), band[0])
    solid = opaque & (alpha == 255)
    for index, (_, where) in enumerate(windows[1:], start=1):
        _copy(source[where], solid[where] & (covering[where] == index), band[index][where])

    flat, flat_source = band.reshape(len(windows), -1, 4), source.reshape(-1, 4)
    mixed = np.flatnonzero(opaque & (covering > 0) & (alpha < 255))
    for visible, members in _by_visible_layers(flat[:, mixed, 3]):
        for start in range(0, members.size, CHUNK):
            some = mixed[members[start : start + CHUNK]]
            part = np.ix_(visible, some)
            flat[part] = _solve_mixed(flat_source[some, :3].T.copy(), flat[part].transpose(0, 2, 1).copy()).transpose(0, 2, 1)
    if not opaque_source:
        see_through = np.flatnonzero(~opaque)
        flat[:, see_through] = _give_away(flat_source[see_through], flat[:, see_through])
    for index, (pixels, where) in enumerate(windows):
        pixels[...] = band[index][where]


def _window(layer: Layer, top: int, height: int, width: int) -> tuple[U8, tuple[slice, slice]] | None:
    """The part of the layer's pixels inside the band, as a view, and where it lies in the band; None when it lies elsewhere."""
    left, y0, right, y1 = layer.box
    x0, x1, y0, y1 = max(left, 0), min(right, width), max(y0, top), min(y1, top + height)
    if x0 >= x1 or y0 >= y1:
        return None
    pixels: U8 = layer.pixels[y0 - layer.top : y1 - layer.top, x0 - left : x1 - left].view(np.uint8)
    return pixels, (slice(y0 - top, y1 - top), slice(x0, x1))


def _copy(source: U8, mask: Bool, target: U8) -> None:
    """Copy the pixels under the mask into the target, in place."""
    cv2.copyTo(source, mask.view(np.uint8), target)


def _by_visible_layers(alpha: U8) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Pixels in groups that the same layers make up: which layers, bottom first, and which pixels. `alpha`: L x N."""
    sealed = np.zeros(alpha.shape[1], np.bool_)
    # Sorting 16 bits is several times faster than sorting more.
    kind = np.dtype(np.uint16 if len(alpha) <= 16 else np.uint64)
    signature = np.zeros(alpha.shape[1], kind)
    for index in range(len(alpha) - 1, -1, -1):
        signature = signature | (((alpha[index] > 0) & ~sealed).astype(kind) << kind.type(index))
        sealed |= alpha[index] == 255
    order = np.argsort(signature, kind="stable")
    changes = np.flatnonzero(np.diff(signature[order])) + 1
    for start, stop in pairwise([0, *changes.tolist(), order.size]):
        if stop > start:
            bits = int(signature[order[start]])
            yield np.array([index for index in range(len(alpha)) if bits >> index & 1]), order[start:stop]


def _solve_mixed(picture: U8, layers: U8) -> U8:
    """Solve opaque pixels that these layers, L x 4 x N, make up: each shows, the top-most one lets something through."""
    layers[:, :3] = _correct_colours(picture.astype(np.float32), layers[:, :3].astype(np.float32), _shares(layers[:, 3]))
    below = layers[0, :3].astype(np.int32)
    for layer in layers[1:-1]:
        below = _over(layer[:3], layer[3], below)
    layers[-1] = _take_remainder(picture.astype(np.int32), layers[-1], below)
    bare = ~layers[1:, 3].any(axis=0)
    layers[0, :3, bare] = picture[:, bare].T
    return layers


def _shares(alpha: U8) -> F32:
    """L x N: how much of each pixel each layer makes up: a_k times the product of (1 - a_j) of all above it."""
    shares = alpha.astype(np.float32) / np.float32(255)
    left = np.ones(alpha.shape[1], np.float32)
    for share in shares[::-1]:
        passed = left * (1 - share)
        share *= left
        left = passed
    return shares


def _correct_colours(picture: F32, colours: F32, shares: F32) -> U8:
    """The colours nearest to the given ones, in the least-squares sense, whose weighted sum is the picture; rounded to 8 bits.

    Further passes move what the limits 0..255 cut off onto the layers that still have room, of which more than `FAINT` shows: others would
    have to change beyond recognition for a level of the picture. What is left then is for an alpha to settle.
    """
    residual = picture - _mixture(colours, shares)
    colours += shares[:, None] * (residual / np.sum(shares**2, axis=0))
    np.clip(colours, 0, 255, out=colours)
    plain = np.where(shares > FAINT, shares, np.float32(0))
    stuck = np.zeros(picture.shape[1], bool)
    for _ in range(PASSES):
        residual = picture - _mixture(colours, shares)
        cut = np.flatnonzero((np.abs(residual).max(axis=0) > 0.5) & ~stuck)
        if not cut.size:
            break
        rest, colour = residual[:, cut], colours[:, :, cut]
        room = plain[:, None, cut] * np.where(rest > 0, colour < 255, colour > 0)
        total = np.sum(room**2, axis=0)
        stuck[cut] = (np.abs(rest) * (total > 0) <= 0.5).all(axis=0)
        colours[:, :, cut] = np.clip(colour + room * (rest / np.maximum(total, 1e-6)), 0, 255)
    return np.rint(colours).astype(np.uint8)


def _mixture(colours: F32, shares: F32) -> F32:
    mixture: F32 = colours[0] * shares[0]
    for colour, share in zip(colours[1:], shares[1:], strict=True):
        mixture += colour * share
    return mixture


def _take_remainder(picture: I32, top: U8, below: I32) -> U8:
    """The top-most covering layer, 4 x N, with the colour and alpha that give the picture over the composite below it."""
    alpha = top[3].astype(np.int32)
    wanted = top[:3].astype(np.float32)
    colour = _remainder(picture, alpha, below, wanted)
    wrong = np.flatnonzero(np.abs(_over(colour, alpha, below) - picture).max(axis=0) > 1)
    if wrong.size:
        alpha[wrong] = np.maximum(alpha[wrong], _least_alpha(picture[:, wrong], below[:, wrong]))
        colour[:, wrong] = _remainder(picture[:, wrong], alpha[wrong], below[:, wrong], wanted[:, wrong])
    needless = np.abs(picture - below).max(axis=0) <= 1
    alpha[needless & (alpha <= DUST)] = 0
    return np.concatenate([colour, alpha[None]]).astype(np.uint8)


def _remainder(picture: I32, alpha: I32, below: I32, wanted: F32) -> I32:
    """The colour nearest to the wanted one among those that still round to the picture: small alphas leave many."""
    share = alpha.astype(np.float32) / np.float32(255)
    exact = below + (picture - below).astype(np.float32) / share
    slack = (1 - share) * np.float32(0.5) / share
    colour = np.clip(wanted, exact - slack, exact + slack)
    return np.clip(np.rint(colour), 0, 255).astype(np.int32)


def _least_alpha(picture: I32, below: I32) -> I32:
    """The least alpha, 1..255, with which some colour within 0..255 gives the picture to half a level."""
    change = picture - below
    room = np.where(change > 0, 255 - below, below)
    alpha = np.ceil(255 * (np.abs(change) - 0.5) / np.maximum(room, 1)).max(axis=0)
    least: I32 = np.clip(alpha, 1, 255).astype(np.int32)
    return least


def _over(front: U8 | I32, alpha: U8 | I32, back: I32) -> I32:
    """Pillow's `alpha_composite` on an opaque ground, bit for bit."""
    share = alpha.astype(np.int32)
    blend: I32 = front * share + back * (255 - share) + 128
    return ((blend >> 1) + (blend << 7)) >> 15


def _give_away(picture: U8, layers: U8) -> U8:
    """Pixels that are not opaque in the source, each given whole to the layer with the largest share of it."""
    owner = _shares(layers[..., 3]).argmax(axis=0)
    layers = layers.copy()
    layers[..., 3] = 0
    every = np.arange(len(owner))
    layers[owner, every] = picture
    return layers
