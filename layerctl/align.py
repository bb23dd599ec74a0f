"""How an engine's picture differs from the source as a whole: moved by a fraction of a pixel, its colours drifted, blurred."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SMALLEST = 32
"""Pixels of a side; smaller pictures do not tell a shift from what they show."""
LARGEST_SHIFT = 1.5
"""Pixels of the engine's picture; more is no resampling error but another picture."""
GAINS = (0.6, 1.6)
"""What the gain of a channel may be; outside of it the layers do not show the source."""
TRUSTED = (1.0, 0.99, 0.97, *[0.95] * 7)
"""Round by round the share of pixels, those that fit best, that the correction is fitted to."""
SETTLED = 0.01
"""Pixels of a shift between two rounds that end them."""
EDGES = 0.02
"""The most pixels, by share, that count as edges: those with the steepest gradients."""
CLEAR = 0.025
"""Gradient a pixel, of 1: what is less is no edge, unless there is nothing better."""
CALM = 1.0
"""Deviation, in pixels, by which both pictures are softened first: an engine is softer than the source, and noisy."""
BLURS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
STEADY, STEADY_PLACE = 2e-3, 1e-7
"""What each pixel counts for leaving colours, and place, as they are: a picture of few colours does not tell a drift of others."""


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What takes an engine's picture to the source at the same size.

    `shift`: (x, y) in pixels, to move it by. `colour`: 3 x 4, applied to (r, g, b, 1) in 0..1. `blur`: the deviation of the Gaussian, in
    pixels, that makes the source as soft as the engine's picture is.
    """

    shift: tuple[float, float]
    colour: F32
    blur: float

    def moved(self, plane: F32) -> F32:
        """A map of the engine's size, H x W or H x W x C, moved."""
        if self.shift == (0.0, 0.0):
            return plane
        matrix = np.array([[1, 0, self.shift[0]], [0, 1, self.shift[1]]], np.float32)
        size = (plane.shape[1], plane.shape[0])
        return np.asarray(cv2.warpAffine(plane, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)

    def coloured(self, rgb: F32) -> F32:
        """Colours 0..1, H x W x 3, without the drift."""
        return np.clip(rgb @ self.colour[:, :3].T + self.colour[:, 3], 0, 1, dtype=np.float32)


NONE = Correction((0.0, 0.0), np.eye(3, 4, dtype=np.float32), 0.0)


def find_correction(shown: F32, source: F32, seen: Mask) -> Correction:
    """The correction that makes `shown`, the flattened layers, most like `source`; both H x W x 3, 0..1. `seen`: the pixels that count.

    Least squares over the best-fitting pixels, colours and place together: source = M shown + c - shift · gradient. The gradient is the
    source's: in the engine's own its noise would make a shift look smaller than it is. `NONE` where the layers do not show the source.
    """
    found = NONE
    if min(shown.shape[:2]) < SMALLEST or np.count_nonzero(seen) < SMALLEST**2:
        return NONE
    target = _Target.of(_blurred(source, CALM), seen)
    calm = _blurred(shown, CALM)
    for share in TRUSTED:
        following = _improved(found, calm, target, share)
        if following is None:
            return NONE
        settled = max(abs(a - b) for a, b in zip(found.shift, following.shift, strict=True)) < SETTLED
        found = following
        if settled and share == TRUSTED[-1]:
            break
    mended = found.coloured(found.moved(shown))
    softened = [float(np.abs(_blurred(source, blur) - mended)[seen].mean()) for blur in BLURS]
    return Correction(found.shift, found.colour, BLURS[int(np.argmin(softened))])


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """What the engine's picture is to come to: colours and their gradients, H x W x 3, which pixels count, and which of them are edges."""

    picture: F32
    across: F32
    down: F32
    seen: Mask
    edges: Mask

    @classmethod
    def of(cls, picture: F32, seen: Mask) -> _Target:
        across, down = (np.asarray(cv2.Sobel(picture, cv2.CV_32F, *order, ksize=1) / 2, np.float32) for order in ((1, 0), (0, 1)))
        strength = np.maximum(np.abs(across), np.abs(down)).max(axis=2)
        steepest = strength[seen]
        edges = seen & (strength >= max(float(np.quantile(steepest, 1 - EDGES)), min(CLEAR, 0.5 * float(steepest.max()))))
        return cls(picture, across, down, seen, edges)


def _improved(found: Correction, shown: F32, target: _Target, share: float) -> Correction | None:
    moved = found.moved(shown)
    error = np.abs(target.picture - found.coloured(moved)).max(axis=2)
    # Edges tell the shift; they are few, fit last, and are judged among themselves.
    most = np.where(target.edges, np.quantile(error[target.edges], share), np.quantile(error[target.seen], share))
    trusted = target.seen & (error <= most)
    colours, picture, across, down = (values[trusted] for values in (moved, target.picture, target.across, target.down))
    ones = np.ones((len(colours), 1), np.float32)
    steps, weights, colour = [], [], np.empty((3, 4), np.float32)
    for channel in range(3):
        columns = np.hstack([colours, ones, across[:, channel : channel + 1], down[:, channel : channel + 1]])
        prior = np.zeros(6)
        prior[channel] = 1
        steady = len(colours) * np.array([STEADY] * 4 + [STEADY_PLACE] * 2)
        gram = columns.T.astype(np.float64) @ columns + np.diag(steady)
        solution = np.linalg.solve(gram, columns.T.astype(np.float64) @ picture[:, channel] + steady * prior)
        colour[channel] = solution[:4]
        steps.append(-solution[4:])
        weights.append(gram[4, 4] + gram[5, 5])
    step = np.average(steps, axis=0, weights=weights)
    shift = (found.shift[0] + float(step[0]), found.shift[1] + float(step[1]))
    gains = np.diag(colour[:, :3])
    if max(map(abs, shift)) > LARGEST_SHIFT or gains.min() < GAINS[0] or gains.max() > GAINS[1]:
        return None
    return Correction(shift, colour, 0.0)


def _blurred(picture: F32, deviation: float) -> F32:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), deviation), np.float32) if deviation else picture
