"""A judge whose weaknesses are known: it sees the truth through what is said of vision-language models that score pictures.

Alone, it squeezes all candidates into a narrow band and rounds; beside each other it spreads them, favours upper or lower rows, and leans
on the scores that it is told. Noise lies on the scores that it gives, squeezed or not; some questions it refuses. For tests, ablations and
to check the calibration: what a real judge is like is measured by `layerctl judge calibrate`.

Its noise depends on `judge_seed`, `judge_repeat` and what it is shown, the order of rows included, and on nothing else: the same question
has the same answer, another order another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from layerctl.errors import UsageError
from layerctl.layers import fingerprint
from layerctl.quality import CRITERIA, assess
from layerctl.verdict import GroupVerdict, Score, Usage
from layerctl_train.judge import combine
from layerctl_train.judge.phases import Alone, Together, examine
from layerctl_train.judge.question import NoAnswerError

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage

Truth = Callable[["SourceImage", "LayerStack"], Sequence[float]]
"""The five criteria as they are, in points of 0..10."""

MOST_ROWS = 16
_SHARED = 0.9
"""How much of phase 1's noise is the same for all criteria of a candidate: a first impression colours them all."""


@dataclass(frozen=True, slots=True)
class Character:
    """How the judge errs. All in points of 0..10 unless said otherwise.

    `low`, `high`: the band that phase 1 squeezes 0..10 into. `step`: what both phases round to. `noise_alone`, `noise_together`: the
    deviation of the scores that are given in phase 1, most of it shared by all criteria, and in phase 2. `skill`: the share of the truth
    that is seen; 0 is a random judge. `position`: how much more the uppermost row gets than the lowest. `anchoring`: the share of phase 2
    that only repeats phase 1, spread, 0..1. `refusals`: the share of questions without an answer, 0..1.
    """

    low: float = 6.0
    high: float = 8.0
    step: float = 0.5
    noise_alone: float = 0.4
    noise_together: float = 1.2
    skill: float = 1.0
    position: float = 1.0
    anchoring: float = 0.2
    refusals: float = 0.0


def simulated_judge(settings: JudgeSettings, tell: Callable[[str], None]) -> SimulatedJudge:
    """Its truth is the measured quality; its character is in `judge_extra`, as JSON: {"noise_alone": 1}."""
    return SimulatedJudge(settings, measured, _character(settings.judge_extra))


class SimulatedJudge:
    name = "simulated"
    host = ""

    def __init__(self, settings: JudgeSettings, truth: Truth, character: Character) -> None:
        self.settings, self.truth, self.character = settings, truth, character
        self.model = ", ".join(f"{entry.name} {getattr(character, entry.name):g}" for entry in fields(character))

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        examiner = _Examiner(self, source, stacks)
        verdict = examine(
            examiner, source, stacks, told, self.settings, MOST_ROWS, judge=self.name, model=self.model, prompt_version="simulated"
        )
        return asyncio.run(verdict)

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage()

    def close(self) -> None:
        pass


def measured(source: SourceImage, stack: LayerStack) -> tuple[float, ...]:
    quality = assess(source, stack)
    return tuple(10 * getattr(quality, name) for name in CRITERIA)


class _Examiner:
    """One group's answers; the truth about each candidate is found once."""

    def __init__(self, judge: SimulatedJudge, source: SourceImage, stacks: Sequence[LayerStack]) -> None:
        self.character, self.weights = judge.character, judge.settings.judge_weights
        self.seed = [judge.settings.judge_seed, judge.settings.judge_repeat]
        self.truth = {id(stack): np.asarray(judge.truth(source, stack), np.float64) for stack in stacks}
        self.shown = {id(stack): fingerprint(stack) for stack in stacks}

    async def alone(self, source: SourceImage, stack: LayerStack, told: str) -> Alone:
        rng = self._random("alone", [stack])
        character = self.character
        squeezed = character.low + (character.high - character.low) * self._seen(self.truth[id(stack)], rng) / 10
        noise = character.noise_alone * (_SHARED * rng.standard_normal() + math.sqrt(1 - _SHARED**2) * rng.standard_normal(squeezed.shape))
        points = _rounded(squeezed + noise, character.step)
        return Alone(tuple(Score(float(point), "simulated") for point in points), Usage(), 0.0)

    async def together(self, source: SourceImage, stacks: Sequence[LayerStack], anchors: Sequence[float] | None, told: str) -> Together:
        rng = self._random("together", stacks)
        character = self.character
        truth = np.array([combine.phase1_score(list(self.truth[id(stack)]), self.weights) for stack in stacks])
        points = _spread_out(self._seen(truth, rng))
        if anchors is not None and np.isfinite(anchors).all():
            points = (1 - character.anchoring) * points + character.anchoring * _spread_out(np.asarray(anchors, np.float64))
        points += character.position * np.linspace(0.5, -0.5, len(stacks)) + character.noise_together * rng.standard_normal(truth.shape)
        return Together(tuple(map(float, _rounded(points, character.step))), Usage(), 0.0)

    def _seen(self, truth: combine.F64, rng: np.random.Generator) -> combine.F64:
        """The truth, or what a judge without skill takes for it."""
        skill = self.character.skill
        return skill * truth + (1 - skill) * rng.uniform(0, 10, truth.shape)

    def _random(self, phase: str, stacks: Sequence[LayerStack]) -> np.random.Generator:
        """The noise of one question. Raises NoAnswerError for one that is refused."""
        shown = "".join((phase, *(self.shown[id(stack)] for stack in stacks)))
        rng = np.random.default_rng([*self.seed, int.from_bytes(hashlib.sha256(shown.encode()).digest()[:8])])
        if rng.random() < self.character.refusals:
            raise NoAnswerError("the simulated judge refused", Usage(), 0.0)
        return rng


def _spread_out(values: combine.F64) -> combine.F64:
    """1.5 for the lowest to 9 for the highest, in proportion; 5 where all are equal."""
    reach = float(np.ptp(values))
    return 1.5 + 7.5 * (values - values.min()) / reach if reach else np.full(values.shape, 5.0)


def _rounded(points: combine.F64, step: float) -> combine.F64:
    """Within 0..10."""
    return np.clip(np.round(points / step) * step if step else points, 0, 10)


def _character(extra: str) -> Character:
    known = {entry.name: entry for entry in fields(Character)}
    given = json.loads(extra) if extra else {}
    for name, value in given.items():
        if name not in known or isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(
                f"judge_extra sets {name} = {value!r}, which is nothing that the simulated judge has",
                hint=f"""it has numbers named {", ".join(known)}, such as {{"noise_alone": 2}}""",
            )
    return Character(**given)
