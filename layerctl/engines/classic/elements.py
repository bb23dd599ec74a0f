"""Which elements a picture has: two proposals, for designs and for photographs, scored by one measure, and brought to the number asked for.

All of it happens on the work picture (a small copy). The label picture of a proposal has 0 for the plate and 1, 2, ... for elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.network import Maps, element_map
from layerctl.engines.classic.plate import against_plate, plate_error
from layerctl.engines.classic.segment import SPACING, Labels, Links, Pieces, cut_along, groups_of, link, majority, superpixels
from layerctl.engines.classic.subject import SURE, find_subject

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Kind = Literal["design", "photo"]

TOGETHER = 0.6
"""Pieces whose pairs belong together with at least this mean probability become one."""
SPECK = 0.002
"""Of the picture's area: nothing smaller becomes an element by itself."""
DUST = 0.001
"""Of the picture's area: no element is left smaller than this."""
SMOOTH_PLATE = 4.0
"""Lab units that a guessed plate may be off, beside elements, in a picture that counts as a design."""
JOIN_BELOW, DROP_BELOW = 0.25, 0.5
"""Costs of joining two elements, and of giving one to the plate, below which it is done though no number was asked for.

The only element left is given up below the first: a picture that can come apart does.
"""
DROP: dict[Kind, float] = {"design": 12.0, "photo": 3.0}
"""How much dearer it is to give an element to the plate than to join it with another that the network does not take for the same."""
APART = 0.5
"""What the network's word counts for that two elements which do not touch are one."""
TOUCHING = 3 / 512
"""Of the long side: elements nearer than this touch."""
FAR = 5.0
"""How much dearer it is to join two elements that are as far from each other as the picture is long."""
FILLED = 0.85
"""Share of a subject which several elements fill that makes it a group of things; a thing in pieces is filled much less."""
NOWHERE = 10.0
"""Times the long side: more than any distance in a picture, to what has no pixels in it."""
THIN = 5
"""Parts of an element nowhere wider than this, in pixels, that run along another element belong to that one."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """`labels`: 0 plate, 1 .. K elements, bottom to top. `element`: probability of one, of the same size. `score`: higher is better.

    `found`: how many elements there seemed to be before the number asked for was reached. `subject`: which one the photograph shows, or 0.
    """

    kind: Kind
    labels: Labels
    element: Floats
    score: float
    found: int
    subject: int


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What the rules of one kind find before a number of elements is asked for. `groups`: the element of every piece, 0 the plate.

    `misfit`: how far the guessed plate is from the picture, Lab units, -1 where it was not guessed; None for photographs.
    `subject`: element 1 is what the photograph shows; it is neither joined, nor divided, nor given up.
    """

    kind: Kind
    pieces: Pieces
    groups: Labels
    misfit: Floats | None = None
    subject: bool = False


