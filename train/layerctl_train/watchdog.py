"""The rules that stop a run whose numbers say that something is wrong, in words."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from layerctl.errors import TrainingStoppedError

if TYPE_CHECKING:
    from layerctl_train.scoring import GroupScore
    from layerctl_train.training_settings import TrainingSettings

REMEMBERED = 20
"""Gradient norms, and how many of them make a median to go by."""
ENOUGH = 5
ANEW = "begin a new run from where this one came to (--start RUN/adapter)"


class Watchdog:
    """What it remembers is part of a checkpoint."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.norms: deque[float] = deque(maxlen=REMEMBERED)
        self.quiet = 0

    def check_scores(self, scores: Sequence[GroupScore]) -> None:
        """Candidates without a score poison nothing, but a judge that often fails is not the judge that was asked for."""
        judged = [each for score in scores for each in zip(score.judge_G, score.reasons_G, strict=True)]
        reasons, count = [reason or "no number" for reward, reason in judged if not math.isfinite(reward)], len(judged)
        if len(reasons) > self.settings.abort_invalid * count:
            often = max(set(reasons), key=reasons.count)
            raise TrainingStoppedError(
                f"{len(reasons)} of {count} candidates of this step have no score, more than {self.settings.abort_invalid:.0%}; most"
                f" often: {often}",
                hint="mend the judge, then go on with --resume; with --set abort_invalid=0.3 more may fail",
            )

    def check_first_ratio(self, ratio: float) -> None:
        """Sampling and replay are the same numbers before anything is learned, or the ratio measures something else than learning."""
        if not ratio <= self.settings.abort_ratio:
            raise TrainingStoppedError(
                f"the first replay's log ratio is {ratio:.3g} away from 0, more than abort_ratio {self.settings.abort_ratio:g}:"
                " sampling and replay do not compute the same",
                hint="begin a new run without --compile, or with micro_batch = 1; --set abort_ratio=... allows more, at your own risk",
            )

    def check_gradient(self, norm: float) -> None:
        """To be called before the optimizer's step."""
        usual = median(self.norms) if len(self.norms) >= ENOUGH else math.inf
        if not math.isfinite(norm):
            raise TrainingStoppedError(f"the gradient's norm is {norm}", hint=f"{ANEW}, with a lower learning_rate or eta")
        if usual > 0 and norm > self.settings.abort_gradient * usual:
            raise TrainingStoppedError(
                f"the gradient exploded: its norm is {norm:.3g}, {norm / usual:.0f} times the median of the last {len(self.norms)} steps",
                hint=f"{ANEW}, with a lower learning_rate; or go on with --resume --set abort_gradient=..., which allows more",
            )
        self.norms.append(norm)

    def check_quiet(self, taught: int, scores: Sequence[GroupScore]) -> None:
        """Count the steps in a row that taught nothing; the one that stops the run is not done, and not counted."""
        quiet = 0 if taught else self.quiet + 1
        if quiet >= self.settings.abort_quiet:
            raise TrainingStoppedError(
                f"no group of the last {quiet} steps taught anything; the first of the last step: {scores[0].why_not}",
                hint=f"{ANEW}, with more judge_orders, larger groups, more eta or another judge",
            )
        self.quiet = quiet
