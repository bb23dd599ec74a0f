"""The judge that needs nothing but the layers' pixels: the measures of `layerctl.quality` in a judge's shape.

Phase 1 is ten times the overall quality, whose formula and weights were set on scenes with planted faults (`judge_weights` has no effect).
Phase 2 is the ranking that follows from it, spread over 0..10; scores that are equal when rounded to 0.1 share a rank. It is deterministic:
there is nothing to ask twice, and no agreement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from layerctl.quality import CRITERIA, FaultKind, Quality, assess
from layerctl.verdict import GroupVerdict, SampleVerdict, Score, Usage
from layerctl_train.judge import combine

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage

CRITERION_OF: dict[FaultKind, str] = {
    "split": "separation", "merged": "separation", "order": "separation", "text": "separation",
    "halo": "alpha", "dust": "alpha", "bleed": "alpha", "ragged": "alpha",
    "ghost": "background", "hole": "background",
    "blank": "validity", "composite copy": "validity", "duplicate": "validity", "recomposition": "validity",
}  # fmt: skip
_THREADS = 2
_VERSION = "1"


def pixels_judge(settings: JudgeSettings, tell: Callable[[str], None]) -> PixelsJudge:
    return PixelsJudge(settings)


class PixelsJudge:
    name = "pixels"
    model = "layerctl.quality"
    host = ""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        start = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            assessed = list(pool.map(lambda stack: _timed(source, stack), stacks))
        phase1_G = np.array([10 * quality.overall for quality, _ in assessed])
        phase2_G = ranking(phase1_G) if len(stacks) > 1 and self.settings.judge_orders else None
        reward_G = combine.rewards(phase1_G, phase2_G, self.settings.judge_blend)
        samples = tuple(
            SampleVerdict(
                criteria(quality), float(phase1_G[at]), float("nan") if phase2_G is None else float(phase2_G[at]), float(reward_G[at]),
                seconds=seconds,
            )
            for at, (quality, seconds) in enumerate(assessed)
        )  # fmt: skip
        orders_KG = np.zeros((0, len(stacks)))
        return GroupVerdict(
            samples,
            self.name,
            self.model,
            _VERSION,
            () if phase2_G is None else (tuple(map(float, phase2_G)),),
            (),
            combine.spread(phase1_G),
            float("nan"),
            combine.no_signal(phase1_G, orders_KG, reward_G, self.settings),
            combine.no_choice(phase1_G, orders_KG, reward_G, self.settings),
            Usage(),
            time.monotonic() - start,
        )

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage()

    def close(self) -> None:
        pass


def criteria(quality: Quality) -> tuple[Score, ...]:
    """The five criteria in points, with the faults that lower each as evidence."""
    found = {name: [fault.message for fault in quality.faults if CRITERION_OF[fault.kind] == name] for name in CRITERIA}
    return tuple(Score(10 * getattr(quality, name), "; ".join(found[name]) or "no fault by name") for name in CRITERIA)


def ranking(scores_G: combine.F64) -> combine.F64:
    """0 for the lowest to 10 for the highest, evenly; scores that are equal when rounded to 0.1 share the mean of their places.

    All 5 where all are equal.
    """
    rounded = np.round(scores_G, 1)
    below = (rounded[None, :] < rounded[:, None]).sum(1)
    beside = (rounded[None, :] == rounded[:, None]).sum(1) - 1
    return np.asarray(10 * (below + beside / 2) / (scores_G.size - 1), np.float64)


def _timed(source: SourceImage, stack: LayerStack) -> tuple[Quality, float]:
    start = time.monotonic()
    return assess(source, stack), time.monotonic() - start
