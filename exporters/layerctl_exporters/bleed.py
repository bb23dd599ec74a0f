"""The colour that a file keeps where a layer is transparent."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.layers import Pixels

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def bleed(pixels: Pixels, reach: int = 4) -> Pixels:
    """The same picture with the colour of its edges carried `reach` pixels outward under alpha 0, and zero beyond.

    An editor that scales a layer mixes hidden colour into its edge: black there makes a dark fringe, what an engine left there any
    fringe. Zeros further out keep files small. Visible pixels and alpha are unchanged; an opaque picture is returned as it is.
    """
    inside = (pixels[..., 3] > 0).view(np.uint8)
    if inside.all():
        return pixels
    bled = np.zeros_like(pixels)
    cv2.copyTo(pixels, inside, bled)
    height, width = inside.shape
    colours = bled.reshape(-1, 4)
    weights = bled[..., 3].astype(np.float32).ravel()
    known: npt.NDArray[np.uint8] = inside
    for _ in range(reach):
        grown = np.asarray(cv2.dilate(known, np.ones((3, 3), np.uint8)), np.uint8)
        ring = np.flatnonzero(grown != known)
        if ring.size == 0:
            break
        y, x = np.divmod(ring, width)
        total = np.zeros((ring.size, 3), np.float32)
        weight = np.zeros((ring.size, 1), np.float32)
        for dy, dx in NEIGHBOURS:
            # Beyond the rim the nearest pixel stands in: counted twice or, being unknown itself, with weight 0.
            at = np.clip(y + dy, 0, height - 1) * width + np.clip(x + dx, 0, width - 1)
            share = weights[at, None]
            total += colours[at, :3] * share
            weight += share
        colours[ring, :3] = np.rint(total / weight).astype(pixels.dtype)
        weights[ring] = 1.0
        known = grown
    return bled