def survey(
    work: U8, looks: Sequence[Maps], text: Bool, kinds: Sequence[Kind], spacing: int = SPACING, contrast: float = 1.0
) -> tuple[Draft, ...]:
    """A draft of every kind for a work picture without text.

    `work`: uint8 H x W x 3, sRGB, text already filled. `text`: where the text was. `spacing`: of superpixels, pixels. `contrast`: how much
    more than usual a design's elements have to differ from its plate.
    """
    lab = cv2.cvtColor(work.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    whole = Pieces.of(superpixels(lab, spacing), looks)
    rough = _as_elements(whole, groups_of(whole.links.element.size, [join for join in whole.made if join.value >= TOGETHER]))
    drafts = []
    if "design" in kinds:
        pieces, groups, misfit = against_plate(work, lab, whole, rough, text, looks, SPECK, contrast)
        drafts.append(Draft("design", pieces, _without_specks(pieces, groups), misfit))
    if "photo" in kinds:
        drafts.append(Draft("photo", whole, _without_specks(whole, rough)))
    return tuple(drafts)


def with_subject(draft: Draft, shown: Labels, work: U8, looks: Sequence[Maps], always: bool = False) -> Draft:
    """A photograph's draft with its subject as element 1.

    The same draft where none stands out, or where it is several of the elements that are `shown` without it, next to each other;
    with `always` only where there is no region at all.
    """
    subject = find_subject(work, looks)
    if subject is None or (not always and subject.confidence < SURE and draft.groups.any()):
        return draft
    inside, areas = np.bincount(shown[subject.mask], minlength=int(shown.max()) + 1), np.bincount(shown.ravel())
    parts = inside[1:][inside[1:] > 0.5 * areas[1:]]
    if not always and parts.size > 1 and parts.sum() > FILLED * subject.mask.sum():
        return draft
    regions = np.where(subject.mask, 1, np.where(draft.groups > 0, draft.groups + 1, 0)[draft.pieces.labels]).astype(np.int32)
    pieces = Pieces.of(cut_along(draft.pieces.labels, regions), looks)
    return Draft("photo", pieces, _without_specks(pieces, majority(pieces.labels, regions)), subject=True)


def propose(draft: Draft, looks: Sequence[Maps], most: int, auto: bool, drop: float = 1.0, second: bool = False) -> Proposal:
    """`most` elements of a draft, or with `auto` as many as there seem to be, up to that.

    `drop`: how much dearer than usual it is to give an element to the plate. `second`: the last element to go is the second cheapest.
    """
    pieces = draft.pieces
    kept = 1 if draft.subject and most > 0 else 0
    dear = drop * DROP[draft.kind]
    groups = _reduced(pieces, draft.groups, most, dear, auto=auto, kept=kept)
    if second:
        groups = _reduced(pieces, draft.groups, int(groups.max()), dear, kept=kept, second=True)
    if not auto:
        groups = _split(pieces, groups, most, kept)
    labels = _without_dust(_without_fringes(groups[pieces.labels]))
    ordered = in_order(labels, looks)
    height, width = ordered.shape
    score = likelihood(ordered, looks)
    if draft.misfit is not None:
        score += 0.05 * float(np.clip(SMOOTH_PLATE - plate_error(draft.misfit, ordered), -4, 4))
    subject = int(ordered[labels == kept].max(initial=0)) if kept else 0
    return Proposal(draft.kind, ordered, element_map(looks, width, height), score, int(draft.groups.max()), subject)


def _as_elements(pieces: Pieces, groups: Labels) -> Labels:
    """Groups that the network takes for elements numbered 1 .. K, the others 0."""
    probability = _mean(pieces.links, groups)
    numbers = np.cumsum(probability >= 0.5) * (probability >= 0.5)
    return numbers[groups].astype(np.int32)


def _mean(links: Links, groups: Labels) -> npt.NDArray[np.float64]:
    """Mean probability of being an element, per group."""
    cells = np.bincount(groups, links.cells)
    return np.bincount(groups, links.element * links.cells) / np.maximum(cells, 1e-9)


def _areas(pieces: Pieces, groups: Labels) -> npt.NDArray[np.float64]:
    """Share of the picture, per group 0 .. K."""
    return np.bincount(groups[pieces.labels].ravel(), minlength=int(groups.max()) + 1) / pieces.labels.size


def _without_specks(pieces: Pieces, groups: Labels) -> Labels:
    """Elements under SPECK go to the element that they belong to most, or to the plate."""
    groups = groups.copy()
    while True:
        areas = _areas(pieces, groups)
        small = [k for k in range(1, areas.size) if areas[k] < SPECK]
        if not small:
            return groups
        speck = min(small, key=lambda k: areas[k])
        same, pairs = pieces.links.between(groups)
        agreement = same[speck] / np.maximum(pairs[speck], 1)
        agreement[[0, speck]] = 0
        target = int(agreement.argmax())
        groups[groups == speck] = target if agreement[target] > 0.3 else 0
        groups = _renumbered(groups)


def _renumbered(groups: Labels) -> Labels:
    used = np.unique(groups[groups > 0])
    numbers = np.zeros(int(groups.max()) + 1, np.int32)
    numbers[used] = np.arange(1, used.size + 1)
    return numbers[groups]


def _reduced(pieces: Pieces, groups: Labels, most: int, drop: float, *, auto: bool = False, kept: int = 0, second: bool = False) -> Labels:
    """At most `most` elements, the cheapest joined or given to the plate, one by one; with `auto` on, until the cheapest is dear.

    `kept`: an element that stays as it is; 0 for none. `second`: where the next one makes it `most`, the second cheapest is taken.
    """
    groups = groups.copy()
    gaps = _gaps(groups[pieces.labels])
    while int(groups.max()) > 0:
        sizes, probability = _areas(pieces, groups) ** 0.25, _mean(pieces.links, groups)
        same, pairs = pieces.links.between(groups)
        apart = gaps > TOUCHING
        agreement = same / np.maximum(pairs, 1) * np.where(apart, APART, 1)
        cost = np.minimum.outer(sizes, sizes) * (1 - agreement) ** 2 * np.where(apart, 1 + FAR * np.minimum(gaps, NOWHERE), 1)
        cost[:, 0] = sizes * drop * np.maximum(probability - 0.4, 0.05)
        cost[np.triu_indices_from(cost)] = np.inf
        if kept:
            cost[kept] = cost[:, kept] = np.inf
        if second and int(groups.max()) == most + 1 and np.isfinite(cost).sum() > 1:
            cost.flat[cost.argmin()] = np.inf
        a, b = divmod(int(cost.argmin()), cost.shape[1])
        is_dear = not auto or cost[a, b] >= (JOIN_BELOW if b or int(groups.max()) == 1 else DROP_BELOW)
        if np.isinf(cost[a, b]) or (int(groups.max()) <= most and is_dear):
            break
        groups[groups == a] = b
        gaps[b] = gaps[:, b] = np.minimum(gaps[a], gaps[b])
        gaps = np.delete(np.delete(gaps, a, 0), a, 1)
        groups = _renumbered(groups)
    return groups


def _gaps(labels: Labels) -> npt.NDArray[np.float64]:
    """Distances between every two labels 0 .. K, of the long side; the plate is far from all."""
    count = int(labels.max()) + 1
    rims = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    gaps = np.full((count, count), np.inf)
    for k in range(1, count):
        distance = cv2.distanceTransform((labels != k).astype(np.uint8), cv2.DIST_L2, 3)
        np.minimum.at(gaps[k], labels[rims], distance[rims])
    gaps[:, 0] = np.inf
    return np.asarray(np.minimum(gaps, gaps.T) / max(labels.shape), np.float64)


def _split(pieces: Pieces, groups: Labels, count: int, kept: int = 0) -> Labels:
    """Up to `count` elements: elements taken apart where they were joined last, or plate pieces that may be elements, best first."""
    groups = groups.copy()
    while 0 <= int(groups.max()) < count:
        candidates = [*_halves(pieces, np.where(groups == kept, 0, groups)), *_promotions(pieces, groups)]
        if not candidates:
            return groups
        _, members = max(candidates, key=lambda candidate: candidate[0])
        groups[members] = int(groups.max()) + 1
    return groups


def _without_fringes(labels: Labels) -> Labels:
    """Thin parts of an element that touch other elements much more than the rest of their own go to those."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (THIN, THIN))
    solid = np.zeros_like(labels)
    for k in range(1, int(labels.max()) + 1):
        solid[cv2.morphologyEx((labels == k).astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0] = k
    result = labels.copy()
    for k in range(1, int(labels.max()) + 1):
        count, parts, stats, _ = cv2.connectedComponentsWithStats(((labels == k) & (solid == 0)).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            left, top, width, height, _ = stats[part].tolist()
            view = (slice(max(0, top - 2), top + height + 2), slice(max(0, left - 2), left + width + 2))
            inside = parts[view] == part
            rim = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~inside
            around = solid[view][rim]
            others = np.bincount(around[(around > 0) & (around != k)], minlength=1)
            if others.sum() > 2 * (around == k).sum() and others.sum() > 0.25 * rim.sum():
                result[view][inside] = int(others.argmax())
    return result


def _without_dust(labels: Labels) -> Labels:
    """Elements under DUST of the area go to the element that they touch most, or to the plate; the others keep their order."""
    labels = labels.copy()
    for k in range(1, int(labels.max()) + 1):
        inside = labels == k
        if 0 < inside.sum() < DUST * labels.size:
            rim = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~inside
            labels[inside] = int(np.bincount(labels[rim], minlength=1).argmax()) if rim.any() else 0
    return _renumbered(labels)


def _halves(pieces: Pieces, groups: Labels) -> list[tuple[float, npt.NDArray[np.int64]]]:
    """For every element: how little its last two large parts belong together, and the pieces of the smaller part."""
    found = []
    sizes = np.bincount(pieces.labels.ravel(), minlength=groups.size) / pieces.labels.size
    for k in range(1, int(groups.max()) + 1):
        members = np.flatnonzero(groups == k)
        weight = {int(m): float(sizes[m]) for m in members}
        parts = {int(m): [int(m)] for m in members}
        last: tuple[float, list[int]] | None = None
        for join in pieces.made:
            if join.a in parts and join.b in parts:
                smaller = min((join.a, join.b), key=lambda part: weight[part])
                if weight[smaller] >= 2 * SPECK:
                    last = (1.0 - join.value, list(parts[smaller]))
                parts[join.a] += parts.pop(join.b)
                weight[join.a] += weight.pop(join.b)
        roots = sorted(parts, key=lambda part: -weight[part])
        if len(roots) > 1 and weight[roots[1]] >= 2 * SPECK:
            last = (1.0, parts[roots[1]])
        if last is not None and last[0] > 0.15:
            found.append((last[0], np.array(last[1])))
    return found


def _promotions(pieces: Pieces, groups: Labels) -> list[tuple[float, npt.NDArray[np.int64]]]:
    """Groups of plate pieces that may be elements, with their mean probability."""
    loose = groups_of(groups.size, [join for join in pieces.made if join.value >= TOGETHER])
    loose = np.where(groups == 0, loose + 1, 0)
    sizes = np.bincount(pieces.labels.ravel(), minlength=groups.size) / pieces.labels.size
    areas = np.bincount(loose, sizes)
    probability = _mean(pieces.links, loose)
    return [
        (float(probability[k]), np.flatnonzero(loose == k))
        for k in range(1, areas.size)
        if 2 * SPECK <= areas[k] <= 0.5 and probability[k] >= 0.12
    ]


def in_order(labels: Labels, looks: Sequence[Maps]) -> Labels:
    """The same elements, renumbered from the lowest to the top-most by what the network says of their borders."""
    count = int(labels.max())
    if count < 2:
        return labels
    links = link(labels, looks)
    identity = np.arange(count + 1, dtype=np.int32)
    balance = links.balance(identity) / np.sqrt(np.maximum(links.between(identity)[1], 1))
    left = list(range(1, count + 1))
    numbers = np.zeros(count + 1, np.int32)
    for place in range(1, count + 1):
        lowest = min(left, key=lambda k: (sum(balance[k, other] for other in left if other != k), k))
        left.remove(lowest)
        numbers[lowest] = place
    return numbers[labels]


def likelihood(labels: Labels, looks: Sequence[Maps]) -> float:
    """Mean log-probability, per cell, of the labels under the network: which cells are elements, and which pairs are alike."""
    links = link(labels, looks)
    cells = links.cells.sum()
    p = np.clip(links.element, 1e-3, 1 - 1e-3)
    inside = links.cells * np.where(np.arange(p.size) > 0, np.log(p), np.log(1 - p))
    mean = np.clip(links.same / np.maximum(links.pairs, 1), 1e-3, 1 - 1e-3)
    apart = (links.pairs * np.log(1 - mean)).sum()
    return float((inside.sum() + 0.2 * apart) / max(cells, 1))
