"""Both phases of the judge over one group of candidates, whoever it is that answers.

Phase 1 asks about every candidate alone. Phase 2 shows all of them in one grid, a row each, and asks for scores relative to each other;
that is repeated in several row orders. They are random, but of many such each next one is taken that evens out best in which row, and how
far from the middle, each candidate has been: a liking for upper rows, or for the first and the last, mostly cancels out, and makes orders
contradict each other instead of agree. Candidates that do not fit legibly into one grid are spread over several, each of which also holds
the best and the worst of phase 1; a grid's scores are moved and stretched so that those two lie where they lie on average.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from layerctl.verdict import CRITERIA, GroupVerdict, SampleVerdict, Score, Usage
from layerctl_train.judge import combine
from layerctl_train.judge.combine import F64
from layerctl_train.judge.question import NoAnswerError

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage

Asked = TypeVar("Asked")
FEWEST_ROWS = 3
"""A grid that is one of several: the two that link it to the others, and one more."""
_STRETCH = (0.5, 2.0)
_DRAWS = 1000
_WEIGHTS = np.array([2.0, 1.0])
"""A liking for upper or lower rows is the commoner one."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Phase 1's answer about one candidate: five scores in the order of `CRITERIA`."""

    scores: tuple[Score, ...]
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class Together:
    """Phase 2's answer about one grid: points by row, top to bottom."""

    points: tuple[float, ...]
    usage: Usage
    seconds: float


class Examiner(Protocol):
    """Who answers. Raises NoAnswerError for a question without a usable answer, LayerctlError for what stops the run."""

    async def alone(self, source: SourceImage, stack: LayerStack, told: str) -> Alone: ...

    async def together(self, source: SourceImage, stacks: Sequence[LayerStack], anchors: Sequence[float] | None, told: str) -> Together: ...


