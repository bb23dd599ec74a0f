"""What a judge is worth: stacks with planted faults of known severity are scored, and its scores held against what is known.

A case is one picture, one fault and `SEVERITIES` candidates: the true layers, and the same with the fault ever more severe. The truth
about a candidate is minus its severity. One more case a picture holds the true layers many times over: it teaches nothing, and a judge
that finds a difference in it makes one up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerctl.composite import flatten
from layerctl.layered_files import read_stack
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant
from layerctl.verdict import CRITERIA, GroupVerdict, SampleVerdict, Usage
from layerctl_train.judge.combine import F64, partial_correlation, phase2_scores, rank_correlation, spread
from layerctl_train.plain import without_nan

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.registry import Judge, JudgeFactory

FAULTS = {
    "split": "separation", "halo": "alpha", "bleed": "alpha", "ragged": "alpha", "ghost": "background", "hole": "background",
    "swallowed": "distribution", "composite_copy": "validity", "drift": "validity",
}  # fmt: skip
"""Faults whose severity can be chosen, and the criterion that they belong to."""
SEVERITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIDE = (480, 360)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """`fault`: "" for the case of equal candidates. `truth`: minus the severity of each of `stacks`."""

    picture: str
    fault: str
    source: SourceImage
    stacks: tuple[LayerStack, ...]
    truth: tuple[float, ...]

    @property
    def criterion(self) -> str:
        return FAULTS.get(self.fault, "")


@dataclass(frozen=True, slots=True)
class Stage:
    """Scores of one way to judge: mean rank correlation with the truth, requests and US dollars a group of candidates."""

    name: str
    correlation: float
    calls: float
    cost: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Means over cases; points are 0..10, correlations Spearman's, NaN (null in JSON) where nothing is known.

    `criteria`: with the truth, of each criterion over the cases of its own faults. `faults`: with the truth, of the reward, by fault.
    `band`: between which points the middle 90 % of phase 1's scores lie. `spread_alone`, `spread_together`: the range within a case, in
    phase 1 and 2. `position`: how many points the uppermost row gets more than the lowest, the candidates' own scores taken off.
    `retest_difference`, `retest_correlation`: of phase 1, asked again. `agreement`: between row orders. `anchoring`: rank correlation of
    phase 1 and phase 2 with the truth taken off: how much of phase 1's error phase 2 repeats. `taught`: the share of cases that would
    teach; `taught_by_equals`: the same of the `equals` cases without a difference, which should be 0. `failures`: the share of candidates
    without a reward, and `reasons` why.
    """

    judge: str
    model: str
    prompt_version: str
    cases: int
    candidates: int
    criteria: dict[str, float]
    faults: dict[str, float]
    stages: tuple[Stage, ...]
    band: tuple[float, float]
    spread_alone: float
    spread_together: float
    position: float
    retest_difference: float
    retest_correlation: float
    agreement: float
    anchoring: float
    taught: float
    taught_by_equals: float
    equals: int
    failures: float
    reasons: tuple[str, ...]
    usage: Usage
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {"format": "layerctl-judge-calibration", "schema": 1, **without_nan(asdict(self))}


def drawn_pictures(count: int) -> Iterator[tuple[str, SourceImage, LayerStack]]:
    """Scenes with known layers: soft-edged shapes over gradients."""
    for number in range(count):
        yield f"scene {number}", *scene(1000 + number, width=SIDE[0], height=SIDE[1], elements=3 + number % 3)


def pictures_in(paths: Sequence[Path]) -> Iterator[tuple[str, SourceImage, LayerStack]]:
    """Layered files and folders, whose flattened layers are the picture. Raises InputError."""
    for path in paths:
        stack = read_stack(path)
        stack = stack.with_layers(tuple(stack.walk()))
        pixels = flatten(stack)
        yield path.name, SourceImage(np.asarray(pixels, np.uint8), icc=stack.icc), stack


