"""An engine's layers become full-size layers that flatten to the source, and how far off they were is told.

In this order: the layers' flattened picture is compared with the source at the engine's size (`fidelity`), a shift and a drift of its
colours are taken out (`align`), alphas and colours come to full size guided by the source (`upsample`), and the exact solve makes
visible colours the source's own (`exact`). Layers that have the source's size already are solved as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl import upsample
from layerctl.align import NONE, Correction, find_correction
from layerctl.composite import difference, flatten
from layerctl.exact import check_flat, solve_exact
from layerctl.layers import Layer, LayerStack, crop_to_content, on_canvas
from layerctl.manifest import FidelityRecord
from layerctl.scale import at_size
from layerctl.upsample import SmallLayer

if TYPE_CHECKING:
    from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

MARGIN = 3
"""Pixels of the engine's size around a layer's content that its full-size box may reach."""
POOR = 12.0
"""Mean difference, in levels of 255, from which on a person is told that the engine's layers do not show the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Full-size layers that flatten to the source within 1/255, and what the engine's were like.

    `error`: H x W at the engine's size, the difference of its flattened layers from the source, in levels, 0 where the source is not
    opaque. `warnings`: in words.
    """

    stack: LayerStack
    fidelity: FidelityRecord
    error: U8
    warnings: tuple[str, ...]


def refine(source: SourceImage, stack: LayerStack) -> Refined:
    """The stack at the source's size, exact. Raises ValueError for groups, hidden layers, opacities and 16-bit layers."""
    check_flat(stack)
    small = _reduced(source, stack.width, stack.height)
    flat = flatten(stack)
    error = difference(flat, small)
    # What an engine makes of transparent pixels is its own affair: it may have been shown their hidden colours.
    seen = small[..., 3] == 255
    error[~seen] = 0
    if small is source.pixels:
        fidelity = _fidelity(error, seen, NONE)
        return Refined(solve_exact(source, stack), fidelity, error, _remarks(fidelity))
    shown, wanted = _unit(flat), _unit(small)
    correction = find_correction(shown, wanted, seen)
    fidelity = _fidelity(error, seen, correction)
    if stack.width >= source.width or stack.height >= source.height:
        full = solve_exact(source, at_size(stack, source.width, source.height), in_place=True)
    else:
        full = solve_exact(source, _enlarged(source, stack, shown, wanted, correction), in_place=True)
    return Refined(full, fidelity, error, _remarks(fidelity))


def _enlarged(source: SourceImage, stack: LayerStack, shown: F32, picture: F32, correction: Correction) -> LayerStack:
    """The layers at the source's size, guided by it, not yet exact. `shown`, `picture`: they, flattened, and the source at their size."""
    softened = np.asarray(cv2.GaussianBlur(picture, (0, 0), correction.blur), np.float32) if correction.blur else picture
    layers = list(stack.walk())
    guide = np.rint(_unit(source.pixels) * 255).astype(np.uint8) if source.has_alpha else source.pixels
    residual = softened - correction.coloured(correction.moved(shown))
    enlarged: list[Layer] = []
    above = np.ones(picture.shape[:2], np.float32)
    for layer in reversed(layers):
        canvas = on_canvas(layer, stack.width, stack.height).astype(np.float32) / np.float32(255)
        alpha = np.clip(correction.moved(canvas[..., 3]), 0, 1)
        colour = correction.coloured(correction.moved(_extended(canvas)))
        recipe = upsample.fit(SmallLayer(alpha, colour, above, residual), picture, softened)
        box = _full_box(alpha, source)
        pixels = upsample.draw(recipe, guide, box)
        enlarged.append(crop_to_content(replace(layer, pixels=pixels, left=box[0], top=box[1])))
        above = above * (1 - alpha)
    return replace(stack, width=source.width, height=source.height, layers=tuple(reversed(enlarged)))


def _extended(canvas: F32) -> F32:
    """Colours of a layer, H x W x 3, carried on into where it is transparent, so that nothing dark comes in at its edges."""
    weight = canvas[..., 3]
    colour = np.where(weight[..., None] > 0.02, canvas[..., :3], np.float32(0))
    present = (weight > 0.02).astype(np.float32)
    for deviation in (1.5, 6.0, 24.0, 96.0):
        near = upsample.soften(weight * present, deviation)
        mean = upsample.soften(canvas[..., :3] * (weight * present)[..., None], deviation) / np.maximum(near, 1e-6)[..., None]
        fill = (present == 0) & (near > 1e-4)
        colour[fill] = mean[fill]
        present = np.where(fill, np.float32(1), present)
        if present.all():
            break
    return np.asarray(colour, np.float32)


def _full_box(alpha: F32, source: SourceImage) -> tuple[int, int, int, int]:
    """The part of the source that a layer may reach; one pixel for a blank layer."""
    rows, columns = np.flatnonzero((alpha > 0).any(axis=1)), np.flatnonzero((alpha > 0).any(axis=0))
    if not rows.size:
        return 0, 0, 1, 1
    height, width = alpha.shape
    down, across = source.height / height, source.width / width
    left, top = max(0, int((columns[0] - MARGIN) * across)), max(0, int((rows[0] - MARGIN) * down))
    right = min(source.width, int(np.ceil((columns[-1] + 1 + MARGIN) * across)))
    bottom = min(source.height, int(np.ceil((rows[-1] + 1 + MARGIN) * down)))
    return left, top, right, bottom


def _reduced(source: SourceImage, width: int, height: int) -> U8:
    """The source at the engine's size; the same array if it has that size."""
    if (width, height) == (source.width, source.height):
        return source.pixels
    smaller = width < source.width
    if not source.has_alpha:
        return np.asarray(
            cv2.resize(source.pixels, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), np.uint8
        )
    whole = LayerStack(source.width, source.height, (Layer("source", source.pixels),))
    return flatten(at_size(whole, width, height))


def _unit(pixels: U8) -> F32:
    """Colours 0..1 over mid grey, H x W x 3."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.asarray(pixels[..., :3].astype(np.float32) / 255 * alpha + 0.5 * (1 - alpha), np.float32)


def _fidelity(error: U8, seen: npt.NDArray[np.bool_], correction: Correction) -> FidelityRecord:
    counts = np.bincount(error[seen], minlength=256)
    pixels = int(counts.sum())
    corners = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    drift = np.abs(corners @ correction.colour[:, :3].T + correction.colour[:, 3] - corners).max() * 255
    return FidelityRecord(
        mean_error=round(float(counts @ np.arange(256)) / max(pixels, 1), 2),
        high_error=float(np.searchsorted(np.cumsum(counts), 0.99 * pixels)),
        shift_x=round(correction.shift[0], 2),
        shift_y=round(correction.shift[1], 2),
        drift=round(float(drift), 1),
    )


def _remarks(fidelity: FidelityRecord) -> tuple[str, ...]:
    if fidelity.mean_error < POOR:
        return ()
    return (f"the engine's layers were {fidelity.mean_error:.0f} of 255 levels off the picture on average; what they are is to be doubted",)
