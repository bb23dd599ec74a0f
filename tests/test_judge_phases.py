"""Both phases over a group, with an examiner that notes what it was asked, and with the simulated judge."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layerctl_train.judge.combine import rank_correlation
from layerctl_train.judge.phases import Alone, Grid, Together, examine, grid_calls, linked_orders, plan_grids
from layerctl_train.judge.question import NoAnswerError
from layerctl_train.judge.simulated import Character, SimulatedJudge

from layerctl import registry
from layerctl.errors import JudgeStoppedError, UsageError
from layerctl.judge_settings import JudgeSettings
from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.verdict import CRITERIA, GroupVerdict, Score, Usage

SOURCE = SourceImage(np.full((8, 8, 4), 255, np.uint8))
ONE_CALL = Usage(calls=1, input_tokens=10, output_tokens=2, cost=0.5)


def candidate(number: int) -> LayerStack:
    """A stack that carries its number as a colour."""
    background = np.full((8, 8, 4), 255, np.uint8)
    background[..., 0], background[..., 1] = divmod(number, 256)
    return LayerStack(8, 8, (Layer("Background", background, kind="background"),))


def number(stack: LayerStack) -> int:
    colour = next(iter(stack.walk())).pixels[0, 0]
    return int(colour[0]) * 256 + int(colour[1])


class Scripted:
    """Answers phase 1 with `alone[number]` and phase 2 with `together(numbers from top to bottom)`; None is a refusal."""

    def __init__(self, alone: Sequence[float | None], together: Callable[[list[int]], list[float] | None]) -> None:
        self.alone_scores, self.together_scores = alone, together
        self.seen: list[int] = []
        self.grids: list[list[int]] = []
        self.anchors: list[list[float] | None] = []
        self.told: set[str] = set()

    async def alone(self, source: SourceImage, stack: LayerStack, told: str) -> Alone:
        self.seen.append(number(stack))
        self.told.add(told)
        await asyncio.sleep(0.001 * (number(stack) * 7 % 5))
        points = self.alone_scores[number(stack)]
        if points is None:
            raise NoAnswerError("it would rather not", ONE_CALL, 0.1)
        return Alone((Score(points, "seen"),) * 5, ONE_CALL, 0.1)

    async def together(self, source: SourceImage, stacks: Sequence[LayerStack], anchors: Sequence[float] | None, told: str) -> Together:
        rows = [number(stack) for stack in stacks]
        self.grids.append(rows)
        self.anchors.append(None if anchors is None else list(anchors))
        points = self.together_scores(rows)
        if points is None:
            raise NoAnswerError("too many pictures", ONE_CALL, 0.2)
        return Together(tuple(points), ONE_CALL, 0.2)


def run(examiner: Any, group: int, most_rows: int = 16, told: str = "", **changed: Any) -> GroupVerdict:
    stacks = [candidate(place) for place in range(group)]
    return asyncio.run(
        examine(examiner, SOURCE, stacks, told, JudgeSettings(**changed), most_rows, judge="scripted", model="m", prompt_version="v")
    )


def by_number(rows: list[int]) -> list[float]:
    return [float(row) for row in rows]


def test_every_candidate_is_asked_about_once_alone_and_once_in_each_order() -> None:
    examiner = Scripted([7.0] * 8, by_number)
    verdict = run(examiner, 8)
    assert sorted(examiner.seen) == list(range(8))
    assert [sorted(grid) for grid in examiner.grids] == [list(range(8))] * 2
    assert verdict.usage == Usage(calls=10, input_tokens=100, output_tokens=20, cost=5.0)
    assert [sample.usage for sample in verdict.samples] == [ONE_CALL] * 8


def test_scores_come_back_to_the_candidates_they_were_given_to() -> None:
    verdict = run(Scripted([6 + 0.1 * place for place in range(8)], by_number), 8)
    assert verdict.orders_KG == (tuple(map(float, range(8))),) * 2
    assert [sample.phase2 for sample in verdict.samples] == list(range(8))
    assert verdict.rewards == pytest.approx([(6 + 0.1 * place + place) / 2 for place in range(8)])
    assert verdict.agreement == pytest.approx(1)
    assert verdict.spread == 7
    assert verdict.teaches


LIKINGS: dict[str, Callable[[list[int]], list[float]]] = {
    "upper rows": lambda rows: [9.0 - place for place in range(len(rows))],
    "lower rows": lambda rows: [1.0 + place for place in range(len(rows))],
    "the first and the last": lambda rows: [5.0 + abs(place - (len(rows) - 1) / 2) for place in range(len(rows))],
    "the middle": lambda rows: [9.0 - abs(place - (len(rows) - 1) / 2) for place in range(len(rows))],
}


@pytest.mark.parametrize("liking", LIKINGS)
@pytest.mark.parametrize("orders", [2, 4])
@pytest.mark.parametrize("group", [4, 8, 12])
def test_a_judge_that_goes_by_rows_contradicts_itself(liking: str, orders: int, group: int) -> None:
    verdict = run(Scripted([7.0] * group, LIKINGS[liking]), group, judge_orders=orders)
    assert verdict.agreement < 0
    assert not verdict.teaches


def test_few_candidates_have_few_orders_and_none_twice() -> None:
    examiner = Scripted([7.0] * 3, by_number)
    run(examiner, 3, judge_orders=8)
    assert len(examiner.grids) == len({tuple(grid) for grid in examiner.grids}) == 6


def test_four_orders_even_out_where_each_candidate_stood() -> None:
    verdict = run(Scripted([7.0] * 8, LIKINGS["upper rows"]), 8, judge_orders=4)
    assert np.ptp([sample.phase2 for sample in verdict.samples]) < 3 < np.ptp(verdict.orders_KG[0])


def test_orders_are_different_ones_and_the_seed_changes_them() -> None:
    examiner, other = Scripted([7.0] * 8, by_number), Scripted([7.0] * 8, by_number)
    run(examiner, 8, judge_orders=4)
    run(other, 8, judge_orders=4, judge_seed=1)
    assert len({tuple(grid) for grid in examiner.grids + other.grids}) == 8


def test_every_second_order_is_told_the_scores_of_phase_1_row_by_row_unless_that_is_switched_off() -> None:
    examiner = Scripted([float(place) for place in range(5)], by_number)
    run(examiner, 5, judge_orders=4)
    told = [[float(row) for row in grid] for grid in examiner.grids]
    assert examiner.anchors == [told[0], None, told[2], None]
    run(examiner, 5, judge_anchors=False)
    assert examiner.anchors[4:] == [None, None]


def test_all_questions_are_told_the_same_about_the_picture() -> None:
    examiner = Scripted([7.0] * 3, by_number)
    run(examiner, 3, told="a cat")
    assert examiner.told == {"a cat"}


def test_a_candidate_without_an_answer_has_no_reward_and_the_reason_and_the_others_keep_theirs() -> None:
    verdict = run(Scripted([7.0, None, 7.0, 7.0], by_number), 4)
    assert [sample.is_valid for sample in verdict.samples] == [True, False, True, True]
    failed = verdict.samples[1]
    assert (failed.reason, math.isnan(failed.phase1), failed.phase2) == ("it would rather not", True, 1.0)
    assert all(math.isnan(score.points) for score in failed.criteria)
    assert verdict.usage.calls == 6


def test_a_grid_without_an_answer_leaves_the_group_to_the_other_order() -> None:
    first: list[list[int]] = []

    def once(rows: list[int]) -> list[float] | None:
        first.append(rows)
        return None if len(first) == 1 else by_number(rows)

    verdict = run(Scripted([7.0] * 8, once), 8)
    assert [sample.phase2 for sample in verdict.samples] == list(range(8))
    assert "(1 answered)" in verdict.no_signal


def test_when_phase_2_fails_altogether_every_reward_is_missing_and_says_why() -> None:
    verdict = run(Scripted([7.0] * 4, lambda _: None), 4)
    assert {sample.reason for sample in verdict.samples} == {"beside the others: too many pictures"}
    assert not verdict.teaches


def test_without_orders_phase_1_is_the_reward() -> None:
    examiner = Scripted([5.0, 6.0, 8.0], by_number)
    verdict = run(examiner, 3, judge_orders=0)
    assert (verdict.rewards, examiner.grids, verdict.spread) == ((5.0, 6.0, 8.0), [], 3.0)
    assert verdict.teaches


def test_one_candidate_is_not_compared_and_teaches_nothing() -> None:
    examiner = Scripted([6.5], by_number)
    verdict = run(examiner, 1)
    assert (verdict.rewards, examiner.grids, verdict.teaches) == ((6.5,), [], False)


def test_what_stops_the_run_is_raised_as_it_is_and_ends_the_other_questions() -> None:
    class Broke(Scripted):
        finished = 0

        async def alone(self, source: SourceImage, stack: LayerStack, told: str) -> Alone:
            if number(stack) == 2:
                raise JudgeStoppedError("out of money")
            await asyncio.sleep(30)
            self.finished += 1
            raise AssertionError

    examiner = Broke([7.0] * 6, by_number)
    with pytest.raises(JudgeStoppedError, match="out of money"):
        run(examiner, 6)
    assert examiner.finished == 0


def test_more_candidates_than_fit_are_spread_over_grids_that_share_the_best_and_the_worst() -> None:
    phase1 = np.array([7, 3, 6, 5, 9, 4, 8, 6.5, 5.5, 4.5])
    plan = plan_grids(SOURCE, phase1, JudgeSettings(), 6)
    assert len(plan) == 4 == grid_calls(10, 6, 2)
    for grid in plan:
        assert len(grid.rows) <= 6
        assert {1, 4} <= set(grid.rows)
    for order in (0, 1):
        assert {row for grid in plan if grid.order == order for row in grid.rows} == set(range(10))
    assert plan == plan_grids(SOURCE, phase1, JudgeSettings(), 6)


def test_grids_judged_on_different_scales_are_brought_to_one() -> None:
    """Of two grids one judge is kind in the second: 0.5 x + 4. Candidates 0 and 9 are in both."""
    plan = (Grid(0, (0, 1, 2, 9)), Grid(0, (9, 3, 4, 0)))
    kind = [0.5 * place + 4 for place in (9, 3, 4, 0)]
    (scores,) = linked_orders(plan, [(0, 1, 2, 9), kind], 10)
    known = [0, 1, 2, 3, 4, 9]
    assert np.isnan(scores[5:9]).all()
    assert rank_correlation(scores[known], np.array(known, float)) == pytest.approx(1)
    assert np.diff(scores[known]).min() > 0.6


def test_a_grid_without_an_answer_takes_only_its_own_candidates_along() -> None:
    plan = (Grid(0, (0, 1, 9)), Grid(0, (9, 2, 0)))
    (scores,) = linked_orders(plan, [(1.0, 2.0, 8.0), None], 10)
    np.testing.assert_equal(scores[[0, 1, 2, 9]], [1, 2, np.nan, 8])


def test_in_many_grids_the_order_of_all_candidates_is_found() -> None:
    examiner = Scripted([6 + 0.1 * place for place in range(20)], lambda rows: [10 * row / max(rows) for row in rows])
    verdict = run(examiner, 20, most_rows=5)
    assert rank_correlation(np.array(verdict.rewards), np.arange(20.0)) == pytest.approx(1)


# The simulated judge.

_DRAW = np.random.default_rng(5)
TRUTHS = np.clip(_DRAW.uniform(3, 8, (120, 1)) + _DRAW.normal(0, 1, (120, 8)), 0, 10)
"""Candidates of one picture are alike."""


def simulated(character: Character, groups: int = 120, **changed: Any) -> list[tuple[np.ndarray, GroupVerdict]]:
    """Verdicts on groups of eight whose truth is known, the same in all criteria."""
    stacks = [candidate(place) for place in range(8 * groups)]
    truth = {id(stack): TRUTHS[number(stack) // 8, number(stack) % 8] for stack in stacks}
    judge = SimulatedJudge(JudgeSettings(**changed), lambda _, stack: [truth[id(stack)]] * 5, character)
    return [(TRUTHS[at], judge.score_group(SOURCE, stacks[8 * at : 8 * at + 8])) for at in range(groups)]


def mean_correlations(found: list[tuple[np.ndarray, GroupVerdict]]) -> tuple[float, float]:
    """With the truth: of phase 1, and of the reward. A phase that gives all the same score is worth 0."""
    one = [rank_correlation(np.array([sample.phase1 for sample in verdict.samples]), truth) for truth, verdict in found]
    both = [rank_correlation(np.array(verdict.rewards), truth) for truth, verdict in found]
    return float(np.mean(np.nan_to_num(one))), float(np.mean(np.nan_to_num(both)))


SQUEEZED = Character(low=6.5, high=7.5)


def test_under_compression_both_phases_find_the_truth_better_than_phase_1_alone() -> None:
    alone, both = mean_correlations(simulated(SQUEEZED))

    assert both >= alone + 0.2
    assert both >= 0.8


def test_a_judge_that_sees_well_teaches_in_most_groups_with_four_orders() -> None:
    found = simulated(SQUEEZED, judge_orders=4)
    assert np.mean([verdict.teaches for _, verdict in found]) > 0.8


@pytest.mark.parametrize("orders", [2, 4])
@pytest.mark.parametrize("anchoring", [0.0, 0.4, 1.0])
def test_a_random_judge_produces_no_usable_group(orders: int, anchoring: float) -> None:
    blind = Character(skill=0, anchoring=anchoring)
    taught = [verdict for _, verdict in simulated(blind, judge_orders=orders) if verdict.teaches]

    assert len(taught) <= 2


def test_a_judge_that_only_looks_at_the_position_teaches_nothing() -> None:
    found = simulated(Character(skill=0, noise_together=0, position=10, anchoring=0), groups=20)
    assert not any(verdict.teaches for _, verdict in found)


def test_equal_candidates_teach_nothing_however_hard_the_judge_tries_to_spread_them() -> None:
    same = [candidate(3)] * 8
    judges = (SimulatedJudge(JudgeSettings(judge_seed=seed), lambda *_: [6.0] * 5, Character()) for seed in range(40))
    verdicts = [judge.score_group(SOURCE, same) for judge in judges]
    assert np.mean([np.ptp(verdict.orders_KG[0]) for verdict in verdicts]) > 3
    assert sum(verdict.teaches for verdict in verdicts) <= 1


def test_the_same_question_has_the_same_answer_and_another_seed_another_one() -> None:
    (_, one), (_, again) = simulated(SQUEEZED, 1)[0], simulated(SQUEEZED, 1)[0]
    (_, other) = simulated(SQUEEZED, 1, judge_seed=1)[0]
    assert one.rewards == again.rewards != other.rewards


def test_refusals_are_missing_scores_with_a_reason_never_zero() -> None:
    found = simulated(replace(SQUEEZED, refusals=0.3), 30)
    samples = [sample for _, verdict in found for sample in verdict.samples]
    missing = [sample for sample in samples if not sample.is_valid]
    assert 0.2 < len(missing) / len(samples) < 0.6
    assert all("refused" in sample.reason and math.isnan(sample.reward) for sample in missing)
    assert all(0 < sample.reward <= 10 for sample in samples if sample.is_valid)


def test_by_its_name_the_simulated_judge_takes_the_measured_quality_for_the_truth() -> None:
    source, stack = scene(4)
    told: list[str] = []
    judge = registry.load("judges", "simulated")(
        JudgeSettings(judge_extra='{"noise_alone": 0, "noise_together": 0, "anchoring": 0}'), told.append
    )
    blank = stack.with_layers((*stack.layers, Layer("blank", np.zeros((1, 1, 4), np.uint8))))
    verdict = judge.score_group(source, [blank, stack])
    assert verdict.samples[1].reward > verdict.samples[0].reward
    assert (verdict.judge, len(verdict.samples[0].criteria), told) == ("simulated", len(CRITERIA), [])


@pytest.mark.parametrize("extra", ['{"nois": 1}', '{"skill": "much"}', '{"skill": true}'])
def test_a_simulated_judge_refuses_a_character_that_it_has_not(extra: str) -> None:
    with pytest.raises(UsageError, match="which is nothing that the simulated judge has"):
        registry.load("judges", "simulated")(JudgeSettings(judge_extra=extra), lambda _: None)
