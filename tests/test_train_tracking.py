"""Metrics that go elsewhere: TensorBoard's files are read back; trackio is a fake of the shape of the real one's calls."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from layerctl_train.tracking import open_tracker

from layerctl.errors import MissingDependencyError, OutputError


class FakeTrackio(ModuleType):
    def __init__(self) -> None:
        super().__init__("trackio")
        self.calls: list[tuple[object, ...]] = []

    def init(self, project: str, name: str, config: dict[str, object], resume: str) -> None:
        print("* Trackio project initialized")
        self.calls.append(("init", project, name, config, resume))

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append(("log", metrics, step))

    def finish(self) -> None:
        print("* Run finished")
        self.calls.append(("finish",))


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    return fake


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_shows_every_metric_by_step_and_no_nan(tmp_path: Path) -> None:
    tracker = open_tracker("tensorboard", tmp_path, {"seed": 3})
    tracker.log(1, {"reward/mean": 5.5, "judge/agreement": math.nan})
    tracker.log(2, {"reward/mean": 6.0, "judge/agreement": 0.25})
    tracker.close()
    assert scalars(tmp_path / "tensorboard") == {"reward/mean": [(1, 5.5), (2, 6.0)], "judge/agreement": [(2, 0.25)]}


def test_tensorboard_shows_no_step_twice_after_a_resume(tmp_path: Path) -> None:
    first = open_tracker("tensorboard", tmp_path, {})
    for step in range(1, 6):
        first.log(step, {"reward/mean": float(step)})
    first.close()
    second = open_tracker("tensorboard", tmp_path, {}, resumed=3, logged=5)
    for step in (4, 5, 6):
        second.log(step, {"reward/mean": 10.0 + step})
    second.close()
    assert scalars(tmp_path / "tensorboard") == {"reward/mean": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 14.0), (5, 15.0), (6, 16.0)]}


def test_trackio_gets_the_run_by_name_and_keeps_stdout_clean(
    tmp_path: Path, trackio: FakeTrackio, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker("trackio", tmp_path / "run-1", {"seed": 3})
    tracker.log(0, {"evaluation/quality": 0.5})
    tracker.log(1, {"reward/mean": 5.5, "judge/agreement": math.inf, "reasons": {"no signal": 2}})
    tracker.close()
    assert trackio.calls == [
        ("init", "layerctl", "run-1", {"seed": 3}, "never"),
        ("log", {"evaluation/quality": 0.5}, 0),
        ("log", {"reward/mean": 5.5}, 1),
        ("finish",),
    ]
    assert capsys.readouterr().out == ""


def test_trackio_goes_on_with_the_same_run_and_gets_no_step_twice(tmp_path: Path, trackio: FakeTrackio) -> None:
    tracker = open_tracker("trackio", tmp_path / "run-1", {}, resumed=3, logged=5)
    for step in (4, 5, 6):
        tracker.log(step, {"reward/mean": float(step)})
    assert trackio.calls == [("init", "layerctl", "run-1", {}, "allow"), ("log", {"reward/mean": 6.0}, 6)]


@pytest.mark.parametrize(("name", "module"), [("trackio", "trackio"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_told_at_once_with_what_to_type(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"--track {name} needs") as caught:
        open_tracker(name, tmp_path, {})  # type: ignore[arg-type]
    assert caught.value.hint == f"pip install {name}"


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(OutputError, match="tensorboard cannot be written to"):
        open_tracker("tensorboard", tmp_path, {})


def test_none_goes_nowhere(tmp_path: Path) -> None:
    tracker = open_tracker("none", tmp_path, {})
    tracker.log(1, {"reward/mean": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []
