"""From labels on the work picture to cut-outs at full size: soft alpha at the edges, shadows, and what lies hidden under other elements.

The label picture is sampled at full size; within a band around an element's edge alpha is the projection of the pixel's colour on the
line from the colour behind to the element's own colour near by. Elements reach under those that cover them (`hidden.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.hidden import reach
from layerctl.engines.classic.segment import Labels
from layerctl.upsample import Sampler, tiles

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]
"""left, top, right, bottom."""

EDGE = 2.0
"""Half the width of the band in which alpha is soft, pixels of the work picture."""
SURE, NONE = 0.96, 0.02
"""Smoothed outline from which on a pixel is wholly the element's, and up to which it is not at all."""
NEAR = 4.0
"""Half the width of a soft band, pixels, from which on the colours near it are averaged at a smaller size."""
CONTRAST = 14.0
"""Difference of colour, of 255, at which the projection counts half and the smooth outline the other half."""
SHADOW_TINT = 0.10


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """An element at full size: `alpha` uint8 H x W, `visible`: bool H x W, not covered by a higher element; the crop's place."""

    left: int
    top: int
    alpha: U8
    visible: Bool

    @property
    def box(self) -> Box:
        return self.left, self.top, self.left + self.alpha.shape[1], self.top + self.alpha.shape[0]


def cut_out(rgb: U8, labels: Labels, element: Floats, plate: U8 | None) -> tuple[Cutout, ...]:
    """All elements of a label picture (0 plate, 1 .. K bottom to top) on the full-size picture `rgb`, uint8 H x W x 3.

    `element`: probability of being an element, of the size of `labels`. `plate`: the completed plate at full size, for designs; without
    it the colours behind an edge are taken from outside of the edge, and shadows stay where they are.
    """
    return tuple(_cut_one(rgb, labels, element, plate, k) for k in range(1, int(labels.max()) + 1))


def _cut_one(rgb: U8, labels: Labels, element: Floats, plate: U8 | None, k: int) -> Cutout:
    height, width = rgb.shape[:2]
    rows, columns = labels.shape
    scale = max(height / rows, width / columns)
    whole = reach(labels, k)
    margin = int(np.ceil(3 * EDGE)) + 1
    left, top, right, bottom = _bounds(whole, margin)
    x0, x1 = int(left * width / columns), min(width, int(np.ceil(right * width / columns)))
    y0, y1 = int(top * height / rows), min(height, int(np.ceil(bottom * height / rows)))
    soft = cv2.GaussianBlur(whole.astype(np.float32), (0, 0), EDGE / 2)
    own = (labels == k).astype(np.float32)
    above = (labels > k).astype(np.float32)
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    visible = np.zeros((y1 - y0, x1 - x0), bool)
    edge = max(2.0, EDGE * scale)
    pad = int(np.ceil(4 * edge)) + 1
    for tile in tiles((x0, y0, x1, y1)):
        inside = (slice(tile[1] - y0, tile[3] - y0), slice(tile[0] - x0, tile[2] - x0))
        at = Sampler((rows, columns), (height, width), tile)
        softness = at(soft)
        visible[inside] = at(above) < 0.5
        if softness.min() >= SURE or softness.max() <= NONE:
            alpha[inside] = 255 if softness.min() >= SURE else 0
            if plate is None or not alpha[inside].any() or not _may_be_shadow(at(own), at(element)).any():
                continue
        wide = (max(x0, tile[0] - pad), max(0, tile[1] - pad), min(x1, tile[2] + pad), min(height, tile[3] + pad))
        view = (slice(wide[1], wide[3]), slice(wide[0], wide[2]))
        at = Sampler((rows, columns), (height, width), wide)
        shown = _alpha(rgb[view], at(soft), at(own), at(above), at(element), None if plate is None else plate[view], edge)
        shown = shown[tile[1] - wide[1] : tile[3] - wide[1], tile[0] - wide[0] : tile[2] - wide[0]]
        alpha[inside] = np.round(shown * 255)
    return Cutout(x0, y0, alpha, visible)


