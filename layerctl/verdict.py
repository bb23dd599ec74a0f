"""What a judge says of a group of candidate decompositions of one picture; pure data, in points from 0 to 10.

A failure is NaN with a reason, never 0: a zero would teach that the candidate was bad, when nobody knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CRITERIA = ("separation", "alpha", "background", "distribution", "validity")
"""The five edit-centric criteria of the Stable-Layers judge (arXiv 2605.30257), in the order of all tuples of scores."""


@dataclass(frozen=True, slots=True)
class Score:
    """One criterion's `points`, 0..10 or NaN, and a line of what the judge saw."""

    points: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers took: requests sent (every attempt counts), answers found in the cache, tokens, and US dollars (None: price unknown).

    The tokens and dollars of a request that was lost on the way are an upper bound.
    """

    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """One candidate's scores.

    `criteria`: five, in the order of `CRITERIA`. `phase1`: their weighted mean, the candidate looked at alone. `phase2`: its score beside
    the others, the mean over orderings. `reward`: what training goes by. `reason`: why the reward is NaN, else "". `usage` and `seconds`:
    of the requests about this candidate alone; the group's hold those about all.
    """

    criteria: tuple[Score, ...]
    phase1: float
    phase2: float
    reward: float
    reason: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0

    @property
    def is_valid(self) -> bool:
        return math.isfinite(self.reward)


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """The verdict on all candidates of one picture, in the order in which they were given.

    `orders_KG`: phase 2's raw score of every candidate in each row order that was asked, NaN where there is none. `grids`: which candidates
    were the rows of each grid of phase 2, top to bottom. `spread`: the range of the raw scores. `agreement`: the mean rank correlation
    between row orders, -1..1; NaN where fewer than two answered. `no_signal`: why the group teaches nothing, "" if it does. `no_choice`:
    why not even the best of it can be told, which needs less. `usage`: of everything; `seconds`: from the first request to the last answer.
    """

    samples: tuple[SampleVerdict, ...]
    judge: str
    model: str
    prompt_version: str
    orders_KG: tuple[tuple[float, ...], ...]
    grids: tuple[tuple[int, ...], ...]
    spread: float
    agreement: float
    no_signal: str
    no_choice: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0

    @property
    def teaches(self) -> bool:
        return not self.no_signal

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(sample.reward for sample in self.samples)
