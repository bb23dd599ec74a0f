"""The folder of a run: who may write to it, records that come back exactly, and what a kill or a full disk leaves."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.run_folder import RunFolder

from layerctl.errors import InputError, OutputError

SAVE_LOOP = """
import itertools, sys
from pathlib import Path
from layerctl_train.run_folder import RunFolder

def write(step):
    def files(folder):
        (folder / "state").mkdir()
        for name in ("a", "b", "state/c"):
            (folder / name).write_text(f"{step:06d}" * 4000)
    return files

with RunFolder.open(Path(sys.argv[1])) as run:
    last = run.latest()
    first = 1 + (int(last.name[5:]) if last else 0)
    run.cut("metrics", first - 1)
    for step in itertools.count(first):
        run.append("metrics", {"step": step, "reward/mean": step / 3, "text": "x" * 20_000})
        run.write("report.html", f"{step:06d}" * 4000)
        run.save(step, write(step))
        run.fill("adapter", write(step))
        run.prune(2, best=1)
        if step == first:
            print("ready", flush=True)
"""
HOLDER = """
import sys, time
from pathlib import Path
from layerctl_train.run_folder import RunFolder

run = RunFolder.open(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run that nobody has open."""
    with RunFolder.create(tmp_path / "run") as run:
        run.write("config.toml", "seed = 3\n")
    return run.path


@contextmanager
def running(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the run open, killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextmanager
def full_disk(size: int = 1000) -> Iterator[None]:
    """No file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def hidden(path: Path) -> list[str]:
    return [each.name for each in path.rglob(".*") if each.name != ".lock"]


def whole(folder: Path) -> None:
    (folder / "file").write_text("whole")


def step_of(text: str) -> int:
    """Which step wrote a file of the loop above, whole."""
    assert text == text[:6] * 4000
    return int(text[:6])


def test_a_run_killed_anywhere_opens_whole_and_goes_on(path: Path) -> None:
    chance, reached = random.Random(7), 0
    for _ in range(8):
        with running(SAVE_LOOP, path):
            time.sleep(chance.uniform(0, 0.2))
        with RunFolder.open(path) as run:
            assert hidden(path) == []
            steps = list(run.checkpoints())
            last = steps[-1]
            assert last > reached
            # A kill before the last prune leaves one more.
            assert steps in ([*sorted({1, last - 1, last} - {0})], [*sorted({1, last - 2, last - 1, last} - {0, -1})])
            assert [record["step"] for record in run.records("metrics")] in (list(range(1, last + 1)), list(range(1, last + 2)))
            for step, folder in run.checkpoints().items():
                assert {step_of((folder / name).read_text()) for name in ("a", "b", "state/c")} == {step}
            assert len({step_of((path / "adapter" / name).read_text()) for name in ("a", "b", "state/c")}) == 1
            assert step_of((path / "report.html").read_text()) in (last, last + 1)
            reached = last


def test_a_folder_that_a_kill_left_between_two_moves_is_put_back(path: Path) -> None:
    with RunFolder.open(path) as run:
        saved = run.save(10, whole)
    saved.rename(saved.with_name(".aside-step-000010"))
    (path / "checkpoints" / ".partial-12345678").mkdir()
    (path / ".partial-12345678.html").write_text("ha")
    with RunFolder.open(path) as run:
        assert run.latest() == saved
        assert (saved / "file").read_text() == "whole"
    assert hidden(path) == []


def test_numbers_come_back_exactly_and_nan_is_left_out(path: Path) -> None:
    record = {"step": 1, "a": 0.1 + 0.2, "b": 5e-324, "c": -1 / 3 * 1e300, "d": 2**60 + 1, "reasons": {"no signal": 2}}
    run = RunFolder(path)
    run.append("metrics", {**record, "nan": math.nan, "inf": -math.inf, "deep": {"nan": math.nan, "list": [1.0, math.nan]}})
    (found,) = run.records("metrics")
    assert found == {**record, "deep": {"list": [1.0, None]}}
    assert "NaN" not in (path / "metrics.jsonl").read_text()
    assert run.records("evaluations") == []


def test_half_a_last_line_is_no_record_and_is_gone_when_the_run_is_opened(path: Path) -> None:
    run = RunFolder(path)
    run.append("metrics", {"step": 1})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    assert run.records("metrics") == [{"step": 1}]
    with RunFolder.open(path) as opened:
        opened.append("metrics", {"step": 2})
        assert opened.records("metrics") == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["{", "[]", '{"reward": 1}', "\0\0"])
