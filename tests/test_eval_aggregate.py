"""What all pictures say together, against numbers that were computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from layerctl_train.evaluate.aggregate import pairs, summarize
from layerctl_train.evaluate.gates import gates
from layerctl_train.evaluate.results import Difference, Evaluation, PictureResult, Scores, Summary, SystemRecord

RGB, IOU = "layerd_rgb_l1_0", "layerd_alpha_iou_0"


def picture(key: str, *scores: Scores, layers: int | None = 2, won: tuple[float | None, ...] = ()) -> PictureResult:
    return PictureResult(key, 8, 8, layers, scores, won)


def evaluation(pictures: Sequence[PictureResult], presets: Sequence[str | None] = (None, None), names: str = "ABCDEF") -> Evaluation:
    systems = [SystemRecord(name, "any", "1", {"preset": preset}) for name, preset in zip(names, presets, strict=False)]
    return Evaluation("hand", tuple(pictures), tuple(systems), (), None, 0, None, "truth", None, {})


def difference(summary: Summary, metric: str, other: str = "B") -> Difference:
    return next(each for each in summary.differences if (each.metric, each.other) == (metric, other))


def systems(*presets: str | None) -> tuple[SystemRecord, ...]:
    return evaluation((), presets).systems


def test_means_are_of_the_pictures_that_have_the_number() -> None:
    first = [Scores({RGB: 0.1, IOU: 0.5}), Scores({RGB: 0.4}), Scores({RGB: 0.1, IOU: math.nan}), Scores({}, failed="no")]
    means = summarize(evaluation([picture(f"{at}", scores, Scores({})) for at, scores in enumerate(first)])).means
    assert means["A"][RGB].value == pytest.approx(0.2)  # (0.1 + 0.4 + 0.1) / 3
    assert (means["A"][RGB].count, means["A"][IOU].count) == (3, 1)
    assert means["A"][IOU].value == 0.5
    assert means["B"] == {}


def test_differences_and_wins_are_of_the_pictures_that_both_have() -> None:
    pairs_of = [(0.1, 0.3), (0.2, 0.2), (0.5, 0.4), (0.3, None), (None, 0.9), (0.0, 0.4)]
    pictures = [
        picture(str(at), *(Scores({} if value is None else {RGB: value, IOU: value}) for value in values))
        for at, values in enumerate(pairs_of)
    ]
    summary = summarize(evaluation(pictures))
    less = difference(summary, RGB)
    assert less.value == pytest.approx(-0.125)  # (-0.2 + 0 + 0.1 - 0.4) / 4
    assert (less.first, less.other) == ("A", "B")
    assert (less.wins, less.ties, less.losses) == (2, 1, 1)  # less is better
    more = difference(summary, IOU)
    assert more.value == pytest.approx(-0.125)
    assert (more.wins, more.ties, more.losses) == (1, 1, 2)  # more is better
    # Of the 16 ways to flip the signs of -0.2, 0, 0.1, -0.4, those with |sum| of 0.5 or more: ±(0.7), ±(0.5), each twice for the 0.
    assert less.p == pytest.approx(8 / 16)
    assert less.low < less.value < less.high


def test_of_one_picture_there_is_a_mean_and_no_interval() -> None:
    summary = summarize(evaluation([picture("one", Scores({RGB: 0.25}), Scores({RGB: 0.5}))]))
    mean, less = summary.means["A"][RGB], difference(summary, RGB)
    assert (mean.value, mean.count) == (0.25, 1)
    assert math.isnan(mean.low)
    assert math.isnan(less.high)
    assert (less.value, less.p, less.wins) == (-0.25, 1.0, 1)


def test_rows_go_by_true_layers_and_leave_out_pictures_that_a_system_fails_on() -> None:
    def scores(*values: float, failed: str = "") -> Scores:
        return Scores({}, values, tuple(2 * value for value in values), failed=failed)

    pictures = [
        picture("a", scores(0.1, 0.3), scores(0.2, 0.2), layers=2),
        picture("b", scores(0.3, 0.5), scores(0.4, 0.4), layers=2),
        picture("c", scores(0.9, 0.9), scores(failed="no"), layers=2),
        picture("d", scores(0.1, 0.1, 0.1), scores(0.2, 0.2, 0.2), layers=3),
        picture("e", Scores({}), Scores({}), layers=None),
    ]
    two, three = summarize(evaluation(pictures)).rows
    assert (two.true_layers, two.pictures, three.true_layers, three.pictures) == (2, 2, 3, 1)
    assert [*two.means[0], *two.means[1]] == pytest.approx([0.2, 0.4, 0.3, 0.3])
    assert [*two.means_white[0], *two.means_white[1]] == pytest.approx([0.4, 0.8, 0.6, 0.6])


def test_failures_and_pictures_without_layerds_metric_are_counted_with_the_commonest_reason() -> None:
    reasons = ["one layer", "one layer", "blank", ""]
    pictures = [picture(str(at), Scores({}, no_layerd=reason), Scores({}, failed="no" * (at == 0))) for at, reason in enumerate(reasons)]
    summary = summarize(evaluation(pictures))
    assert summary.skipped == {"A": (3, "one layer")}
    assert summary.failed == {"B": 1}


def test_win_rates_count_ties_half_and_leave_out_what_was_not_judged() -> None:
    won: list[tuple[float | None, ...]] = [(1.0, 0.0), (0.5, 0.0), (None, 0.0), (), (0.0, 0.0)]
    pictures = [picture(str(at), *[Scores({})] * 3, won=each) for at, each in enumerate(won)]
    rates = summarize(evaluation(pictures, (None,) * 3)).win_rates
    assert {name: (rate.value, rate.count) for name, rate in rates.items()} == {"B": (0.5, 3), "C": (0.0, 4)}


def test_nothing_at_all_can_be_summed_up() -> None:
    summary = summarize(evaluation([]))
    assert summary == Summary({"A": {}, "B": {}}, (), (), {}, {}, {})


def test_the_first_system_is_compared_with_every_other() -> None:
    assert pairs(systems(None, None, None)) == [(0, 1), (0, 2)]
    assert pairs(systems("qwen", "qwen")) == [(0, 1)]
    assert pairs(systems("qwen", None, "qwen")) == [(0, 1), (0, 2)]


def test_one_without_a_model_is_compared_with_every_model() -> None:
    assert pairs(systems(None, "qwen", "qwen")) == [(0, 1), (0, 2)]


def test_four_ways_are_compared_within_their_sampler_only() -> None:
    assert pairs(systems("stable-layers", "stable-layers", "qwen", "qwen")) == [(0, 1), (2, 3)]


def test_three_systems_with_two_samplers_have_the_first_in_every_pair_of_its_sampler() -> None:
    assert pairs(systems(*["stable-layers"] * 3, *["qwen"] * 3)) == [(0, 1), (0, 2), (3, 4), (3, 5)]


def test_one_system_with_two_samplers_is_compared_with_itself() -> None:
    assert pairs(systems("stable-layers", "qwen")) == [(0, 1)]


def test_differences_of_four_ways_mix_no_samplers() -> None:
    pictures = [picture(str(at), *(Scores({RGB: value + at}) for value in (0.1, 0.2, 0.3, 0.5)), won=(1.0, None, 0.0)) for at in range(2)]
    summary = summarize(evaluation(pictures, ("heun", "heun", "euler", "euler")))
    assert [(each.first, each.other) for each in summary.differences] == [("A", "B"), ("C", "D")]
    assert [each.value for each in summary.differences] == pytest.approx([-0.1, -0.2])
    assert {name: rate.value for name, rate in summary.win_rates.items()} == {"B": 1.0, "D": 0.0}
    failed = gates([f"difference({RGB}) against D < -0.15", f"difference({RGB}) against B < -0.15", "win_rate against D < 0.5"], summary)
    assert [each.message.partition(": ")[2] for each in failed] == [f"{RGB} of C against D is -0.2", "win_rate of C against D is 0"]
    (unknown,) = gates([f"difference({RGB}) against C > -9"], summary)
    assert "there is no" in unknown.message
