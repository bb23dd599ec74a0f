"""The benchmarks of training run to their ends with small networks on a CPU; the seconds that they give there mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import noise_sweep, train_step
from benchmarks.qwen_speed import SCHEDULER
from benchmarks.train_step import Row, table
from benchmarks.training_subject import Clock
from layerctl.engines.qwen.sampler import sigma_grid

SMALL = ("--device=cpu", "--size=64", "--layers=2", "--group=4")


@pytest.fixture(autouse=True)
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_a_step_is_timed_by_part_and_goes_on_where_it_was_stopped(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [f"--model={tiny}", *SMALL, "--steps=2", "--window=1", "--rank=2", "--rounds=1", "--json=step.json"]
    train_step.main([*command, "--only", "step", "adapter"])
    train_step.main(command)
    said = capsys.readouterr().out
    assert "failed" not in said
    assert said.count("step, ") == said.count("adapter, ") == 1
    sections = json.loads(Path("step.json").read_text(encoding="utf-8"))["sections"]
    assert sections.keys() == train_step.SECTIONS.keys()
    rows = {row["name"]: row for section in sections.values() for row in section}
    assert rows["all of it"]["remark"] == "16 evaluations"
    parts = ("rollout, model", "rollout, rest", "decode", "replay, forward", "replay, backward", "distance from the start", "optimizer")
    assert sum(rows[part]["runs"][0] for part in parts) == pytest.approx(rows["all of it"]["runs"][0])
    ratio = next(row["remark"] for name, row in rows.items() if "log ratio" in name)
    assert ratio == "0, as it must be (torch.float32, checkpointing)"
    assert rows["window at 1, shared start"]["remark"] == "5 candidates' evaluations"
    assert rows["window at 1, own start"]["remark"] == "8 candidates' evaluations"
    replays = [row["remark"] for name, row in rows.items() if name.endswith(": a replay")]
    assert len(replays) == 4
    assert all(remark.endswith("first log ratio 0") for remark in replays)
    with pytest.raises(SystemExit, match=r"step\.json is of another command"):
        train_step.main([*command, "--seed=1"])


def test_random_networks_compute_in_bfloat16_and_their_first_ratio_is_exactly_1(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--blocks=1", "--heads=1", "--vae-width=4", "--rank=2", "--steps=2", "--window=1", "--rounds=1")
    train_step.main(["--random", *SMALL, *sizes, "--only", "step"])
    said = capsys.readouterr().out
    assert "0, as it must be (torch.bfloat16, checkpointing)" in said


def test_the_time_of_a_part_within_another_is_its_own() -> None:
    clock = Clock(torch.device("cpu"))
    with clock.part("outer"):
        with pytest.raises(ValueError, match="stop"), clock.part("inner"):
            raise ValueError("stop")
        assert clock.open == ["outer"]
    assert clock.open == []
    assert clock.seconds.keys() == {"outer", "inner"}


def test_a_row_shows_its_median_and_its_spread() -> None:
    assert table([Row("part", (3.0, 1.0, 2.0), 3 * 2**29, "twice")])[-1] == "| part | 2.0000 | 1.0000 to 3.0000 | 1.50 | twice |"
    assert table([Row("part")])[-1] == "| part |  |  |  |  |"


def test_the_noise_of_the_models_own_grid_is_what_the_documents_say() -> None:
    found = noise_sweep.levels_of_noise(sigma_grid(dict(SCHEDULER), 10, 40 * 40))
    assert found["flow 0.7"][1:3] == pytest.approx([0.767, 0.568], abs=5e-4)
    assert found["dance 0.3"][1:3] == pytest.approx([0.048, 0.054], abs=5e-4)
    assert found["cps 0.8"][1:3] == pytest.approx([0.907, 0.877], abs=5e-4)
    assert found["cps 0.8"][-1] == 0


def test_more_noise_leaves_candidates_further_apart(tiny: Path) -> None:
    few = ("--steps=4", "--windows", "1", "--count=1", "--judge=pixels", "--levels", "flow=0.3", "flow=1.2", "dance=0.3", "dance=1")
    noise_sweep.main([f"--model={tiny}", *SMALL, *few, "--json=noise.json", "--svg=noise.svg"])
    left = json.loads(Path("noise.json").read_text(encoding="utf-8"))["left"]
    spread = {(each["kernel"], each["eta"]): each["spread"] for each in left}
    assert 0 < spread["flow", 0.3] < spread["flow", 1.2]
    assert 0 < spread["dance", 0.3] < spread["dance", 1.0]
    assert all(each["reward"] >= 0 for each in left)
    assert Path("noise.svg").read_text(encoding="utf-8").startswith("<svg")
