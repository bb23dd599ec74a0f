"""How sure a mean, a difference between two systems and a win rate are; numpy only, the same numbers for the same seed.

Values go by picture. One that is not finite (a skipped pair, a judge that did not answer) says nothing: it is left out and counted, and
in a comparison its whole pair is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Values = Sequence[float] | F64

LEVEL = 0.95
RESAMPLES = 10_000
EXACT_UP_TO = 16
"""Pairs up to which all ways to flip their signs are counted, 2^16 at most."""
BLOCK = 1 << 20
"""Drawn numbers that are in memory at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A `mean` and the interval from `low` to `high`, of `count` values; `dropped` more were not finite.

    The mean is NaN without values, the interval's ends with fewer than two.
    """

    mean: float
    low: float
    high: float
    count: int
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference`: mean of the first system's value less the second's on the same picture.

    `p`: of the two-sided test that the two are alike; NaN without pairs. `exact`: whether all sign flips were counted, not a sample.
    """

    difference: Interval
    p: float
    exact: bool


@dataclass(frozen=True, slots=True)
class WinRate:
    """`rate`: wins and half of the ties by all, 0..1, with its interval; NaN without any."""

    rate: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    dropped: int = 0


def mean_interval(values: Values, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean with its BCa bootstrap interval (Efron 1987; Efron and Tibshirani 1993, eq. 14.9 to 14.15).

    Bias-corrected and accelerated, because most of these measures are skewed, near 0 or 1. Values that are all equal have an interval of
    no width. Raises ValueError for a level outside 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"an interval of level {level}, which is not within 0..1")
    kept, dropped = _finite(values)
    if kept.size < 2:
        return Interval(float(kept[0]) if kept.size else math.nan, math.nan, math.nan, kept.size, dropped)
    mean = float(kept.mean())
    if np.ptp(kept) == 0:
        return Interval(mean, mean, mean, kept.size, dropped)
    # Of their own size, since squares and cubes of tiny numbers are 0.
    deviations = (kept - mean) / np.ptp(kept)
    power = float((deviations**2).sum())
    rng = np.random.default_rng(seed)
    means = np.concatenate([kept[rng.integers(0, kept.size, (rows, kept.size))].mean(axis=1) for rows in _blocks(resamples, kept.size)])
    normal = NormalDist()
    below = (np.count_nonzero(means < mean) + np.count_nonzero(means == mean) / 2) / resamples
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples)))
    acceleration = float((deviations**3).sum()) / (6 * power**1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return Interval(mean, float(low), float(high), kept.size, dropped)


def compare(first: Values, second: Values, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Two systems on the same pictures, in the same order: the interval of the mean difference, and a paired test.

    The interval is that of `mean_interval` on the differences, so pictures are what is resampled. A pair in which either value is not
    finite is left out. Raises ValueError for lists of different lengths.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"values of shapes {one.shape} and {other.shape} are no pairs")
    kept = np.isfinite(one) & np.isfinite(other)
    differences = one[kept] - other[kept]
    interval = mean_interval(differences, level=level, resamples=resamples, seed=seed)
    p, exact = sign_flip(differences, resamples=resamples, seed=seed)
    return Comparison(Interval(interval.mean, interval.low, interval.high, interval.count, int((~kept).sum())), p, exact)


def sign_flip(differences: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, bool]:
    """Fisher's paired randomisation test: the two-sided p, and whether it is exact.

    If the systems were alike, every difference could as well have the other sign. p is the share of sign patterns whose |sum| is at least
    the one seen: of all 2^n for up to 16 differences, else of `resamples` drawn ones with the one seen among them, (b + 1) / (m + 1)
    (Phipson and Smyth 2010), which is never 0. Differences that are not finite are left out; p is NaN without any.
    """
    kept, _ = _finite(differences)
    if not kept.size:
        return math.nan, True
    seen = abs(float(kept.sum()))
    least = seen - 1e-12 * float(np.abs(kept).sum())  # sums that are equal but for rounding count as such
    if kept.size <= EXACT_UP_TO:
        sums = np.zeros(1)
        for value in kept:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= least).mean()), True
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(resamples, kept.size):
        signs = rng.integers(0, 2, (rows, kept.size), np.int8).astype(np.float64) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ kept) >= least))
    return (extreme + 1) / (resamples + 1), False


def win_rate(outcomes: Values, *, level: float = LEVEL) -> WinRate:
    """How often one system wins, from outcomes of 1 (win), 0.5 (tie) and 0 (loss); what is not finite is left out.

    The interval is Wilson's (1927) for wins and half of the ties; since a tie varies less than a win or a loss, it is rather too wide
    than too narrow with many ties. Raises ValueError for another outcome.
    """
    kept, dropped = _finite(outcomes)
    odd = kept[~np.isin(kept, (0, 0.5, 1))]
    if odd.size:
        raise ValueError(f"an outcome of {odd[0]:g}, which is not 0, 0.5 or 1")
    if not kept.size:
        return WinRate(math.nan, math.nan, math.nan, 0, 0, 0, dropped)
    count, rate = kept.size, float(kept.mean())
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    wins, ties, losses = (int((kept == outcome).sum()) for outcome in (1, 0.5, 0))
    return WinRate(rate, max(0.0, centre - half), min(1.0, centre + half), wins, ties, losses, dropped)


def _finite(values: Values) -> tuple[F64, int]:
    """The finite values, and how many are not."""
    given = np.asarray(values, np.float64)
    kept = given[np.isfinite(given)]
    return kept, given.size - kept.size


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """How many of `rows` rows to draw at a time, so that about `BLOCK` numbers are in memory."""
    most = max(1, BLOCK // columns)
    for start in range(0, rows, most):
        yield min(most, rows - start)
