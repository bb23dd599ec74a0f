"""The one thing that a photograph shows: many regions are proposed, a few measures say which is most like a subject, GrabCut draws it.

Each map of `saliency.py` fails on pictures where another succeeds, so that all of them, at several levels, only propose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.network import Maps
from layerctl.engines.classic.saliency import Cues, Patches, cues_of, patches_of
from layerctl.engines.classic.segment import joins

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SIDE = 320
"""Long side of the picture on which regions are proposed, pixels; fine enough for a stalk, and dense matrices of its patches stay small."""
LEAST_AREA, MOST_AREA = 0.012, 0.8
"""Share of the picture that a subject takes: smaller things are told from blotches by chance only, a larger one leaves no background."""
LEVELS = tuple(0.15 + 0.1 * k for k in range(8))
"""Shares of a map's peak at which it is cut into regions."""
PARTS = 3
"""Largest connected parts, per level, that are proposed."""
SURE = 0.4
"""Confidence from which a subject is worth a layer: of 26 pictures without one only a cliff before the sky reached it."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """`mask`: where the subject is, of the work picture's size. `confidence`: expected intersection over union with the truth, 0..1."""

    mask: Bool
    confidence: float


def find_subject(work: U8, looks: Sequence[Maps]) -> Subject | None:
    """The single thing that stands out of a photograph; None where there are no regions to choose from. Trust it from SURE.

    `work`: uint8 H x W x 3, sRGB, long side at most 512. `looks`: what the network says of it. The same input gives the same mask.
    """
    height, width = work.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    small = cv2.resize(work, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA)
    patches = patches_of(small, looks)
    if patches.pixels.size < 4:
        return None
    cues = cues_of(work, patches)
    regions = _regions(patches, cues)
    if not len(regions):
        return None
    palette = _palette(small, patches)
    best = int(_score(_measures(patches, cues, palette, regions)).argmax())
    region = _grown(patches, palette, regions[best])
    measures = _measures(patches, cues, palette, region[None])
    evidence = TRUST_IN_SCORE * _score(measures) + sum(weight * measures[name] for name, weight in TRUST.items()) - DOUBT
    return Subject(_outlined(region[patches.labels], width, height), float(1 / (1 + np.exp(-evidence[0]))))


def _regions(patches: Patches, cues: Cues) -> Bool:
    """Proposals, regions x patches: connected parts of the maps and of their means at all levels, and what the network would join."""
    mean = (cues.contrast + cues.element + cues.sharp) / 3
    maps = [
        mean, mean * (0.3 + 0.7 * cues.middle), (cues.contrast + cues.sharp) / 2,
        (cues.contrast + cues.element) / 2, cues.contrast, cues.element,
    ]  # fmt: skip
    share = patches.pixels / patches.pixels.sum()
    found: dict[bytes, Bool] = {}
    for region in (*_parts(patches, share, maps), *_joined(patches, share)):
        whole = _without_holes(patches, share, region)
        if LEAST_AREA <= share[whole].sum() <= MOST_AREA:
            found[whole.tobytes()] = whole
    return np.array(list(found.values()), bool).reshape(len(found), share.size)


def _parts(patches: Patches, share: Floats, maps: Sequence[Floats]) -> Iterator[Bool]:
    for values in maps:
        for level in LEVELS:
            above = values > level * values.max()
            numbers = _connected(patches, above)
            areas = np.bincount(numbers, share * above)
            for part in np.argsort(-areas, kind="stable")[:PARTS].tolist():
                if areas[part] >= LEAST_AREA / 2:
                    yield above & (numbers == part)


def _joined(patches: Patches, share: Floats) -> Iterator[Bool]:
    members = {piece: [piece] for piece in range(share.size)}
    areas = share.tolist()
    for join in joins(patches.links):
        members[join.a] = members[join.a] + members.pop(join.b)
        areas[join.a] += areas[join.b]
        if LEAST_AREA / 2 <= areas[join.a] <= MOST_AREA:
            region = np.zeros(share.size, bool)
            region[members[join.a]] = True
            yield region


