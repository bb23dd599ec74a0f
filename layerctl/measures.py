"""What quality is made of: pure functions that look at one fault each, on a `View` of a source and its layers.

Notation: a_k is the alpha of layer k, c_k its straight colour, v_k = a_k times the transparency of all above it, I the source. Colours are
levels 0..255, everything else 0..1. A measure of badness is 0 for layers without the fault. Where a measure compares colours it asks for
`EVIDENCE`: layers that look alike tell nothing, and count as faultless.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.network import OFFSETS, Maps, look
from layerctl.view import View, carried, carried_on, flattened, softened

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

EVIDENCE = 12.0
"""Levels by which two colours must differ to tell one from the other."""
SOLID = 0.5
"""Alpha from which a pixel belongs to a layer's body."""
LEAST_PIXELS = 24
"""Fewer pixels than this decide nothing."""
NETWORK_SIDE = 320
LEAST_PIECE = 0.01
"""Of a layer's body: smaller pieces are none of their own."""
LEAST_RUN = 10
NEAR = np.ones((5, 5), np.uint8)
MOST_SPECKS = 1000
"""More are not counted."""
KERNEL = np.ones((3, 3), np.uint8)
REACH = 10
"""Pixels around a layer's body that are looked at with it."""
RIMS = (3, 9)
THIRDS = np.full((1, 3), 1 / 3, np.float32)


def recomposition(seen: View) -> float:
    """Mean difference of the flattened layers from the source, colours multiplied by alpha, 0..1."""
    flat = flattened(seen)
    colour = np.abs(flat[..., :3] - seen.picture * seen.opaque[..., None]).mean() / 255
    return float(max(colour, np.abs(flat[..., 3] - seen.opaque).mean()))


def coverage(alpha: F32) -> float:
    """Share of the canvas that a layer covers."""
    return float(alpha.mean())


