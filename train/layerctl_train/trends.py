"""What the records of a training run say, in sentences: whether it learns, what it cost, and what should make one look twice."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from layerctl.errors import InputError
from layerctl_train.evaluate.findings import name_of, number
from layerctl_train.evaluate.results import METRICS as EVALUATION_METRICS
from layerctl_train.evaluate.statistics import Interval, mean_interval
from layerctl_train.run_folder import CONFIG, DATA, RunFolder
from layerctl_train.training_data import Scan, divided

Record = Mapping[str, Any]
Series = Sequence[tuple[int, float]]
"""Steps, rising, and values."""

SHARE, FEWEST = 10, 5
"""The first and the last tenth are compared, at least so many steps of each (*ours*)."""
RESAMPLES = 2000
CLIP_RANGE = (0.1, 0.3)
MANY_INVALID = 0.02
MAIN, JUDGED = "quality", "judge"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything that a report is made from. `settings`: of `config`, the file's text. `data`: what the scan found.

    `measured`: the metrics' numbers by name. `reasons`: why groups taught nothing, and how often. `evaluations`: records with "values",
    means by name, and "pictures", the same by picture.
    """

    name: str
    config: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    steps: Sequence[int]
    measured: Mapping[str, Series]
    reasons: Mapping[str, int]
    evaluations: Sequence[Record]

    @property
    def last(self) -> int:
        """The last step that was done."""
        return self.steps[-1] if self.steps else 0

    @property
    def is_supervised(self) -> bool:
        return bool(self.settings.get("method") == "sft")


@dataclass(frozen=True, slots=True)
class Trend:
    """The mean at first and at last, and the `change` with its interval; `at_first`, `at_last` say when that was."""

    first: float
    last: float
    change: Interval
    at_first: str
    at_last: str

    @property
    def rises(self) -> bool:
        return self.change.low > 0

    @property
    def falls(self) -> bool:
        return self.change.high < 0


def read_run(folder: RunFolder) -> RunRecord:
    """Raises InputError for what is damaged."""
    config, name = _text(folder, CONFIG), folder.path.resolve().name
    try:
        settings, data = tomllib.loads(config), json.loads(_text(folder, DATA) or "{}")
    except ValueError as error:
        raise InputError(f"{CONFIG} or {DATA} of {folder.path} is damaged: {error}", hint="take it from a copy") from error
    metrics, evaluations = folder.records("metrics"), folder.records("evaluations")
    steps, reasons = [record["step"] for record in metrics], Counter[str]()
    for record in metrics:
        reasons.update(record.get("reasons", {}))
    return RunRecord(name, config, settings, data, steps, series(metrics), reasons, evaluations)


