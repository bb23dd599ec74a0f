"""What an evaluation says in words: which system is better, how sure that is, and which pictures show it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from layerctl_train.evaluate.results import METRICS, Difference, Evaluation, Mean, Summary

Verdict = Literal["better", "worse", "not clear"]

MAIN = ("layerd_rgb_l1_0", "quality")
"""What systems are ranked by: the first of these that is known, else the first metric that is."""
COMPARED = (
    "layerd_rgb_l1_0",
    "layerd_alpha_iou_0",
    "l1_premultiplied",
    "blank_rate",
    "duplicate_rate",
    "copy_rate",
    "recomposition",
    "quality",
    "judge",
)
"""One metric for each thing that is measured."""
NAMES = {"layerd_rgb_l1_0": "LayerD's RGB L1", "layerd_alpha_iou_0": "LayerD's alpha soft IoU"}
"""Of metrics whose label says too little outside of a table."""
SURE = 0.05
SHOWN = 10
"""Pictures in a gallery, at most."""


@dataclass(frozen=True, slots=True)
class Headline:
    """`besides`: what the other metrics say, "" for nothing."""

    sentence: str
    besides: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    title: str
    lead: str
    keys: tuple[str, ...]


def main_metric(summary: Summary) -> str | None:
    """None where nothing is known of any system."""
    known = {metric for means in summary.means.values() for metric, mean in means.items() if is_known(mean)}
    return next((metric for metric in (*MAIN, *METRICS) if metric in known), None)


def is_known(mean: Mean | None) -> bool:
    return mean is not None and mean.count > 0 and math.isfinite(mean.value)


def number(metric: str, value: float, *, signed: bool = False) -> str:
    """As reports show it: L1 and IoU with four places like the literature, the judge's with two, all others with three."""
    if not math.isfinite(value):
        return "–"
    places = 2 if metric == "judge" else 4 if metric.startswith(("layerd_", "l1_")) or metric == "recomposition" else 3
    text = f"{value:{'+' if signed else ''}.{places}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def p_value(p: float) -> str:
    return "–" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(difference: Difference) -> Verdict:
    """Clear is what the interval and the test agree on."""
    ends = (difference.low, difference.high)
    if not (difference.p < SURE and (min(ends) > 0 or max(ends) < 0)):
        return "not clear"
    return "better" if (difference.value > 0) == (METRICS[difference.metric].better == "higher") else "worse"


def paired(evaluation: Evaluation, metric: str, first: str, other: str) -> list[tuple[str, float, float]]:
    """Key and both values of every picture that both systems have a value for."""
    names = [system.name for system in evaluation.systems]
    one, two = names.index(first), names.index(other)
    both = [
        (picture.key, picture.scores[one].values.get(metric), picture.scores[two].values.get(metric)) for picture in evaluation.pictures
    ]
    return [(key, a, b) for key, a, b in both if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]


def headlines(evaluation: Evaluation, summary: Summary) -> tuple[Headline, ...]:
    """One for every comparison, by the main metric; one for every system where nothing is compared."""
    metric = main_metric(summary)
    if metric is None:
        return (Headline("Nothing could be measured."),)
    differences = [difference for difference in summary.differences if difference.metric == metric]
    if not differences:
        return tuple(Headline(_alone(name, metric, means[metric])) for name, means in summary.means.items() if is_known(means.get(metric)))
    return tuple(_compared(evaluation, summary, difference) for difference in differences)


def remarks(evaluation: Evaluation, summary: Summary) -> tuple[str, ...]:
    """Pictures that are in no mean, and why."""
    total, found = len(evaluation.pictures), []
    for place, system in enumerate(evaluation.systems):
        failed = summary.failed.get(system.name, 0)
        if failed:
            reasons = Counter(picture.scores[place].failed for picture in evaluation.pictures if picture.scores[place].failed)
            why = f", mostly: {reasons.most_common(1)[0][0]}" if reasons else ""
            found.append(f"{system.name} failed on {failed} of {_pictures(total)}, which are in none of its numbers{why}.")
        skipped, reason = summary.skipped.get(system.name, (0, ""))
        if skipped:
            found.append(f"LayerD's metric says nothing of {system.name} on {skipped} of {_pictures(total)}, mostly: {reason}.")
    if evaluation.unreadable:
        key, reason = evaluation.unreadable[0]
        found.append(f"{_pictures(len(evaluation.unreadable))} could not be read, such as {key}: {reason}.")
    return tuple(found)


