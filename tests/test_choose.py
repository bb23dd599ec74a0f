"""The best of several proposals is kept, by measure or by a judge, and all scores are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from layerctl.choose import choose
from layerctl.errors import JudgeStoppedError
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, Progress, Proposal, Region
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant
from layerctl.verdict import CRITERIA, GroupVerdict, SampleVerdict, Score, Usage

SOURCE, TRUE = scene(8, width=240, height=180)


def faulty(fault: str) -> LayerStack:
    stack = plant(fault, SOURCE, TRUE, seed=2, severity=0.7)
    assert stack is not None
    return stack


@dataclass
class Scripted:
    """An engine that gives the listed stacks in turn, and remembers what it was asked."""

    stacks: list[LayerStack]
    name: str = "scripted"
    version: str = "1"
    asked: list[DecomposeRequest] = field(default_factory=list)

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        self.asked.append(request)
        progress("drawing", 0.5)
        return Proposal(self.stacks[request.candidate])


@dataclass
class Partial:
    """A judge that gives the listed rewards, and remembers what it saw."""

    given: list[float]
    no_signal: str = ""
    name: str = "partial"
    model: str = "a person"
    host: str = ""
    seen: list[tuple[tuple[LayerStack, ...], str]] = field(default_factory=list)

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        self.seen.append((tuple(stacks), told))
        scores = (Score(5, ""),) * len(CRITERIA)
        samples = tuple(SampleVerdict(scores, 5, 5, reward, "" if math.isfinite(reward) else "no answer") for reward in self.given)
        return GroupVerdict(samples, self.name, self.model, "1", (), (), 1.0, math.nan, self.no_signal, self.no_signal)

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage()

    def close(self) -> None:
        pass


def silent(_doing: str, _done: float) -> None:
    """Progress that nobody watches."""


def test_the_proposal_with_the_best_layers_is_kept() -> None:
    engine = Scripted([faulty("ghost"), TRUE, faulty("split")])
    choice = choose(SOURCE, engine, DecomposeRequest(4), silent, best_of=3)
    assert choice.proposal.stack.layers == TRUE.layers
    assert choice.chosen == 1
    assert [request.candidate for request in engine.asked] == [0, 1, 2]
    assert max(choice.candidates, key=lambda candidate: candidate.score).number == 1


def test_of_equal_proposals_the_first_is_kept() -> None:
    choice = choose(SOURCE, Scripted([TRUE, TRUE]), DecomposeRequest(4), silent, best_of=2)
    assert choice.chosen == 0
    assert len(choice.candidates) == 1


def test_one_proposal_is_not_scored() -> None:
    choice = choose(SOURCE, Scripted([TRUE]), DecomposeRequest(4), silent)
    assert choice.candidates == ()
    assert choice.repairs == ()


def test_faulty_layers_are_left_out_unless_they_are_to_be_kept() -> None:
    engine = Scripted([faulty("blank")])
    assert len(choose(SOURCE, engine, DecomposeRequest(4), silent).proposal.stack.layers) == len(TRUE.layers)
    kept = choose(SOURCE, engine, DecomposeRequest(4), silent, keep_faulty=True)
    assert len(kept.proposal.stack.layers) == len(TRUE.layers) + 1


def test_a_wanted_region_decides_among_equally_good_layers() -> None:
    wanted = next(reversed(list(TRUE.walk())))
    mask = np.zeros((SOURCE.height, SOURCE.width), np.uint8)
    left, top, right, bottom = wanted.box
    mask[max(top, 0) : bottom, max(left, 0) : right] = wanted.pixels[: SOURCE.height - max(top, 0), : SOURCE.width - max(left, 0), 3]
    without = TRUE.with_layers(tuple(layer for layer in TRUE.walk() if layer is not wanted))
    region = (Region(mask, is_outline=True),)
    choice = choose(SOURCE, Scripted([without, TRUE]), DecomposeRequest(4, regions=region), silent, best_of=2)
    assert choice.chosen == 1
    assert choice.candidates[1].coverage == pytest.approx(1, abs=0.02)


def test_a_picture_that_the_engine_leaves_whole_stays_whole() -> None:
    whole = TRUE.with_layers((Layer("Background", SOURCE.pixels, kind="background"),))
    assert choose(SOURCE, Scripted([whole, TRUE]), DecomposeRequest(), silent, best_of=2).chosen == 0


def test_proposals_that_repeat_others_do_not_count_and_soon_no_more_are_asked_for() -> None:
    engine = Scripted([faulty("ghost"), TRUE] * 8)
    choice = choose(SOURCE, engine, DecomposeRequest(4), silent, best_of=12)
    assert [candidate.number for candidate in choice.candidates] == [0, 1]
    assert len(engine.asked) == 5
    assert choice.chosen == 1
    assert choice.proposal.warnings == ("2 of 12 proposals are different ones",)


def test_progress_runs_through_all_candidates() -> None:
    told: list[tuple[str, float]] = []
    choose(SOURCE, Scripted([TRUE, TRUE]), DecomposeRequest(4), lambda doing, done: told.append((doing, done)), best_of=2)
    assert told == [("candidate 1 of 2: drawing", 0.25), ("candidate 2 of 2: drawing", 0.75)]


def test_a_judge_sees_all_different_proposals_once_and_its_highest_reward_is_kept() -> None:
    judge = Partial([6.0, 4.0, 7.0])
    stacks = [TRUE, faulty("ghost"), faulty("split")]
    choice = choose(
        SOURCE, Scripted([stacks[0], stacks[0], *stacks[1:]]), DecomposeRequest(4), silent, best_of=4, judge=judge, told="a cat"
    )
    assert judge.seen == [(tuple(stacks), "a cat")]
    assert [candidate.number for candidate in choice.candidates] == [0, 2, 3]
    assert [candidate.reward for candidate in choice.candidates] == [6, 4, 7]
    assert choice.chosen == 3
    assert choice.proposal.stack.layers == stacks[2].layers
    assert choice.verdict is not None


def test_a_proposal_without_a_score_is_not_chosen_and_the_reason_is_told() -> None:
    judge = Partial([math.nan, 4.0, 3.0])
    stacks = [TRUE, faulty("ghost"), faulty("split")]
    choice = choose(SOURCE, Scripted(stacks), DecomposeRequest(4), silent, best_of=3, judge=judge)
    assert choice.chosen == 1
    assert choice.proposal.warnings == ("the judge has no score for number 1 of the proposals: no answer",)


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (Partial([9.0, 1.0, 9.0], no_signal="the scores lie within 0.1 points"), "the scores lie within 0.1 points"),
        (Partial([math.nan] * 3), "it scored none of them"),
    ],
)
def test_where_the_judge_tells_nothing_the_measured_quality_chooses_and_says_so(judge: Partial, why: str) -> None:
    choice = choose(SOURCE, Scripted([faulty("ghost"), TRUE, faulty("split")]), DecomposeRequest(4), silent, best_of=3, judge=judge)
    assert choice.chosen == 1
    assert choice.proposal.stack.layers == TRUE.layers
    assert choice.proposal.warnings[-1] == f"the measured quality chose, not the judge partial: {why}"


def test_a_wanted_region_counts_for_a_judge_too() -> None:
    wanted = next(reversed(list(TRUE.walk())))
    mask = np.zeros((SOURCE.height, SOURCE.width), np.uint8)
    mask[wanted.top : wanted.box[3], wanted.left : wanted.box[2]] = wanted.pixels[..., 3]
    without = TRUE.with_layers(tuple(layer for layer in TRUE.walk() if layer is not wanted))
    request = DecomposeRequest(4, regions=(Region(mask, is_outline=True),))
    choice = choose(SOURCE, Scripted([without, TRUE]), request, silent, best_of=2, judge=Partial([6.0, 5.0]))
    assert choice.candidates[0].coverage < 5 / 6
    assert choice.chosen == 1


def test_one_different_proposal_leaves_a_judge_nothing_to_compare() -> None:
    judge = Partial([])
    choice = choose(SOURCE, Scripted([TRUE] * 4), DecomposeRequest(4), silent, best_of=4, judge=judge)
    assert judge.seen == []
    assert (choice.chosen, choice.verdict) == (0, None)


def test_what_stops_a_judge_stops_the_choice() -> None:
    class Broke(Partial):
        def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
            raise JudgeStoppedError("the budget is spent")

    with pytest.raises(JudgeStoppedError):
        choose(SOURCE, Scripted([TRUE, faulty("ghost")]), DecomposeRequest(4), silent, best_of=2, judge=Broke([]))
