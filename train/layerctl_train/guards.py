"""Points off a reward for faults in the pixels of an engine's raw stack, whatever a judge says of it; weights and thresholds are ours.

Four of them are `layerctl.measures`. The fifth, texture, is what policies that are trained on a judge's score are known to end in: a faint
regular pattern over everything, which no measure of quality asks for. It looks at the stack's own pixels, not at a reduced copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from layerctl import measures
from layerctl.layers import LayerStack, effective, on_canvas
from layerctl.source import SourceImage
from layerctl.view import View, view
from layerctl_train.training_settings import TrainingSettings

F32 = npt.NDArray[np.float32]

CERTAIN = 0.5
"""From here on a copy or a duplicate is one; true layers stay below .15."""
TELLING = 0.25
"""Points by which two candidates must differ for the guards to prefer one: rounding alone makes small differences."""
TILE = 32
"""Pixels a side of the squares whose spectra are looked at; half of it in pictures that hold fewer than four such squares."""
TILES_A_SIDE = 12
"""Larger pictures are looked at in places."""
PERIODS = 3.5
"""A pattern that repeats less often in a square, with a period over 9 pixels (4.5 in small pictures), is taken for drawing."""
FEWEST = 8
"""Squares that a layer covers by half: in fewer, an outline can pass for a pattern."""
COMMON = 0.6
"""The share of a layer's squares that may lack a pattern, which stands out in the others."""
SINGULAR = 0.95
"""A pattern that the source has in more than the rest of its squares is its own."""
STANDS_OUT = 3.0
"""How many times what is around it in the spectrum a peak is."""
ALLOWED = 8.0
"""How many times as strong as in the source a pattern of its own may be: a layer shows it without what mutes it."""
FAINT = 0.5
"""Levels of amplitude that are forgiven: rounding to 8 bits makes less."""
FULL = 8.0
"""Levels of amplitude that cost all of the points."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """Points off, 0 and more, by the names of `metrics.GUARDS`."""

    blank: float
    copy: float
    duplicate: float
    recomposition: float
    texture: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def penalties(source: SourceImage, stack: LayerStack, settings: TrainingSettings) -> Penalties:
    """The points that a raw stack loses; the source has the stack's size, and is taken as it is there."""
    seen = view(source, stack)
    blank = [measures.is_blank(alpha) for alpha in seen.alphas]
    shown = [k for k in range(len(blank)) if not blank[k]]
    alike = max((measures.likeness(seen, j, k) for j, k in combinations(shown, 2)), default=0.0)
    return Penalties(
        blank=settings.guard_blank * sum(blank),
        copy=settings.guard_copy * _certain(_largest_copy(seen, shown)),
        duplicate=settings.guard_duplicate * _certain(alike),
        recomposition=settings.guard_recomposition * measures.recomposition(seen),
        texture=settings.guard_texture * texture(source, stack),
    )


def disagreement(judge_G: Sequence[float], penalties_G: Sequence[float]) -> tuple[int, int]:
    """Of the pairs of a group that differ for the guards, how many the judge ranks the other way round, and how many there are.

    `judge_G`: scores, NaN where there is none: no pair. `penalties_G`: points off.
    """
    against = pairs = 0
    for one, other in combinations(range(len(judge_G)), 2):
        preferred, apart = judge_G[one] - judge_G[other], penalties_G[one] - penalties_G[other]
        if abs(apart) >= TELLING and not np.isnan(preferred):
            pairs += 1
            against += preferred * apart > 0
    return against, pairs


def texture(source: SourceImage, stack: LayerStack) -> float:
    """How strong a fine regular pattern is that the source does not have, 0..1: the worst of the layers and what they flatten to.

    Squares all over the picture are taken as they are or less the source, whichever leaves less, so that what is drawn does not hide it.
    A frequency that stands out from those around it in many of a layer's squares is a pattern.
    """
    size = TILE if min(stack.width, stack.height) >= 2 * TILE else TILE // 2
    if size > min(stack.width, stack.height):
        return 0.0
    pixels = source.pixels
    if pixels.shape[:2] != (stack.height, stack.width):
        pixels = np.asarray(cv2.resize(pixels, (stack.width, stack.height), interpolation=cv2.INTER_AREA), np.uint8)
    picture = _squares(pixels, size)
    own = _amplitudes(_premultiplied(picture, 1.0))
    often = _peaks(np.quantile(own, SINGULAR, axis=0))
    worst, flat = 0.0, np.zeros_like(picture)
    for layer, opacity in effective(stack.layers):
        unit = 255 / np.iinfo(layer.pixels.dtype).max
        shown = _premultiplied(_squares(on_canvas(layer, stack.width, stack.height), size) * np.float32(unit), opacity)
        flat = shown + flat * (1 - shown[:, 3:] / np.float32(255))
        worst = max(worst, _foreign(shown, picture, own, often))
    return min(1.0, max(worst, _foreign(flat, picture, own, often)) / FULL)


