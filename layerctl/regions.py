"""Wanted regions: from what was typed and from mask files to `Region`s, and how well a stack answers them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.errors import InputError, UsageError
from layerctl.layers import LayerStack, effective, on_canvas
from layerctl.registry import Region
from layerctl.source import read_source

U8 = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""left, top, right, bottom (right and bottom exclusive)."""

NOISE = 8
"""Levels next to black and white that count as black and white: a mask saved as JPEG is nowhere quite either."""
_BOX_FORM = "type left,top,right,bottom, as in --target 120,80,420,360 or --target 10%,10%,50%,90%"


def box_region(text: str, width: int, height: int) -> Region:
    """The box "left,top,right,bottom" on an upright picture of that size, in pixels or percents of it.

    Raises UsageError for anything else, for a box that is empty and for one that leaves the picture.
    """
    found = [re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*", part) for part in text.split(",")]
    if len(found) != 4 or None in found:
        raise UsageError(f"the box {text!r} is not four numbers with commas between them", hint=_BOX_FORM)
    left, top, right, bottom = (
        round(float(match[1]) * (side / 100 if match[2] else 1))
        for match, side in zip(filter(None, found), (width, height, width, height), strict=True)
    )
    if left >= right or top >= bottom:
        raise UsageError(f"the box {text!r} is empty: right has to be more than left, and bottom more than top", hint=_BOX_FORM)
    if left < 0 or top < 0 or right > width or bottom > height:
        raise UsageError(
            f"the box {text!r} leaves the picture, which is {width} x {height} pixels", hint=f"stay within 0,0,{width},{height}"
        )
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return Region(mask, is_outline=False)


def mask_region(path: Path, width: int, height: int) -> Region:
    """The mask in a picture file: what is white is inside, or what is opaque in a file with transparency.

    A mask of another size but of the picture's proportions, to half a pixel, is scaled. Raises InputError for other proportions and for
    a mask with nothing or with everything inside, and what `read_source` raises.
    """
    source = read_source(path)
    mask = source.pixels[..., 3] if source.has_alpha else cv2.cvtColor(source.pixels, cv2.COLOR_RGBA2GRAY)
    if (source.width, source.height) != (width, height):
        if abs(source.width * height - source.height * width) > max(width, height) / 2:
            message = f"the mask {path} is {source.width} x {source.height} pixels, the picture {width} x {height}"
            raise InputError(message, hint="save the mask at the picture's size, or in its proportions")
        shrinks = source.width > width
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mask = np.where(mask < NOISE, 0, np.where(mask > 255 - NOISE, 255, mask)).astype(np.uint8)
    what = ("transparent", "opaque") if source.has_alpha else ("black", "white")
    if not mask.any():
        raise InputError(f"nothing is inside of the mask {path}: all of it is {what[0]}", hint=f"what is wanted has to be {what[1]}")
    if mask.min() == 255:
        raise InputError(f"everything is inside of the mask {path}: all of it is {what[1]}", hint=f"what stays has to be {what[0]}")
    return Region(mask, is_outline=True)


def region_box(region: Region) -> Box:
    """The bounding box of what is more than half inside; of the whole mask when nothing is."""
    return _content_box(region.mask) or (0, 0, region.mask.shape[1], region.mask.shape[0])


def coverage(stack: LayerStack, regions: Sequence[Region]) -> float:
    """How far the regions are layers of their own, 0..1: mean over them of the best overlap with any visible layer but the Background.

    Overlap is the soft intersection over union of mask and alpha, and for a box that of the box and the alpha's bounding box. The stack
    may be of another size than the regions. 1 without regions.
    """
    if not regions:
        return 1.0
    size = (stack.width, stack.height)
    masks = [cv2.resize(region.mask, size, interpolation=cv2.INTER_AREA) for region in regions]
    best = [0.0] * len(masks)
    for layer, opacity in effective(stack.layers):
        if layer.kind == "background" or opacity == 0:
            continue
        pixels = on_canvas(layer, *size)
        alpha = np.rint(pixels[..., 3] * (opacity * 255 / np.iinfo(pixels.dtype).max)).astype(np.uint8)
        for k, (region, mask) in enumerate(zip(regions, masks, strict=True)):
            best[k] = max(best[k], _overlap(alpha, mask, region.is_outline))
    return sum(best) / len(best)


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    left, top, right, bottom = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    shared = max(0, right - left) * max(0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def _overlap(alpha: U8, mask: U8, is_outline: bool) -> float:
    if is_outline:
        return float(np.minimum(alpha, mask).sum(dtype=np.int64) / max(1, np.maximum(alpha, mask).sum(dtype=np.int64)))
    boxes = [_content_box(values) for values in (alpha, mask)]
    return box_overlap(boxes[0], boxes[1]) if boxes[0] and boxes[1] else 0.0


def _content_box(values: U8) -> Box | None:
    """The bounding box of what is more than half there; None for nothing."""
    rows, columns = np.flatnonzero((values > 127).any(1)), np.flatnonzero((values > 127).any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if rows.size else None