def series(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    """The numbers of records by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        step = record["step"]
        for name, value in record.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append((step, value))
    return found


def trend(found: Series) -> Trend | None:
    """The last tenth of the steps against the first; None for too few steps.

    Both are equally many, and the interval is that of the differences, taken in order: steps are held to be independent of each other.
    """
    size = max(FEWEST, len(found) // SHARE)
    if len(found) < 2 * size:
        return None
    first, last = found[:size], found[-size:]
    change = mean_interval([late[1] - early[1] for early, late in zip(first, last, strict=True)], resamples=RESAMPLES)
    return Trend(_mean(first), _mean(last), change, _steps(first), _steps(last))


def evaluation_trend(evaluations: Sequence[Record], name: str) -> Trend | None:
    """The last evaluation against the first, by the pictures that have a value in both; None with less than two of either."""
    if len(evaluations) < 2:
        return None
    ends = evaluations[0], evaluations[-1]
    first, last = ({key: each[name] for key, each in record["pictures"].items() if name in each} for record in ends)
    both = [key for key in first if key in last]
    if len(both) < 2:
        return None
    change = mean_interval([last[key] - first[key] for key in both], resamples=RESAMPLES)
    steps = [f"after step {record['step']}" for record in ends]
    return Trend(fmean(first[key] for key in both), fmean(last[key] for key in both), change, *steps)


def shows(name: str, found: Trend) -> bool:
    """Whether the change of an evaluation's metric is one in the digits that are shown."""
    return number(name, abs(found.change.mean)) != number(name, 0.0)


def headlines(run: RunRecord) -> list[str]:
    """What was trained, whether it learns by training and by evaluation, and what that took."""
    main = JUDGED if any(JUDGED in record["values"] for record in run.evaluations) else MAIN
    return [_what(run), _learning(run), _evaluation(run, main), *_cost(run)]


def warnings(run: RunRecord) -> list[str]:
    """Signs that the numbers do not mean what they seem to, or that something stands still."""
    judge, reward = (trend(run.measured.get(name, ())) for name in ("reward/judge", "reward/mean"))
    found = []
    for name, what in (
        ("guard/points", "do points off for faults in pixels"),
        ("guard/disagreement", "does its disagreement with the guards"),
    ):
        other = trend(run.measured.get(name, ()))
        if judge and judge.rises and other and other.rises:
            said = f"from {amount(other.first)} to {amount(other.last)}"
            found.append(f"Reward hacking? The judge's reward rises, and so {what}, {said}. Look at the pictures.")
    for name in (JUDGED, MAIN):
        held_out = evaluation_trend(run.evaluations, name)
        if reward and reward.rises and held_out and held_out.falls:
            said = f"{number(name, held_out.first)} to {number(name, held_out.last)}"
            found.append(f"The reward rises, but {name_of(name)} of the held-out pictures falls, from {said}.")
    taught, skipped = (total(run, f"groups/{name}") or 0 for name in ("taught", "skipped"))
    if skipped > taught:
        share = skipped / (taught + skipped)
        found.append(f"{share:.0%} of the groups taught nothing: candidates are too alike, or the judge does not tell them apart.")
    clip = [value for _, value in run.measured.get("clip", ())[-max(FEWEST, len(run.steps) // SHARE) :]]
    said = f"{fmean(clip):.0%} of the latest ratios are clipped" if clip else ""
    if clip and fmean(clip) > CLIP_RANGE[1]:
        found.append(f"{said}, more than the usual {CLIP_RANGE[1]:.0%}: try a lower learning_rate or a wider clip.")
    if clip and fmean(clip) < CLIP_RANGE[0] and run.settings.get("optimizer_steps", 1) > 1:
        found.append(f"{said}, less than the usual {CLIP_RANGE[0]:.0%}: steps may be too small.")
    invalid = [value for _, value in run.measured.get("invalid", ())]
    if invalid and fmean(invalid) > MANY_INVALID:
        found.append(f"{fmean(invalid):.1%} of the candidates have no score, because the judge failed.")
    missing = run.last - len(run.steps)
    if missing:
        found.append(f"{missing} step{'s are' if missing > 1 else ' is'} not in the records.")
    return found


def amount(value: float) -> str:
    """A number of any size with three or four digits."""
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{amount(hours)} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{amount(seconds)} s"


def total(run: RunRecord, name: str) -> float | None:
    """None for what was never measured."""
    return sum(value for _, value in run.measured[name]) if name in run.measured else None


def _what(run: RunRecord) -> str:
    settings = run.settings
    model, start = settings.get("model", "Qwen-Image-Layered"), settings.get("start")
    source = _pictures(run) if run.data.get("entries") else str(settings.get("data", "pictures"))
    how = "by flow matching on layered files" if run.is_supervised else "by Flow-GRPO with a judge's scores"
    wanted = settings.get("updates", run.last)
    done = f"all {wanted} steps are done" if run.last >= wanted else f"{run.last} of {wanted} steps are done"
    return f"An adapter of {model}{f', from {start},' if start else ''} learns from {source} {how}: {done}."


def _pictures(run: RunRecord) -> str:
    """How many are trained on, and how many held out."""
    found, others = Scan.from_json(run.data), run.data.get("evaluation")
    if others is None:
        train, held = divided(found, int(run.settings.get("holdout", 0)))
    else:
        held = list(Scan.from_json(others).entries)
        train = [entry for entry in found.entries if entry.sha256 not in {each.sha256 for each in held}]
    return f"{len(train)} pictures ({found.name}{f', {len(held)} held out' if held else ''})"


def _learning(run: RunRecord) -> str:
    name, what = ("loss/flow", "The loss") if run.is_supervised else ("reward/mean", "The reward")
    found = trend(run.measured.get(name, ()))
    if found is None:
        return f"{what} cannot be judged from {len(run.steps)} step{'' if len(run.steps) == 1 else 's'}."
    form = amount if run.is_supervised else _points
    verdict = f"{what} rises" if found.rises else f"{what} falls" if found.falls else f"Whether {what.lower()} changes is not clear"
    return f"{verdict}: {form(found.first)} in {found.at_first}, {form(found.last)} in {found.at_last}, {_change(found, form)}."


def _evaluation(run: RunRecord, name: str) -> str:
    if not run.evaluations:
        return "Nothing was evaluated yet."
    found = evaluation_trend(run.evaluations, name)
    if found is None:
        value = run.evaluations[-1]["values"].get(name, math.nan)
        return f"After step {run.evaluations[-1]['step']}, {name_of(name)} of the held-out pictures is {number(name, value)}."
    is_higher_better = EVALUATION_METRICS[name].better == "higher"
    clear = "better" if found.rises == is_higher_better else "worse"
    unclear = "Whether held-out pictures become better is not clear" if shows(name, found) else "Held-out pictures stay as they were"
    verdict = f"Held-out pictures become {clear}" if shows(name, found) and (found.rises or found.falls) else unclear
    said = f"{number(name, found.first)} {found.at_first}, {number(name, found.last)} {found.at_last}"
    return f"{verdict}: {name_of(name)} {said}, {_change(found, lambda value: number(name, value))}, {found.change.count} pictures."


def _cost(run: RunRecord) -> list[str]:
    seconds = total(run, "seconds/step")
    if seconds is None:
        return []
    calls, dollars = total(run, "judge/calls"), total(run, "judge/dollars")
    parts = [duration(seconds), f"{amount(total(run, 'evaluations') or 0)} evaluations of the model"]
    if calls is not None:
        parts.append(f"{amount(calls)} requests to the judge")
        parts.append("at a price that is not known" if dollars is None else f"{dollars:.2f} US dollars")
    return [f"That took {', '.join(parts)}."]


def _points(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _change(found: Trend, form: Callable[[float], str]) -> str:
    sign = "+" if found.change.mean > 0 else ""
    return f"a change of {sign}{form(found.change.mean)} (95 % interval {form(found.change.low)} to {form(found.change.high)})"


def _mean(found: Sequence[tuple[int, float]]) -> float:
    return fmean(value for _, value in found)


def _steps(found: Sequence[tuple[int, float]]) -> str:
    return f"steps {found[0][0]} to {found[-1][0]}"


def _text(folder: RunFolder, name: str) -> str:
    try:
        return (folder.path / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