def _foreign(shown: F32, picture: F32, own: F32, often: F32) -> float:
    """Levels of the strongest pattern in squares (colours multiplied by alpha) that the source has neither there nor elsewhere."""
    covering = shown[:, 3].mean(axis=(1, 2)) >= 127.5
    if covering.sum() < FEWEST:
        return 0.0
    shown, picture, own = shown[covering], picture[covering], own[covering]
    rest = shown.copy()
    rest[:, :3] -= shown[:, 3:] / 255 * picture[:, :3]
    less = _energy(rest) < _energy(shown)
    found = _peaks(np.quantile(_amplitudes(np.where(less[:, None, None, None], rest, shown)), COMMON, axis=0))
    theirs = np.maximum(_peaks(np.quantile(own, COMMON, axis=0)), often)
    theirs = np.maximum.reduce([np.roll(theirs, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    return float(np.max(found - ALLOWED * theirs - FAINT, initial=0))


def _squares(pixels: npt.NDArray[np.generic], size: int) -> F32:
    """Squares of a picture H x W x 4, evenly spread, half over each other in small pictures: [N, 4, size, size]."""
    step = max(1, size // 2, -(-max(pixels.shape[:2]) // TILES_A_SIDE))
    views = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(0, 1))[::step, ::step]
    return np.ascontiguousarray(views.reshape(-1, 4, size, size), np.float32)


def _premultiplied(squares: F32, opacity: float) -> F32:
    alpha = squares[:, 3:] * np.float32(opacity)
    return np.concatenate([squares[:, :3] * (alpha / 255), alpha], axis=1)


def _energy(squares: F32) -> F32:
    return np.asarray(squares[:, :3].var(axis=(2, 3)).sum(axis=1), np.float32)


def _amplitudes(squares: F32) -> F32:
    """Amplitude in levels by frequency, over colours and alpha: [N, size, size], whole spectra of Hann-windowed squares."""
    size = squares.shape[-1]
    hann = np.hanning(size + 1)[:-1].astype(np.float32)
    window = hann[:, None] * hann
    spectra = np.fft.rfft2((squares - squares.mean(axis=(2, 3), keepdims=True)) * window)
    half = np.sqrt((np.abs(spectra) ** 2).sum(axis=1) / 3) * (2 / window.sum())
    mirrored = np.roll(half[:, ::-1], 1, axis=1)[..., (size - 1) // 2 : 0 : -1]
    return np.concatenate([half, mirrored], axis=2)


def _peaks(spectrum: F32) -> F32:
    """By how much each frequency stands out from those around it and from its neighbours along both axes, where edges lie."""
    size = len(spectrum)
    ring = [(y, x) for y in range(-3, 4) for x in range(-3, 4) if max(abs(y), abs(x)) > 1]
    around = np.median([np.roll(spectrum, by, (0, 1)) for by in ring], axis=0)
    lines = [np.sqrt(np.roll(spectrum, 2, axis) * np.roll(spectrum, -2, axis)) for axis in (0, 1)]
    found = np.maximum(spectrum - STANDS_OUT * np.maximum.reduce([around, *lines]), 0)
    periods = np.abs(np.fft.fftfreq(size, 1 / size))
    found[np.maximum.outer(periods, periods) < PERIODS] = 0
    return np.asarray(found, np.float32)


def _largest_copy(seen: View, shown: list[int]) -> float:
    """Of any layer; of the bottom one only beside others, since it alone is no copy of them."""
    candidates = [k for k in shown if k > 0 or len(shown) > 1]
    return max((measures.composite_copy(seen, k) for k in candidates), default=0.0)


def _certain(value: float) -> float:
    return value if value > CERTAIN else 0.0
