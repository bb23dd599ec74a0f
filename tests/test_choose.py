"""The best of several proposals is kept, and all scores are told."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from layerctl.choose import choose
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, Progress, Proposal, Region
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant

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
