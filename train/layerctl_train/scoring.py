"""A group's scores: the judge's and the guards', made while the next group is sampled."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from layerctl.verdict import CRITERIA, Usage
from layerctl_train.guards import disagreement, penalties
from layerctl_train.metrics import GUARDS

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.registry import Judge
    from layerctl.source import SourceImage
    from layerctl.verdict import GroupVerdict
    from layerctl_train.training_settings import TrainingSettings

_NUMBER = re.compile(r"-?\d[\d.,]*%?")
FEWEST = 3
"""Candidates with a score in a group that teaches."""


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What was found of the candidates of one picture; NaN where there is no score.

    `place`: the group's in the step, over all processes. `criteria_G`: of each candidate, in the order of `CRITERIA`. `points_G`: points
    off by guard, in the order of `GUARDS`. `why_not`: why the group teaches nothing, "" if it does.
    """

    place: int
    picture: str
    layers: int
    judge_G: tuple[float, ...]
    phase1_G: tuple[float, ...]
    phase2_G: tuple[float, ...]
    criteria_G: tuple[tuple[float, ...], ...]
    points_G: tuple[tuple[float, ...], ...]
    reasons_G: tuple[str, ...]
    spread: float
    agreement: float
    why_not: str
    usage: Usage

    @property
    def rewards_G(self) -> tuple[float, ...]:
        """The judge's reward, penalties taken off."""
        return tuple(reward - sum(points) for reward, points in zip(self.judge_G, self.points_G, strict=True))


class Scoring:
    """Scores groups in threads; `close` waits for none of them."""

    def __init__(self, judge: Judge, settings: TrainingSettings, at_a_time: int) -> None:
        self.judge, self.settings = judge, settings
        self._pool = ThreadPoolExecutor(at_a_time, "scoring")

    def begin(self, place: int, picture: str, source: SourceImage, stacks: Sequence[LayerStack], told: str) -> Future[GroupScore]:
        """`source` and `stacks` are raw: at the model's size. Its result raises what the judge raises for what stops a run."""
        return self._pool.submit(self._score, place, picture, source, stacks, told)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _score(self, place: int, picture: str, source: SourceImage, stacks: Sequence[LayerStack], told: str) -> GroupScore:
        verdict = self.judge.score_group(source, stacks, told)
        found = [penalties(source, stack, self.settings) for stack in stacks]
        points = tuple(tuple(getattr(each, name) for name in GUARDS) for each in found)
        return score_of(place, picture, max(sum(1 for _ in stack.walk()) for stack in stacks), verdict, points)


def score_of(place: int, picture: str, layers: int, verdict: GroupVerdict, points: tuple[tuple[float, ...], ...]) -> GroupScore:
    valid = sum(sample.is_valid for sample in verdict.samples)
    few = f"{valid} of {len(verdict.samples)} candidates have a score, at least {FEWEST} are needed" if valid < FEWEST else ""
    return GroupScore(
        place=place,
        picture=picture,
        layers=layers,
        judge_G=verdict.rewards,
        phase1_G=tuple(sample.phase1 for sample in verdict.samples),
        phase2_G=tuple(sample.phase2 for sample in verdict.samples),
        criteria_G=tuple(tuple(score.points for score in sample.criteria) or (math.nan,) * len(CRITERIA) for sample in verdict.samples),
        points_G=points,
        reasons_G=tuple(sample.reason for sample in verdict.samples),
        spread=verdict.spread,
        agreement=verdict.agreement,
        why_not=few or verdict.no_signal,
        usage=verdict.usage,
    )


def score_metrics(scores: Sequence[GroupScore]) -> dict[str, float]:
    """What a step's scores say, by the names of `METRICS`; a name is absent where nothing is known."""
    found: dict[str, float] = {}

    def note(name: str, values: Sequence[float], average: Callable[[list[float]], float] = fmean) -> None:
        known = [value for value in values if math.isfinite(value)]
        if known:
            found[name] = average(known)

    rewards = [score.rewards_G for score in scores]
    note("reward/mean", [value for group in rewards for value in group])
    for name in ("judge", "phase1", "phase2"):
        note(f"reward/{name}", [value for score in scores for value in getattr(score, f"{name}_G")])
    for at, criterion in enumerate(CRITERIA):
        note(f"criterion/{criterion}", [criteria[at] for score in scores for criteria in score.criteria_G])
    note("reward/std", [_deviation(group) for group in rewards])
    note("judge/spread", [score.spread for score in scores])
    note("judge/agreement", [score.agreement for score in scores])
    note("invalid", [float(not math.isfinite(value)) for score in scores for value in score.judge_G])
    note("guard/points", [sum(points) for score in scores for points in score.points_G])
    for at, guard in enumerate(GUARDS):
        note(f"guard/{guard}", [points[at] for score in scores for points in score.points_G])
    pairs = [disagreement(score.judge_G, [sum(points) for points in score.points_G]) for score in scores]
    if compared := sum(count for _, count in pairs):
        found["guard/disagreement"] = sum(against for against, _ in pairs) / compared
    return found | usage_metrics([score.usage for score in scores])


def usage_metrics(usages: Sequence[Usage]) -> dict[str, float]:
    """What answers took, by the names of `METRICS`."""
    usage = sum(usages, Usage())
    found: dict[str, float] = {
        "judge/calls": usage.calls,
        "judge/cached": usage.cached,
        "judge/tokens": usage.input_tokens + usage.output_tokens,
    }
    return found if usage.cost is None else {**found, "judge/dollars": usage.cost}


def reasons(scores: Sequence[GroupScore]) -> dict[str, int]:
    """Why groups taught nothing, and how many: the words without their numbers, which differ by group."""
    return dict(Counter(_NUMBER.sub("…", score.why_not) for score in scores if score.why_not))


def _deviation(group: Sequence[float]) -> float:
    known = [value for value in group if math.isfinite(value)]
    return pstdev(known) if known else math.nan