def cases(picture: str, source: SourceImage, stack: LayerStack, faults: Sequence[str], seed: int) -> Iterator[Case]:
    """All cases of a picture; a fault for which it has no place is left out."""
    yield Case(picture, "", source, (stack,) * len(SEVERITIES), (0.0,) * len(SEVERITIES))
    for place, fault in enumerate(faults):
        planted = [stack if severity == 0 else plant(fault, source, stack, seed + place, severity) for severity in SEVERITIES]
        found = [(layers, -severity) for layers, severity in zip(planted, SEVERITIES, strict=True) if layers is not None]
        if len(found) > len(SEVERITIES) / 2:
            yield Case(picture, fault, source, tuple(layers for layers, _ in found), tuple(truth for _, truth in found))


def calibrate(
    make: JudgeFactory, settings: JudgeSettings, shown: Sequence[Case], tell: Callable[[str], None], progress: Callable[[str, float], None]
) -> Calibration:
    """Score every case, and phase 1 of every case once more, within one budget. Raises LayerctlError for what stops the judge."""
    with closing(make(settings, tell)) as judge:
        verdicts = _judged(judge, shown, progress, 0.0)
    if not any(sample.is_valid for verdict in verdicts for sample in verdict.samples):
        return summary(shown, verdicts, [_unasked(verdict) for verdict in verdicts])
    spent = _total(verdict.usage for verdict in verdicts)
    left = replace(
        settings,
        judge_repeat=settings.judge_repeat + 1,
        judge_orders=0,
        max_judge_calls=None if settings.max_judge_calls is None else settings.max_judge_calls - spent.calls,
        max_judge_cost=None if settings.max_judge_cost is None else settings.max_judge_cost - (spent.cost or 0.0),
    )
    with closing(make(left, tell)) as judge:
        repeated = _judged(judge, shown, progress, 0.5)
    return summary(shown, verdicts, repeated)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One case's scores as arrays by candidate."""

    case: Case
    truth: F64
    criteria: F64
    alone: F64
    again: F64
    together: F64
    reward: F64
    verdict: GroupVerdict


def summary(shown: Sequence[Case], verdicts: Sequence[GroupVerdict], repeated: Sequence[GroupVerdict]) -> Calibration:
    seen = [_seen(case, verdict, again) for case, verdict, again in zip(shown, verdicts, repeated, strict=True)]
    faulty = [one for one in seen if one.case.fault]
    samples = [sample for verdict in verdicts for sample in verdict.samples]
    scores = np.concatenate([one.alone for one in seen])
    band = np.nanquantile(scores, (0.05, 0.95)) if np.isfinite(scores).any() else (math.nan, math.nan)
    criterion_of = [one.case.criterion for one in faulty]
    first, second = (_total(sample.usage for verdict in those for sample in verdict.samples) for those in (verdicts, repeated))
    whole = _total(verdict.usage for verdict in verdicts)
    return Calibration(
        judge=verdicts[0].judge,
        model=verdicts[0].model,
        prompt_version=verdicts[0].prompt_version,
        cases=len(shown),
        candidates=len(samples),
        criteria={
            name: _mean(rank_correlation(one.criteria[:, at], one.truth) for one in faulty if one.case.criterion == name)
            for at, name in enumerate(CRITERIA)
            if name in criterion_of
        },
        faults={
            fault: _mean(rank_correlation(one.reward, one.truth) for one in faulty if one.case.fault == fault)
            for fault in dict.fromkeys(one.case.fault for one in faulty)
        },
        stages=(
            _stage("phase 1", [(one.alone, one.truth) for one in faulty], first, len(shown)),
            _stage("phase 1, asked twice", [((one.alone + one.again) / 2, one.truth) for one in faulty], first + second, len(shown)),
            _stage("both phases", [(one.reward, one.truth) for one in faulty], whole, len(shown)),
        ),
        band=(float(band[0]), float(band[1])),
        spread_alone=_mean(spread(one.alone) for one in faulty),
        spread_together=_mean(spread(one.together) for one in faulty),
        position=_mean(_position_bias(one.verdict) for one in seen),
        retest_difference=_mean(float(value) for one in faulty for value in np.abs(one.alone - one.again)),
        retest_correlation=_mean(rank_correlation(one.alone, one.again) for one in faulty),
        agreement=_mean(one.verdict.agreement for one in faulty),
        anchoring=_mean(_anchoring(one) for one in faulty),
        taught=_mean(float(one.verdict.teaches) for one in faulty),
        taught_by_equals=_mean(float(one.verdict.teaches) for one in seen if not one.case.fault),
        equals=sum(1 for one in seen if not one.case.fault),
        failures=_mean(float(not sample.is_valid) for sample in samples),
        reasons=tuple(dict.fromkeys(sample.reason for sample in samples if sample.reason)),
        usage=whole + _total(verdict.usage for verdict in repeated),
        seconds=sum(verdict.seconds for verdict in (*verdicts, *repeated)),
    )


