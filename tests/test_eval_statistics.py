"""Intervals and tests against answers that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layerctl_train.evaluate.statistics import Interval, compare, mean_interval, sign_flip, win_rate

NAN = math.nan


def test_five_differences_of_one_sign_have_the_smallest_exact_p() -> None:
    # Of 2^5 = 32 sign patterns only all plus and all minus reach |sum| = 15.
    assert sign_flip([1, 2, 3, 4, 5]) == (2 / 32, True)


def test_the_exact_p_counts_all_sign_patterns_that_reach_the_sum() -> None:
    # 1 + 2 + 3 + 4 - 5 = 5. With m the sum of those that are minus, |15 - 2 m| >= 5 unless 5 < m < 10. Subsets of 1..5 by their sum
    # 0, 1, 2 ... 15: 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 2, 2, 1, 1, 1; from 6 to 9 there are 12. So 20 of 32.
    assert sign_flip([1, 2, 3, 4, -5]) == (20 / 32, True)
    # With floats that do not add up exactly it is the same.
    assert sign_flip([0.1, 0.2, 0.3, 0.4, -0.5]) == (20 / 32, True)


def test_differences_of_nothing_are_no_evidence() -> None:
    assert sign_flip([0, 0, 0]) == (1, True)
    assert sign_flip([0.3]) == (1, True)
    assert sign_flip([0.0] * 40) == (1, False)


def test_the_sampled_p_agrees_with_the_exact_one_and_is_never_0() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 16)
    exact, is_exact = sign_flip(values)
    padded, sampled = sign_flip([*values, 0.0])  # one more, of no weight
    assert (is_exact, sampled) == (True, False)
    assert padded == pytest.approx(exact, abs=0.02)
    assert sign_flip([1.0] * 40) == (1 / 10_001, False)


def test_p_is_below_a_twentieth_in_about_a_twentieth_of_cases_without_a_difference() -> None:
    rng = np.random.default_rng(2)
    found = [sign_flip(rng.normal(0, 1, 10))[0] < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(found) < 0.085  # 0.05 and three standard deviations of 0.011


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_holds_the_true_mean_in_about_19_of_20_samples(skewed: bool) -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(400):
        values = rng.exponential(1, 60) if skewed else rng.normal(1, 1, 60)
        interval = mean_interval(values, resamples=1000, seed=seed)
        assert interval.low <= interval.mean <= interval.high
        held += interval.low <= 1 <= interval.high
    assert 0.91 < held / 400 < 0.98


def test_a_skewed_sample_has_a_lopsided_interval() -> None:
    interval = mean_interval([0.0] * 30 + [0.1, 0.2, 0.9])
    assert interval.high - interval.mean > 1.3 * (interval.mean - interval.low)


def test_a_wider_level_and_fewer_values_make_wider_intervals() -> None:
    values = np.random.default_rng(4).normal(0, 1, 100)

    def width(interval: Interval) -> float:
        return interval.high - interval.low

    plain = width(mean_interval(values))
    assert plain == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.06)
    assert width(mean_interval(values, level=0.99)) > plain
    assert width(mean_interval(values[:25])) > 1.5 * plain


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = np.random.default_rng(5).random((2, 30))
    assert compare(first, second, seed=1) == compare(first, second, seed=1)
    assert compare(first, second, seed=1).p != compare(first, second, seed=2).p


def test_pairs_with_a_value_that_is_not_finite_are_left_out_and_counted() -> None:
    found = compare([1, NAN, 3, 4, math.inf], [0, 1, NAN, 2, 0])
    assert (found.difference.mean, found.difference.count, found.difference.dropped) == (1.5, 2, 3)
    assert (found.p, found.exact) == (0.5, True)  # of 4 patterns of 1 and 2 two reach 3
    assert mean_interval([NAN, 2, 4, NAN]).dropped == 2


def test_nothing_is_known_of_no_value_and_no_interval_of_one() -> None:
    none, one = mean_interval([NAN]), mean_interval([0.25])
    assert math.isnan(none.mean)
    assert (none.count, none.dropped) == (0, 1)
    assert one.mean == 0.25
    assert math.isnan(one.low)
    assert math.isnan(compare([], []).p)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.3, 0.3, 0.3]) == Interval(0.3, 0.3, 0.3, 3)


def test_lists_that_are_no_pairs_and_levels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        compare([1, 2], [1])
    with pytest.raises(ValueError, match=r"level 1\.5"):
        mean_interval([1, 2], level=1.5)
    with pytest.raises(ValueError, match=r"outcome of 0\.3"):
        win_rate([1, 0.3])


def test_a_win_rate_has_wilsons_interval() -> None:
    # 8 of 10: Wilson 1927, as tabulated: .490 to .943.
    found = win_rate([1] * 8 + [0] * 2)
    assert (found.wins, found.ties, found.losses) == (8, 0, 2)
    assert (found.rate, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    # 10 of 10: the lower end is n / (n + z^2) = 10 / 13.8415.
    sure = win_rate([1] * 10)
    assert (sure.low, sure.high) == pytest.approx((10 / 13.8415, 1), abs=1e-4)


def test_a_tie_is_half_a_win_and_no_answer_is_none() -> None:
    found = win_rate([1, 0.5, 0.5, 0, NAN])
    assert (found.rate, found.wins, found.ties, found.losses, found.dropped) == (0.5, 1, 2, 1, 1)
    assert math.isnan(win_rate([NAN]).rate)


def test_the_win_rates_interval_holds_the_true_rate_also_with_ties() -> None:
    rng = np.random.default_rng(6)
    drawn = rng.choice([0, 0.5, 1], (500, 40), p=[0.1, 0.3, 0.6])  # a rate of .75
    held = [found.low <= 0.75 <= found.high for found in map(win_rate, drawn)]
    assert np.mean(held) > 0.94


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(0, 5))
@example([0.0, 2.9e-111], 0)
def test_swapping_the_systems_turns_the_sign_and_keeps_p(values: list[float], seed: int) -> None:
    zero = [0.0] * len(values)
    one, other = compare(values, zero, resamples=200, seed=seed), compare(zero, values, resamples=200, seed=seed)
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert one.p == other.p
    assert 0 < one.p <= 1
