"""How raw scores become rewards, and when a group of them teaches anything."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from layerctl_train.judge import combine

from layerctl.judge_settings import JudgeSettings

NAN = math.nan
DEFAULT = JudgeSettings()


def signal(phase1: list[float], orders: list[list[float]], **changed: Any) -> str:
    return combine.no_signal(*scored(phase1, orders, **changed))


def choice(phase1: list[float], orders: list[list[float]], **changed: Any) -> str:
    return combine.no_choice(*scored(phase1, orders, **changed))


def scored(phase1: list[float], orders: list[list[float]], **changed: Any) -> tuple[combine.F64, combine.F64, combine.F64, JudgeSettings]:
    settings = JudgeSettings(**changed)
    phase1_G, orders_KG = np.array(phase1), np.array(orders).reshape(len(orders), len(phase1))
    phase2_G = combine.phase2_scores(orders_KG) if orders else None
    reward_G = combine.rewards(phase1_G, phase2_G, settings.judge_blend)
    return phase1_G, orders_KG, reward_G, settings


GOOD = [1.0, 2.5, 3.0, 4.5, 5.0, 6.5, 8.0, 9.0]
FLAT = [7.0, 7.1, 7.0, 7.2, 7.1, 7.2, 7.3, 7.3]


def test_phase_1_is_the_weighted_mean_of_the_criteria() -> None:
    assert combine.phase1_score([10, 0, 5, 5, 5], [1, 1, 1, 1, 1]) == 5
    assert combine.phase1_score([10, 0, 5, 5, 5], [3, 1, 0, 0, 0]) == 7.5


def test_a_missing_criterion_makes_phase_1_missing_unless_it_has_no_weight() -> None:
    assert math.isnan(combine.phase1_score([10, NAN, 5, 5, 5], [1, 1, 1, 1, 1]))
    assert combine.phase1_score([10, NAN, 5, 5, 5], [1, 0, 1, 0, 0]) == 7.5


def test_phase_2_is_the_mean_of_the_orders_that_answered() -> None:
    np.testing.assert_equal(combine.phase2_scores(np.array([[1, NAN, NAN], [3, 4, NAN]])), [2, 4, NAN])


@pytest.mark.parametrize(("blend", "expected"), [(0.0, [6, NAN, 7]), (0.25, [5, NAN, NAN]), (1.0, [2, 9, NAN])])
def test_the_reward_blends_both_phases_and_is_missing_where_one_that_counts_is(blend: float, expected: list[float]) -> None:
    np.testing.assert_equal(combine.rewards(np.array([6, NAN, 7]), np.array([2, 9, NAN]), blend), expected)


def test_rank_correlation_is_spearmans_with_shared_ranks() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = rng.integers(0, 5, 9).astype(float), rng.integers(0, 5, 9).astype(float)
        assert combine.rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


def test_rank_correlation_looks_only_at_pairs_and_has_none_for_a_constant() -> None:
    assert combine.rank_correlation(np.array([1, 2, NAN, 3]), np.array([2, 3, 9, NAN])) == 1
    assert math.isnan(combine.rank_correlation(np.ones(4), np.arange(4.0)))
    assert math.isnan(combine.rank_correlation(np.full(4, NAN), np.arange(4.0)))


def test_the_chance_level_is_that_of_all_permutations() -> None:
    exact = [combine.rank_correlation(np.arange(5.0), np.array(order, float)) for order in itertools.permutations(range(5))]
    for observed in (0.3, 0.7, 0.9, 1.0):
        share = np.mean([value >= observed - 1e-9 for value in exact])
        assert combine.chance(observed, 2, 5) == pytest.approx(share, abs=0.01)


def test_orders_that_agree_over_a_wide_range_teach() -> None:
    assert signal(FLAT, [GOOD, GOOD]) == ""


def test_a_group_of_equal_scores_teaches_nothing() -> None:
    assert "within 0.00 points" in signal(FLAT, [[5.0] * 8] * 2)


def test_row_orders_that_contradict_each_other_teach_nothing_however_wide_they_spread() -> None:
    assert "agree by -1.00, at least 0.3 is needed" in signal(FLAT, [GOOD, GOOD[::-1]])


def test_agreement_that_chance_reaches_too_teaches_nothing() -> None:
    shuffled = [1.0, 3.0, 2.5, 8.0, 4.5, 5.0, 9.0, 6.5]
    assert combine.rank_correlation(np.array(GOOD), np.array(shuffled)) > DEFAULT.judge_min_agreement
    assert "ask for more orders" in signal(FLAT, [GOOD, shuffled], judge_anchors=False)
    assert signal(FLAT, [GOOD, shuffled] * 2, judge_anchors=False) == ""


def test_four_candidates_in_two_orders_never_show_more_than_chance_but_in_four_they_do() -> None:
    four, flat = [1.0, 4.0, 6.0, 9.0], [7.0, 7.1, 7.2, 7.3]
    assert "random scores of 4 candidates in 2 row orders" in signal(flat, [four] * 2)
    assert signal(flat, [four] * 4) == ""


def test_fewer_than_three_valid_rewards_teach_nothing() -> None:
    phase1 = [7.0, 7.5, NAN, NAN, NAN, NAN, NAN, NAN]
    assert signal(phase1, [GOOD, GOOD]) == "2 of 8 candidates have a score, at least 3 are needed"


def test_an_order_without_an_answer_leaves_nothing_to_compare() -> None:
    assert "the 2 row orders cannot be compared (1 answered)" in signal(FLAT, [GOOD, [NAN] * 8])


def test_a_judge_that_is_right_both_times_teaches() -> None:
    assert signal(GOOD, [GOOD, GOOD]) == ""


def test_an_echo_of_phase_1_does_not_count_as_agreement() -> None:
    """The first and third order were told phase 1 and repeat it; the others were not, and contradict each other."""
    own = [[5.0, 1.0, 8.0, 2.0, 9.0, 3.0, 7.0, 4.0], [2.0, 8.0, 3.0, 9.0, 1.0, 7.0, 4.0, 6.0]]
    echo = [GOOD, own[0], GOOD, own[1]]
    assert "row orders agree by" in signal(GOOD, echo)
    assert "row orders agree by" in choice(GOOD, echo)
    assert signal(GOOD, [GOOD] * 4) == ""


def test_orders_that_were_told_phase_1_count_as_one() -> None:
    orders = np.array([[1.0, 2, 3], [3.0, 2, 1], [3.0, 4, 5], [NAN, NAN, NAN]])
    np.testing.assert_equal(combine.rankings(orders, JudgeSettings()), [[3, 2, 1], [2, 3, 4]])
    np.testing.assert_equal(combine.rankings(orders, JudgeSettings(judge_anchors=False)), orders[:3])


def test_orders_without_an_answer_do_not_make_chance_less_likely() -> None:
    four, flat = [1.0, 4.0, 6.0, 9.0], [7.0, 7.1, 7.2, 7.3]
    assert signal(flat, [four] * 4) == ""
    assert "random scores of 4 candidates" in signal(flat, [four, four, [NAN] * 4, [NAN] * 4])
    assert "random scores of 3 candidates" in signal(GOOD, [GOOD, [*GOOD[:3], *[NAN] * 5]])


def test_one_order_alone_chooses_but_does_not_teach() -> None:
    assert choice(FLAT, [GOOD]) == ""
    assert "one row order has nothing to agree with" in signal(FLAT, [GOOD])


def test_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    rng = np.random.default_rng(2)
    one, other, given = (rng.permutation(9).astype(float) for _ in range(3))
    residuals: list[Any] = [ranks - np.polyval(np.polyfit(given, ranks, 1), given) for ranks in (one, other)]
    assert combine.partial_correlation(one, other, given) == pytest.approx(np.corrcoef(np.stack(residuals))[0, 1])
    assert combine.partial_correlation(one, other, np.ones(9)) == combine.rank_correlation(one, other)
    assert math.isnan(combine.partial_correlation(given, other, given))


def test_to_choose_the_best_needs_two_scores_and_orders_that_do_not_contradict_each_other() -> None:
    four, flat = [1.0, 4.0, 6.0, 9.0], [7.0, 7.1, 7.2, 7.3]
    assert choice(flat, [four] * 2) == ""
    assert choice([7.0, 7.1], [[3.0, 8.0]] * 2) == ""
    assert "agree by -1.00" in choice([7.0, 7.1], [[3.0, 8.0], [7.0, 3.0]])
    assert choice([7.0, NAN], [[3.0, 8.0]] * 2) == "1 of 2 candidates has a score"
    assert "within 0.00 points" in choice(flat, [[5.0] * 4] * 2)


def test_without_phase_2_only_the_spread_of_phase_1_decides() -> None:
    assert signal(GOOD, []) == ""
    assert "within 0.30 points" in signal(FLAT, [])


def test_the_limits_are_settings() -> None:
    assert signal(FLAT, [GOOD, GOOD], judge_min_spread=9.0)
    assert signal(FLAT, [GOOD, GOOD], judge_chance=0.0)
    assert signal([7.0, 7.1, 7.2, 7.3], [[1.0, 4.0, 6.0, 9.0]] * 2, judge_chance=1.0) == ""


def test_random_scores_teach_in_one_group_of_a_hundred() -> None:
    rng = np.random.default_rng(1)
    drawn = [(group, orders) for group in (3, 4, 5, 6, 8, 16) for orders in (2, 4) for _ in range(250)]
    taught = sum(
        not signal(list(rng.uniform(6, 8, group)), [list(rng.uniform(0, 10, group)) for _ in range(orders)]) for group, orders in drawn
    )
    assert 0 < taught <= 0.011 * len(drawn), f"{taught} of {len(drawn)}"