def is_blank(alpha: F32) -> bool:
    """Whether nothing of a layer could be seen even alone: no connected piece of 6 pixels has an alpha of .1."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((alpha >= 0.1).astype(np.uint8), connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].max(initial=0)) < min(6, alpha.size)


def likeness(seen: View, j: int, k: int) -> float:
    """How far two layers are copies: soft IoU of their alphas, less what their colours differ where both are (32 levels: nothing alike)."""
    a, b = seen.alphas[j], seen.alphas[k]
    shared = np.minimum(a, b)
    total = float(shared.sum())
    union = float(a.sum() + b.sum()) - total
    if total < LEAST_PIXELS:
        return 0.0
    weight = shared * (shared > 0.02)
    apart = float((cv2.transform(np.abs(seen.colours[j] - seen.colours[k]), THIRDS) * weight).sum() / max(float(weight.sum()), 1e-6))
    # Two halves of one alpha, one over the other, have it in common though neither is as large as the other's.
    return total / max(union, 1e-6) * max(0.0, 1 - apart / 32)


def composite_copy(seen: View, k: int) -> float:
    """How far layer k, not the bottom one, is the whole picture once more, 0..1.

    The share of the source's opaque part that it covers (alpha of at least .25) with the source's colours (within 8 levels), where that is
    .6 or more, and where it also shows what other elements show; without others, .995.
    """
    equal = (_largest(np.abs(seen.colours[k] - seen.picture)) <= 8) & (seen.alphas[k] >= 0.25)
    share = float((equal * seen.opaque).sum() / max(float(seen.opaque.sum()), 1.0))
    shown = [seen.shares[j] > 0.25 for j in range(1, len(seen.alphas)) if j != k]
    others = [where for where in shown if LEAST_PIXELS < where.sum() < 0.9 * where.size]
    if not others:
        return share if share > 0.995 else 0.0
    theirs = np.logical_or.reduce(others)
    return share if share > 0.6 and equal[theirs].mean() > 0.6 else 0.0


def repeats_below(seen: View, k: int) -> float:
    """How far the covered part of layer k shows what covers it: 0 completed, 1 a plain copy of the picture.

    With b the layer's visible colours carried on below the cover, this is the least-squares g of c_k = b + g (I - b), 0..1, over
    w = a_k (a_k - v_k); a texture of its own is no copy. Less where under 3 % of the layer is covered.
    """
    alpha, share = seen.alphas[k], seen.shares[k]
    covered = alpha * (alpha - share)
    own = np.where((share > 0.95) & (_blurred_max(alpha - share) < 0.05), np.float32(1), np.float32(0))
    if own.sum() < LEAST_PIXELS:
        return 1.0 if covered.mean() > 0.5 and _equal(seen.colours[k], seen.picture, covered) else 0.0
    repeated = _projection(seen.colours[k], carried_on(seen.colours[k], own), seen.picture, covered * (covered > 0.5))
    return repeated * _matters(covered, alpha)


def repeats_above(seen: View, j: int, k: int) -> float:
    """How far layer j, where it covers layer k, shows layer k instead of itself: 1 when the two are in the wrong order but recoloured.

    With b what shows of j beside k, carried on: as in `repeats_below`, times the share of those pixels at which j and k differ by at most
    `EVIDENCE`; less where under 3 % of k is covered by j.
    """
    both = seen.alphas[j] * seen.alphas[k]
    region = np.where(both > 0.8, both, np.float32(0))
    if region.sum() < LEAST_PIXELS:
        return 0.0
    beside = np.where((seen.alphas[j] > 0.95) & (_blurred_max(seen.alphas[k]) < 0.02), np.float32(1), np.float32(0))
    if beside.sum() < LEAST_PIXELS:
        return 0.0
    expected = carried_on(seen.colours[j], beside)
    repeated = _projection(seen.colours[j], expected, seen.colours[k], region)
    if repeated == 0:
        return 0.0
    telling = region * (_largest(np.abs(seen.colours[k] - expected)) > 2 * EVIDENCE)
    same = telling * (_largest(np.abs(seen.colours[j] - seen.colours[k])) <= EVIDENCE)
    return repeated * float(same.sum() / max(float(telling.sum()), 1.0)) * _matters(region, seen.alphas[k])


def seam(seen: View, k: int) -> float:
    """Share of the picture's steps at the outline of what covers layer k that the layer keeps below the cover, 0..1."""
    cover = seen.alphas[k] - seen.shares[k]
    inside = (cover > 0.9).astype(np.uint8)
    outside = ((cover < 0.1) & (seen.alphas[k] > 0.9)).astype(np.uint8)
    if inside.sum() < LEAST_PIXELS or outside.sum() < LEAST_PIXELS:
        return 0.0
    near_in = inside.astype(bool) & (cv2.distanceTransform(inside, cv2.DIST_L2, 3) <= 3)
    near_out = outside.astype(bool) & (cv2.distanceTransform(outside, cv2.DIST_L2, 3) <= 3)
    rim = near_in & (softened(near_out.astype(np.float32), 3) > 0.05)
    if rim.sum() < LEAST_PIXELS:
        return 0.0
    mean_out = carried(seen.colours[k], near_out.astype(np.float32), 3)[rim]
    step = seen.picture[rim] - mean_out
    own = seen.colours[k][rim] - mean_out
    power = (step**2).sum(axis=1)
    strong = power > 4 * EVIDENCE**2
    if strong.sum() < LEAST_PIXELS:
        return 0.0
    return float(np.clip((own * step).sum(axis=1)[strong].sum() / power[strong].sum(), 0, 1))


