"""Which moved copy of the picture continues it inside a hole: the search over all translations, on a small crop around the hole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.surface import resized

F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Box = tuple[slice, slice]
Shift = tuple[int, int]
Value = TypeVar("Value", np.uint8, np.float32)

CROP = 320
SEARCH = 192
"""Cells a side of what is searched: translations are made exact at full size later."""
PIECES = 6
FORGIVEN = 0.7
"""The share of a difference in mean colour that the search leaves out of account, as the membrane takes it away."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A hole's surroundings at searching size. `scale`: full pixels per cell, across and down."""

    colour: F32
    known: Bool
    hole: Bool
    scale: tuple[float, float]


def cropped(colour: F32, known: Bool, missing: Bool, box: Box, scale: tuple[float, float]) -> Crop:
    """The hole in the box with as much around it as it is wide, 48 cells at least, shrunk to at most 320 cells."""
    reach = max(48, box[0].stop - box[0].start, box[1].stop - box[1].start)
    wide = grown(box, reach, known.shape)
    return shrunk(Crop(colour[wide], known[wide], missing[wide], scale), CROP)


def shrunk(crop: Crop, cells: int) -> Crop:
    """The crop on at most so many cells a side."""
    height, width = crop.known.shape
    shrink = max(height, width) / cells
    if shrink <= 1:
        return crop
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    known = crop.known.astype(np.float32)
    share = resized(known, size)
    mean = resized(crop.colour * cv2.merge([known] * 3), size) / cv2.merge([np.maximum(share, 1e-3)] * 3)
    hole = resized(crop.hole.astype(np.float32), size) > 0
    return Crop(mean, (share > 0.5) & ~hole, hole, (crop.scale[0] * width / size[0], crop.scale[1] * height / size[1]))


def translations(crop: Crop, limit: float) -> list[Shift]:
    """The moves, down and across in full pixels, of the pieces that fill the hole; up to the first that misses by more than `limit`."""
    colour, rest, known = crop.colour.copy(), crop.hole.copy(), crop.known.copy()
    matcher = _Matcher(crop)
    shifts: list[Shift] = []
    for _ in range(PIECES):
        around = ring(rest, known)
        found = matcher.best(colour, rest, around) if around.any() else None
        if found is None or found[1] > limit:
            break
        down, across = found[0]
        shifts.append((round(down * crop.scale[1]), round(across * crop.scale[0])))
        source, valid = shifted(colour, crop.known, np.s_[0 : rest.shape[0], 0 : rest.shape[1]], found[0])
        piece = rest & valid
        colour[piece] = source[piece]
        known |= piece
        rest &= ~piece
        if rest.sum() < 0.01 * crop.hole.sum():
            break
    return shifts


def ring(hole: Bool, known: Bool) -> Bool:
    """Known cells around the hole, in a band as wide as a quarter of the hole."""
    reach = _ring_reach(hole)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band: Bool = (cv2.dilate(hole.astype(np.uint8), kernel) > 0) & known & ~hole
    return band


def _ring_reach(hole: Bool) -> int:
    return int(np.clip(0.25 * np.sqrt(hole.sum()), 3, 12))


