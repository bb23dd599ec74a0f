"""From a picture to regions: superpixels that follow edges, joined in the order in which the network says that they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.network import CELL, OFFSETS, Maps

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
SPACING = 12
"""Distance of the superpixels' seeds, pixels of the work picture."""
LEAST = 0.02


class Join(NamedTuple):
    """Piece `b` became part of `a`; `value`: mean probability, 0..1, that the two are one layer."""

    a: int
    b: int
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """What the network says of pieces 0 .. n - 1 and of every two that it compared, `a` < `b`.

    `same`, `pairs`: sum of the probabilities that the two are one layer, and number of cell pairs. `above`: positive where `a` lies
    above `b`. `element`, `cells`: per piece, mean probability of being an element and number of cells.
    """

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    same: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.float64]
    above: npt.NDArray[np.float64]
    element: npt.NDArray[np.float64]
    cells: npt.NDArray[np.float64]

    def between(self, groups: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """`same` and `pairs` between every two groups of pieces, as symmetric matrices."""
        same, pairs = (self._summed(values, groups) for values in (self.same, self.pairs))
        return same + same.T, pairs + pairs.T

    def balance(self, groups: Labels) -> npt.NDArray[np.float64]:
        """Antisymmetric: positive where the row's group lies above the column's."""
        above = self._summed(self.above, groups)
        return above - above.T

    def _summed(self, values: npt.NDArray[np.float64], groups: Labels) -> npt.NDArray[np.float64]:
        count = int(groups.max()) + 1
        index = groups[self.a].astype(np.int64) * count + groups[self.b]
        return np.bincount(index, values, count * count).reshape(count, count).astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Parts of a work picture, numbered from 0, with what the network says of them, and how they join."""

    labels: Labels
    links: Links
    made: list[Join]

    @classmethod
    def of(cls, labels: Labels, looks: Sequence[Maps]) -> Pieces:
        """From labels that may have gaps and parts too small for the network to see, which go to their neighbours."""
        labels = with_cells(labels, looks)
        links = link(labels, looks)
        return cls(labels, links, joins(links))


def cut_along(pieces: Labels, regions: Labels) -> Labels:
    """Pieces cut along the borders of regions, numbered 0, 1, 2, ..."""
    combined = pieces.astype(np.int64) * (int(regions.max()) + 1) + regions
    _, numbers = np.unique(combined, return_inverse=True)
    return numbers.reshape(pieces.shape).astype(np.int32)


def majority(pieces: Labels, regions: Labels) -> npt.NDArray[np.int32]:
    """For every piece the region that most of its pixels are of."""
    count = int(regions.max()) + 1
    votes = np.bincount(pieces.ravel().astype(np.int64) * count + regions.ravel(), minlength=(int(pieces.max()) + 1) * count)
    return votes.reshape(-1, count).argmax(1).astype(np.int32)


def superpixels(lab: Floats, spacing: int = SPACING) -> Labels:
    """Pieces of about `spacing` x `spacing` pixels that keep to edges, by watershed from the flattest places of a grid.

    Labels from 0, with gaps.
    """
    height, width = lab.shape[:2]
    blurred = cv2.GaussianBlur(lab, (0, 0), 0.7)
    slope = np.zeros((height, width), np.float32)
    for channel in cv2.split(blurred):
        slope = np.maximum(slope, np.hypot(cv2.Sobel(channel, cv2.CV_32F, 1, 0), cv2.Sobel(channel, cv2.CV_32F, 0, 1)))
    relief = np.sqrt(slope)
    markers = np.zeros((height, width), np.int32)
    count = 0
    for top in range(0, height, spacing):
        for left in range(0, width, spacing):
            tile = relief[top : top + spacing, left : left + spacing]
            row, column = divmod(int(tile.argmin()), tile.shape[1])
            count += 1
            markers[top + row, left + column] = count
    # The watershed floods by differences between neighbours: it is given the colours, not their slope.
    tones = np.clip(lab * np.array([2.55, 1, 1], np.float32) + np.array([0, 128, 128], np.float32), 0, 255).astype(np.uint8)
    flooded = cv2.watershed(tones, markers.copy())
    # The watershed takes the outermost pixels for seams; a picture one or two pixels wide has no others.
    markers = flooded if (flooded > 0).any() else markers
    return without_slivers(_without_seams(markers, lab) - 1, lab)


def without_slivers(labels: Labels, lab: Floats) -> Labels:
    """The same pieces, those nowhere wider than about three pixels dissolved: each pixel joins the neighbour of nearest colour."""
    wide = cv2.morphologyEx((_rims(labels) == 0).astype(np.uint8), cv2.MORPH_ERODE, np.ones((2, 2), np.uint8)).astype(bool)
    kept = np.zeros(int(labels.max()) + 1, bool)
    kept[labels[wide]] = True
    if not kept.any():
        return labels
    markers = np.where(kept[labels], labels + 1, -1).astype(np.int32)
    return _without_seams(markers, lab) - 1


def _rims(labels: Labels) -> npt.NDArray[np.uint8]:
    """1 where a pixel's right, lower or diagonal neighbour is of another piece."""
    rim = np.zeros(labels.shape, np.uint8)
    rim[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    rim[:-1] |= labels[:-1] != labels[1:]
    return rim


def _without_seams(markers: Labels, lab: Floats) -> Labels:
    """Give every pixel of the watershed's seams (-1) to the neighbour with the nearest colour."""
    while (markers < 1).any():
        ys, xs = np.nonzero(markers < 1)
        best = np.full(ys.size, np.inf, np.float32)
        chosen = np.zeros(ys.size, np.int32)
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            y, x = np.clip(ys + dy, 0, markers.shape[0] - 1), np.clip(xs + dx, 0, markers.shape[1] - 1)
            distance = np.where(markers[y, x] > 0, ((lab[y, x] - lab[ys, xs]) ** 2).sum(1), np.inf)
            closer = distance < best
            best[closer], chosen[closer] = distance[closer], markers[y, x][closer]
        markers[ys, xs] = chosen
    return markers


def link(labels: Labels, looks: Sequence[Maps]) -> Links:
    """What the network says, in all its looks together, of every two pieces of a label picture (values 0 .. n - 1)."""
    count = int(labels.max()) + 1
    indices, same, above = [], [], []
    number, element = np.zeros(count), np.zeros(count)
    for maps in looks:
        cells = _at_cells(labels, maps)
        number += np.bincount(cells.ravel(), minlength=count)
        element += np.bincount(cells.ravel(), maps.element.ravel(), count)
        rows, columns = cells.shape
        for k, (dy, dx) in enumerate(OFFSETS):
            if dy >= rows or abs(dx) >= columns:
                continue
            near = (slice(0, rows - dy), slice(max(0, -dx), columns - max(0, dx)))
            far = (slice(dy, rows), slice(max(0, dx), columns + min(0, dx)))
            a, b = cells[near].ravel(), cells[far].ravel()
            unlike = a != b
            a, b, s, o = a[unlike], b[unlike], maps.same[k][near].ravel()[unlike], maps.above[k][near].ravel()[unlike]
            indices.append(np.minimum(a, b).astype(np.int64) * count + np.maximum(a, b))
            same.append(s)
            above.append((1 - s) * (2 * o - 1) * np.where(a < b, 1, -1))
    keys, position = np.unique(np.concatenate(indices), return_inverse=True)
    sums = [
        np.bincount(position, values, keys.size).astype(np.float64, copy=False) for values in (np.concatenate(same), np.concatenate(above))
    ]
    pairs = np.bincount(position, minlength=keys.size).astype(np.float64)
    return Links(keys // count, keys % count, sums[0], pairs, sums[1], element / np.maximum(number, 1), number)


def with_cells(labels: Labels, looks: Sequence[Maps]) -> Labels:
    """The same pieces, those too small to hold a cell of any look given to their nearest neighbour; renumbered 0, 1, 2, ..."""
    held = np.zeros(int(labels.max()) + 1, bool)
    for maps in looks:
        held[_at_cells(labels, maps)] = True
    lost = ~held[labels]
    if lost.any():
        _, index = cv2.distanceTransformWithLabels(lost.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        owner = np.zeros(int(index.max()) + 1, np.int32)
        owner[index[~lost]] = labels[~lost]
        labels = np.where(lost, owner[index], labels)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def _at_cells(labels: Labels, maps: Maps) -> Labels:
    rows, columns = maps.element.shape
    height, width = labels.shape
    factor = max(height / (rows * CELL), width / (columns * CELL))
    y = np.minimum(((np.arange(rows) + 0.5) * CELL * factor).astype(int), height - 1)
    x = np.minimum(((np.arange(columns) + 0.5) * CELL * factor).astype(int), width - 1)
    return labels[np.ix_(y, x)]


def joins(links: Links) -> list[Join]:
    """All joins of two pieces, the two whose pairs agree best by average linkage first, down to a mean of LEAST.

    Found as a chain of nearest neighbours (Murtagh 1983): two that are each other's nearest can be joined at once, whatever else is.
    """
    count = links.element.size
    sums = np.zeros((count, count), np.complex128)  # same + i * pairs, so that one addition joins both
    sums[links.a, links.b] = sums[links.b, links.a] = links.same + 1j * links.pairs
    mean = sums.real / np.maximum(sums.imag, 1)
    alive, lowest = np.ones(count, bool), np.ones(count)
    waiting = list(range(count))[::-1]
    chain: list[int] = []
    made = []
    while waiting or chain:
        if not chain:
            if alive[waiting[-1]]:
                chain.append(waiting[-1])
            waiting.pop()
            continue
        last = chain[-1]
        nearest = int(mean[last].argmax())
        if len(chain) > 1 and mean[last, chain[-2]] >= mean[last, nearest]:
            b, a = chain.pop(), chain.pop()
            value = min(float(mean[a, b]), lowest[a], lowest[b])
            made.append(Join(a, b, value))
            alive[b], lowest[a] = False, value
            line = (sums[a] + sums[b]) * alive
            line[a] = 0
            sums[a] = sums[:, a] = line
            mean[a] = mean[:, a] = line.real / np.maximum(line.imag, 1)
            mean[:, b] = 0
            waiting.append(a)
        elif mean[last, nearest] < LEAST:
            chain.pop()
        else:
            chain.append(nearest)
    return sorted(made, key=lambda join: -join.value)


def groups_of(count: int, made: Sequence[Join]) -> npt.NDArray[np.int32]:
    """The group 0, 1, 2, ... of every one of `count` pieces after these joins."""
    parent = list(range(count))
    for join in made:
        parent[join.b] = join.a
    for piece in range(count):
        root = piece
        while parent[root] != root:
            root = parent[root]
        parent[piece] = root
    _, groups = np.unique(parent, return_inverse=True)
    return groups.astype(np.int32)