def _bounds(mask: Bool, margin: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        max(0, int(columns[0]) - margin),
        max(0, int(rows[0]) - margin),
        min(width, int(columns[-1]) + 1 + margin),
        min(height, int(rows[-1]) + 1 + margin),
    )


def _alpha(rgb: U8, soft: Floats, own: Floats, above: Floats, element: Floats, plate: U8 | None, edge: float) -> Floats:
    """Alpha 0..1 of one strip. `edge`: half the width of the soft band in pixels."""
    colour = rgb.astype(np.float32)
    core = ((soft > 0.96) & (own > 0.99)).astype(np.float32)
    outside = ((soft < 0.04) & (above < 0.01)).astype(np.float32)
    front, front_weight = _near(colour, core, edge)
    behind, behind_weight = (plate.astype(np.float32), np.ones_like(soft)) if plate is not None else _near(colour, outside, edge)
    line = front - behind
    power = _dot(line, line)
    projected = np.clip(_dot(colour - behind, line) / np.maximum(power, 1.0), 0, 1)
    trust = power / (power + 3 * CONTRAST**2) * (front_weight > 1e-3) * (behind_weight > 1e-3)
    outline = np.clip((soft - 0.5) * 1.6 + 0.5, 0, 1)
    alpha = outline + (projected - outline) * trust
    alpha[soft >= SURE] = 1.0
    alpha[soft <= NONE] = 0.0
    alpha = np.where(above > 0.5, outline, alpha)
    if plate is not None:
        alpha = _with_shadow(alpha, colour, behind, own, element)
    return alpha.astype(np.float32)


def _near(colour: Floats, weight: Floats, edge: float) -> tuple[Floats, Floats]:
    """Mean colour of the pixels with weight within about three edges, nearer ones counting more, and how many there were.

    With wide edges at a smaller size: these colours change slowly.
    """
    size = (weight.shape[1], weight.shape[0])
    shrink = max(1, int(edge / NEAR))
    small = (-(-size[0] // shrink), -(-size[1] // shrink))
    sums = np.dstack([colour * weight[..., None], weight])
    if shrink > 1:
        sums = cv2.resize(sums, small, interpolation=cv2.INTER_AREA)
    total = np.zeros_like(sums)
    for radius, share in ((1.5 * edge / shrink, 1.0), (3.5 * edge / shrink, 0.02)):
        total += share * cv2.blur(sums, (2 * int(np.ceil(radius)) + 1,) * 2)
    mean = total[..., :3] / np.maximum(total[..., 3:], 1e-6)
    if shrink > 1:
        mean, total = (cv2.resize(values, size, interpolation=cv2.INTER_LINEAR) for values in (mean, total))
    return mean.astype(np.float32, copy=False), total[..., 3]


def _dot(a: Floats, b: Floats) -> Floats:
    return np.einsum("ijk,ijk->ij", a, b)


def _with_shadow(alpha: Floats, colour: Floats, behind: Floats, own: Floats, element: Floats) -> Floats:
    """Where a pixel of the element is only a darker plate, and the network sees no element, alpha is that of a black shadow."""
    dark = 1 - (colour + 1) / (behind + 1)
    red, green, blue = cv2.split(dark)
    depth, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    tint = depth - least
    is_shadow = _may_be_shadow(own, element) & (least > 0.01) & (tint < SHADOW_TINT) & (depth < 0.7)
    smooth = cv2.GaussianBlur(is_shadow.astype(np.float32), (0, 0), 1.0) > 0.6
    return np.where(smooth, np.minimum(alpha, np.clip(depth, 0, 1)), alpha)


def _may_be_shadow(own: Floats, element: Floats) -> Bool:
    return (own > 0.3) & (element < 0.5)