class _Matcher:
    """Compares a hole's surroundings with themselves under all translations at once, by Fourier transforms."""

    def __init__(self, crop: Crop) -> None:
        height, width = crop.hole.shape
        reach = _ring_reach(crop.hole)
        _, _, across, down = cv2.boundingRect(crop.hole.view(np.uint8))
        self.size = (height, width)
        self.shape = (cv2.getOptimalDFTSize(height + down // 2 + reach + 1), cv2.getOptimalDFTSize(width + across // 2 + reach + 1))
        self.mean = crop.colour[crop.known].mean(axis=0)
        centred = (crop.colour - self.mean) * crop.known[..., None]
        self.busy = np.square(centred - cv2.GaussianBlur(centred, (0, 0), 4)).mean(axis=2) * crop.known
        self.known = self._wave(crop.known)
        self.colours = [self._wave(centred[..., channel]) for channel in range(3)]
        self.squares = self._wave(np.square(centred).sum(axis=2))
        self.business = self._wave(self.busy)

    def best(self, colour: F32, hole: Bool, around: Bool) -> tuple[Shift, float] | None:
        """The translation, down and across, under which known cells match the ring best, and its error; None if none covers enough.

        The hole's middle stays inside of the crop, so that half the hole's size in padding keeps what wraps around off the sums.
        The error, in levels, is free of most of the difference in mean colour, and is raised where the cells to be copied are busier than
        the ring: they hold an object.
        """
        centred = (colour - self.mean) * around[..., None]
        ring_wave, hole_wave = self._wave(around), self._wave(hole)
        waves = [self._wave(centred[..., channel]) for channel in range(3)]
        count = np.maximum(self._summed(_matched(ring_wave, self.known)), 1)
        covered = np.maximum(self._summed(_matched(hole_wave, self.known)), 0)
        total = _matched(self._wave(np.square(centred).sum(axis=2)), self.known) + _matched(ring_wave, self.squares)
        for mine, theirs in zip(waves, self.colours, strict=True):
            total -= 2 * _matched(mine, theirs)
        error = self._summed(total)
        for mine, theirs in zip(waves, self.colours, strict=True):
            error -= FORGIVEN * np.square(self._summed(_matched(mine, self.known) - _matched(ring_wave, theirs))) / count
        error = np.maximum(error, 0) / (3 * count)
        busier = self._summed(_matched(hole_wave, self.business)) / np.maximum(covered, 1) - 1.5 * float(self.busy[around].mean())
        error += 0.5 * np.maximum(busier, 0)
        share = covered / hole.sum()
        usable = (count > 0.5 * around.sum()) & (share > 0.25)
        left, top, width, height = cv2.boundingRect(hole.view(np.uint8))
        inside = (self.size[0] - top - height // 2, self.size[1] - left - width // 2)
        usable[inside[0] : inside[0] + self.shape[0] - self.size[0]] = False
        usable[:, inside[1] : inside[1] + self.shape[1] - self.size[1]] = False
        if not usable.any():
            return None
        best = int(np.argmin(np.where(usable, (error + 1) * (2 - share) ** 2, np.inf)))
        down, across = best // self.shape[1], best % self.shape[1]
        move = (down - self.shape[0] * (down >= inside[0]), across - self.shape[1] * (across >= inside[1]))
        return move, float(np.sqrt(error.flat[best]))

    def _wave(self, values: npt.NDArray[Any]) -> F32:
        """The transform of the values and zeros to the right of and below them, packed by OpenCV into as many real numbers."""
        padded = np.zeros(self.shape, np.float32)
        padded[: self.size[0], : self.size[1]] = values
        return np.asarray(cv2.dft(padded, nonzeroRows=self.size[0]), np.float32)

    def _summed(self, wave: F32) -> F32:
        return np.asarray(cv2.dft(wave, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT), np.float32)


def _matched(mine: F32, theirs: F32) -> F32:
    """The wave of the sums, under each translation, of one picture times the other moved."""
    return np.asarray(cv2.mulSpectrums(theirs, mine, 0, conjB=True), np.float32)


def shifted(colour: npt.NDArray[Value], known: Bool, box: Box, shift: Shift) -> tuple[npt.NDArray[Value], Bool]:
    """What lies `shift` away from the box, in the box's shape, and where it is known."""
    valid: Bool = shifted_mask(known, box, shift)
    here, there = _overlap(known.shape, box, shift)
    source = np.zeros((valid.shape[0], valid.shape[1], 3), colour.dtype)
    source[here] = colour[there]
    return source, valid


def shifted_mask(known: Bool, box: Box, shift: Shift) -> Bool:
    """Where in the box what lies `shift` away is known."""
    rows, columns = box
    valid = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
    here, there = _overlap(known.shape, box, shift)
    valid[here] = known[there]
    return valid


def _overlap(limits: tuple[int, ...], box: Box, shift: Shift) -> tuple[Box, Box]:
    """The part of the box that has something `shift` away, as seen from the box's corner, and that something."""
    here, there = [], []
    for limit, side, move in zip(limits, box, shift, strict=False):
        start = min(max(0, side.start + move), limit)
        there.append(slice(start, max(start, min(side.stop + move, limit))))
        here.append(slice(there[-1].start - side.start - move, there[-1].stop - side.start - move))
    return (here[0], here[1]), (there[0], there[1])


def grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    """The box with a margin, inside of the shape."""
    rows, columns = (slice(max(0, side.start - margin), min(limit, side.stop + margin)) for side, limit in zip(box, shape, strict=False))
    return rows, columns
