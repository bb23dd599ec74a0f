"""LayerD's metric (Suzuki et al., ICCV 2025, arXiv 2509.25134), by the rules of its published code (CyberAgentAILab/LayerD).

Two stacks are grouped, aligned by dynamic time warping, and brought nearer to each other by up to five merges of neighbours. The scores
are means over the aligned pairs of layers: RGB L1 (0..1, lower is better) and soft IoU of the alphas (0..1, higher is better), at every
number of edits. Where the paper leaves a choice open, the published code's is taken, the odd ones too: colour under alpha 0 counts where
the other layer's mask holds it, two blank layers are no match, and when the truth is merged the cost's mask is the prediction's.

Sums of pixels are whole numbers here, floats there, which differ by rounding. Where a decision is as close as that, the pair is compared
once more in the published code's order of float operations, so that both decide alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.layers import LayerStack, effective, on_canvas

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

MOST_EDITS = 5
LEAST_LAYERS = 2
EPSILON = 1e-8
"""Added to the number of pixels that an RGB L1 is divided by."""
CLOSE = 1e-9
"""Sums of costs nearer to each other than this may be in another order once rounded."""
LEVELS = MOST_EDITS + 1


@dataclass(frozen=True, slots=True)
class Match:
    """How alike two layers are: `rgb_l1` 0..1, lower is better; `alpha_iou` 0..1, higher is better."""

    rgb_l1: float
    alpha_iou: float

    @property
    def cost(self) -> float:
        return (self.rgb_l1 + (1 - self.alpha_iou)) / 2


@dataclass(frozen=True, slots=True)
class LayerdScores:
    """A pair's scores with 0..5 edits allowed; a pair that no further edit helps keeps its last ones.

    `rgb_l1`, `alpha_iou`, `cost`: six numbers each, NaN for a skipped pair. `edits`: how many were made. `skipped`: why, else "".
    """

    rgb_l1: tuple[float, ...]
    alpha_iou: tuple[float, ...]
    cost: tuple[float, ...]
    edits: int = 0
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class LayerdMeans:
    """Means over `pairs` pairs, without the `skipped` ones, at 0..5 edits allowed; NaN without pairs.

    `edits`: the mean number of edits made. `counts`: how many pairs made as many edits as were allowed.
    """

    rgb_l1: tuple[float, ...]
    alpha_iou: tuple[float, ...]
    cost: tuple[float, ...]
    edits: tuple[float, ...]
    counts: tuple[int, ...]
    pairs: int
    skipped: int


def score(prediction: Sequence[U8], truth: Sequence[U8]) -> LayerdScores:
    """The scores of a pair of stacks: uint8 H x W x 4, straight alpha, bottom to top, all of one size.

    A pair with fewer than two layers on either side is skipped, before grouping. Raises ValueError for other shapes.
    """
    for side, layers in (("prediction", prediction), ("truth", truth)):
        if len(layers) < LEAST_LAYERS:
            return _skipped(f"the {side} has {len(layers)} layer{'s' * (len(layers) != 1)}, fewer than {LEAST_LAYERS}")
    shapes = {(layer.shape, str(layer.dtype)) for layer in (*prediction, *truth)}
    (shape, dtype), *others = shapes
    if others or len(shape) != 3 or shape[2] != 4 or dtype != "uint8" or 0 in shape:
        raise ValueError(f"layers of {shapes} cannot be compared: all must be uint8, height x width x 4, of one size")
    groups = [_Layer(pixels) for pixels in grouped(prediction)], [_Layer(pixels) for pixels in grouped(truth)]
    measure = _Measure()
    scores = _edited(*groups, measure)
    if not measure.close:
        return scores
    measure.rounded = True
    return _edited(*groups, measure)


def score_stacks(prediction: LayerStack, truth: LayerStack) -> LayerdScores:
    """The scores of a pair of stacks on one canvas; raises ValueError for two of different sizes."""
    if (prediction.width, prediction.height) != (truth.width, truth.height):
        sizes = f"{prediction.width} x {prediction.height} and {truth.width} x {truth.height}"
        raise ValueError(f"stacks of {sizes} pixels cannot be compared")
    return score(canvases(prediction), canvases(truth))


def canvases(stack: LayerStack) -> list[U8]:
    """The layers that show, bottom to top, each on the whole canvas in 8 bits, opacities (groups' too) multiplied into the alphas."""
    shown = []
    for layer, opacity in effective(stack.layers):
        if opacity == 0:
            continue
        pixels = on_canvas(layer, stack.width, stack.height)
        eight = (
            ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8, copy=False)
        )
        if opacity < 1:
            eight[..., 3] = np.rint(eight[..., 3] * opacity).astype(np.uint8)
        shown.append(eight)
    return shown


