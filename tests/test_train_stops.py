"""What ends a training run early, and what is there afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from layerctl_train.checkpoint import read_state
from layerctl_train.tracking import Tracker
from layerctl_train.training_run import TrainingRun

from layerctl.errors import InputError, OutOfMemoryError, TrainingStoppedError, UsageError
from layerctl.judge_settings import JudgeSettings
from layerctl.layers import LayerStack
from tests.train_run import Quick, assert_same_run, draw_photos, kept, metrics, points_by_chance, small_run, train


def test_an_evaluation_judge_that_fails_leaves_a_gap_and_no_best_step(tiny: Path, photos: Path, judge: Quick) -> None:
    judge.points = lambda stack: math.nan
    config = small_run(tiny, photos, "updates=1", "evaluate_every=1", "evaluation_judge=quick", "abort_invalid=1")
    train(config, Path("run"))
    records = [json.loads(line) for line in Path("run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [("judge" in record["values"], "quality" in record["values"]) for record in records] == [(False, True)] * 2
    assert read_state(Path("run/checkpoints/step-000001")).best is None


def test_memory_that_ran_out_is_told_in_words_and_keeps_what_was_learned(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(tiny, photos, "updates=2", "save_every=10")
    train(config, Path("through"))
    optimize, calls = TrainingRun.optimize, 0

    def limited(run: TrainingRun) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return optimize(run)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "optimize", limited)
        with pytest.raises(OutOfMemoryError, match="ran out of memory"):
            train(config, Path("parts"))
    assert (Path("parts/checkpoints/step-000001")).is_dir()
    train(config, Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 2)


@pytest.mark.parametrize("optimizer_steps", [1, 2])
def test_a_second_signal_behind_an_optimizer_step_saves_nothing_that_is_half_done(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch, optimizer_steps: int
) -> None:
    config = small_run(tiny, photos, "updates=3", "save_every=10", f"optimizer_steps={optimizer_steps}")
    train(config, Path("through"))
    optimize, calls = TrainingRun.optimize, 0

    def impatient(run: TrainingRun) -> float:
        nonlocal calls
        norm = optimize(run)
        calls += 1
        if calls == 2 * optimizer_steps:
            raise KeyboardInterrupt
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "optimize", impatient)
        assert train(config, Path("parts")) == 130
    train(config, Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 3)


def test_a_tracker_that_fails_ends_the_run_behind_a_whole_step(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def log(self, step: int, found: Any) -> None:
            if step == 2:
                raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    def opened(*_: Any, **__: Any) -> Tracker:
        return Full()

    config = small_run(tiny, photos, "updates=3", "save_every=10")
    train(config, Path("through"))
    with monkeypatch.context() as patch:
        patch.setattr("layerctl_train.opening.open_tracker", opened)
        with pytest.raises(OSError, match="No space left"):
            train(config, Path("parts"))
    assert (Path("parts/checkpoints/step-000002")).is_dir()
    train(config, Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 3)


def test_a_first_ratio_that_is_no_number_stops_the_run(tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    velocity = TrainingRun.velocity

    def broken(run: TrainingRun, x: torch.Tensor, sigma: torch.Tensor, condition: Any) -> torch.Tensor:
        v = velocity(run, x, sigma, condition)
        return v * math.nan if torch.is_grad_enabled() else v

    monkeypatch.setattr(TrainingRun, "velocity", broken)
    with pytest.raises(TrainingStoppedError, match="the first replay's log ratio is nan away from 0"):
        train(small_run(tiny, photos, "updates=1"), Path("run"))


def test_other_pictures_to_evaluate_on_are_refused(tiny: Path, photos: Path, folder: Path, judge: Quick) -> None:
    apart = draw_photos(folder / "apart", 7)
    for number in range(5):
        (apart / f"photo-{number}.png").unlink()
    config = small_run(tiny, photos, "updates=1", evaluation_data=str(apart))
    train(config, Path("run"))
    (apart / "photo-6.png").unlink()
    with pytest.raises(UsageError, match=r"are not those that the run began with: 1 gone \(photo-6.png\)"):
        train(config, Path("run"), resume=True)


def test_files_without_layers_are_not_needed_for_evaluation_any_more(tiny: Path, photos: Path, judge: Quick) -> None:
    def vanishing(stack: LayerStack) -> float:
        for file in photos.glob("*.png"):
            file.unlink()
        return points_by_chance(stack)

    judge.points = vanishing
    assert train(small_run(tiny, photos, "updates=1", "evaluate_every=1"), Path("run")) == 0


def test_a_layered_picture_that_became_another_is_not_evaluated_on(tiny: Path, photos: Path, folder: Path, judge: Quick) -> None:
    from layerctl_exporters.psd import EXPORTER

    from layerctl.layered_files import read_stack
    from layerctl.registry import ExportOptions
    from layerctl.testing import scene

    (folder / "layered").mkdir()
    for number in range(2):
        EXPORTER.export(scene(number + 20, width=64, height=64)[1], folder / "layered" / f"{number}.psd", ExportOptions())
    assert read_stack(folder / "layered" / "0.psd")

    def changing(stack: LayerStack) -> float:
        (folder / "layered" / "0.psd").write_bytes((folder / "layered" / "1.psd").read_bytes())
        return points_by_chance(stack)

    judge.points = changing
    config = small_run(tiny, photos, "updates=1", "evaluate_every=1", evaluation_data=str(folder / "layered"))
    with pytest.raises(InputError, match=r"0.psd of folder layered is gone or another picture now"):
        train(config, Path("run"))
    assert kept(Path("run"), 1)
    first = json.loads(Path("run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"l1_premultiplied", "quality"} <= first["values"].keys()
    assert len(metrics(Path("run"))) == 1


def test_supervised_training_may_be_evaluated_on_plain_pictures(tiny: Path, photos: Path, judge: Quick) -> None:
    config = small_run(
        tiny, "scenes:2", "method=sft", "sft_batch=1", "updates=1", "holdout=0", "evaluate_every=1", evaluation_data=str(photos)
    )
    assert train(config, Path("run")) == 0
    assert len(Path("run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_signal_behind_the_count_of_a_step_leaves_no_older_weights_under_its_number(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(tiny, photos, "updates=3", "optimizer_steps=2", "save_every=10")
    train(config, Path("through"))
    average, calls = TrainingRun._average, 0

    def impatient(run: TrainingRun) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        average(run)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_average", impatient)
        assert train(config, Path("parts")) == 130
    assert not Path("parts/checkpoints/step-000002").exists()
    train(config, Path("parts"), resume=True)
    assert_same_run(Path("through"), Path("parts"), 3)


def test_why_a_run_stopped_is_told_whatever_signal_came(tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(*_: Any) -> torch.Tensor:
        running[0].interrupt.noted = True
        return torch.tensor(math.inf)

    def remembered(run: TrainingRun) -> float:
        running.append(run)
        return optimize(run)

    running: list[TrainingRun] = []
    optimize = TrainingRun.optimize
    monkeypatch.setattr(TrainingRun, "optimize", remembered)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", noted)
    with pytest.raises(TrainingStoppedError, match="norm is inf"):
        train(small_run(tiny, photos, "updates=1"), Path("run"))


def test_one_broken_file_does_not_take_the_layers_from_the_others(tiny: Path, photos: Path, folder: Path, judge: Quick) -> None:
    from layerctl_exporters.psd import EXPORTER

    from layerctl.registry import ExportOptions
    from layerctl.testing import scene

    (folder / "layered").mkdir()
    (folder / "layered" / "a-broken.psd").write_bytes(b"8BPS")
    EXPORTER.export(scene(20, width=64, height=64)[1], folder / "layered" / "b.psd", ExportOptions())
    config = small_run(tiny, photos, "updates=1", "evaluate_every=1", evaluation_data=str(folder / "layered"))
    train(config, Path("run"))
    record = json.loads(Path("run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert "l1_premultiplied" in record["values"]


def test_a_run_does_not_go_on_to_a_step_that_is_behind_it(tiny: Path, photos: Path, judge: Quick) -> None:
    train(small_run(tiny, photos, "updates=2"), Path("run"))
    with pytest.raises(UsageError, match="the run is at step 2 already, and --updates is 1"):
        train(small_run(tiny, photos, "updates=1"), Path("run"), resume=True)
    Path("run/data.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"data.json is damaged"):
        train(small_run(tiny, photos, "updates=3"), Path("run"), resume=True)


def test_a_judge_of_evaluations_never_gets_the_key_of_the_others_server_and_a_tenth_of_the_money(
    tiny: Path, photos: Path, judge: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(quick: Quick, settings: JudgeSettings, tell: Any) -> Quick:
        made.append(settings)
        return quick

    made: list[JudgeSettings] = []
    monkeypatch.setattr(Quick, "__call__", opened)
    config = small_run(
        tiny, photos, "updates=1", "evaluation_judge=quick", "evaluation_judge_url=http://localhost:9/v1", "judge_key_file=key",
        "evaluate_every=1", settings={"max_judge_calls": "100"},
    )  # fmt: skip
    train(config, Path("run"))
    (first, second) = made
    assert (first.judge_key_file, first.max_judge_calls) == ("key", 90)
    assert (second.judge_key_file, second.judge_key_env, second.max_judge_calls) == (None, "LAYERCTL_EVALUATION_JUDGE_KEY", 10)
    record = json.loads(Path("run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert record["judge/calls"] == 2
    assert read_state(Path("run/checkpoints/step-000001")).totals.judge_calls == 8 + 2 * 2


def test_what_lies_beside_a_picture_is_not_read_where_nobody_asks_for_it(tiny: Path, photos: Path, judge: Quick) -> None:
    (photos / "photo-0.txt").write_bytes(b"caf\xe9")
    said: list[str] = []
    train(small_run(tiny, photos, "updates=1"), Path("run"), tell=said.append)
    assert not [line for line in said if "left out" in line]
    (photos / "photo-3.txt").write_text("a note", encoding="utf-8")
    train(small_run(tiny, photos, "updates=2"), Path("run"), resume=True)
