"""Where a covered element goes on under those that cover it: the simple shape that its visible part is of, or its outline closed."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.segment import Labels

Bool = npt.NDArray[np.bool_]

GOOD_FIT = 0.94
"""Overlap (intersection over union, outside of what covers it) from which an element counts as of a shape."""
SOLID = 0.7


def reach(labels: Labels, k: int) -> Bool:
    """Where element k of a label picture (bottom to top) is or may be: what is visible, and what is guessed to be hidden."""
    visible = labels == k
    above = labels > k
    near = cv2.dilate(visible.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    touching = above & near
    if touching.sum() < 8:
        return visible | touching
    fits = [(fit, shape) for shape in _shapes(visible, above) if (fit := _fit(shape, visible, above)) > GOOD_FIT]
    if fits:
        return visible | touching | (above & max(fits, key=lambda pair: pair[0])[1])
    hull = _hull(visible)
    hidden = above & hull
    if visible.sum() < SOLID * (hull & ~above).sum():
        size = max(3, int(0.25 * np.sqrt(visible.sum()))) | 1
        closed = cv2.morphologyEx(visible.astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
        hidden &= closed.astype(bool)
    return visible | touching | hidden


def _fit(shape: Bool, visible: Bool, above: Bool) -> float:
    seen = shape & ~above
    return float((seen & visible).sum() / max(1, (seen | visible).sum()))


def _shapes(visible: Bool, above: Bool) -> Iterator[Bool]:
    """Upright box, turned box and ellipse around the visible part."""
    ys, xs = np.nonzero(visible)
    box = np.zeros(visible.shape, bool)
    box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    yield box
    points = np.stack([xs, ys], 1).astype(np.int32)
    yield _polygon(visible.shape, cv2.boxPoints(cv2.minAreaRect(points)))
    covered = cv2.dilate(above.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    contours, _ = cv2.findContours(visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = max(contours, key=len)[:, 0]
    inner = (rim > 0).all(1) & (rim[:, 0] < visible.shape[1] - 1) & (rim[:, 1] < visible.shape[0] - 1)
    free = rim[inner & ~covered[rim[:, 1], rim[:, 0]]]
    if len(free) >= 20:
        (x, y), (a, b), angle = cv2.fitEllipseDirect(free)
        if all(np.isfinite((x, y, a, b))) and min(a, b) > 2 and max(a, b) < 2 * max(visible.shape):
            drawn = np.zeros(visible.shape, np.uint8)
            cv2.ellipse(drawn, ((float(x), float(y)), (float(a), float(b)), float(angle)), 1, -1)
            yield drawn.astype(bool)


def _hull(visible: Bool) -> Bool:
    ys, xs = np.nonzero(visible)
    return _polygon(visible.shape, cv2.convexHull(np.stack([xs, ys], 1).astype(np.int32))[:, 0])


def _polygon(size: tuple[int, ...], corners: npt.NDArray[np.generic]) -> Bool:
    drawn = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(drawn, np.round(corners.astype(np.float64)).astype(np.int32), 1)
    return drawn.astype(bool)