def aggregate(scores: Iterable[LayerdScores]) -> LayerdMeans:
    """Means over pairs at every number of edits; a pair that stopped earlier counts with its last scores (the published code's rule)."""
    kept, skipped = [], 0
    for pair in scores:
        if pair.skipped:
            skipped += 1
        else:
            kept.append(pair)
    table = np.array([(pair.rgb_l1, pair.alpha_iou, pair.cost) for pair in kept], np.float64).reshape(-1, 3, LEVELS)
    means = table.mean(axis=0) if kept else np.full((3, LEVELS), math.nan)
    edits = [[min(pair.edits, level) for pair in kept] for level in range(LEVELS)]
    rgb_l1, alpha_iou, cost = (tuple(float(value) for value in row) for row in means)
    return LayerdMeans(
        rgb_l1, alpha_iou, cost,
        edits=tuple(float(np.mean(made)) if made else math.nan for made in edits),
        counts=tuple(made.count(level) for level, made in enumerate(edits)),
        pairs=len(kept),
        skipped=skipped,
    )  # fmt: skip


def group_indices(alphas: Sequence[U8]) -> list[list[int]]:
    """Which layers make up each group, back to front; `alphas`: H x W each, bottom to top.

    Every layer that no later one overlaps (alpha above 0 in both at some pixel) is in the top group; those that then remain are grouped
    likewise below it. Blank layers are thus all in the top group.
    """
    count = len(alphas)
    boxes = [_box(alpha) for alpha in alphas]
    over = [[k for k in range(j + 1, count) if _overlap(alphas[j], boxes[j], alphas[k], boxes[k])] for j in range(count)]
    groups: list[list[int]] = []
    remaining = list(range(count))
    while remaining:
        top = [j for j in remaining if not any(k in remaining for k in over[j])]
        groups.append(top)
        remaining = [j for j in remaining if j not in top]
    return groups[::-1]


def grouped(layers: Sequence[U8]) -> list[U8]:
    """One picture for every group of `group_indices`, back to front: its layers over each other, as `composite` does it.

    A group of one layer is that layer, the colour under alpha 0 included.
    """
    pictures = []
    for indices in group_indices([cv2.extractChannel(layer, 3) for layer in layers]):
        picture = layers[indices[0]]
        for index in indices[1:]:
            picture = composite(picture, layers[index])
        pictures.append(picture)
    return pictures


def composite(lower: U8, upper: U8) -> U8:
    """`upper` over `lower`, H x W x 4 each, by Pillow's 8-bit `alpha_composite`; `lower` with its hidden colour where `upper` is clear."""
    left, top, width, height = _box(cv2.extractChannel(upper, 3))
    result = lower.copy()
    if width:
        part = (slice(top, top + height), slice(left, left + width))
        pair = (Image.fromarray(np.ascontiguousarray(pixels[part])) for pixels in (lower, upper))
        result[part] = np.asarray(Image.alpha_composite(*pair))
    return result


def match(first: U8, second: U8) -> Match:
    """Two layers compared, H x W x 4 each, straight alpha; the order counts.

    RGB L1: mean |difference| of straight colours, 0..1, over the pixels at which the *second* layer's alpha is above 0 (their number
    + 1e-8). Alpha IoU: sum of the smaller alphas by sum of the larger ones, 0 for two blank layers.
    """
    return _Measure().match(_Layer(first), _Layer(second))


def align(costs: F64) -> list[tuple[int, int]]:
    """The path of dynamic time warping through a table of costs, predicted x true layers, from (0, 0) to the end.

    Backwards from the end it takes the diagonal where that is no worse than both other steps, else the step to the predicted layer before
    where that is no worse than both others, else the step to the true layer before.
    """
    return _align(costs)[0]


