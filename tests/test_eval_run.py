"""An evaluation from data to results, with engines and judges that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.evaluate import run
from layerctl_train.evaluate.aggregate import summarize
from layerctl_train.evaluate.data import scenes
from layerctl_train.evaluate.example import Data, Example, Skipped, picture_of
from layerctl_train.evaluate.report import to_json
from layerctl_train.evaluate.results import METRICS, PictureResult, Scores
from layerctl_train.evaluate.run import Evaluator, Layers, Plan, won_against
from layerctl_train.evaluate.sampling import Shard, chosen
from layerctl_train.evaluate.score import score
from layerctl_train.evaluate.systems import System, compared

from layerctl import registry
from layerctl.errors import InputError, JudgeStoppedError, MissingDependencyError
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, Judge, Progress, Proposal
from layerctl.settings import Settings
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict, SampleVerdict, Usage

NAN = math.nan


@dataclass
class Scripted:
    """An engine that cuts the picture in halves, remembers whom it was asked for, and may raise at its n-th question."""

    name: str = "scripted"
    version: str = "1"
    raises: dict[int, BaseException] = field(default_factory=dict)
    asked: list[DecomposeRequest] = field(default_factory=list)

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        self.asked.append(request)
        if len(self.asked) in self.raises:
            raise self.raises[len(self.asked)]
        middle = source.width // 2
        right = np.ascontiguousarray(source.pixels[:, middle:])
        layers = (Layer("Background", source.pixels.copy(), kind="background"), Layer("Right half", right, left=middle))
        return Proposal(LayerStack(source.width, source.height, layers))


ENGINE = Scripted()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    engine = Scripted()
    monkeypatch.setattr(f"{__name__}.ENGINE", engine)
    monkeypatch.setitem(registry.BUILT_IN["engines"], "scripted", f"{__name__}:ENGINE")
    return engine


@dataclass(frozen=True)
class Listed:
    """Data of what is listed: examples, or why there is none."""

    items: dict[str, Example | Skipped]
    name: str = "listed"

    def keys(self) -> Sequence[str]:
        return tuple(self.items)

    def examples(self, keys: Sequence[str]) -> Iterator[Example | Skipped]:
        yield from (item for key, item in self.items.items() if key in keys)


def plan(kept: Path, data: Data | None = None, layers: Layers = "truth", shard: Shard | None = None) -> Plan:
    data = data or scenes(4, width=48, height=32)
    return Plan(data, tuple(chosen(data.keys(), shard=shard)), None, 0, str(shard) if shard else None, layers, kept)


def evaluator(plan: Plan, engine: str = "scripted", *against: str, tell: Callable[[str], None] = lambda _: None) -> Evaluator:
    return Evaluator(plan, compared(Settings(engine=engine), against, ()), tell)


def run_through(evaluator: Evaluator, judge: Judge | None = None) -> tuple[PictureResult, ...]:
    evaluator.predict(lambda *_: None)
    return evaluator.score(judge, lambda *_: None)


def test_an_evaluation_that_was_stopped_asks_only_for_what_is_missing(scripted: Scripted, tmp_path: Path) -> None:
    scripted.raises = {3: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run_through(evaluator(plan(tmp_path)))
    assert [request.index for request in scripted.asked] == [0, 1, 2]
    stopped = run_through(evaluator(plan(tmp_path)))
    assert [request.index for request in scripted.asked[3:]] == [2, 3]
    assert stopped == run_through(evaluator(plan(tmp_path / "at once")))


def test_what_was_predicted_is_not_asked_again_by_another_evaluation(scripted: Scripted, tmp_path: Path) -> None:
    run_through(evaluator(plan(tmp_path)))
    run_through(evaluator(plan(tmp_path), "trivial", "scripted"))
    assert len(scripted.asked) == 4


def test_a_damaged_prediction_is_made_anew(scripted: Scripted, tmp_path: Path) -> None:
    before = run_through(evaluator(plan(tmp_path)))
    path = next(tmp_path.rglob("*.layers"))
    path.write_bytes(path.read_bytes()[:-9])
    assert run_through(evaluator(plan(tmp_path))) == before
    assert len(scripted.asked) == 5


def count_scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    scored: list[str] = []

    def counted(example: Example, stack: LayerStack) -> Scores:
        scored.append(example.key)
        return score(example, stack)

    monkeypatch.setattr(run, "score", counted)
    return scored


def test_scores_are_kept_and_come_back_the_same(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = count_scored(monkeypatch)
    first = run_through(evaluator(plan(tmp_path)))
    assert run_through(evaluator(plan(tmp_path))) == first
    assert len(scored) == 4


def test_scores_are_made_anew_with_another_version_another_truth_or_from_a_damaged_file(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = count_scored(monkeypatch)
    (only,) = scenes(1, width=48, height=32).examples(["scene-0001"])
    assert isinstance(only, Example)
    assert only.truth is not None
    known = Listed({"a": replace(only, key="a")})
    fewer = Example("a", only.source, only.truth.with_layers(only.truth.layers[:1]))
    fainter = [replace(layer, opacity=0.5) for layer in only.truth.walk()]
    run_through(evaluator(plan(tmp_path, known, 3)))
    for other in (fewer, Example("a", only.source), Example("a", only.source, only.truth.with_layers(tuple(fainter)))):
        run_through(evaluator(plan(tmp_path, Listed({"a": other}), 3)))
    assert len(scored) == 4
    monkeypatch.setattr(run, "VERSION", 99)
    run_through(evaluator(plan(tmp_path, known, 3)))
    assert len(scored) == 5
    for damage in ("{", "[]", '{"values": {}}', "null"):
        path = next(tmp_path.rglob("*.99.json"))
        path.write_text(damage)
        run_through(evaluator(plan(tmp_path, known, 3)))
        assert len(path.read_text()) > 100
    assert len(scored) == 9
    assert len(scripted.asked) == 1


def test_a_picture_that_fails_and_one_that_cannot_be_read_do_not_end_it(scripted: Scripted, tmp_path: Path) -> None:
    examples = {example.key: example for example in scenes(3, width=48, height=32).examples(scenes(3).keys())}
    data = Listed(examples | {"cut.png": Skipped("cut.png", "it is cut"), "odd": Skipped("odd", "one layer", is_fault=False)})
    scripted.raises = {2: InputError("too odd")}
    said: list[str] = []
    found = evaluator(plan(tmp_path, data), tell=said.append)
    pictures = run_through(found)
    assert [picture.scores[0].failed for picture in pictures] == ["", "too odd", ""]
    assert pictures[1].scores[0].values == {}
    assert (found.faults, found.left_out) == ([("cut.png", "it is cut")], [("odd", "one layer")])
    assert said == ["scripted fails on scene-0002: too odd", "cut.png is left out: it is cut"]
    summary = summarize(found.evaluation(pictures, None))
    assert summary.failed == {"scripted": 1}
    assert summary.means["scripted"]["quality"].count == 2


def test_what_is_missing_for_every_picture_ends_it(scripted: Scripted, tmp_path: Path) -> None:
    scripted.raises = {1: MissingDependencyError("no text encoder")}
    with pytest.raises(MissingDependencyError, match="no text encoder"):
        run_through(evaluator(plan(tmp_path)))


def test_shards_give_the_numbers_of_one_run(scripted: Scripted, tmp_path: Path) -> None:
    at_once = evaluator(plan(tmp_path / "at once"), "scripted", "trivial")
    whole = run_through(at_once)
    parts = [run_through(evaluator(plan(tmp_path / "kept", shard=Shard(part, 3)), "scripted", "trivial")) for part in (1, 2, 3)]
    assert sorted((picture for part in parts for picture in part), key=lambda picture: picture.key) == list(whole)
    asked = len(scripted.asked)
    joined = evaluator(plan(tmp_path / "kept"), "scripted", "trivial")
    pictures = run_through(joined)
    assert len(scripted.asked) == asked
    together, apart = joined.evaluation(pictures, None), at_once.evaluation(whole, None)
    assert to_json(together, summarize(together)) == to_json(apart, summarize(apart))


@pytest.mark.parametrize(("layers", "wanted"), [("truth", 3), ("auto", None), (7, 7)])
def test_as_many_layers_are_asked_for_as_was_said(scripted: Scripted, tmp_path: Path, layers: Layers, wanted: int | None) -> None:
    data = scenes(2, width=48, height=32)
    run_through(evaluator(plan(tmp_path, data, layers)))
    assert scripted.asked[1].layers == wanted


@pytest.mark.parametrize(("true", "wanted"), [(1, 2), (30, 20), (None, None)])
def test_a_truth_of_odd_size_is_asked_for_within_what_engines_take(
    scripted: Scripted, tmp_path: Path, true: int | None, wanted: int | None
) -> None:
    stack = LayerStack(24, 16, tuple(Layer(f"{place}", np.full((16, 24, 4), 7 * place + 40, np.uint8)) for place in range(true or 1)))
    example = Example("one", picture_of(stack), stack if true else None)
    (found,) = run_through(evaluator(plan(tmp_path, Listed({"one": example})), "scripted", "trivial"))
    assert scripted.asked[0].layers == wanted
    assert found.true_layers == true
    assert len(found.scores[0].per_index) == (true or 0)
    assert set(found.scores[0].values) <= set(METRICS)
    assert ("l1_white" in found.scores[0].values) == (true is not None)
    assert bool(found.scores[0].no_layerd) == (true == 1)


def test_a_stack_without_layers_is_scored(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "decompose", lambda source, *_: Proposal(LayerStack(source.width, source.height)))
    (found,) = run_through(evaluator(plan(tmp_path, scenes(1, width=48, height=32))))
    assert found.scores[0].layers == 0
    assert found.scores[0].no_layerd
    assert all(math.isfinite(value) for value in found.scores[0].values.values())


@dataclass
class Oracle:
    """A judge that gives the listed scores, row order by row order."""

    orders: tuple[tuple[float, ...], ...]
    stops_after: int = 99
    asked: list[tuple[LayerStack, ...]] = field(default_factory=list)
    name: str = "oracle"
    model: str = "delphi"
    host: str = ""

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        if len(self.asked) == self.stops_after:
            raise JudgeStoppedError("the budget is spent")
        self.asked.append(tuple(stacks))
        rewards = [sum(column) / len(column) for column in zip(*self.orders, strict=True)]
        return GroupVerdict(
            tuple(SampleVerdict((), reward, reward, reward) for reward in rewards), "oracle", "delphi", "1", self.orders, (), 1, 1, ""
        )

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_rewards_land_with_their_systems_and_wins_need_all_row_orders(scripted: Scripted, tmp_path: Path) -> None:
    judge = Oracle(((7, 4, 8), (6, 5, 5)))
    found = evaluator(plan(tmp_path), "scripted", "trivial", "damaged")
    pictures = run_through(found, judge)
    assert [scores.values["judge"] for scores in pictures[0].scores] == [6.5, 4.5, 6.5]
    assert pictures[0].won == (1.0, 0.5)
    names = [[layer.name for layer in stack.walk()][-1] for stack in judge.asked[0][:2]]
    assert names == ["Right half", "Blank"]
    evaluation = found.evaluation(pictures, judge)
    assert evaluation.judge == "oracle, delphi"
    rates = summarize(evaluation).win_rates
    assert [(name, rate.value, rate.count) for name, rate in rates.items()] == [("trivial", 1.0, 4), ("damaged", 0.5, 4)]


def test_a_score_that_nobody_knows_is_in_no_number(scripted: Scripted, tmp_path: Path) -> None:
    found = evaluator(plan(tmp_path), "scripted", "trivial", "damaged")
    pictures = run_through(found, Oracle(((7, NAN, 4), (8, 5, 4))))
    assert ["judge" in scores.values for scores in pictures[0].scores] == [True, False, True]
    assert pictures[0].won == (None, 1.0)
    assert set(summarize(found.evaluation(pictures, None)).win_rates) == {"damaged"}


def test_a_picture_that_a_system_fails_on_is_not_judged(scripted: Scripted, tmp_path: Path) -> None:
    scripted.raises = {2: InputError("too odd")}
    judge = Oracle(((1, 2),))
    pictures = run_through(evaluator(plan(tmp_path), "scripted", "trivial"), judge)
    assert len(judge.asked) == 3
    assert pictures[1].won == ()
    assert "judge" not in pictures[1].scores[1].values


def test_a_judge_that_stops_ends_it_and_loses_no_prediction(scripted: Scripted, tmp_path: Path) -> None:
    with pytest.raises(JudgeStoppedError, match="spent"):
        run_through(evaluator(plan(tmp_path), "scripted", "trivial"), Oracle(((1, 2),), stops_after=2))
    run_through(evaluator(plan(tmp_path), "scripted", "trivial"), Oracle(((1, 2),)))
    assert len(scripted.asked) == 4


@pytest.mark.parametrize(
    ("orders", "won"),
    [
        (((3, 2), (9, 1)), 1.0),
        (((2, 3), (1, 9)), 0.0),
        (((3, 2), (2, 3)), 0.5),
        (((3, 3), (3, 3)), 0.5),
        (((3, 3), (4, 3)), 0.5),
        (((3, NAN), (4, 3)), None),
        ((), None),
    ],
)
def test_a_win_is_one_in_all_row_orders(orders: tuple[tuple[float, ...], ...], won: float | None) -> None:
    verdict = GroupVerdict((), "oracle", "delphi", "1", orders, (), 1, 1, "")
    assert won_against(verdict, 0, 1) == won
    assert won_against(verdict, 1, 0) == (None if won is None else 1 - won)
    assert won_against(verdict, 1, 1) is None


def test_a_model_is_let_go_before_the_next_one_loads(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[str] = set()

    class Model(Scripted):
        def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
            loaded.add(self.name)
            assert loaded == {self.name}
            return super().decompose(source, request, progress)

        def __del__(self) -> None:
            loaded.discard(self.name)

    def made(system: System, _: Callable[[str], None]) -> Scripted:
        model = Model(system.name)
        model.itself = model  # type: ignore[attr-defined]
        return model

    monkeypatch.setattr(run, "engine_of", made)
    pictures = run_through(evaluator(plan(tmp_path), "scripted", "trivial"))
    assert not any(scores.failed for picture in pictures for scores in picture.scores)
    assert loaded == set()


def test_a_picture_is_shown_with_what_is_kept_of_it(scripted: Scripted, tmp_path: Path) -> None:
    found = evaluator(plan(tmp_path), "scripted", "trivial")
    run_through(found)
    shown = found.shown("scene-0002")
    assert shown is not None
    assert shown.truth is not None
    assert [len(stack.layers) for stack in shown.stacks if stack is not None] == [2, 3]
    assert found.shown("scene-0099") is None