def _connected(patches: Patches, inside: Bool) -> npt.NDArray[np.int32]:
    """Numbers of the connected parts from 1, 0 outside."""
    numbers: npt.NDArray[np.int32] = cv2.connectedComponents(inside[patches.labels].astype(np.uint8), connectivity=4)[1]
    return numbers.ravel()[patches.first]


def _without_holes(patches: Patches, share: Floats, region: Bool) -> Bool:
    """With what it encloses, where that is less than half of it: more is background seen through a frame."""
    numbers = _connected(patches, ~region)
    open_ = np.bincount(numbers, patches.rim) > 0
    areas = np.bincount(numbers, share * ~region)
    holes: Bool = (~open_ & (areas < 0.5 * share[region].sum()))[numbers]
    return region | holes


def _measures(patches: Patches, cues: Cues, palette: Floats, regions: Bool) -> dict[str, Floats]:
    """What may tell a subject, by name, of every region (m x patches); the names are explained at WEIGHTS."""
    share = patches.pixels / patches.pixels.sum()
    inside = regions.astype(np.float64)
    area = inside @ share
    near = patches.graph(np.ones(patches.a.size))
    ring = regions
    for _ in range(RING):
        ring = ring | ((near @ ring.T).T > 0)
    ring_share = (ring & ~regions) * share
    around = ring_share / np.maximum(ring_share.sum(axis=1, keepdims=True), 1e-9)
    border = (regions[:, patches.a] != regions[:, patches.b]) * patches.length
    border /= np.maximum(border.sum(axis=1, keepdims=True), 1)
    edges = (patches.labels[0], patches.labels[-1], patches.labels[:, 0], patches.labels[:, -1])
    colours = share[:, None] * palette
    ours, all_ = inside @ colours, colours.sum(axis=0)
    right = np.maximum(ours, all_ - ours).sum(axis=1)

    def fit(values: Floats) -> Floats:
        shared = inside @ (share * values)
        overlap: Floats = shared / (area + share @ values - shared)
        return overlap

    def mean(values: Floats) -> Floats:
        average: Floats = inside @ (share * values) / area
        return average

    return {
        "smallness": np.log(area) ** 2,
        "contrast_fit": fit(cues.contrast),
        "sharp_fit": fit(cues.sharp),
        "element_fit": fit(cues.element),
        "sharp": mean(cues.sharp),
        "sharp_around": around @ cues.sharp,
        "element_step": mean(cues.element) - around @ cues.element,
        "middle": mean(cues.middle),
        "outline": border @ (1 - patches.same),
        "seam": border @ patches.seam,
        "sides": np.sum([regions[:, np.unique(edge)].any(axis=1) for edge in edges], axis=0),
        "own_colours": (ours**2 / np.maximum(all_, 1e-9)).sum(axis=1) / area,
        "told_by_colour": (right - np.maximum(area, 1 - area)) / np.minimum(area, 1 - area),
    }


def _score(measures: dict[str, Floats]) -> Floats:
    """How much like a subject the regions are; only differences within one picture mean something."""
    total: Floats = np.sum([weight * measures[name] for name, weight in WEIGHTS.items()], axis=0)
    return total


RING = 2
"""Superpixels: how far around a region its surroundings reach."""
WEIGHTS = {
    "smallness": -0.14,  # squared logarithm of the area: neither a blotch nor everything
    "contrast_fit": 1.1,  # intersection over union with what a map marks
    "sharp_fit": 2.6,
    "sharp": 6.1,  # in focus
    "sharp_around": -4.6,  # and what is around it is not
    "element_step": 3.5,  # the network sees an element here and none around
    "middle": 7.6,
    "outline": 5.7,  # the network sees a border all along the outline
    "seam": 0.05,  # so do the colours
    "sides": -0.53,  # of the picture, that it touches
    "own_colours": 4.3,  # its colours are not found elsewhere
    "told_by_colour": 4.75,  # how much better than by size alone a pixel's colour tells on which side it is
}
"""Set on benchmark scenes of the tuning split and natural photographs so that the best region wins in as many as possible."""
TRUST_IN_SCORE = 0.184
TRUST = {"sharp_around": 3.34, "element_fit": 1.83, "contrast_fit": 1.73}
"""Focus helps to choose in a picture, but any texture is in focus: here its part of the score is taken back, and the maps count more."""
DOUBT = 5.52
"""Together with the two above: logistic regression of intersection over union on the same pictures and 25 without a subject."""