def test_a_damaged_line_is_named(line: str, path: Path) -> None:
    (path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        RunFolder(path).records("metrics")


def test_records_behind_a_step_are_cut_for_they_are_made_again(path: Path) -> None:
    run = RunFolder(path)
    for step in (0, 5, 10, 11, 12):
        run.append("evaluations", {"step": step, "quality": step / 7})
    before = (path / "evaluations.jsonl").read_bytes().splitlines()
    run.cut("evaluations", 10)
    assert (path / "evaluations.jsonl").read_bytes().splitlines() == before[:3]
    run.cut("metrics", 10)
    assert not (path / "metrics.jsonl").exists()


def test_the_last_checkpoints_and_the_best_are_kept(path: Path) -> None:
    run = RunFolder(path)
    assert run.latest() is None
    for step in (5, 10, 15, 20, 1_000_000):
        run.save(step, lambda folder: None)
    run.prune(2, best=10)
    assert list(run.checkpoints()) == [10, 20, 1_000_000]
    assert run.latest() == path / "checkpoints" / "step-1000000"
    run.prune(5, best=None)
    assert list(run.checkpoints()) == [10, 20, 1_000_000]
    run.prune(1, best=None)
    assert list(run.checkpoints()) == [1_000_000]
    assert hidden(path) == []


def test_a_step_saved_again_takes_the_place_of_what_was(path: Path) -> None:
    run = RunFolder(path)
    for text in ("first", "second"):
        run.save(10, partial(lambda text, folder: (folder / text).touch(), text))
    assert [each.name for each in (path / "checkpoints" / "step-000010").iterdir()] == ["second"]
    assert hidden(path) == []


def test_a_save_that_fails_leaves_what_was(path: Path) -> None:
    run = RunFolder(path)
    run.save(10, whole)

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save(10, fail)
    assert (path / "checkpoints" / "step-000010" / "file").read_text() == "whole"
    assert hidden(path) == []


def test_a_folder_that_cannot_be_moved_in_leaves_what_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(path)
    saved = run.save(10, whole)
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target == saved and source.name.startswith(".partial-"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="run cannot be written to: No space left on device"):
        run.save(10, lambda folder: None)
    assert (saved / "file").read_text() == "whole"
    assert hidden(path) == []


def test_a_full_disk_is_told_and_leaves_what_was(path: Path) -> None:
    from safetensors.numpy import save_file

    run = RunFolder(path)
    run.append("metrics", {"step": 1})
    tensors = {"weights": np.zeros(2000)}
    attempts: dict[str, Callable[[], object]] = {
        "append": lambda: run.append("metrics", {"step": 2, "text": "x" * 2000}),
        "write": lambda: run.write("config.toml", "x" * 2000),
        "save": lambda: run.save(1, lambda folder: (folder / "file").write_text("x" * 2000)),
        "tensors": lambda: run.save(1, lambda folder: save_file(tensors, folder / "file.safetensors")),
    }
    for name, attempt in attempts.items():
        with full_disk(), pytest.raises(OutputError, match=r"run cannot be written to.*File too large") as caught:
            attempt()
        assert caught.value.hint, name
    assert run.records("metrics") == [{"step": 1}]
    assert (path / "config.toml").read_text() == "seed = 3\n"
    assert run.latest() is None
    assert hidden(path) == []


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's rights, which know no permissions."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_that_may_not_be_written_to_is_told() -> None:
    # Not below pytest's own folder, which only its owner may look into.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        path = Path(place, "run")
        path.mkdir(mode=0o555)
        with nobody():
            with pytest.raises(OutputError, match="Permission denied"):
                RunFolder(path).write("report.html", "")
            with pytest.raises(OutputError, match="Permission denied"):
                RunFolder.create(path / "inner")
        path.chmod(0o755)


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="run cannot be written to"):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(InputError, match="there is no run"):
        RunFolder.open(tmp_path / "run")


def test_a_run_is_had_by_one_process_which_is_named_and_ends_with_it(path: Path) -> None:
    with running(HOLDER, path) as process:
        for take in (RunFolder.open, RunFolder.create):
            with pytest.raises(OutputError, match=f"in use by process {process.pid} on "):
                take(path)
    with RunFolder.open(path) as run:
        with pytest.raises(OutputError, match=f"in use by process {os.getpid()} on "):
            RunFolder.open(path)
        assert run.records("metrics") == []
    RunFolder.open(path).close()


def test_a_folder_that_holds_something_is_not_begun_in(path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds a run already") as caught:
        RunFolder.create(path)
    assert "--resume" in str(caught.value.hint)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"is not empty: it holds thesis\.txt"):
        RunFolder.create(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_run_killed_before_it_had_settings_is_begun_anew(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        run.write("data.json", json.dumps({}))
    with pytest.raises(InputError, match=r"it holds no config\.toml"):
        RunFolder.open(run.path)
    RunFolder.create(run.path).close()
