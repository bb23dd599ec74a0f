"""What calibration finds out about judges whose weaknesses are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerctl_exporters.psd import EXPORTER
from layerctl_train.judge.calibrate import FAULTS, SEVERITIES, Calibration, Case, calibrate, calls_of, cases, drawn_pictures, pictures_in
from layerctl_train.judge.simulated import Character, SimulatedJudge

from layerctl.cli import main
from layerctl.composite import flatten
from layerctl.errors import JudgeStoppedError
from layerctl.judge_settings import JudgeSettings
from layerctl.registry import ExportOptions
from layerctl.testing import scene
from layerctl.verdict import CRITERIA, GroupVerdict, Usage

EXACT = Character(low=0, high=10, step=0, noise_alone=0, noise_together=0, position=0, anchoring=0)


@pytest.fixture(scope="module")
def shown() -> list[Case]:
    return [case for seed in range(3) for case in cases(f"scene {seed}", *scene(seed, width=160, height=120), tuple(FAULTS), seed)]


def calibrated(shown: list[Case], character: Character, **changed: Any) -> Calibration:
    """By a judge that knows the severity of every fault: 9 points without one, 1 with the worst."""
    truth = {id(stack): 9 + 8 * value for case in shown for stack, value in zip(case.stacks, case.truth, strict=True)}
    settings = JudgeSettings(**{"judge_orders": 4} | changed)
    return calibrate(
        lambda settings, _: SimulatedJudge(settings, lambda _, stack: [truth[id(stack)]] * 5, character),
        settings, shown, lambda _: None, lambda *_: None,
    )  # fmt: skip


def test_a_judge_without_faults_is_found_to_have_none(shown: list[Case]) -> None:
    found = calibrated(shown, EXACT)
    assert set(found.criteria) == set(CRITERIA)
    assert all(value == pytest.approx(1) for value in (*found.criteria.values(), *found.faults.values()))
    assert [stage.correlation for stage in found.stages] == pytest.approx([1, 1, 1])
    assert (found.retest_difference, found.failures, found.taught_by_equals) == (0, 0, 0)
    assert found.taught > 0.9


@pytest.mark.parametrize("position", [0.0, 2.0, -1.5])
def test_the_liking_for_upper_rows_is_measured_in_points(shown: list[Case], position: float) -> None:
    found = calibrated(shown, replace(EXACT, position=position, noise_together=0.3))
    assert found.position == pytest.approx(position, abs=0.25)


def test_compression_shows_as_a_narrow_band_that_phase_2_spreads(shown: list[Case]) -> None:
    found = calibrated(shown, Character(low=6.5, high=7.5))
    assert 6 <= found.band[0] < found.band[1] <= 8.2
    assert found.spread_alone < 2 < 5 < found.spread_together
    alone, twice, both = (stage.correlation for stage in found.stages)
    assert alone < twice < both
    assert both > alone + 0.2


def test_noise_shows_when_the_same_is_asked_again(shown: list[Case]) -> None:
    quiet, noisy = (calibrated(shown, replace(EXACT, noise_alone=noise)) for noise in (0.1, 1.5))
    assert quiet.retest_difference < 0.2 < 0.8 < noisy.retest_difference
    assert noisy.retest_correlation < quiet.retest_correlation


def test_leaning_on_phase_1_shows_as_anchoring(shown: list[Case]) -> None:
    own, leaning = (calibrated(shown, Character(anchoring=anchoring, noise_together=0.5)) for anchoring in (0.0, 0.8))
    assert own.anchoring < 0.3 < 0.6 < leaning.anchoring


def test_a_blind_judge_is_found_out(shown: list[Case]) -> None:
    found = calibrated(shown, Character(skill=0))
    assert all(abs(stage.correlation) < 0.35 for stage in found.stages)
    assert found.taught <= 0.1


def test_refusals_are_counted_with_their_reason(shown: list[Case]) -> None:
    found = calibrated(shown, Character(refusals=0.2))
    assert 0.1 < found.failures < 0.6
    assert any("refused" in reason for reason in found.reasons)


def test_the_report_is_json_without_nan(shown: list[Case]) -> None:
    found = calibrated(shown, Character(refusals=1.0))
    assert found.failures == 1
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["agreement"] is None
    assert (told["format"], told["schema"]) == ("layerctl-judge-calibration", 1)


def test_a_case_holds_the_true_layers_and_ever_more_of_the_fault() -> None:
    source, stack = scene(3, width=160, height=120)
    (equal, halo) = cases("scene", source, stack, ["halo"], seed=1)
    assert equal.stacks == (stack,) * len(SEVERITIES)
    assert halo.stacks[0] is stack
    assert halo.truth == tuple(-severity for severity in SEVERITIES)
    grown = [np.count_nonzero(flatten(candidate.with_layers(candidate.layers[1:]))[..., 3]) for candidate in halo.stacks]
    assert grown == sorted(grown)
    assert grown[-1] > grown[0]


def test_a_fault_without_a_place_is_left_out() -> None:
    source, stack = scene(3)
    alone = stack.with_layers(stack.layers[:1])
    assert [case.fault for case in cases("ground", source, alone, tuple(FAULTS), 0)] == ["", "composite_copy", "drift"]


def test_the_layers_of_a_team_are_read_from_their_files(tmp_path: Path) -> None:
    source, stack = scene(5)
    EXPORTER.export(stack, tmp_path / "own.psd", ExportOptions())
    ((name, picture, layers),) = pictures_in([tmp_path / "own.psd"])
    assert (name, len(layers.layers)) == ("own.psd", len(stack.layers))
    np.testing.assert_array_equal(picture.pixels, source.pixels)


def test_one_budget_holds_for_both_times(shown: list[Case]) -> None:
    limits: list[int | None] = []

    class Counting(SimulatedJudge):
        def score_group(self, *shown: Any) -> GroupVerdict:
            verdict = super().score_group(*shown)
            return replace(verdict, usage=Usage(calls=5))

    def make(settings: JudgeSettings, tell: Callable[[str], None]) -> Counting:
        limits.append(settings.max_judge_calls)
        if settings.max_judge_calls is not None and settings.max_judge_calls < 0:
            raise JudgeStoppedError("spent")
        return Counting(settings, lambda *_: [5.0] * 5, EXACT)

    calibrate(make, JudgeSettings(max_judge_calls=100), shown[:4], lambda _: None, lambda *_: None)
    assert limits == [100, 80]


def test_what_it_takes_is_counted_beforehand(shown: list[Case]) -> None:
    class Priced(SimulatedJudge):
        def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
            return Usage(calls=group + (2 if group > 1 else 0), cost=None)

    usage = calls_of(Priced(JudgeSettings(), lambda *_: [5.0] * 5, EXACT), shown[:2])
    assert (usage.calls, usage.cost) == (2 * (6 + 2 + 6), None)


def test_scenes_that_are_drawn_are_the_same_every_time() -> None:
    for (name, one, _), (again, other, _) in zip(drawn_pictures(2), drawn_pictures(2), strict=True):
        assert name == again
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_the_command_reports_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["judge", "calibrate", "--judge", "simulated", "--scenes", "1", "--faults", "ghost"]
    assert main(wanted) == 0
    words = capsys.readouterr().out
    for expected in ("background", "ghost", "compression", "position", "both phases", "should be 0%"):
        assert expected in words
    assert main([*wanted, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cases"], told["candidates"], list(told["faults"])) == (2, 12, ["ghost"])


def test_the_command_names_what_is_no_fault_and_what_cannot_be_planted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["judge", "calibrate", "--faults", "rust"]) == 2
    assert "'rust'" in capsys.readouterr().err
    _, stack = scene(3)
    EXPORTER.export(stack.with_layers(stack.layers[:1]), tmp_path / "flat.psd", ExportOptions())
    assert main(["judge", "calibrate", str(tmp_path / "flat.psd"), "--faults", "halo"]) == 2
    assert "none of halo can be planted" in capsys.readouterr().err


def test_a_judge_that_scores_nothing_fails_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCTL_JUDGE_EXTRA", '{"refusals": 1}')
    assert main(["judge", "calibrate", "--judge", "simulated", "--scenes", "1", "--faults", "ghost"]) == 1
    assert "scored no candidate" in capsys.readouterr().err
