"""Completing a plate: unknown pixels get colours that continue the known ones.

Every hole is filled as `base + membrane`. The base is one of two pictures, chosen by how well each predicts a ring of known pixels
around the hole:

* a thin-plate surface through the known colours of the whole picture (solid grounds, gradients, blur), with the fine grain of known pixels;
* the picture itself, moved by the translation that matches the ring best (patterns, texture); a hole that no single translation covers
  is filled piece by piece.

The membrane is the harmonic interpolation of what the base misses at the hole's rim, so that no seam shows; over a large hole its cells
are several pixels wide. A surface is clamped to the colours seen around the hole. Translations are searched on cells of the picture, in
crops of at most 192 cells around each hole, and sharpened at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.surface import membrane, pooled, resized, thin_plate
from layerctl.engines.classic.translation import SEARCH, Box, Crop, Shift, cropped, grown, ring, shifted, shifted_mask, shrunk, translations

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

WORK = 1024
"""Cells along the picture's longer side, within a half: a cell is a whole number of pixels wide."""
GROUPS = 48
BAND = 16
PROBE = 24
POINTS = 1500
"""Pixels of the rim that decide on a translation at full size."""
SEAM_PIXELS = 260_000
STRIP_PIXELS = 300_000
SLIVERS = 0.005
"""The share of a hole that may be left between moved pieces for the surface."""
SMOOTH_ENOUGH = 2.5
"""Levels of error on the ring below which the surface is taken without a look at texture."""
GRAIN = 0.8
"""Levels of grain around the hole from which on a surface gets some."""
TEXTURE_BONUS = 1.2
"""A moved texture that is right in kind misses by 1.41 times what its own mean misses, less on cells, and the eye still prefers it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plate:
    """The picture at full size. `out`: filled as work goes on; `known`: may be copied; `fixed`: known or filled; `step`: pixels a cell."""

    out: U8
    unknown: Bool
    known: Bool
    fixed: Bool
    surface: F32
    step: int


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
    step = max(1, round(max(known.shape) / WORK))
    colour, share, missing = _shrunk(rgb, known, unknown, step)
    labels, boxes = _groups(missing)
    plate = _Plate(out, unknown, known, known.copy(), thin_plate(colour, share), step)
    for number, box in enumerate(boxes, start=1):
        _fill_hole(plate, colour, share > 0, missing & (labels == number), box)
    return out


def _shrunk(rgb: U8, known: Bool, unknown: Bool, step: int) -> tuple[F32, F32, Bool]:
    """Of each cell: the mean colour of the known pixels, their share, and whether any is unknown."""
    strips = _strips(known.shape, step)
    share = np.concatenate([pooled(known[strip].astype(np.float32), step) for strip in strips])
    missing = np.concatenate([pooled(unknown[strip].astype(np.float32), step) for strip in strips]) > 0
    seen = (rgb[strip] * cv2.merge([known[strip].view(np.uint8)] * 3) for strip in strips)
    colour = np.concatenate([pooled(pixels.astype(np.float32), step) for pixels in seen]) / cv2.merge([np.maximum(share, 1e-3)] * 3)
    share[share < 1e-3] = 0
    return colour, share, missing


def _strips(shape: tuple[int, ...], step: int) -> list[Box]:
    """The shape cut into strips of whole cells of some 300 000 pixels, so that what is made of one at a time stays small."""
    height, width = shape[:2]
    rows = max(1, STRIP_PIXELS // (width * step)) * step
    return [(slice(top, min(top + rows, height)), slice(0, width)) for top in range(0, height, rows)]


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


def _fill_hole(plate: _Plate, colour: F32, known: Bool, missing: Bool, box: Box) -> None:
    step = plate.step
    rows, columns = (slice(side.start * step, side.stop * step) for side in box)
    full = grown((rows, columns), BAND, plate.known.shape)
    cells = missing[box].astype(np.uint8)
    inside = cv2.resize(cells, (cells.shape[1] * step, cells.shape[0] * step), interpolation=cv2.INTER_NEAREST)
    edges = (rows.start - full[0].start, BAND, columns.start - full[1].start, BAND)
    inside = cv2.copyMakeBorder(inside, *edges, cv2.BORDER_CONSTANT)[: full[0].stop - full[0].start, : full[1].stop - full[1].start]
    todo = (inside > 0) & plate.unknown[full]
    area = np.count_nonzero(todo)
    crop = cropped(colour, known, missing, box, (step, step))
    smooth_error = _surface_error(crop)
    textured = smooth_error is not None and smooth_error >= SMOOTH_ENOUGH
    exact: list[Shift] = []
    if textured and smooth_error is not None:
        small = shrunk(crop, SEARCH)
        rough = int(np.ceil(max(small.scale))) + 1
        for shift in translations(small, TEXTURE_BONUS * smooth_error):
            exact.append(_sharpened(plate, full, todo, shift, rough))
            _copy(plate, full, todo, exact[-1])
        for shift in exact:
            if np.count_nonzero(todo) > SLIVERS * area:
                _copy(plate, full, todo, shift)
    if not todo.any():
        return
    _paint(plate, full, todo, plate.fixed[full], None, spare=0.25 if smooth_error is None or textured else 2.0)
    if smooth_error is not None and not exact:
        _add_grain(plate, full, todo, crop)


def _copy(plate: _Plate, box: Box, todo: Bool, shift: Shift) -> None:
    """Paint what the translation covers of the hole, and take it off what is to do."""
    if not todo.any():
        return
    inner = grown(_bounds(todo), BAND, todo.shape)
    valid = shifted_mask(plate.known, _within(box, inner), shift)
    piece = todo[inner] & valid
    if piece.any():
        _paint(plate, _within(box, inner), piece, valid, shift)
    todo[inner] &= ~valid


def _within(box: Box, inner: Box) -> Box:
    rows, columns = (slice(outer.start + side.start, outer.start + side.stop) for outer, side in zip(box, inner, strict=True))
    return rows, columns


def _add_grain(plate: _Plate, box: Box, hole: Bool, crop: Crop) -> None:
    """Give a painted surface the fine grain of known pixels, if those around the hole have any."""
    strength = _grain(plate, box, hole)
    if max(strength) < GRAIN:
        return
    for shift in translations(shrunk(crop, SEARCH), np.inf):
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
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _surface_error(crop: Crop) -> float | None:
    """How far, in levels, a smooth surface through the other known cells is from the ring's; None when there is no ring."""
    around = ring(crop.hole, crop.known)
    others = crop.known & ~around
    if around.sum() < 8 or not others.any():
        return None
    guess = thin_plate(crop.colour, others.astype(np.float32), cells=PROBE)
    return _rms((crop.colour - resized(guess, (around.shape[1], around.shape[0]), cv2.INTER_CUBIC))[around])


