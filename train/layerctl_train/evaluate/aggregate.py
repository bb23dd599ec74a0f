"""What the numbers of all pictures say together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from layerctl_train.evaluate import statistics
from layerctl_train.evaluate.results import METRICS, Difference, Evaluation, LayerRow, Mean, PictureResult, Summary, SystemRecord


def summarize(evaluation: Evaluation) -> Summary:
    """Means of every system, and the first one against each other; with samplers, each only against those with its own."""
    names = [system.name for system in evaluation.systems]
    pictures = evaluation.pictures
    means = {
        name: {metric: mean for metric in METRICS if (mean := _mean(_values(pictures, at, metric))) is not None}
        for at, name in enumerate(names)
    }
    return Summary(
        means,
        tuple(
            difference
            for first, other in pairs(evaluation.systems)
            for metric in METRICS
            if (difference := _difference(evaluation, metric, first, other)) is not None
        ),
        tuple(_row(pictures, count, len(names)) for count in sorted({one.true_layers for one in pictures if one.true_layers is not None})),
        {name: skipped for at, name in enumerate(names) if (skipped := _skipped(pictures, at))[0]},
        {name: failed for at, name in enumerate(names) if (failed := sum(1 for one in pictures if one.scores[at].failed))},
        {
            names[other]: Mean(rate.rate, rate.low, rate.high, rate.wins + rate.ties + rate.losses)
            for other in range(1, len(names))
            if (rate := statistics.win_rate(_won(pictures, other))).wins + rate.ties + rate.losses
        },
    )


def pairs(systems: Sequence[SystemRecord]) -> list[tuple[int, int]]:
    """The first system with every other, by their places; where several presets are compared, the first of each with its others.

    One system with several presets is compared with itself: there only the preset differs.
    """
    presets = [system.settings.get("preset") for system in systems]
    firsts = [0 if None in (presets[0], preset) else presets.index(preset) for preset in presets]
    found = [(first, other) for other, first in enumerate(firsts) if first != other]
    return found or [(0, other) for other in range(1, len(systems))]


def _values(pictures: Iterable[PictureResult], at: int, metric: str) -> list[float]:
    return [one.scores[at].values.get(metric, math.nan) for one in pictures]


def _mean(values: Sequence[float]) -> Mean | None:
    interval = statistics.mean_interval(values)
    return Mean(interval.mean, interval.low, interval.high, interval.count) if interval.count else None


def _difference(evaluation: Evaluation, metric: str, first: int, other: int) -> Difference | None:
    ours, theirs = (_values(evaluation.pictures, at, metric) for at in (first, other))
    compared = statistics.compare(ours, theirs)
    if not compared.difference.count:
        return None
    sign = 1 if METRICS[metric].better == "higher" else -1
    gains = [sign * (one - two) for one, two in zip(ours, theirs, strict=True) if math.isfinite(one - two)]
    interval = compared.difference
    names = evaluation.systems[first].name, evaluation.systems[other].name
    wins, ties = sum(gain > 0 for gain in gains), sum(gain == 0 for gain in gains)
    return Difference(metric, *names, interval.mean, interval.low, interval.high, compared.p, wins, ties, len(gains) - wins - ties)


def _row(pictures: Sequence[PictureResult], count: int, systems: int) -> LayerRow:
    """Means by index over the pictures of so many layers that all systems have a prediction of."""
    chosen = [one for one in pictures if one.true_layers == count and not any(scores.failed for scores in one.scores)]

    def means(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
        return tuple(math.fsum(column) / len(column) for column in zip(*values, strict=True))

    return LayerRow(
        count,
        len(chosen),
        tuple(means([one.scores[at].per_index for one in chosen]) for at in range(systems)),
        tuple(means([one.scores[at].per_index_white for one in chosen]) for at in range(systems)),
    )


def _skipped(pictures: Iterable[PictureResult], at: int) -> tuple[int, str]:
    reasons = Counter(one.scores[at].no_layerd for one in pictures if one.scores[at].no_layerd)
    return reasons.total(), reasons.most_common(1)[0][0] if reasons else ""


def _won(pictures: Iterable[PictureResult], other: int) -> list[float]:
    return [math.nan if not one.won or (won := one.won[other - 1]) is None else won for one in pictures]