def galleries(evaluation: Evaluation, summary: Summary) -> tuple[Gallery, ...]:
    """The best and worst pictures of the first system, and where it beats the second or loses to it, by the main metric."""
    metric = main_metric(summary)
    if metric is None or not evaluation.systems:
        return ()
    sign = 1 if METRICS[metric].better == "higher" else -1
    label, names = METRICS[metric].label, [system.name for system in evaluation.systems]
    own = sorted(paired(evaluation, metric, names[0], names[0]), key=lambda entry: (-sign * entry[1], entry[0]))
    best, worst = own[: min(SHOWN, -(-len(own) // 2))], own[::-1][: min(SHOWN, len(own) // 2)]
    found = [
        Gallery(f"Best pictures of {names[0]}", f"By {label}, the best first.", _keys(best)),
        Gallery(f"Worst pictures of {names[0]}", f"By {label}, the worst first.", _keys(worst)),
    ]
    if len(names) > 1:
        by_gain = sorted(paired(evaluation, metric, names[0], names[1]), key=lambda entry: (sign * (entry[2] - entry[1]), entry[0]))
        wins = [entry for entry in by_gain if sign * (entry[1] - entry[2]) > 0]
        losses = [entry for entry in reversed(by_gain) if sign * (entry[1] - entry[2]) < 0]
        found += [
            Gallery(f"Where {names[0]} beats {names[1]}", f"By {label}, the largest gain first.", _keys(wins[:SHOWN])),
            Gallery(f"Where {names[0]} loses to {names[1]}", f"By {label}, the largest loss first.", _keys(losses[:SHOWN])),
        ]
    return tuple(found)


def _keys(entries: list[tuple[str, float, float]]) -> tuple[str, ...]:
    return tuple(key for key, _, _ in entries)


def _alone(name: str, metric: str, mean: Mean) -> str:
    low, high = number(metric, mean.low), number(metric, mean.high)
    return f"{name} has {name_of(metric)} {number(metric, mean.value)} (95 % interval {low} to {high}) on {_pictures(mean.count)}."


def _compared(evaluation: Evaluation, summary: Summary, found: Difference) -> Headline:
    pairs = paired(evaluation, found.metric, found.first, found.other)
    count = len(pairs)
    if not count:
        return Headline(f"{found.first} and {found.other} have no picture in common to be compared on.")
    ours, theirs = (number(found.metric, sum(values) / count) for values in ([a for _, a, _ in pairs], [b for _, _, b in pairs]))
    clear = verdict(found)
    low, high = (number(found.metric, value, signed=True) for value in (found.low, found.high))
    p = p_value(found.p)
    numbers = (
        f"{ours} against {theirs}, difference {number(found.metric, found.value, signed=True)} (95 % interval {low} to {high}), "
        f"p {p if p.startswith('<') else f'= {p}'}"
    )
    if clear == "not clear":
        says = f"Whether {found.first} or {found.other} is better on {name_of(found.metric)} is not clear"
        counts = f"better on {found.wins} of {_pictures(count)}, worse on {found.losses}"
    else:
        says = f"{found.first} is {clear} than {found.other} on {name_of(found.metric)}"
        counts = f"{clear} on {found.wins if clear == 'better' else found.losses} of {_pictures(count)}"
    return Headline(f"{says}: {numbers}, {counts}.", _others(summary, found))


def _others(summary: Summary, main: Difference) -> str:
    """What the other metrics say of the same two systems, worst news first."""
    pair = (main.first, main.other)
    rest = [each for each in summary.differences if (each.first, each.other) == pair and each.metric in COMPARED and each != main]
    said = []
    for word in ("worse", "better"):
        labels = [name_of(each.metric) for each in rest if verdict(each) == word]
        if labels:
            said.append(f"clearly {word} on {_listed(labels)}")
    return f"By the other numbers {main.first} is {' and '.join(said)}." if said else ""


def _listed(words: list[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def name_of(metric: str) -> str:
    return NAMES.get(metric) or METRICS[metric].label


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