@dataclass(frozen=True, slots=True)
class Failure:
    reason: str
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Which candidates are its rows, top to bottom, and in which row order of phase 2 (0..K-1)."""

    order: int
    rows: tuple[int, ...]


async def examine(
    examiner: Examiner,
    source: SourceImage,
    stacks: Sequence[LayerStack],
    told: str,
    settings: JudgeSettings,
    most_rows: int,
    *,
    judge: str,
    model: str,
    prompt_version: str,
) -> GroupVerdict:
    """The verdict on a group. `most_rows`: how many candidates fit legibly into one grid. Every question is asked once."""
    start = time.monotonic()
    alone = await _all([_attempt(examiner.alone(source, stack, told)) for stack in stacks])
    phase1_G = np.array([_phase1(answer, settings) for answer in alone])
    plan = plan_grids(source, phase1_G, settings, most_rows)

    def compare(grid: Grid) -> Coroutine[None, None, Together]:
        anchors = [float(phase1_G[row]) for row in grid.rows] if settings.judge_anchors and grid.order % 2 == 0 else None
        return examiner.together(source, [stacks[row] for row in grid.rows], anchors, told)

    together = await _all([_attempt(compare(grid)) for grid in plan])
    orders_KG = linked_orders(plan, [_points(answer) for answer in together], len(stacks))
    phase2_G = combine.phase2_scores(orders_KG) if len(orders_KG) else None
    reward_G = combine.rewards(phase1_G, phase2_G, settings.judge_blend)
    failed = "; ".join(dict.fromkeys(answer.reason for answer in together if isinstance(answer, Failure)))

    samples = tuple(
        SampleVerdict(
            answer.scores if isinstance(answer, Alone) else (Score(float("nan"), answer.reason),) * len(CRITERIA),
            float(phase1_G[place]),
            float("nan") if phase2_G is None else float(phase2_G[place]),
            float(reward_G[place]),
            "" if np.isfinite(reward_G[place]) else answer.reason if isinstance(answer, Failure) else f"beside the others: {failed}",
            answer.usage,
            answer.seconds,
        )
        for place, answer in enumerate(alone)
    )
    return GroupVerdict(
        samples,
        judge,
        model,
        prompt_version,
        tuple(tuple(float(point) for point in order) for order in orders_KG),
        tuple(grid.rows for grid in plan),
        combine.spread(phase1_G if phase2_G is None else phase2_G),
        combine.agreement(combine.rankings(orders_KG, settings)),
        combine.no_signal(phase1_G, orders_KG, reward_G, settings),
        combine.no_choice(phase1_G, orders_KG, reward_G, settings),
        reduce(add, (answer.usage for answer in (*alone, *together)), Usage()),
        time.monotonic() - start,
    )


def plan_grids(source: SourceImage, phase1_G: F64, settings: JudgeSettings, most_rows: int) -> tuple[Grid, ...]:
    """The grids of phase 2, order by order; none for one candidate. The same picture, seed and phase 1 give the same grids."""
    group = phase1_G.size
    if group < 2:
        return ()
    parts = _parts(phase1_G, max(FEWEST_ROWS, most_rows))
    salt = int.from_bytes(hashlib.sha256(np.ascontiguousarray(source.pixels).data).digest()[:8])
    rng = np.random.default_rng([settings.judge_seed, salt])
    orders = [balanced_orders(len(part), settings.judge_orders, rng) for part in parts]
    fewest = min(len(rows) for rows in orders)
    return tuple(
        Grid(order, tuple(part[place] for place in rows[order]))
        for order in range(fewest)
        for part, rows in zip(parts, orders, strict=True)
    )


def balanced_orders(rows: int, count: int, rng: np.random.Generator) -> list[list[int]]:
    """Orders of the numbers 0 to `rows` - 1, top to bottom: the first is random, each next one the best of `_DRAWS` random ones.

    Best is where the sums of each number's rows, and of its distances from the middle, over all orders so far vary least. No two are the
    same; there are fewer where there are not so many.
    """
    height = np.arange(rows) - (rows - 1) / 2
    likings = np.stack([height, np.abs(height) - np.abs(height).mean()])
    likings /= np.maximum(np.linalg.norm(likings, axis=1, keepdims=True), 1e-9)
    gained = np.zeros((2, rows))
    found: list[list[int]] = []
    while len(found) < count:
        drawn = rng.permuted(np.broadcast_to(np.arange(rows), (_DRAWS if found else 1, rows)), axis=1)
        # drawn[d, number] is the row in which that number stands.
        sums = gained[:, None, :] + likings[:, drawn]
        for best in np.argsort(_WEIGHTS @ (sums**2).sum(2), kind="stable"):
            order = [int(number) for number in np.argsort(drawn[best])]
            if order not in found:
                gained = sums[:, best]
                found.append(order)
                break
        else:
            break
    return found


def _parts(phase1_G: F64, most_rows: int) -> list[list[int]]:
    """Everybody, or as few and as equal parts as possible that all hold the two that link them."""
    group = phase1_G.size
    if group <= most_rows:
        return [list(range(group))]
    known = [place for place in range(group) if np.isfinite(phase1_G[place])]
    by_score = sorted(known, key=lambda place: phase1_G[place]) if len(known) > 1 else list(range(group))
    links = [by_score[0], by_score[-1]]
    others = [place for place in range(group) if place not in links]
    count = -(-len(others) // (most_rows - 2))
    return [links + [int(place) for place in part] for part in np.array_split(others, count)]


def linked_orders(plan: Sequence[Grid], points: Sequence[Sequence[float] | None], group: int) -> F64:
    """Raw scores by row order, K x G, of the grids' `points` by row; NaN for rows of grids without an answer."""
    orders = 1 + max((grid.order for grid in plan), default=-1)
    scores = np.full((orders, group), np.nan)
    for order in range(orders):
        answered = [
            dict(zip(grid.rows, given, strict=True)) for grid, given in zip(plan, points, strict=True) if grid.order == order and given
        ]
        shared = [place for place in range(group) if len(answered) > 1 and all(place in grid for grid in answered)]
        middle = {place: float(np.mean([grid[place] for grid in answered])) for place in shared}
        for grid in answered:
            moved = _aligned(grid, middle)
            scores[order, list(moved)] = list(moved.values())
    return scores


def _aligned(grid: dict[int, float], middle: dict[int, float]) -> dict[int, float]:
    """A grid's scores, moved and stretched so that the shared candidates come to lie at their mean scores; within 0..10."""
    if not middle:
        return grid
    shared = sorted(middle, key=lambda place: middle[place])
    low, high = shared[0], shared[-1]
    here, there = grid[high] - grid[low], middle[high] - middle[low]
    slope = float(np.clip(there / here, *_STRETCH)) if here > 0 and there > 0 else 1.0
    offset = float(np.mean([middle[place] - slope * grid[place] for place in shared]))
    return {place: middle.get(place, float(np.clip(slope * point + offset, 0, 10))) for place, point in grid.items()}


def grid_calls(group: int, most_rows: int, orders: int) -> int:
    """How many grids phase 2 asks about."""
    if group < 2:
        return 0
    return orders * len(_parts(np.zeros(group), max(FEWEST_ROWS, most_rows)))


def _phase1(answer: Alone | Failure, settings: JudgeSettings) -> float:
    if isinstance(answer, Failure):
        return float("nan")
    return combine.phase1_score([score.points for score in answer.scores], settings.judge_weights)


def _points(answer: Together | Failure) -> tuple[float, ...] | None:
    return answer.points if isinstance(answer, Together) else None


async def _attempt(asked: Coroutine[None, None, Asked]) -> Asked | Failure:
    try:
        return await asked
    except NoAnswerError as error:
        return Failure(error.reason, error.usage, error.seconds)


async def _all(asked: Sequence[Coroutine[None, None, Asked]]) -> list[Asked]:
    """All answers in order; the first error ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(one) for one in asked]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in waiting]
