"""From raw scores to rewards, and whether a group of them teaches anything: pure functions on arrays.

Axes: C criteria, G the group's candidates, K row orders. Points are 0..10, NaN is "no score".

    phase1_G = sum_C w_C c_CG / sum_C w_C               the candidate alone
    phase2_G = mean over K of orders_KG                 beside the others, in K row orders
    reward_G = (1 - b) phase1_G + b phase2_G            b = judge_blend

Stable-Layers (arXiv 2605.30257) scores in these two phases; how it combines them could not be read, so weights and formula are ours. They
are blended as they are, not standardised: phase 1, squeezed into a narrow band, then weighs as little as it says.

A group teaches something when its raw scores differ (`spread`) and the row orders agree (`agreement`), both decided before anything is
standardised, because standardising gives pure noise full advantages. The orders have to agree better than random scores would but once in
1 / `judge_chance` groups. That level comes from the permutation distribution of the mean rank correlation; it is high for few candidates
and few orders: four candidates in two orders never show more than chance.

A judge that is told its scores of phase 1 may repeat them, noise and all, and then agrees with itself. Only every second order is told
them, the first, third, ...; agreement is that of the others with each other and with the mean of those that were told (`rankings`), which
is no echo. To choose the best candidate once, less is enough than to teach (`no_choice`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.judge_settings import JudgeSettings

F64 = npt.NDArray[np.float64]

FEWEST = 3
"""Valid rewards that a group needs: of two, one always has the positive and one the negative advantage."""
_DRAWS = 20_000


def phase1_score(points_C: Sequence[float], weights_C: Sequence[float]) -> float:
    """The weighted mean of the criteria; NaN if one of them, whose weight is not 0, is missing."""
    used = [(point, weight) for point, weight in zip(points_C, weights_C, strict=True) if weight]
    return sum(point * weight for point, weight in used) / sum(weight for _, weight in used)


def phase2_scores(orders_KG: F64) -> F64:
    """The mean of each candidate over the row orders that have a score of it, G; NaN where none has."""
    known = np.isfinite(orders_KG)
    return np.divide(np.where(known, orders_KG, 0).sum(0), known.sum(0), out=np.full(orders_KG.shape[1], np.nan), where=known.any(0))


def rewards(phase1_G: F64, phase2_G: F64 | None, blend: float) -> F64:
    """G rewards, NaN where a phase that counts has no score; phase 1's alone where there is no phase 2."""
    if phase2_G is None or blend == 0:
        return phase1_G.copy()
    return phase2_G.copy() if blend == 1 else (1 - blend) * phase1_G + blend * phase2_G


def spread(scores_G: F64) -> float:
    """The range of the scores that there are, NaN without any."""
    known = scores_G[np.isfinite(scores_G)]
    return float(np.ptp(known)) if known.size else math.nan


def rank_correlation(one: F64, other: F64) -> float:
    """Spearman's, over the places where both have a score; ties share their mean rank. NaN where one of them is constant."""
    both = np.isfinite(one) & np.isfinite(other)
    a, b = _ranks(one[both]), _ranks(other[both])
    a, b = a - a.mean() if a.size else a, b - b.mean() if b.size else b
    length = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else math.nan


def rankings(orders_KG: F64, settings: JudgeSettings) -> F64:
    """What may agree without being an echo of phase 1: the orders that answered, those that were told its scores as one, their mean."""
    answered = np.array([np.isfinite(order).any() for order in orders_KG], np.bool_)
    if not settings.judge_anchors:
        return orders_KG[answered]
    told, own = orders_KG[::2], orders_KG[1::2][answered[1::2]]
    return np.vstack([own, phase2_scores(told)]) if answered[::2].any() else own


def partial_correlation(one: F64, other: F64, given: F64) -> float:
    """Spearman's of the two with what both owe to a third taken off; NaN where one of them owes it everything."""
    both, first, second = rank_correlation(one, other), rank_correlation(one, given), rank_correlation(other, given)
    if math.isnan(first) or math.isnan(second):
        return both
    left = (1 - first**2) * (1 - second**2)
    return (both - first * second) / math.sqrt(left) if left > 1e-9 else math.nan


