"""`layerctl train` as a person types it: a folder of photographs, a judge's server, an adapter that the other commands take."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerctl_train.metrics import METRICS
from PIL import Image
from safetensors.torch import load_file

from layerctl.cli import main
from layerctl.verdict import CRITERIA
from tests.judge_server import Body, JudgeServer, Reply, alone, pictures_of, together
from tests.test_eval_report import Markup
from tests.train_run import SMALL, kept, metrics

PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "photographs"
UPDATES, GROUPS, GROUP, ORDERS = 2, 2, 3, 2
CANDIDATES = UPDATES * GROUPS * GROUP
CALLS = CANDIDATES + UPDATES * GROUPS * ORDERS
LETTER = 52
"""Pixels at the left of a row of phase 2, where its letter stands."""


@pytest.fixture(autouse=True)
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        with Image.open(PHOTOGRAPHS / name) as photograph:
            photograph.convert("RGB").resize((192, 128)).crop((64, 32, 128, 96)).save(folder / Path(name).with_suffix(".png"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the judge's answers too, so that later tests can play them again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def names_of(body: Body) -> tuple[str, ...]:
    """What the answer has to score: criteria, or the labels of rows."""
    return tuple(body["response_format"]["json_schema"]["schema"]["required"])


def rows_of(body: Body) -> list[np.ndarray[Any, Any]]:
    """Phase 2's rows without their letters, top to bottom."""
    grid = np.asarray(Image.open(io.BytesIO(pictures_of(body)[-1])))
    return np.split(grid[:, LETTER:], len(names_of(body)))


def by_eye(body: Body, _: int) -> Reply:
    """The brighter the result, the better: in points alone, in ranks from 1 to 9 together, whichever the order of the rows."""
    names = names_of(body)
    if names == CRITERIA:
        return alone(9 * float(np.asarray(Image.open(io.BytesIO(pictures_of(body)[1]))).mean()) / 255)
    bright = [row.mean() for row in rows_of(body)]
    ranks = np.argsort(np.argsort(bright))
    return together({name: 1 + 8 * int(rank) / (len(names) - 1) for name, rank in zip(names, ranks, strict=True)})