def contamination(seen: View, k: int) -> float:
    """How far the rim of layer k has the colour of what is around it instead of its own, 0..1; the worse of rims 3 and 9 pixels wide.

    On the pixels that far inside of its outline and the soft ones beyond, with F the colours deeper inside and B the source's just outside:
    the share of pixels, weighted by |B - F|^2, whose colour projected on the line from F to B lies beyond .7 of it.
    """
    left, top, width, height = cv2.boundingRect((seen.alphas[k] > SOLID).astype(np.uint8))
    part = (slice(max(0, top - REACH), top + height + REACH), slice(max(0, left - REACH), left + width + REACH))
    alpha, colours, picture = seen.alphas[k][part], seen.colours[k][part], seen.picture[part]
    body = (alpha > SOLID).astype(np.uint8)
    if body.sum() < LEAST_PIXELS:
        return 0.0
    depth = cv2.distanceTransform(cv2.copyMakeBorder(body, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.DIST_L2, 3)[1:-1, 1:-1]
    around = ((alpha < 0.02) & (cv2.dilate(body, np.ones((13, 13), np.uint8)) > 0)).astype(np.float32)
    worst = 0.0
    for reach in RIMS:
        deep = ((depth > reach) & (alpha > 0.9)).astype(np.float32)
        rim = (depth <= reach) & (alpha > 0.1) & (seen.shares[k][part] > 0.5 * alpha)
        rim &= (softened(deep, reach) > 0.01) & (softened(around, reach) > 0.01)
        if rim.sum() >= LEAST_PIXELS:
            own, other = carried(colours, deep, reach)[rim], carried(picture, around, reach)[rim]
            worst = max(worst, _taken(colours[rim], own, other, alpha[rim]))
    return worst


def _taken(colours: F32, own: F32, other: F32, weight: F32) -> float:
    line = other - own
    power = (line**2).sum(axis=1)
    strong = np.minimum(power, 100.0**2) * weight * (power > 3 * EVIDENCE**2)
    if (strong > 0).sum() < LEAST_PIXELS:
        return 0.0
    along = ((colours - own) * line).sum(axis=1) / np.maximum(power, 1)
    return float((strong * (along > 0.7)).sum() / strong.sum())


def dust(alpha: F32) -> float:
    """How many specks a layer has, as 1 - exp(-n / 6), so that one or two are hardly noticed.

    Specks are pieces under 1/5000 of the canvas, under a twentieth of the piece that holds the layer's median pixel, farther than 1 % of
    the canvas' side from all larger ones, and farther from each other than three times their size: letters are nearer.
    """
    body = (alpha > 0.1).astype(np.uint8)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(body, connectivity=8)
    if count < 3:
        return 0.0
    areas = stats[:, cv2.CC_STAT_AREA]
    sizes = np.sort(areas[1:])[::-1]
    median = sizes[int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2))]
    small = areas < min(max(6.0, alpha.size / 5000), median / 20)
    small[0] = False
    away = cv2.distanceTransform((small | (np.arange(count) == 0))[labels].astype(np.uint8), cv2.DIST_L2, 3)
    nearest = np.full(count, np.inf)
    np.minimum.at(nearest, labels.ravel(), away.ravel())
    specks = np.flatnonzero(small & (nearest > 0.01 * max(alpha.shape)))[:MOST_SPECKS]
    if specks.size == 0:
        return 0.0
    apart = np.hypot(*(centres[specks][:, None] - centres[specks][None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    extent = stats[specks][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    return float(1 - np.exp(-int((apart.min(axis=1) > 3 * extent).sum()) / 6))


def bleed(seen: View, k: int) -> float:
    """Share of the transparent part of layer k, 3 pixels and more from its body, that shows the source faintly, 0..1.

    Transparent: alpha under .2; faintly: alpha of at least 2/255 and colours within 10 levels of the source's. Such colours below alpha 0,
    which cannot be seen, count a quarter where they vary; a plain one is a filling.
    """
    alpha = seen.alphas[k]
    body = (alpha >= 0.2).astype(np.uint8)
    free = (cv2.dilate(body, np.ones((7, 7), np.uint8)) == 0) & (seen.opaque > 0.5)
    if free.sum() < LEAST_PIXELS:
        return 0.0
    same = (_largest(np.abs(seen.colours[k] - seen.picture)) <= 10) & free
    faint = same & (alpha >= 1.5 / 255)
    unseen = same & ~faint
    varied = unseen.sum() >= LEAST_PIXELS and float(seen.colours[k][unseen].std(axis=0).max()) >= 4
    return float(faint.sum() + 0.25 * varied * unseen.sum()) / float(free.sum())


def holes(seen: View) -> float:
    """Share of the source's opaque pixels at which the bottom layer is transparent, half-transparent ones in part."""
    solid = seen.opaque > 0.99
    return float((1 - seen.alphas[0][solid]).sum() / max(int(solid.sum()), 1))


def abutment(seen: View) -> float:
    """Share of the elements' outlines at which two layers meet edge to edge, as where one thing was cut into two, 0..1.

    At an outline a_k = 1/2 another layer (not the bottom one) has its own within 2 pixels, lying on the other side, for `LEAST_RUN` pixels
    in one piece. Where a thing lies over another and the lower one is complete, their outlines cross and do not meet.
    """
    elements = range(1, len(seen.alphas))
    bodies = {k: (seen.alphas[k] > SOLID).astype(np.uint8) for k in elements}
    rims = {k: _inner_rim(bodies[k]) for k in elements}
    total = sum(int(rim.sum()) for rim in rims.values())
    if total < LEAST_PIXELS:
        return 0.0
    meeting = 0
    for k in elements:
        met = np.zeros(rims[k].shape, bool)
        for j in elements:
            if j != k and _near(bodies[j], bodies[k]):
                along = cv2.dilate(rims[j].astype(np.uint8), NEAR) > 0
                met |= rims[k] & along & (cv2.dilate(bodies[j] & (1 - bodies[k]), NEAR) > 0)
        _, _, runs, _ = cv2.connectedComponentsWithStats(met.astype(np.uint8), connectivity=8)
        lengths = runs[1:, cv2.CC_STAT_AREA]
        meeting += int(lengths[lengths >= LEAST_RUN].sum())
    return meeting / total


def unsupported(seen: View) -> float:
    """Share of the visible outlines between layers at which the source has no edge, 0..1: 1 - min(1, step / 24 levels), mean.

    The step is the largest difference of the source's colours within 2 pixels.
    """
    owner = np.argmax(np.stack(seen.shares), axis=0)
    border = np.zeros(owner.shape, bool)
    border[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    border[1:] |= owner[1:] != owner[:-1]
    if border.sum() < LEAST_PIXELS:
        return 0.0
    return float((1 - np.minimum(1, _steps(seen.picture)[border] / 24)).mean())


def unexplained(seen: View) -> float:
    """Share of the source's edges that no outline of a layer runs along (within 3 pixels), by strength, 0..1."""
    steps = np.maximum(_steps(seen.picture) - EVIDENCE, 0)
    total = float(steps.sum())
    if total <= 0:
        return 0.0
    outlines = np.zeros(steps.shape, np.uint8)
    for alpha in seen.alphas[1:]:
        outlines |= (cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, KERNEL) > 0.2).astype(np.uint8)
    along = cv2.dilate(outlines, np.ones((5, 5), np.uint8)) > 0
    return float(steps[~along].sum()) / total


def disagreement(seen: View) -> float:
    """How far the layers disagree with the embedded engine's network about what belongs together, 0..1.

    The network says, for pairs of cells 1, 3 and 8 cells apart, how likely both show one layer. 1 - exp(m), with m the mean over all pairs
    of elements of min(0, log(p / .5)) for a pair in one layer, and of min(0, log((1 - p) / .5)) for a pair in two. The network was trained
    on drawn scenes; it is often wrong, but alike for all layers of one picture.
    """
    maps = _looked(np.rint(seen.picture).astype(np.uint8).tobytes(), seen.width)
    rows, columns = maps.element.shape
    owner = np.argmax(np.stack(seen.shares), axis=0).astype(np.uint8)
    cells = cv2.resize(owner, (columns, rows), interpolation=cv2.INTER_NEAREST)
    pairs, total = 0, 0.0
    for same, (down, right) in zip(maps.same, OFFSETS, strict=True):
        here = (slice(0, max(0, rows - down)), slice(max(0, -right), columns - max(0, right)))
        there = (slice(down, rows), slice(max(0, right), columns + min(0, right)))
        one, other, p = cells[here], cells[there], same[here]
        inside, across = (one == other) & (one > 0), (one != other) & (one > 0) & (other > 0)
        pairs += int(inside.sum() + across.sum())
        for doubt in (p[inside], 1 - p[across]):
            total += float(np.minimum(0, np.log(np.maximum(doubt, 0.01) / 0.5)).sum())
    return 1 - float(np.exp(total / max(pairs, 1)))


@lru_cache(maxsize=1)
def _looked(pixels: bytes, width: int) -> Maps:
    """What the network sees; the same for all stacks of a picture."""
    return look(np.frombuffer(pixels, np.uint8).reshape(-1, width, 3), NETWORK_SIDE)


def scatter(alpha: F32) -> float:
    """How far a layer is several things that lie apart, 0..1.

    Pieces nearer to each other than 2 % of the canvas' side, as letters are, count as one. The sum, over the gaps of the shortest tree that
    joins the pieces, of (1/20 + gap / diagonal) times twice the smaller side's share of the square roots of the areas; 1 - exp(-3 sum).
    """
    body = alpha > SOLID
    labels, sizes = pieces(body, max(alpha.shape))
    kept = [int(c) for c in np.argsort(-sizes[1:])[:8] + 1 if sizes[c] >= max(LEAST_PIXELS, LEAST_PIECE * body.sum())]
    if len(kept) < 2:
        return 0.0
    weights = np.sqrt(sizes[kept])
    gaps = np.zeros((len(kept), len(kept)))
    for row, component in enumerate(kept):
        away = cv2.distanceTransform((labels != component).astype(np.uint8), cv2.DIST_L2, 3)
        for column, other in enumerate(kept):
            gaps[row, column] = away[labels == other].min()
    total = 0.0
    groups = np.arange(len(kept))
    for row, column in sorted(combinations(range(len(kept)), 2), key=lambda pair: gaps[pair]):
        one, other = groups[row], groups[column]
        if one != other:
            smaller = min(weights[groups == one].sum(), weights[groups == other].sum()) / weights.sum()
            total += (0.05 + gaps[row, column] / np.hypot(*alpha.shape)) * 2 * smaller
            groups[groups == other] = one
    return float(1 - np.exp(-3 * total))


def busyness(seen: View) -> float:
    """How much is drawn inside of the bottom layer, 0..1: four times the share of its body, 6 pixels and more from its outline, within 2
    pixels of a step of 40 levels; 0 for a body that is mostly rim."""
    body = (seen.alphas[0] > SOLID).astype(np.uint8)
    inside = cv2.distanceTransform(body, cv2.DIST_L2, 3) > 6
    if inside.sum() < max(LEAST_PIXELS, 0.2 * body.sum()):
        return 0.0
    return float(min(1.0, 4 * (_steps(seen.picture)[inside] > 40).mean()))


def pieces(body: Bool, side: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The pieces of a layer that lie apart on a canvas with that long side, and how many pixels of its body each holds.

    A picture of numbers from 1, 0 far from all, in which every piece reaches as far as others would still count to it: 1 % of the side.
    """
    reach = 0.01 * side
    joined = cv2.distanceTransform((~body).astype(np.uint8), cv2.DIST_L2, 3) <= reach
    count, labels = cv2.connectedComponents(joined.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), body.ravel(), minlength=count)
    return np.asarray(labels, np.int32), np.asarray(sizes, np.float64)


def raggedness(alpha: F32) -> float:
    """How much of a layer's outline is frayed, 0..1: what it loses of its length when smoothed over 2 pixels, beyond 15 %.

    0 for layers of thin parts, as letters are: half of whose area is less than 7 pixels wide.
    """
    body = (alpha > SOLID).astype(np.float32)
    rough = outline(body)
    wide = cv2.morphologyEx(body, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    if rough < LEAST_PIXELS or wide.sum() < 0.5 * body.sum():
        return 0.0
    smooth = outline(cv2.GaussianBlur(body, (0, 0), 2))
    return float(np.clip(1 - smooth / rough - 0.15, 0, 1))


def effective_layers(seen: View) -> float:
    """How many layers the picture is spread over: exp of the entropy of the square roots of their visible areas, 1 .. K."""
    areas = np.sqrt([max(float(share.sum()), 0.0) for share in seen.shares])
    if areas.sum() <= 0:
        return 1.0
    weights = areas[areas > 0] / areas.sum()
    return float(np.exp(-(weights * np.log(weights)).sum()))


def _blurred_max(plane: F32) -> F32:
    return np.asarray(cv2.dilate(plane, np.ones((5, 5), np.uint8)), np.float32)


def _projection(colours: F32, expected: F32, other: F32, weight: F32) -> float:
    where = weight > 0
    if where.sum() < LEAST_PIXELS:
        return 0.0
    return _fraction(colours[where], expected[where], other[where], weight[where])


def _fraction(colours: F32, own: F32, other: F32, weight: F32) -> float:
    """The least-squares t, 0..1, of colours = own + t (other - own), rows of pixels; 0 without evidence."""
    line = other - own
    power = (line**2).sum(axis=1)
    strong = (power > 3 * EVIDENCE**2) * weight
    if (strong > 0).sum() < LEAST_PIXELS:
        return 0.0
    return float(np.clip(((((colours - own) * line).sum(axis=1)) * strong).sum() / (power * strong).sum(), 0, 1))


def _matters(part: F32, whole: F32) -> float:
    """1 where the part is 3 % of the whole or more, less below."""
    return min(1.0, float(part.sum()) / max(0.03 * float(whole.sum()), 1.0))


def _equal(first: F32, second: F32, weight: F32) -> bool:
    return float((cv2.transform(np.abs(first - second), THIRDS) * weight).sum() / max(float(weight.sum()), 1e-6)) < 6


def outline(alpha: F32) -> float:
    """Length of a body's outline, in pixels."""
    return float(_inner_rim((alpha > SOLID).astype(np.uint8)).sum())


def _inner_rim(body: U8) -> Bool:
    """The pixels of a body next to others; the border of the canvas is no outline."""
    padded = cv2.copyMakeBorder(body, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return np.asarray((body > 0) & (cv2.erode(padded, KERNEL)[1:-1, 1:-1] == 0))


def _near(first: U8, second: U8) -> bool:
    """Whether the bounding boxes of two bodies meet."""
    boxes = [cv2.boundingRect(body) for body in (first, second)]
    (x0, y0, w0, h0), (x1, y1, w1, h1) = boxes
    return min(w0, h0, w1, h1) > 0 and x0 <= x1 + w1 + 2 and x1 <= x0 + w0 + 2 and y0 <= y1 + h1 + 2 and y1 <= y0 + h0 + 2


def _steps(picture: F32) -> F32:
    """The largest range of a channel within 2 pixels, in levels."""
    window = np.ones((5, 5), np.uint8)
    return _largest(np.asarray(cv2.dilate(picture, window) - cv2.erode(picture, window), np.float32))


def _largest(channels: F32) -> F32:
    return np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])


def mean_by(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean; 0 without weight."""
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total > 0 else 0.0