class _Layer:
    """A layer with what its costs are made of; one lives as long as its pair is compared."""

    def __init__(self, pixels: U8) -> None:
        self.pixels = pixels
        self.colours = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
        self.alpha = cv2.extractChannel(pixels, 3)
        self.box = _box(self.alpha)
        left, top, width, height = self.box
        self.part = (slice(top, top + height), slice(left, left + width))
        self.pixel_count = cv2.countNonZero(self.alpha)
        self.alpha_sum = int(cv2.sumElems(self.alpha)[0])
        self.mask = None if self.pixel_count == width * height else cv2.merge([(self.alpha[self.part] > 0) * np.uint8(255)] * 3)
        self.masked = self.colours[self.part] if self.mask is None else cv2.bitwise_and(self.colours[self.part], self.mask)

    @cached_property
    def content(self) -> bytes:
        """The same for layers of the same pixels, which are what most close decisions are about."""
        return hashlib.sha256(self.pixels.tobytes()).digest()


class _Measure:
    """Comparisons of one pair's layers, each made once, and whether a decision was too close for whole-number sums.

    `rounded`: compare in the published code's order of float operations instead.
    """

    def __init__(self) -> None:
        self.close = False
        self.rounded = False
        self._matches: dict[tuple[_Layer, _Layer] | tuple[bytes, bytes], Match] = {}
        self._merged: dict[tuple[_Layer, _Layer], _Layer] = {}

    def match(self, first: _Layer, second: _Layer) -> Match:
        key = (first.content, second.content) if self.rounded else (first, second)
        if key not in self._matches:
            self._matches[key] = _rounded_match(first, second) if self.rounded else _match(first, second)
        return self._matches[key]

    def likeness(self, layer: _Layer, others: Sequence[_Layer]) -> float:
        return sum(1 - self.match(layer, other).cost for other in others)

    def merged(self, lower: _Layer, upper: _Layer) -> _Layer:
        if (lower, upper) not in self._merged:
            self._merged[lower, upper] = _Layer(composite(lower.pixels, upper.pixels))
        return self._merged[lower, upper]

    def exceeds(self, one: float, other: float) -> bool:
        if abs(one - other) < CLOSE:
            self.close = True
        return one > other


def _edited(prediction: list[_Layer], truth: list[_Layer], measure: _Measure) -> LayerdScores:
    """Align, record, make the merge that gains most; again until none gains or five are made."""
    levels: list[tuple[float, float, float]] = []
    while True:
        matches = [[measure.match(p, g) for g in truth] for p in prediction]
        path, margin = _align(np.array([[pair.cost for pair in row] for row in matches]))
        measure.close |= margin < CLOSE
        pairs = [matches[i][j] for i, j in path]
        means = np.mean([(pair.rgb_l1, pair.alpha_iou, pair.cost) for pair in pairs], axis=0)
        levels.append((float(means[0]), float(means[1]), float(means[2])))
        if len(levels) == LEVELS:
            break
        gain, index = _best_merge(prediction, truth, path, measure)
        true_gain, true_index = _best_merge(truth, prediction, [(j, i) for i, j in path], measure)
        if measure.exceeds(gain, true_gain):
            prediction = _with_merge(prediction, index, measure)
        elif true_gain > -math.inf:
            truth = _with_merge(truth, true_index, measure)
        else:
            break
    edits = len(levels) - 1
    levels += [levels[-1]] * (LEVELS - len(levels))
    rgb_l1, alpha_iou, cost = zip(*levels, strict=True)
    return LayerdScores(rgb_l1, alpha_iou, cost, edits)


def _best_merge(layers: list[_Layer], others: list[_Layer], path: list[tuple[int, int]], measure: _Measure) -> tuple[float, int]:
    """The largest gain of merging a layer with the next, and its index, the earliest on ties; -inf where no merge gains.

    The gain is local: likeness to the aligned layers of these two, in which the merged one stands for the first, and for the second
    whatever does best: the merged one, or the layer above for either.
    """
    best, where = -math.inf, -1
    if len(layers) <= LEAST_LAYERS:
        return best, where
    for index, (lower, upper) in enumerate(pairwise(layers)):
        first, second = ([others[j] for i, j in path if i == k] for k in (index, index + 1))
        now = measure.likeness(lower, first) + measure.likeness(upper, second)
        merged = measure.merged(lower, upper)
        rest = [measure.likeness(merged, second)]
        if index + 2 < len(layers):
            rest += [measure.likeness(layers[index + 2], first), measure.likeness(layers[index + 2], second)]
        stays = measure.likeness(merged, first)
        new = max(stays + value for value in rest)
        if measure.exceeds(new, now) and measure.exceeds(new - now, best):
            best, where = new - now, index
    return best, where