def _rms(error: F32) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _sharpened(plate: _Plate, box: Box, hole: Bool, shift: Shift, rough: int) -> Shift:
    """The translation near `shift`, within `rough` pixels, that matches the hole's rim best at full size."""
    every = int(np.ceil(np.sqrt(hole.size / SEAM_PIXELS)))
    reach = 2 * (rough // every) + 3
    near = cv2.dilate(hole[::every, ::every].astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    rows, columns = np.nonzero(near)
    order = np.arange(len(rows))
    # Off the grid by all amounts: points on a grid cannot tell translations within its step from each other in a pattern of its period.
    rows, columns = np.minimum(rows * every + order % every, len(hole) - 1), columns * every + order // every % every
    rows, columns = rows + box[0].start, np.minimum(columns, hole.shape[1] - 1) + box[1].start
    some = np.flatnonzero(plate.fixed[rows, columns])
    some = some[:: max(1, len(some) // POINTS)]
    rows, columns = rows[some], columns[some]
    if not len(rows):
        return shift
    height, width = plate.known.shape
    pixels, known = plate.out.reshape(-1, 3), plate.known.ravel()
    wanted = pixels[rows * width + columns].astype(np.float32)
    best, least, step = shift, np.inf, max(1, rough // 2)
    while step:
        centre = best
        for down in (-step, 0, step):
            for across in (-step, 0, step):
                move = (centre[0] + down, centre[1] + across)
                y, x = rows + move[0], columns + move[1]
                inside = np.flatnonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))
                there = y[inside] * width + x[inside]
                seen = known[there]
                there, inside = there[seen], inside[seen]
                if 2 * len(inside) < len(rows):
                    continue
                error = wanted[inside] - pixels[there]
                cost = float(np.square(error).mean() - 0.99 * np.square(error.mean(axis=0)).mean())
                if cost < least:
                    best, least = move, cost
        step //= 2
    return best


def _paint(plate: _Plate, box: Box, piece: Bool, near: Bool, shift: Shift | None, spare: float = 0) -> None:
    """Fill the piece of the box with base and membrane: the base is what lies `shift` away, or the surface; it misses what is `near`."""
    inner = grown(_bounds(piece), BAND, piece.shape)
    where = _within(box, inner)
    piece, fixed, target = piece[inner], plate.fixed[where], plate.out[where]
    reach = 2 * int(np.clip(0.1 * np.sqrt(np.count_nonzero(piece)), 3, BAND)) + 1
    rim = (cv2.dilate(piece.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & near[inner] & fixed
    step = int(np.ceil(np.sqrt(piece.size / SEAM_PIXELS)))
    strips = _strips(piece.shape, step)
    seam, limits = None, None
    if rim.any():
        missed = [pooled(_missed(plate, _within(where, strip), rim[strip], shift), step) for strip in strips]
        seam = _seam(np.concatenate(missed), np.concatenate([pooled(rim[strip].astype(np.float32), step) for strip in strips]))
        limits = _limits(target[rim], spare) if shift is None else None
    for strip in strips:
        if piece[strip].any():
            base = _base(plate, _within(where, strip), shift)
            filled = base if seam is None else cv2.add(base, _enlarged(seam, strip, step), dtype=cv2.CV_32F)
            filled = filled if limits is None else np.clip(filled, *limits)
            cv2.copyTo(cv2.add(filled, 0, dtype=cv2.CV_8U), piece[strip].view(np.uint8), target[strip])
    fixed |= piece


def _missed(plate: _Plate, box: Box, rim: Bool, shift: Shift | None) -> F32:
    """What the base misses at the rim; 0 elsewhere."""
    if not rim.any():
        return np.zeros((*rim.shape, 3), np.float32)
    return np.asarray(cv2.subtract(plate.out[box], _base(plate, box, shift), mask=rim.view(np.uint8), dtype=cv2.CV_32F), np.float32)


def _base(plate: _Plate, box: Box, shift: Shift | None) -> U8 | F32:
    return _sampled(plate, box) if shift is None else shifted(plate.out, plate.known, box, shift)[0]


def _limits(rim: U8, spare: float) -> tuple[F32, F32]:
    """The range of colours at the rim and `spare` times as much on both sides: a surface may go on rising, but not for ever."""
    low, high = np.percentile(rim, (1, 99), axis=0).astype(np.float32)
    more = 3 + spare * (high - low)
    return low - more, high + more


def _sampled(plate: _Plate, box: Box) -> F32:
    """The surface at full size inside the box."""
    height, width = (-(-length // plate.step) * plate.step for length in plate.known.shape)
    across, down = plate.surface.shape[1] / width, plate.surface.shape[0] / height
    matrix = np.array([[across, 0, (box[1].start + 0.5) * across - 0.5], [0, down, (box[0].start + 0.5) * down - 0.5]])
    size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plate.surface, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _seam(total: F32, share: F32) -> F32:
    """What the base misses at the rim, carried on into the hole; it is averaged over a cell or two first: grain would leave stains."""
    weight = np.maximum(cv2.GaussianBlur(share, (0, 0), 1), 1e-6)
    values = np.asarray(cv2.GaussianBlur(total, (0, 0), 1) / cv2.merge([weight] * 3), np.float32)
    return membrane(values, share)


def _enlarged(seam: F32, strip: Box, step: int) -> F32:
    """The strip of the seam, of which a cell is `step` pixels, at full size."""
    rows, columns = strip
    if step == 1:
        return seam[rows]
    top, bottom = max(0, rows.start // step - 1), min(len(seam), -(-rows.stop // step) + 1)
    large = resized(seam[top:bottom], (seam.shape[1] * step, (bottom - top) * step), cv2.INTER_LINEAR)
    return large[rows.start - top * step : rows.stop - top * step, columns]