def calls_of(judge: Judge, shown: Sequence[Case]) -> Usage:
    """What calibrating with these cases takes, at most, retries apart."""
    usage = Usage()
    for case in shown:
        layers = max(sum(1 for _ in stack.walk()) for stack in case.stacks)
        aspect = case.source.width / case.source.height
        usage += _total([judge.forecast(len(case.stacks), layers, aspect), *(judge.forecast(1, layers, aspect) for _ in case.stacks)])
    return usage


def _judged(judge: Judge, shown: Sequence[Case], progress: Callable[[str, float], None], done: float) -> list[GroupVerdict]:
    verdicts = []
    for place, case in enumerate(shown):
        progress(f"{case.picture}, {case.fault or 'equal layers'}", done + 0.5 * place / len(shown))
        verdicts.append(judge.score_group(case.source, case.stacks))
    return verdicts


def _unasked(verdict: GroupVerdict) -> GroupVerdict:
    nothing = tuple(replace(sample, phase1=math.nan, usage=Usage()) for sample in verdict.samples)
    return replace(verdict, samples=nothing, usage=Usage(), seconds=0.0)


def _seen(case: Case, verdict: GroupVerdict, again: GroupVerdict) -> _Seen:
    def gathered(score: Callable[[SampleVerdict], float], of: GroupVerdict) -> F64:
        return np.array([score(sample) for sample in of.samples], np.float64)

    return _Seen(
        case,
        np.array(case.truth),
        np.array([[score.points for score in sample.criteria] for sample in verdict.samples]),
        gathered(lambda sample: sample.phase1, verdict),
        gathered(lambda sample: sample.phase1, again),
        gathered(lambda sample: sample.phase2, verdict),
        gathered(lambda sample: sample.reward, verdict),
        verdict,
    )


def _stage(name: str, scores: Sequence[tuple[F64, F64]], usage: Usage, groups: int) -> Stage:
    """A constant score is worth 0: whoever has to choose by it can only guess."""
    found = [rank_correlation(score, truth) for score, truth in scores if np.isfinite(score).any()]
    mean = _mean(0.0 if math.isnan(value) else value for value in found)
    return Stage(name, mean, (usage.calls + usage.cached) / groups, None if usage.cost is None else usage.cost / groups)


def _position_bias(verdict: GroupVerdict) -> float:
    """Least squares of what each candidate has above its own mean, against its row above its mean row; top 0.5, bottom -0.5."""
    if len(verdict.orders_KG) < 2 or not verdict.grids:
        return math.nan
    scores = np.array(verdict.orders_KG)
    rows = np.full(scores.shape, np.nan)
    grids_an_order = len(verdict.grids) // len(scores)
    for place, grid in enumerate(verdict.grids):
        rows[place // grids_an_order, list(grid)] = np.linspace(0.5, -0.5, len(grid))
    rows -= rows.mean(0)
    gained = scores - scores.mean(0)
    known = np.isfinite(gained)
    weight = float((rows[known] ** 2).sum())
    return float((rows * gained)[known].sum()) / weight if weight else math.nan


def _anchoring(one: _Seen) -> float:
    """The partial rank correlation of phase 1 and the row orders that may be told it, given the truth.

    0 where these make no error that could be phase 1's.
    """
    if not one.verdict.grids:
        return math.nan
    told = phase2_scores(np.array(one.verdict.orders_KG)[::2])
    if rank_correlation(told, one.truth) > 1 - 1e-9:
        return 0.0
    return partial_correlation(one.alone, told, one.truth)


def _total(usages: Iterable[Usage]) -> Usage:
    return reduce(add, usages, Usage())


def _mean(values: Iterable[float]) -> float:
    """Of those that there are."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
