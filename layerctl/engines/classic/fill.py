"""Completing a plate: unknown pixels get colours that continue the known ones.

Every hole is filled as `base + membrane`. The base is one of two pictures, chosen by how well each predicts a ring of known pixels
around the hole:

* a thin-plate surface through the known colours of the whole picture (solid grounds, gradients, blur), with the fine grain of known pixels;
* the picture itself, moved by the translation that matches the ring best (patterns, texture); a hole that no single translation covers
  is filled piece by piece.

The membrane is the harmonic interpolation of what the base misses at the hole's rim, at full resolution, so that no seam shows; the
result is clamped to the colours seen around the hole. Translations are searched on at most 1024 px, in crops of at most 320 px around
each hole, and sharpened at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft, sparse
from scipy.sparse.linalg import splu

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Box = tuple[slice, slice]
Shift = tuple[int, int]
Value = TypeVar("Value", np.uint8, np.float32)

WORK = 1024
GRID = 80
CROP = 320
PIECES = 8
GROUPS = 48
BAND = 16
SEAM_PIXELS = 2_000_000
STIFFNESS = 0.05
RELAXATIONS = 6
NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
SMOOTH_ENOUGH = 2.5
"""Levels of error on the ring below which the surface is taken without a look at texture."""
GRAIN = 0.8
"""Levels of grain around the hole from which on a surface gets some."""
TEXTURE_BONUS = 1.6
"""A moved texture that is right in kind misses by 1.41 times what its own mean misses, and the eye still prefers it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plate:
    """The picture at full size. `out`: filled as work goes on; `known`: may be copied; `fixed`: known or filled; `holes`: 0 or number."""

    out: U8
    known: Bool
    fixed: Bool
    holes: npt.NDArray[np.uint16]
    surface: F32


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """A hole's surroundings at searching size. `scale`: full pixels per cell, across and down."""

    colour: F32
    known: Bool
    hole: Bool
    scale: tuple[float, float]


def complete(rgb: U8, unknown: Bool, *, avoid: Bool | None = None) -> U8:
    """The plate with its `unknown` pixels filled from the known ones; all others stay as they are.

    `rgb`: H x W x 3. `unknown`, `avoid`: H x W; pixels under `avoid` (other objects) are neither copied nor continued. Pixels that are
    mixed with an object should be part of `unknown`. A picture of which nothing is known gets its own mean colour. Deterministic.
    """
    out = rgb.copy()
    known = ~unknown if avoid is None else ~(unknown | avoid)
    if not unknown.any():
        return out
    if not known.any():
        out[unknown] = np.rint(rgb.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
        return out
    colour, share, missing = _shrunk(rgb, known, unknown)
    labels, boxes = _groups(missing)
    size = (unknown.shape[1], unknown.shape[0])
    holes = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST) * unknown, np.uint16)
    plate = _Plate(out, known, known.copy(), holes, _thin_plate(colour, share))
    for number, box in enumerate(boxes, start=1):
        _fill_hole(plate, number, colour, share > 0, missing & (labels == number), box)
    return out


def _shrunk(rgb: U8, known: Bool, unknown: Bool) -> tuple[F32, F32, Bool]:
    """At working size: the mean colour of the known pixels of each cell, their share of the cell, and whether any is unknown."""
    height, width = known.shape
    scale = max(1.0, max(height, width) / WORK)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    share = _resized(known.astype(np.float32), size)
    share[share < 1e-3] = 0
    colour = np.empty((size[1], size[0], 3), np.float32)
    for channel in range(3):
        summed = _resized((rgb[..., channel] * known).astype(np.float32), size)
        colour[..., channel] = summed / np.maximum(share, 1e-3)
    missing = _resized(unknown.astype(np.float32), size) > 0
    return colour, share, missing


