"""The colour that a file keeps where a layer is transparent."""

from __future__ import annotations

from typing import Any

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
    alpha: npt.NDArray[np.integer[Any]] = np.asarray(cv2.extractChannel(pixels, 3))
    if cv2.countNonZero(alpha) == alpha.size:
        return pixels
    inside = (alpha > 0).view(np.uint8)
    bled = np.zeros_like(pixels)
    cv2.copyTo(pixels, inside, bled)
    height, width = alpha.shape
    near = cv2.dilate(inside, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    unknown = np.flatnonzero(cv2.bitwise_xor(near, inside).view(bool))
    colours = bled.reshape(-1, 4)
    weights = alpha.ravel()
    for _ in range(reach):
        y, x = np.divmod(unknown, width)
        total = np.zeros((unknown.size, 3), np.float32)
        weight = np.zeros(unknown.size, np.float32)
        for dy, dx in NEIGHBOURS:
            # Beyond the rim the nearest pixel stands in: counted twice or, being unknown itself, with weight 0.
            at = np.clip(y + dy, 0, height - 1) * width + np.clip(x + dx, 0, width - 1)
            share = weights.take(at).astype(np.float32)
            total += colours.take(at, axis=0)[:, :3] * share[:, None]
            weight += share
        ring = weight > 0
        colours[unknown[ring], :3] = np.rint(total[ring] / weight[ring, None]).astype(pixels.dtype)
        weights[unknown[ring]] = 1
        unknown = unknown[~ring]
    return bled