def _palette(small: U8, patches: Patches) -> Floats:
    """Colour histogram of each piece, patches x colours: the cells of a Lab grid that the picture uses, softened between like cells."""
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    cells = np.floor(lab / TINT).astype(np.int64) @ np.array([10_000, 100, 1])
    used, colour = np.unique(cells, return_inverse=True)
    count, size = np.bincount(colour), patches.pixels.size
    mean = np.stack([np.bincount(colour, lab[:, channel]) / count for channel in range(3)], axis=1)
    alike = np.exp(-((mean[:, None] - mean[None]) ** 2).sum(-1) / (2 * (0.6 * TINT) ** 2))
    histogram = np.bincount(patches.labels.ravel() * used.size + colour, minlength=size * used.size).reshape(size, used.size)
    soft: Floats = histogram / patches.pixels[:, None] @ (alike / alike.sum(axis=1, keepdims=True))
    return soft


def _grown(patches: Patches, palette: Floats, region: Bool) -> Bool:
    """The region by GrabCut (Rother et al., SIGGRAPH 2004) on the patches, near where it was, its main parts, without holes.

    One round: more change nothing. Histograms stand for the paper's Gaussian mixtures; what the network says of a border weighs as much as
    its colours.
    """
    share = patches.pixels / patches.pixels.sum()
    mask = region[patches.labels].astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.DIST_L2, 5)[1:-1, 1:-1]
    height = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    signed = np.bincount(patches.labels.ravel(), (depth - height).ravel()) / patches.pixels / np.sqrt(mask.sum())
    place = HOLD * np.clip(signed / REACH, -4, 4)
    usual = max(float(np.average(patches.seam**2, weights=patches.length)), 1e-6)
    bond = BOND * patches.length * (np.exp(-(patches.seam**2) / (2 * usual)) + patches.same**2) / 2
    weight = patches.pixels / np.sqrt(patches.pixels.mean())
    ours, theirs = (share * side @ palette for side in (region, ~region))
    colour = np.log((ours / ours.sum() + RARE) / (theirs / theirs.sum() + RARE))
    grown = _cut(patches, weight * (palette @ colour + place), bond)
    if not grown.any():
        return region
    numbers = _connected(patches, grown)
    areas = np.bincount(numbers, share * grown)
    whole = _without_holes(patches, share, grown & (areas >= MAIN * areas.max())[numbers])
    return region if whole.all() else whole


def _cut(patches: Patches, gain: Floats, bond: Floats) -> Bool:
    """The patches with a large sum of gains and little bond along their outline.

    The least cut with squares in the place of absolute values (Grady, "Random walks for image segmentation", 2006): one linear system.
    """
    chance = np.linalg.solve(patches.laplacian(bond) + np.diag(np.abs(gain) + 1e-9), np.maximum(gain, 0))
    return np.asarray(chance > 0.5)


def _outlined(mask: Bool, width: int, height: int) -> Bool:
    """The mask at the work picture's size, its outline without the superpixels' teeth."""
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    smooth: Bool = cv2.GaussianBlur(large, (0, 0), TEETH, borderType=cv2.BORDER_REPLICATE) > 0.5
    return smooth


TINT = 10.0
"""Lab units: width of the cells of the colour histograms."""
RARE = 1e-4
"""Share that every colour has at least, so that one unseen colour does not decide for a piece."""
BOND = 1.0
"""What a pixel of outline costs, in units of a pixel's colour evidence over the square root of a piece's size."""
HOLD, REACH = 1.0, 0.1
"""Weight of keeping to where the region was, and the way, in square roots of its area, over which that weight sets in."""
MAIN = 0.2
"""Of the largest part: smaller parts apart from it are no subject."""
TEETH = 1.5
"""Standard deviation of the smoothing, pixels of the work picture."""