def _groups(missing: Bool) -> tuple[npt.NDArray[np.uint16], list[Box]]:
    """Missing cells numbered from 1, those nearer than 8 cells together (the letters of a line), and the boxes.

    Cells further apart go together where there would be more than 48 numbers.
    """
    reach, count = 9, GROUPS + 2
    while count > GROUPS + 1:
        joined = cv2.dilate(missing.astype(np.uint8), np.ones((reach, reach), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8, ltype=cv2.CV_16U)
        reach = 2 * reach + 1
    boxes = [np.s_[top : top + height, left : left + width] for left, top, width, height, _ in stats[1:].tolist()]
    return np.asarray(labels, np.uint16), boxes


def _thin_plate(colour: F32, share: F32, cells: int = GRID) -> F32:
    """The smoothest surface near the known colours, on a grid of at most `cells`; it goes on straight where nothing is known."""
    height, width = share.shape
    shrink = max(1.0, max(height, width) / cells)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    part = _resized(share, size)
    mean_colour = _resized(colour * share[..., None], size) / np.maximum(part, 1e-6)[..., None]
    # The mean of a cell that is known in part lies off its centre: on a gradient it is wrong, so it counts little.
    weight = (part.astype(np.float64) ** 8 + 1e-9 * (part > 0)).reshape(-1, 1)
    data = weight * mean_colour.reshape(-1, 3)
    mean = data.sum(axis=0) / weight.sum()
    (slope_x, bend_x), (slope_y, bend_y) = _differences(size[0]), _differences(size[1])
    straight_x, straight_y = sparse.kron(sparse.identity(size[1]), bend_x), sparse.kron(bend_y, sparse.identity(size[0]))
    twist = sparse.kron(slope_y, slope_x)
    stiffness = straight_x.T @ straight_x + straight_y.T @ straight_y + 2 * (twist.T @ twist)
    solver = splu((sparse.diags(weight[:, 0] + 1e-9) + STIFFNESS * stiffness).tocsc())
    surface: F32 = (solver.solve(data - mean * weight) + mean).reshape(size[1], size[0], 3).astype(np.float32)
    return surface


def _differences(count: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """First and second differences along `count` cells, without rows where there are too few."""
    cells = sparse.identity(count, format="csr")
    return cells[1:] - cells[:-1], cells[2:] - 2 * cells[1:-1] + cells[:-2]


def _fill_hole(plate: _Plate, number: int, colour: F32, known: Bool, missing: Bool, box: Box) -> None:
    across, down = plate.known.shape[1] / known.shape[1], plate.known.shape[0] / known.shape[0]
    rows = slice(int(box[0].start * down), int(np.ceil(box[0].stop * down)))
    columns = slice(int(box[1].start * across), int(np.ceil(box[1].stop * across)))
    full = _grown((rows, columns), BAND, plate.known.shape)
    crop = _crop(colour, known, missing, box, (across, down))
    rough = 2 * int(np.ceil(max(crop.scale))) + 1
    todo = (plate.holes[full] == number) & ~plate.fixed[full]
    smooth_error = _surface_error(crop)
    textured = smooth_error is not None and smooth_error >= SMOOTH_ENOUGH
    exact: list[Shift] = []
    for shift in _translations(crop, TEXTURE_BONUS * smooth_error) if smooth_error is not None and textured else ():
        exact.append(_sharpened(plate, full, todo, shift, rough))
        todo = _copy(plate, full, todo, exact[-1])
    for shift in exact:
        todo = _copy(plate, full, todo, shift)
    if not todo.any():
        return
    _paint(plate, full, todo, None, spare=0.25 if smooth_error is None or textured else 2.0)
    if smooth_error is not None and not exact:
        _add_grain(plate, full, todo, crop)


def _copy(plate: _Plate, box: Box, todo: Bool, shift: Shift) -> Bool:
    """Paint what the translation covers of the hole; returns what it leaves."""
    source, valid = _shifted(plate.out, plate.known, box, shift)
    if (todo & valid).any():
        _paint(plate, box, todo & valid, (source, valid))
    return todo & ~valid


def _add_grain(plate: _Plate, box: Box, hole: Bool, crop: _Crop) -> None:
    """Give a painted surface the fine grain of known pixels, if those around the hole have any."""
    strength = _grain(plate, box, hole)
    if max(strength) < GRAIN:
        return
    for shift in _translations(crop, np.inf):
        source, valid = _shifted(plate.out, plate.known, box, shift)
        if not (hole & valid).any():
            continue
        inner = _bounds(hole & valid)
        piece = (hole & valid)[inner]
        for channel, limit in enumerate(strength):
            grain = np.clip(_fine(source[inner][..., channel], valid[inner])[piece], -3 * limit, 3 * limit)
            out = plate.out[box][inner][..., channel]
            out[piece] = np.clip(np.rint(out[piece] + grain), 0, 255).astype(np.uint8)
        hole &= ~valid


def _grain(plate: _Plate, box: Box, hole: Bool) -> list[float]:
    """The grain of each channel around the hole, in levels: how far a pixel is from the mean of the two beside it."""
    around = cv2.dilate(hole.astype(np.uint8), np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)) > 0
    known = plate.known[box]
    around[:, 1:-1] &= known[:, 1:-1] & known[:, :-2] & known[:, 2:]
    around[:, [0, -1]] = False
    rows, columns = np.nonzero(around)
    if not len(rows):
        return [0.0, 0.0, 0.0]
    every = max(1, len(rows) // 5000)
    rows, columns = rows[::every], columns[::every]
    pixels = plate.out[box]
    here, left, right = (pixels[rows, columns + step].astype(np.float32) for step in (0, -1, 1))
    rough: F32 = ((here - (left + right) / 2) * np.sqrt(2 / 3)).astype(np.float32)
    return [_rms(rough[:, channel]) for channel in range(3)]


def _fine(values: U8, known: Bool) -> F32:
    """The values less their mean over the known pixels nearby; 0 where nothing is known."""
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 2)
    mean = cv2.GaussianBlur((values * known).astype(np.float32), (0, 0), 2) / np.maximum(weight, 1e-6)
    return np.asarray((values - mean) * known, np.float32)


def _bounds(mask: Bool) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    rows, columns = (slice(max(0, side.start - margin), min(limit, side.stop + margin)) for side, limit in zip(box, shape, strict=False))
    return rows, columns


def _crop(colour: F32, known: Bool, missing: Bool, box: Box, scale: tuple[float, float]) -> _Crop:
    reach = max(48, box[0].stop - box[0].start, box[1].stop - box[1].start)
    wide = _grown(box, reach, known.shape)
    height, width = known[wide].shape
    shrink = max(1.0, max(height, width) / CROP)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    share = _resized(known[wide].astype(np.float32), size)
    mean = _resized(colour[wide] * known[wide][..., None], size) / np.maximum(share, 1e-3)[..., None]
    hole = _resized(missing[wide].astype(np.float32), size) > 0
    return _Crop(mean.astype(np.float32), (share > 0.5) & ~hole, hole, (scale[0] * width / size[0], scale[1] * height / size[1]))


def _surface_error(crop: _Crop) -> float | None:
    """How far, in levels, a smooth surface through the other known cells is from the ring's; None when there is no ring."""
    ring = _ring(crop.hole, crop.known)
    others = crop.known & ~ring
    if ring.sum() < 8 or not others.any():
        return None
    guess = _thin_plate(crop.colour, others.astype(np.float32), cells=GRID // 2)
    return _rms((crop.colour - _resized(guess, (ring.shape[1], ring.shape[0]), cv2.INTER_CUBIC))[ring])


def _translations(crop: _Crop, limit: float) -> list[Shift]:
    """The moves, down and across in full pixels, of the pieces that fill the hole; none when the first misses by more than `limit`."""
    colour, rest, known = crop.colour.copy(), crop.hole.copy(), crop.known.copy()
    matcher = _Matcher(crop)
    shifts: list[Shift] = []
    for _ in range(PIECES):
        ring = _ring(rest, known)
        found = matcher.best(colour, rest, ring) if ring.any() else None
        if found is None or (not shifts and found[1] > limit):
            break
        down, across = found[0]
        shifts.append((round(down * crop.scale[1]), round(across * crop.scale[0])))
        source, valid = _shifted(colour, crop.known, np.s_[0 : ring.shape[0], 0 : ring.shape[1]], found[0])
        piece = rest & valid
        colour[piece] = source[piece]
        known |= piece
        rest &= ~piece
        if rest.sum() < 0.01 * crop.hole.sum():
            break
    return shifts


def _ring(hole: Bool, known: Bool) -> Bool:
    """Known cells around the hole, in a band as wide as a quarter of the hole."""
    reach = _ring_reach(hole)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band: Bool = (cv2.dilate(hole.astype(np.uint8), kernel) > 0) & known & ~hole
    return band


def _ring_reach(hole: Bool) -> int:
    return int(np.clip(0.25 * np.sqrt(hole.sum()), 3, 12))


def _rms(error: F32) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


class _Matcher:
    """Compares a hole's surroundings with themselves under all translations at once, by Fourier transforms."""

    def __init__(self, crop: _Crop) -> None:
        height, width = crop.hole.shape
        reach = _ring_reach(crop.hole)
        rows, columns = np.nonzero(crop.hole)
        padding = (int(np.ptp(rows)) + 2 * reach + 1, int(np.ptp(columns)) + 2 * reach + 1)
        self.size = (height, width)
        self.shape = (fft.next_fast_len(height + padding[0], real=True), fft.next_fast_len(width + padding[1], real=True))
        self.mean = crop.colour[crop.known].mean(axis=0)
        centred = (crop.colour - self.mean) * crop.known[..., None]
        self.busy = np.square(centred - cv2.GaussianBlur(centred, (0, 0), 4)).mean(axis=2) * crop.known
        self.known = self._wave(crop.known)
        self.colours = [self._wave(centred[..., channel]) for channel in range(3)]
        self.squares = self._wave(np.square(centred).sum(axis=2))
        self.business = self._wave(self.busy)

    def best(self, colour: F32, hole: Bool, ring: Bool) -> tuple[Shift, float] | None:
        """The translation, down and across, under which known cells match the ring best, and its error; None if none covers enough.

        The error, in levels, is free of nine tenths of the difference in mean colour, which the membrane takes away, and is raised where
        the cells to be copied are busier than the ring: they hold an object.
        """
        centred = (colour - self.mean) * ring[..., None]
        ring_wave, hole_wave = self._wave(ring), self._wave(hole)
        waves = [self._wave(centred[..., channel]) for channel in range(3)]
        count = np.maximum(self._summed(ring_wave.conj() * self.known), 1)
        covered = np.maximum(self._summed(hole_wave.conj() * self.known), 0)
        total = self._wave(np.square(centred).sum(axis=2)).conj() * self.known + ring_wave.conj() * self.squares
        for mine, theirs in zip(waves, self.colours, strict=True):
            total -= 2 * mine.conj() * theirs
        error = self._summed(total)
        for mine, theirs in zip(waves, self.colours, strict=True):
            error -= 0.9 * np.square(self._summed(mine.conj() * self.known - ring_wave.conj() * theirs)) / count
        error = np.maximum(error, 0) / (3 * count)
        busier = self._summed(hole_wave.conj() * self.business) / np.maximum(covered, 1) - 1.5 * float(self.busy[ring].mean())
        error += 0.5 * np.maximum(busier, 0)
        share = covered / hole.sum()
        usable = (count > 0.5 * ring.sum()) & (share > 0.25)
        if not usable.any():
            return None
        best = int(np.argmin(np.where(usable, (error + 1) * (2 - share), np.inf)))
        down, across = best // self.shape[1], best % self.shape[1]
        move = (down - self.shape[0] * (down >= self.size[0]), across - self.shape[1] * (across >= self.size[1]))
        return move, float(np.sqrt(error.flat[best]))

    def _wave(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.complex64]:
        wave: npt.NDArray[np.complex64] = fft.rfft2(values.astype(np.float32), self.shape)
        return wave

    def _summed(self, wave: npt.NDArray[np.complex64]) -> F32:
        summed: F32 = fft.irfft2(wave, self.shape)
        return summed


def _sharpened(plate: _Plate, box: Box, hole: Bool, shift: Shift, rough: int) -> Shift:
    """The translation near `shift`, within `rough` pixels, that matches the hole's rim best at full size."""
    reach = 2 * rough + 1
    rim = (cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & plate.fixed[box]
    rows, columns = np.nonzero(rim)
    every = max(1, len(rows) // 3000)
    rows, columns = rows[::every] + box[0].start, columns[::every] + box[1].start
    if not len(rows):
        return shift
    wanted = plate.out[rows, columns].astype(np.float32)
    height, width = plate.known.shape
    best, least, step = shift, np.inf, max(1, rough // 2)
    while step:
        centre = best
        for down in (-step, 0, step):
            for across in (-step, 0, step):
                move = (centre[0] + down, centre[1] + across)
                y, x = rows + move[0], columns + move[1]
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                inside[inside] = plate.known[y[inside], x[inside]]
                if 2 * inside.sum() < len(rows):
                    continue
                error = wanted[inside] - plate.out[y[inside], x[inside]]
                cost = float(np.mean(np.square(error - 0.9 * error.mean(axis=0))))
                if cost < least:
                    best, least = move, cost
        step //= 2
    return best


def _shifted(colour: npt.NDArray[Value], known: Bool, box: Box, shift: Shift) -> tuple[npt.NDArray[Value], Bool]:
    """What lies `shift` away from the box, in the box's shape, and where it is known."""
    rows, columns = (slice(side.start + move, side.stop + move) for side, move in zip(box, shift, strict=True))
    height, width = known.shape
    source = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 3), colour.dtype)
    valid = np.zeros(source.shape[:2], np.bool_)
    top, bottom, left, right = max(rows.start, 0), min(rows.stop, height), max(columns.start, 0), min(columns.stop, width)
    if top < bottom and left < right:
        here = np.s_[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
        source[here], valid[here] = colour[top:bottom, left:right], known[top:bottom, left:right]
    return source, valid


def _paint(plate: _Plate, box: Box, piece: Bool, moved: tuple[U8, Bool] | None, spare: float = 0) -> None:
    """Fill the piece of the box with base and membrane; the base is what was moved there, or the surface."""
    inner = _grown(_bounds(piece), BAND, piece.shape)
    piece, fixed, target = piece[inner], plate.fixed[box][inner], plate.out[box][inner]
    where = tuple(slice(outer.start + side.start, outer.start + side.stop) for outer, side in zip(box, inner, strict=True))
    reach = 2 * int(np.clip(0.1 * np.sqrt(piece.sum()), 3, BAND)) + 1
    rim = (cv2.dilate(piece.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & fixed
    if moved is not None:
        rim &= moved[1][inner]
    for channel in range(3):
        out = target[..., channel]
        base = _sampled(plate, (where[0], where[1]), channel) if moved is None else moved[0][inner][..., channel].astype(np.float32)
        filled = base + _seam(out - base, rim) if rim.any() else base
        low, high = (0.0, 255.0) if moved is not None or not rim.any() else _limits(out[rim], spare)
        out[piece] = np.rint(np.clip(filled[piece], low, high)).astype(np.uint8)
    fixed |= piece


def _limits(rim: U8, spare: float) -> tuple[float, float]:
    """The range of colours at the rim and `spare` times as much on both sides: a surface may go on rising, but not for ever."""
    low, high = np.percentile(rim, (1, 99))
    more = 3 + spare * (high - low)
    return max(0.0, float(low - more)), min(255.0, float(high + more))


def _sampled(plate: _Plate, box: Box, channel: int) -> F32:
    """The surface at full size inside the box."""
    surface = np.ascontiguousarray(plate.surface[..., channel])
    across, down = surface.shape[1] / plate.known.shape[1], surface.shape[0] / plate.known.shape[0]
    matrix = np.array([[across, 0, (box[1].start + 0.5) * across - 0.5], [0, down, (box[0].start + 0.5) * down - 0.5]])
    size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(surface, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _seam(missed: F32, rim: Bool) -> F32:
    """What the base misses at the rim, carried on into the hole.

    It is averaged over a pixel or two first, because grain would leave stains; above two million pixels it is made at a smaller size.
    """
    height, width = rim.shape
    shrink = max(1.0, (height * width / SEAM_PIXELS) ** 0.5)
    size = (round(width / shrink), round(height / shrink))
    share = _resized(rim.astype(np.float32), size)
    total = _resized(missed * rim, size)
    weight = np.maximum(cv2.GaussianBlur(share, (0, 0), 1), 1e-6)
    values = np.asarray(cv2.GaussianBlur(total, (0, 0), 1) / weight, np.float32)
    return _resized(_membrane(values, share), (width, height), cv2.INTER_LINEAR)


def _membrane(values: F32, weight: F32) -> F32:
    """The harmonic interpolation of values that are known to a degree, `weight` 0..1: coarse to fine, a few relaxations at each size."""
    height, width = weight.shape
    known = values * weight
    if max(height, width) <= 2:
        return np.full_like(values, known.sum() / weight.sum())
    size = ((width + 1) // 2, (height + 1) // 2)
    share = _resized(weight, size)
    coarse: F32 = (_resized(known, size) / np.maximum(share, 1e-9)).astype(np.float32)
    result = _resized(_membrane(coarse, share), (width, height), cv2.INTER_LINEAR)
    trust = weight / weight.max()
    for _ in range(RELAXATIONS):
        result += trust * (values - result)
        result = np.asarray(cv2.filter2D(result, -1, NEIGHBOURS, borderType=cv2.BORDER_REPLICATE), np.float32)
    result += trust * (values - result)
    return result


def _resized(values: F32, size: tuple[int, int], how: int = cv2.INTER_AREA) -> F32:
    return np.asarray(cv2.resize(values, size, interpolation=how), np.float32)
