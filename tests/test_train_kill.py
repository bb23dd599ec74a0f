"""A training run that is killed at any moment, or told to leave, and goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train_process import ALONE, PATIENCE, Started, start, wait_for, wait_for_step
from tests.train_run import SMALL, assert_same_run, draw_photos, metrics

UPDATES = 4
WANTED = (*SMALL, "group=3", "micro_batch=3", f"updates={UPDATES}", "judge=pixels", "judge_min_spread=0")


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One for all runs: what is kept of the checkpoint's words and of pictures is the same for all.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "training-cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("kill") / "photos")


def beginning(tiny: Path, photos: Path, run: Path, *assignments: str) -> list[str]:
    settings = [part for assignment in (*WANTED, *assignments) for part in ("--set", assignment)]
    return ["train", "--data", str(photos), "--recipe", "lab", "--model", str(tiny), "-o", str(run), *settings]


@pytest.fixture(scope="module")
def through(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, of a process as people start it."""
    run = tmp_path_factory.mktemp("through") / "run"
    variables = ALONE | {"XDG_CACHE_HOME": str(tmp_path_factory.getbasetemp() / "training-cache"), "XDG_CONFIG_HOME": str(run.parent)}
    command = [sys.executable, "-m", "layerctl", *beginning(tiny, photos, run)]
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [step["groups/taught"] for step in metrics(run)] == [2] * UPDATES
    return run


def go_on(tiny: Path, photos: Path, run: Path, *assignments: str) -> Started:
    """Begun where it was killed before it was a run, else resumed."""
    arguments = ["train", "--resume", "-o", str(run)] if (run / "config.toml").exists() else beginning(tiny, photos, run, *assignments)
    return start(Path(f"{run}.log"), *arguments)


def kill(started: Started) -> None:
    os.kill(started.pid, signal.SIGKILL)
    assert started.ended() == -signal.SIGKILL


def stop_in_a_save(started: Started, run: Path) -> None:
    """Let it go on until a checkpoint is half written, and stop it there."""

    def partial() -> bool:
        return any((run / "checkpoints").glob(".partial-*/state"))

    while True:
        wait_for(partial, started)
        os.kill(started.pid, signal.SIGSTOP)
        if partial():
            return
        os.kill(started.pid, signal.SIGCONT)


def test_a_run_that_is_killed_at_any_moment_equals_one_that_went_through(tiny: Path, photos: Path, through: Path) -> None:
    chance, run = random.Random(7), Path("run")
    # Once before it has done a step, which may be before it is a run; then in the steps, records of which have to be made again.
    for done in (0, 1, 2):
        started = go_on(tiny, photos, run, "save_every=2")
        wait_for_step(done, started, run)
        time.sleep(chance.uniform(0, 0.2))
        kill(started)
    started = go_on(tiny, photos, run)
    assert started.ended() == 0, started.said
    assert_same_run(through, run, UPDATES)


def test_a_run_that_is_killed_inside_of_a_save_goes_on_from_the_save_before(tiny: Path, photos: Path, through: Path) -> None:
    run = Path("run")
    for _ in range(2):
        started = go_on(tiny, photos, run)
        stop_in_a_save(started, run)
        kill(started)
    assert any((run / "checkpoints").glob(".partial-*/state"))
    started = go_on(tiny, photos, run)
    assert started.ended() == 0, started.said
    assert not list(run.rglob(".partial-*"))
    assert_same_run(through, run, UPDATES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_leave_saves_and_goes_on_later(tiny: Path, photos: Path, through: Path, number: signal.Signals) -> None:
    run = Path("run")
    started = go_on(tiny, photos, run)
    wait_for_step(1, started, run)
    os.kill(started.pid, number)
    assert started.ended() == 130
    assert f"{number.name}: saving, and leaving; once more leaves without" in started.said
    done = metrics(run)[-1]["step"]
    assert done < UPDATES
    assert (run / "checkpoints" / f"step-{done:06d}").is_dir()
    assert f"stopped after step {done} of {UPDATES}; to go on: layerctl train --resume -o run" in started.said
    started = go_on(tiny, photos, run)
    assert started.ended() == 0
    assert f"going on after step {done} of {UPDATES}" in started.said
    assert_same_run(through, run, UPDATES)


def test_a_second_process_in_the_folder_of_a_run_is_refused(tiny: Path, photos: Path) -> None:
    run = Path("run")
    first = go_on(tiny, photos, run)
    wait_for((run / "config.toml").exists, first)
    for arguments in (["train", "--resume", "-o", str(run)], beginning(tiny, photos, run)):
        second = start(Path("second.log"), *arguments)
        assert second.ended() == 1
        assert re.search(rf"run is in use by process {first.pid} on ", second.said)
    kill(first)


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(tiny: Path, photos: Path, through: Path) -> None:
    run = Path("run")
    assert start(Path("first.log"), *beginning(tiny, photos, run, "updates=2")).ended() == 0
    second = start(Path("second.log"), "train", "--resume", "-o", str(run), "--updates", str(UPDATES), OMP_NUM_THREADS="2")
    assert second.ended() == 0, second.said
    assert_same_run(through, run, UPDATES)
