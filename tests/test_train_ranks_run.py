"""A training run of two processes: the same as that of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.judge_server import JudgeServer, alone
from tests.train_process import Started, start, start_ranks, wait_for_step
from tests.train_run import SMALL, draw_photos, kept, metrics

UPDATES = 3
CLOSE = 1e-6
Ranks = list[Started]


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One for all runs: what is kept of the checkpoint's words and of pictures is the same for all.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "training-cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("ranks") / "photos", 6)


@pytest.fixture(scope="module")
def alone_run(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one process, by a judge to whom half of the pictures teach nothing."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(tmp_path_factory.getbasetemp() / "training-cache"))
        started = start(folder / "log", *beginning(tiny, photos, folder / "run"))
        assert started.ended() == 0, started.said
    return folder / "run"


def beginning(tiny: Path, photos: Path, run: Path, *assignments: str) -> list[str]:
    wanted = (*SMALL, "group=3", "judge=square", "holdout=3", f"updates={UPDATES}", f"evaluate_every={UPDATES}", *assignments)
    settings = [part for assignment in wanted for part in ("--set", assignment)]
    return ["train", "--data", str(photos), "--recipe", "lab", "--model", str(tiny), "-o", str(run), *settings]


def ended(ranks: Ranks) -> list[int]:
    return [each.ended() for each in ranks]


def assert_close_run(one: Path, other: Path) -> None:
    """Tensors and metrics of the last step, by the norm of the difference relative to the norm."""
    these, those = kept(one, UPDATES), kept(other, UPDATES)
    assert these.keys() == those.keys()
    for part in ("lora_A", "lora_B", "lora_A:exp_avg", "lora_B:exp_avg", "lora_A:exp_avg_sq", "lora_B:exp_avg_sq"):
        first, second = (torch.cat([run[name].flatten() for name in sorted(run) if name.endswith(part)]) for run in (these, those))
        assert float((first - second).norm()) <= CLOSE * float(first.norm()), part
    for step, again in zip(metrics(one), metrics(other), strict=True):
        assert numbers(step) == pytest.approx(numbers(again), rel=1e-5, abs=1e-9)
        assert step["reasons"] == again["reasons"]


def numbers(step: dict[str, Any]) -> dict[str, float]:
    # Advantages add up to nothing, so that only rounding is left of this loss; processes that share the base evaluate it more often.
    return {name: value for name, value in step.items() if name not in ("reasons", "loss/policy", "evaluations")}


def test_the_judges_choice_lets_one_process_learn_while_the_other_does_not(alone_run: Path) -> None:
    assert 1 in [step["groups/taught"] for step in metrics(alone_run)]


@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_processes_learn_what_one_does(tiny: Path, photos: Path, alone_run: Path, shard: str) -> None:
    ranks = start_ranks(Path(), 2, *beginning(tiny, photos, Path("run"), f"shard={shard}"))
    assert ended(ranks) == [0, 0], [each.said for each in ranks]
    assert_close_run(alone_run, Path("run"))
    assert "the adapter after 3 steps" in ranks[0].said
    assert "step" not in ranks[1].said


def test_a_run_of_one_process_goes_on_with_two(tiny: Path, photos: Path, alone_run: Path) -> None:
    assert start(Path("first.log"), *beginning(tiny, photos, Path("run"), "updates=1")).ended() == 0
    ranks = start_ranks(Path(), 2, "train", "--resume", "-o", "run", "--updates", str(UPDATES))
    assert ended(ranks) == [0, 0], [each.said for each in ranks]
    assert_close_run(alone_run, Path("run"))


def test_processes_that_are_told_to_leave_save_and_one_alone_goes_on(tiny: Path, photos: Path, alone_run: Path) -> None:
    ranks = start_ranks(Path(), 2, *beginning(tiny, photos, Path("run")))
    wait_for_step(1, ranks[0], Path("run"))
    for each in ranks:
        os.kill(each.pid, signal.SIGTERM)
    codes = ended(ranks)
    assert codes[0] == 130, ranks[0].said
    assert codes[1] in (1, 130), ranks[1].said
    done = metrics(Path("run"))[-1]["step"]
    assert (Path("run/checkpoints") / f"step-{done:06d}").is_dir()
    last = start(Path("last.log"), "train", "--resume", "-o", "run")
    assert last.ended() == 0, last.said
    assert_close_run(alone_run, Path("run"))


def test_each_process_has_its_share_of_what_the_judge_may_be_asked(tiny: Path, photos: Path) -> None:
    with JudgeServer(lambda body, count: alone(count % 10)) as server:
        flags = ["--judge", "openai", "--judge-url", server.url, "--judge-orders", "0", "--max-judge-calls", "7"]
        ranks = start_ranks(Path(), 2, *beginning(tiny, photos, Path("run"), "evaluate_every=0", "judge_concurrency=1"), *flags)
        assert ended(ranks) == [1, 1], [each.said for each in ranks]
    assert len(server.bodies) == 6
    assert [step["judge/calls"] for step in metrics(Path("run"))] == [6]
    assert any("3 requests were sent, which is what max_judge_calls allows" in each.said for each in ranks)
