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

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.surface import GRID, membrane, resized, thin_plate
from layerctl.engines.classic.translation import SEARCH, Box, Crop, Shift, cropped, grown, ring, shifted, shrunk, translations

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

WORK = 1024
GROUPS = 48
GRAIN_SEARCH = 96
POINTS = 1500
BAND = 16
SEAM_PIXELS = 2_000_000
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
    plate = _Plate(out, known, known.copy(), holes, thin_plate(colour, share))
    for number, box in enumerate(boxes, start=1):
        _fill_hole(plate, number, colour, share > 0, missing & (labels == number), box)
    return out


def _shrunk(rgb: U8, known: Bool, unknown: Bool) -> tuple[F32, F32, Bool]:
    """At working size: the mean colour of the known pixels of each cell, their share of the cell, and whether any is unknown."""
    height, width = known.shape
    scale = max(1.0, max(height, width) / WORK)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    share = resized(known.astype(np.float32), size)
    share[share < 1e-3] = 0
    colour = np.empty((size[1], size[0], 3), np.float32)
    for channel in range(3):
        summed = resized((rgb[..., channel] * known).astype(np.float32), size)
        colour[..., channel] = summed / np.maximum(share, 1e-3)
    missing = resized(unknown.astype(np.float32), size) > 0
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


def _fill_hole(plate: _Plate, number: int, colour: F32, known: Bool, missing: Bool, box: Box) -> None:
    across, down = plate.known.shape[1] / known.shape[1], plate.known.shape[0] / known.shape[0]
    rows = slice(int(box[0].start * down), int(np.ceil(box[0].stop * down)))
    columns = slice(int(box[1].start * across), int(np.ceil(box[1].stop * across)))
    full = grown((rows, columns), BAND, plate.known.shape)
    crop = cropped(colour, known, missing, box, (across, down))
    rough = 2 * int(np.ceil(max(crop.scale))) + 1
    todo = (plate.holes[full] == number) & ~plate.fixed[full]
    smooth_error = _surface_error(crop)
    textured = smooth_error is not None and smooth_error >= SMOOTH_ENOUGH
    exact: list[Shift] = []
    for shift in translations(shrunk(crop, SEARCH), TEXTURE_BONUS * smooth_error) if smooth_error is not None and textured else ():
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
    source, valid = shifted(plate.out, plate.known, box, shift)
    if (todo & valid).any():
        _paint(plate, box, todo & valid, (source, valid))
    return todo & ~valid


def _add_grain(plate: _Plate, box: Box, hole: Bool, crop: Crop) -> None:
    """Give a painted surface the fine grain of known pixels, if those around the hole have any."""
    strength = _grain(plate, box, hole)
    if max(strength) < GRAIN:
        return
    for shift in translations(shrunk(crop, GRAIN_SEARCH), np.inf):
        source, valid = shifted(plate.out, plate.known, box, shift)
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


def _surface_error(crop: Crop) -> float | None:
    """How far, in levels, a smooth surface through the other known cells is from the ring's; None when there is no ring."""
    around = ring(crop.hole, crop.known)
    others = crop.known & ~around
    if around.sum() < 8 or not others.any():
        return None
    guess = thin_plate(crop.colour, others.astype(np.float32), cells=GRID // 2)
    return _rms((crop.colour - resized(guess, (around.shape[1], around.shape[0]), cv2.INTER_CUBIC))[around])


def _rms(error: F32) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _sharpened(plate: _Plate, box: Box, hole: Bool, shift: Shift, rough: int) -> Shift:
    """The translation near `shift`, within `rough` pixels, that matches the hole's rim best at full size."""
    reach = 2 * rough + 1
    rim = (cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & plate.fixed[box]
    rows, columns = np.nonzero(rim)
    every = max(1, len(rows) // POINTS)
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


def _paint(plate: _Plate, box: Box, piece: Bool, moved: tuple[U8, Bool] | None, spare: float = 0) -> None:
    """Fill the piece of the box with base and membrane; the base is what was moved there, or the surface."""
    inner = grown(_bounds(piece), BAND, piece.shape)
    piece, fixed, target = piece[inner], plate.fixed[box][inner], plate.out[box][inner]
    where = tuple(slice(outer.start + side.start, outer.start + side.stop) for outer, side in zip(box, inner, strict=True))
    reach = 2 * int(np.clip(0.1 * np.sqrt(piece.sum()), 3, BAND)) + 1
    rim = (cv2.dilate(piece.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & fixed
    if moved is not None:
        rim &= moved[1][inner]
    base = _sampled(plate, (where[0], where[1])) if moved is None else moved[0][inner].astype(np.float32)
    if rim.any():
        base += _seam(target - base, rim)
        if moved is None:
            np.clip(base, *_limits(target[rim], spare), out=base)
    target[piece] = np.rint(np.clip(base, 0, 255)).astype(np.uint8)[piece]
    fixed |= piece


def _limits(rim: U8, spare: float) -> tuple[F32, F32]:
    """The range of colours at the rim and `spare` times as much on both sides: a surface may go on rising, but not for ever."""
    low, high = np.percentile(rim, (1, 99), axis=0).astype(np.float32)
    more = 3 + spare * (high - low)
    return low - more, high + more


def _sampled(plate: _Plate, box: Box) -> F32:
    """The surface at full size inside the box."""
    across, down = plate.surface.shape[1] / plate.known.shape[1], plate.surface.shape[0] / plate.known.shape[0]
    matrix = np.array([[across, 0, (box[1].start + 0.5) * across - 0.5], [0, down, (box[0].start + 0.5) * down - 0.5]])
    size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plate.surface, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _seam(missed: F32, rim: Bool) -> F32:
    """What the base misses at the rim, carried on into the hole.

    It is averaged over a pixel or two first, because grain would leave stains; above two million pixels it is made at a smaller size.
    """
    height, width = rim.shape
    shrink = max(1.0, (height * width / SEAM_PIXELS) ** 0.5)
    size = (round(width / shrink), round(height / shrink))
    share = resized(rim.astype(np.float32), size)
    total = resized(missed * cv2.merge([rim.astype(np.float32)] * 3), size)
    weight = np.maximum(cv2.GaussianBlur(share, (0, 0), 1), 1e-6)
    values = np.asarray(cv2.GaussianBlur(total, (0, 0), 1) / cv2.merge([weight] * 3), np.float32)
    return resized(membrane(values, share), (width, height), cv2.INTER_LINEAR)