def agreement(rankings_KG: F64) -> float:
    """The mean rank correlation over all pairs of rows; NaN where no pair has one."""
    found = [rank_correlation(one, other) for one, other in combinations(rankings_KG, 2)]
    known = [value for value in found if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def chance(observed: float, rankings: int, group: int) -> float:
    """How likely `rankings` random orders of `group` candidates agree at least as well as `observed`, 0..1."""
    drawn = _random_agreements(rankings, group)
    return float((np.count_nonzero(drawn >= observed - 1e-9) + 1) / (drawn.size + 1))


def no_choice(phase1_G: F64, orders_KG: F64, reward_G: F64, settings: JudgeSettings) -> str:
    """Why not even the best candidate can be told, in words with the numbers; "" if it can.

    Without row orders only the spread of phase 1 can decide, which cannot tell a difference from noise.
    """
    valid = int(np.isfinite(reward_G).sum())
    if valid < 2:
        return f"{valid} of {reward_G.size} candidates {'has' if valid == 1 else 'have'} a score"
    raw = phase2_scores(orders_KG) if len(orders_KG) else phase1_G
    reach = spread(np.where(np.isfinite(reward_G), raw, np.nan))
    if not reach >= settings.judge_min_spread:
        return f"the scores lie within {reach:.2f} points, at least {settings.judge_min_spread:g} are needed"
    if len(orders_KG) < 2:
        return ""
    compared = rankings(orders_KG, settings)
    agreed = agreement(compared)
    if math.isnan(agreed):
        answered = int(np.isfinite(orders_KG).any(1).sum())
        return f"the {len(orders_KG)} row orders cannot be compared ({answered} answered)"
    if agreed < settings.judge_min_agreement:
        return f"the row orders agree by {agreed:.2f}, at least {settings.judge_min_agreement:g} is needed"
    return ""


def no_signal(phase1_G: F64, orders_KG: F64, reward_G: F64, settings: JudgeSettings) -> str:
    """Why the group teaches nothing; "" if it does. Asks for more than `no_choice`: agreement that is no chance.

    With no row orders at all the spread of phase 1 decides alone, and cannot tell a difference from noise.
    """
    valid = int(np.isfinite(reward_G).sum())
    if valid < FEWEST:
        return f"{valid} of {reward_G.size} candidates have a score, at least {FEWEST} are needed"
    why = no_choice(phase1_G, orders_KG, reward_G, settings)
    if why or not len(orders_KG):
        return why
    if len(orders_KG) == 1:
        return "one row order has nothing to agree with: ask for more orders"
    compared = rankings(orders_KG, settings)
    shared = min(int((np.isfinite(one) & np.isfinite(other)).sum()) for one, other in combinations(compared, 2))
    by_chance = chance(agreement(compared), len(compared), shared) if shared > 1 else 1.0
    if by_chance > settings.judge_chance:
        scores = f"random scores of {shared} candidates in {len(orders_KG)} row orders"
        return f"{scores} agree as well in {by_chance:.1%} of groups: ask for more orders"
    return ""


def _ranks(values: F64) -> F64:
    """0 for the smallest; equal values share the mean of their places."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count
    return np.asarray((first + (count - 1) / 2)[place], np.float64)


@lru_cache(maxsize=64)
def _random_agreements(rankings: int, group: int) -> F64:
    """The mean pairwise correlation of random orders, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    centred = np.arange(group) - (group - 1) / 2
    orders = rng.permuted(np.broadcast_to(centred, (_DRAWS * rankings, group)), axis=1).reshape(_DRAWS, rankings, group)
    # The sum over pairs of products is half of (the square of the sum, less the sum of the squares).
    squares = float((centred**2).sum())
    total = (orders.sum(1) ** 2).sum(1)
    found = (total - rankings * squares) / (rankings * (rankings - 1) * squares)
    return np.asarray(found, np.float64)