def seen(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()


def train(*arguments: str | Path) -> int:
    return main(["train", *map(str, arguments)])


def beginning(tiny: Path, photos: Path, url: str, run: str) -> list[str]:
    wanted = (
        *SMALL, f"updates={UPDATES}", f"groups={GROUPS}", f"group={GROUP}", "micro_batch=3", "learning_rate=0.02", "holdout=1",
        f"evaluate_every={UPDATES}", f"judge_orders={ORDERS}", "judge_chance=1", "judge_grid_side=800", "judge_side=128", "judge_retries=0",
    )  # fmt: skip
    settings = [part for assignment in wanted for part in ("--set", assignment)]
    judge = ["--judge", "openai", "--judge-url", url, "--judge-model", "judge", "--judge-price", "judge=1,2"]
    return ["--data", str(photos), "--recipe", "lab", "--model", str(tiny), *settings, *judge, "-o", run]


@pytest.fixture(scope="module")
def trained(tiny: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JudgeServer]:
    """A run to its end, and the server that it asked, which is gone."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with JudgeServer(by_eye) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        patch.setenv("XDG_CONFIG_HOME", str(run.parent))
        assert train(*beginning(tiny, photos, server.url, "run")) == 0
    return run, server


def test_every_candidate_reaches_the_judge_once_alone_and_once_in_every_row_order(trained: tuple[Path, JudgeServer]) -> None:
    _, server = trained
    by_itself = [body for body in server.bodies if names_of(body) == CRITERIA]
    beside = [body for body in server.bodies if names_of(body) != CRITERIA]
    assert (len(by_itself), len(beside)) == (CANDIDATES, UPDATES * GROUPS * ORDERS)
    assert len({seen(b"".join(pictures_of(body))) for body in by_itself}) == CANDIDATES
    grids = [tuple(seen(row.tobytes()) for row in rows_of(body)) for body in beside]
    assert all(len(set(grid)) == GROUP for grid in grids)
    assert len(set(grids)) == len(grids)
    rows = Counter(row for grid in grids for row in grid)
    assert len(rows) == CANDIDATES
    assert set(rows.values()) == {ORDERS}
    assert sorted(Counter(frozenset(grid) for grid in grids).values()) == [ORDERS] * UPDATES * GROUPS


def test_metrics_hold_both_phases_and_what_they_cost(trained: tuple[Path, JudgeServer]) -> None:
    run, _ = trained
    steps = metrics(run)
    calls = CALLS // UPDATES
    for step in steps:
        assert step["groups/taught"] == GROUPS, step["reasons"]
        assert 0 < step["reward/phase1"] < 9
        assert step["reward/phase2"] == pytest.approx(5)
        assert step["judge/agreement"] == pytest.approx(1)
        assert (step["judge/calls"], step["judge/cached"], step["judge/tokens"]) == (calls, 0, 120 * calls)
        assert step["judge/dollars"] == pytest.approx(calls * 140e-6)
    known = {name for name, metric in METRICS.items() if "grpo" in metric.methods}
    assert set(json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])) <= known | {"step", "reasons"}


def test_the_adapter_has_learned_and_other_commands_take_it(
    tiny: Path, photos: Path, trained: tuple[Path, JudgeServer], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    first, last = kept(run, 0), kept(run, UPDATES)
    weights = [name for name in first if name.startswith("policy.safetensors transformer_blocks")]
    assert all(not first[name].equal(last[name]) for name in weights if name.endswith("lora_B"))
    assert metrics(run)[0]["kl/velocity"] == 0 < metrics(run)[-1]["kl/velocity"]
    common = ["decompose", str(photos / "coffee.png"), "--engine", "qwen", "--model", str(tiny), "--layers", "2", "--size", "64"]
    common += ["--steps", "2", "--device", "cpu", "--png", "-o"]
    assert main([*common, "before"]) == 0, capsys.readouterr().err
    assert main([*common, "after", "--adapter", str(run / "adapter")]) == 0, capsys.readouterr().err
    (before, after) = (sorted(Path(name).rglob("layers/*.png")) for name in ("before", "after"))
    assert len(before) == len(after) == 2
    assert any(np.any(np.asarray(Image.open(one)) != np.asarray(Image.open(other))) for one, other in zip(before, after, strict=True))


def test_the_report_opens_and_shows_curves_and_pictures_of_before_and_after(trained: tuple[Path, JudgeServer]) -> None:
    run, _ = trained
    page = (run / "report.html").read_text(encoding="utf-8")
    markup = Markup(page)
    assert markup.open == []
    assert not markup.tags & {"script", "link", "iframe", "object"}
    assert "svg" in markup.tags
    sheets = [place for place in markup.places if place.startswith("data:image/jpeg;base64,")]
    assert all(place in sheets or place.startswith("#") for place in markup.places)
    assert all(Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2]))).width > 100 for sheet in sheets)
    assert sheets
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["step-000000.png", f"step-{UPDATES:06d}.png"]


def test_a_run_from_kept_answers_is_the_same_and_asks_nobody(tiny: Path, photos: Path, trained: tuple[Path, JudgeServer]) -> None:
    run, server = trained
    asked = len(server.bodies)
    assert train(*beginning(tiny, photos, server.url, "again"), "--replay") == 0
    assert len(server.bodies) == asked
    these, those = kept(run, UPDATES), kept(Path("again"), UPDATES)
    assert these.keys() == those.keys()
    assert all(tensor.equal(those[name]) for name, tensor in these.items())
    assert [(step["judge/calls"], step["judge/cached"]) for step in metrics(Path("again"))] == [(0, CALLS // UPDATES)] * UPDATES
    one, other = (load_file(each / "adapter/adapter_model.safetensors") for each in (run, Path("again")))
    assert one.keys() == other.keys()
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


def test_a_judge_that_dies_ends_the_run_in_words_and_the_run_goes_on_later(
    tiny: Path, photos: Path, trained: tuple[Path, JudgeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    at = CALLS // UPDATES + 3
    with JudgeServer(lambda body, count: by_eye(body, count) if count < at else Reply(cut=0)) as dying:
        assert train(*beginning(tiny, photos, dying.url, "run")) == 1
    said = capsys.readouterr().err
    assert re.search(rf"^layerctl: {re.escape(dying.host)} answered none of 5 questions in a row", said, re.MULTILINE), said
    assert "stopped after step 1 of 2; to go on: layerctl train --resume -o run" in said
    assert [step["step"] for step in metrics(Path("run"))] == [1]
    with JudgeServer(by_eye) as well:
        assert train("--resume", "-o", "run", "--judge-url", well.url) == 0
    # What was answered before it died is not asked again.
    assert len(well.bodies) == CALLS - at
    assert kept(Path("run"), UPDATES).keys() == kept(trained[0], UPDATES).keys()
    assert all(tensor.equal(kept(trained[0], UPDATES)[name]) for name, tensor in kept(Path("run"), UPDATES).items())