def _with_merge(layers: list[_Layer], index: int, measure: _Measure) -> list[_Layer]:
    return [*layers[:index], measure.merged(layers[index], layers[index + 1]), *layers[index + 2 :]]


def _align(costs: F64) -> tuple[list[tuple[int, int]], float]:
    """The path, and by how much the closest of its choices was won."""
    rows, columns = costs.shape
    total = np.zeros((rows, columns))
    total[:, 0] = np.cumsum(costs[:, 0])
    total[0] = np.cumsum(costs[0])
    for i in range(1, rows):
        for j in range(1, columns):
            total[i, j] = costs[i, j] + min(total[i - 1, j], total[i, j - 1], total[i - 1, j - 1])
    i, j = rows - 1, columns - 1
    path, margin = [(i, j)], math.inf
    while i > 0 or j > 0:
        if i > 0 and j > 0:
            diagonal, predicted, true = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            least, second, _ = sorted((diagonal, predicted, true))
            margin = min(margin, float(second - least))
            back = (1, 1) if diagonal == least else (1, 0) if predicted == least else (0, 1)
        else:
            back = (1, 0) if i > 0 else (0, 1)
        i, j = i - back[0], j - back[1]
        path.append((i, j))
    return path[::-1], margin


def _match(first: _Layer, second: _Layer) -> Match:
    smaller = _smaller_alphas(first, second)
    larger = first.alpha_sum + second.alpha_sum - smaller
    return Match(
        _colour_difference(first, second) / (3 * 255) / (second.pixel_count + EPSILON),
        smaller / larger if larger else 0.0,
    )


def _rounded_match(first: _Layer, second: _Layer) -> Match:
    plain = _match(first, second)
    if plain.rgb_l1 == 0 and plain.alpha_iou in (0, 1):
        return plain  # no sum was rounded
    one, other = (layer.pixels.astype(np.float64) / 255 for layer in (first, second))
    mask = other[..., 3] > 0
    difference = (np.abs(one[..., :3] - other[..., :3]).mean(-1) * mask).sum() / (mask.sum() + EPSILON)
    larger = np.maximum(one[..., 3], other[..., 3]).sum()
    return Match(float(difference), float(np.minimum(one[..., 3], other[..., 3]).sum() / larger) if larger > 0 else 0.0)


def _colour_difference(first: _Layer, second: _Layer) -> int:
    """Sum of |difference| of the three colours, in levels, where the second layer's alpha is above 0."""
    if not second.pixel_count:
        return 0
    colours = first.colours[second.part]
    return round(cv2.norm(colours if second.mask is None else cv2.bitwise_and(colours, second.mask), second.masked, cv2.NORM_L1))


def _smaller_alphas(first: _Layer, second: _Layer) -> int:
    """Sum of the smaller of the two alphas, in levels."""
    part = _common(first.box, second.box)
    return 0 if part is None else int(cv2.sumElems(cv2.min(first.alpha[part], second.alpha[part]))[0])


def _overlap(alpha: U8, box: tuple[int, int, int, int], other: U8, other_box: tuple[int, int, int, int]) -> bool:
    part = _common(box, other_box)
    return part is not None and bool(cv2.countNonZero(cv2.min(alpha[part], other[part])))


def _box(alpha: U8) -> tuple[int, int, int, int]:
    """left, top, width, height of what is above 0; all 0 for a blank layer."""
    left, top, width, height = cv2.boundingRect(alpha)
    return left, top, width, height


def _common(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> tuple[slice, slice] | None:
    """Rows and columns that two boxes share; None where they share none."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[0] + one[2], other[0] + other[2]), min(one[1] + one[3], other[1] + other[3])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _skipped(reason: str) -> LayerdScores:
    nothing = (math.nan,) * LEVELS
    return LayerdScores(nothing, nothing, nothing, skipped=reason)
