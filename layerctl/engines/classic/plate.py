"""The rules for designs: a smooth plate is completed below the elements, and they are cut to where the picture differs from it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.network import Maps, element_map
from layerctl.engines.classic.segment import Labels, Pieces, cut_along, majority, without_slivers

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

STRONG, WEAK = 13.0, 5.0
"""Distances from the plate, Lab units, that make a pixel an element by itself, and next to such a pixel."""
PLATE_NOISE = 2.5
"""Lab units within which a pixel is the plate's, whatever the network takes it for, as in the hole of a ring."""
PAPER = 240.0
"""Mean level of a plate so white that white parts of an element cannot be told from it: there the network decides."""


def against_plate(
    work: U8, lab: Floats, pieces: Pieces, groups: Labels, text: Bool, looks: Sequence[Maps], speck: float, contrast: float = 1.0
) -> tuple[Pieces, Labels, Floats]:
    """Elements cut to where the picture differs from a smooth plate, with what differs but was overlooked added.

    The plate is completed from outside of the elements; a pixel differs by hysteresis (STRONG next to WEAK, times `contrast`). On white
    paper, holes that the network takes for a part of their element stay filled (a white shirt on a white plate).
    Also gives the distance of the plate from the picture where the plate was guessed, -1 elsewhere.
    """
    rough = groups[pieces.labels]
    height, width = rough.shape
    probability = element_map(looks, width, height)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))
    unknown = cv2.dilate(((rough > 0) | (probability > 0.3)).astype(np.uint8), reach).astype(bool)
    unknown = _grown(unknown, work, lab, unknown | text)
    plate = complete(work, unknown | text)
    distance = np.sqrt(((lab - cv2.cvtColor(plate.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)) ** 2).sum(-1))
    distance = cv2.GaussianBlur(distance, (0, 0), 0.6)
    differs = _hysteresis(distance, contrast * WEAK, contrast * STRONG) & ~text
    ground = plate.reshape(-1, 3)[~unknown.ravel()].mean(0) if not unknown.all() else np.zeros(3)
    if ground.min() > PAPER:
        differs |= (probability > 0.7) & (rough > 0)
    shown = differs | ((probability > 0.7) & (rough > 0) & (distance > PLATE_NOISE))
    shown = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)).astype(bool)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(shown.astype(np.uint8), connectivity=8)
    seeds = np.where(shown, rough, 0).astype(np.int32)
    number = int(rough.max())
    for part in range(1, count):
        if stats[part, cv2.CC_STAT_AREA] < speck * shown.size:
            continue
        inside = parts == part
        if not seeds[inside].any():
            number += 1
            seeds[inside] = number
    spread = _nearest(seeds, shown)
    spread[~shown] = 0
    cut = Pieces.of(without_slivers(cut_along(pieces.labels, spread), lab), looks)
    return cut, majority(cut.labels, spread), np.where(unknown & ~text, distance, np.float32(-1))


def plate_error(misfit: Floats, labels: Labels) -> float:
    """Upper quartile of the plate's distance from the picture where it was guessed and is seen, well away from elements; 0 if nowhere."""
    near = cv2.dilate((labels > 0).astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    seen = misfit[~near & (misfit >= 0)]
    return float(np.percentile(seen, 75)) if seen.size > 20 else 0.0


def _grown(unknown: Bool, work: U8, lab: Floats, hidden: Bool) -> Bool:
    """`unknown` with the parts next to it that stand out from the wide median of the plate: the rest of elements found in part."""
    if not unknown.any() or hidden.mean() > 0.8:
        return unknown
    height, width = unknown.shape
    size = (max(1, width // 4), max(1, height // 4))
    holes = cv2.resize(hidden.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 0
    small = complete(cv2.resize(work, size, interpolation=cv2.INTER_AREA), holes)
    median = cv2.resize(cv2.medianBlur(small, 51), (width, height), interpolation=cv2.INTER_LINEAR)
    distance = np.sqrt(((lab - cv2.cvtColor(median.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)) ** 2).sum(-1))
    stands_out = (distance > 2 * STRONG) & ~unknown
    count, parts = cv2.connectedComponents(stands_out.astype(np.uint8), connectivity=8)
    touched = np.zeros(count, bool)
    touched[np.unique(parts[cv2.dilate(unknown.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)])] = True
    touched[0] = False
    rest = touched[parts]
    if rest.mean() > 0.15:
        return unknown
    return unknown | cv2.dilate(rest.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)


def _hysteresis(distance: Floats, weak: float, strong: float) -> Bool:
    count, parts = cv2.connectedComponents((distance > weak).astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    keep[np.unique(parts[distance > strong])] = True
    keep[0] = False
    return keep[parts]


def _nearest(seeds: Labels, within: Bool) -> Labels:
    """Every pixel's nearest seed label (within the same connected part where there is one)."""
    if not seeds.any():
        return seeds.copy()
    _, parts = cv2.connectedComponents(within.astype(np.uint8), connectivity=8)
    result = seeds.copy()
    _, index = cv2.distanceTransformWithLabels((seeds == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    lookup = np.zeros(int(index.max()) + 1, np.int32)
    own_part = np.zeros(int(index.max()) + 1, np.int32)
    at = seeds > 0
    lookup[index[at]] = seeds[at]
    own_part[index[at]] = parts[at]
    fits = within & (seeds == 0) & (own_part[index] == parts)
    result[fits] = lookup[index[fits]]
    return result
