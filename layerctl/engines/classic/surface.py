"""Smooth surfaces through known values: a thin plate for the whole picture, a membrane for what is missed at a hole's rim."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

GRID = 64
STIFFNESS = 0.05
PANEL = 10
"""Unknowns that are eliminated at once: so few that their products stay on one thread, as waiting for others takes longer here."""
RELAXATIONS = 6
NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def thin_plate(colour: F32, share: F32, cells: int = GRID) -> F32:
    """The smoothest surface near the known colours, on a grid of at most `cells`; it goes on straight where nothing is known.

    `colour`: H x W x 3, the mean of what is known of each cell. `share`: H x W, how much of the cell that is, 0..1.
    """
    height, width = share.shape
    shrink = max(1.0, max(height, width) / cells)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    part = resized(share, size)
    mean_colour = resized(colour * share[..., None], size) / np.maximum(part, 1e-6)[..., None]
    # The mean of a cell that is known in part lies off its centre: on a gradient it is wrong, so it counts little.
    weight = part.astype(np.float64) ** 8 + 1e-9 * (part > 0)
    data = weight[..., None] * mean_colour
    mean = data.sum(axis=(0, 1)) / weight.sum()
    data -= mean * weight[..., None]
    if size[0] > size[1]:
        relief = _plate_through(weight.T + 1e-9, data.transpose(1, 0, 2)).transpose(1, 0, 2)
    else:
        relief = _plate_through(weight + 1e-9, data)
    return np.asarray(relief + mean, np.float32)


def _plate_through(weight: F64, data: F64) -> F64:
    """The plate x at which weight * x + STIFFNESS * (the slope of its bending energy) is the data.

    `weight`: H x W, positive. `data`: H x W x C. A cell's equation reaches two rows far: the system is eliminated exactly, from the top
    down, in a window of three rows.
    """
    height, width, channels = data.shape
    (slope_y, bend_y), (slope_x, bend_x) = _energies(height, 2), _energies(width)
    same_row, same_column = np.pad(np.eye(height), 2), np.eye(width)
    weight = np.pad(weight, ((0, 2), (0, 0)))
    plate = np.zeros(((height + 2) * width, channels))
    plate[: height * width] = data.reshape(-1, channels)
    window = np.zeros((3 * width, 3 * width))
    onward: list[F64] = []
    for row in range(height + 2):
        same, bend, slope = (matrix[row + 2, row : row + 3, None] for matrix in (same_row, bend_y, slope_y))
        reaching = same * bend_x[:, None] + bend * same_column[:, None] + 2 * slope * slope_x[:, None]
        entering = reaching.reshape(width, 3 * width)
        window[:-width, :-width] = window[width:, width:]
        window[-width:], window[:, -width:] = STIFFNESS * entering, STIFFNESS * entering.T
        window[-width:, -width:] += np.diag(weight[row])
        for first in range(0, width if row >= 2 else 0, PANEL):
            these = slice(first, min(first + PANEL, width))
            rest = slice(these.stop, these.stop + 2 * width)
            cells, others = _moved(these, (row - 2) * width), _moved(rest, (row - 2) * width)
            inverse = np.linalg.inv(window[these, these])
            onward.append(inverse @ window[these, rest])
            plate[cells] = inverse @ plate[cells]
            window[rest, rest] -= window[rest, these] @ onward[-1]
            plate[others] -= window[rest, these] @ plate[cells]
    stop = height * width
    while onward:
        further = onward.pop()
        plate[stop - len(further) : stop] -= further @ plate[stop : stop + 2 * width]
        stop -= len(further)
    return plate[: height * width].reshape(data.shape)


def _moved(side: slice, by: int) -> slice:
    return slice(side.start + by, side.stop + by)


def _energies(count: int, margin: int = 0) -> tuple[F64, F64]:
    """The quadratic forms of the first and of the second differences along `count` cells, with zeros all around."""
    slope, bend = np.diff(np.eye(count), axis=0), np.diff(np.eye(count), n=2, axis=0)
    return np.pad(np.einsum("ki,kj->ij", slope, slope), margin), np.pad(np.einsum("ki,kj->ij", bend, bend), margin)


def membrane(values: F32, weight: F32) -> F32:
    """The harmonic interpolation of values that are known to a degree: coarse to fine, a few relaxations at each size.

    `values`: H x W x 3, zero where the weight is. `weight`: H x W, 0..1.
    """
    height, width = weight.shape
    known = values * cv2.merge([weight] * 3)
    if max(height, width) <= 2:
        return np.broadcast_to(known.sum(axis=(0, 1)) / weight.sum(), values.shape).astype(np.float32)
    size = ((width + 1) // 2, (height + 1) // 2)
    share = resized(weight, size)
    coarse: F32 = resized(known, size) / cv2.merge([np.maximum(share, 1e-9)] * 3)
    result = resized(membrane(coarse, share), (width, height), cv2.INTER_LINEAR)
    trust = cv2.merge([weight / weight.max()] * 3)
    trusted, free = trust * values, 1 - trust
    for _ in range(RELAXATIONS):
        result *= free
        result += trusted
        result = np.asarray(cv2.filter2D(result, -1, NEIGHBOURS, borderType=cv2.BORDER_REPLICATE), np.float32)
    result *= free
    result += trusted
    return result


def resized(values: F32, size: tuple[int, int], how: int = cv2.INTER_AREA) -> F32:
    """The values at another size, width and height."""
    return np.asarray(cv2.resize(values, size, interpolation=how), np.float32)


def pooled(values: F32, step: int) -> F32:
    """The means over cells of `step` x `step` pixels; a cell that reaches beyond the edge repeats the pixels there."""
    height, width = values.shape[:2]
    size = (-(-width // step), -(-height // step))
    edges = (0, size[1] * step - height, 0, size[0] * step - width)
    whole = np.asarray(cv2.copyMakeBorder(values, *edges, cv2.BORDER_REPLICATE), np.float32) if any(edges) else values
    return resized(whole, size) if step > 1 else values
