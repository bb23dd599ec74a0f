"""The report for the first person with real weights, on the tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import accept_real_weights
from benchmarks.accept import claims, files
from benchmarks.accept.checks import Check, Checks
from benchmarks.accept.running import Run, run_pictures
from benchmarks.accept.tiny import write_tiny_adapter
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.prompts import PromptCache, cache_folder
from layerctl.registry import ModelOptions
from layerctl.source import read_source

FAST = ("--steps", "2", "--size", "64", "--pictures", "1")
FIRST = accept_real_weights.ROOT / "examples" / accept_real_weights.EXAMPLES[0]
PLACES = ("base, stable-layers", "base, qwen", "tuned, stable-layers", "tuned, qwen")


@pytest.fixture(scope="module", autouse=True)
def _fast(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that holds a caption, which the tiny encoder would babble for seconds, and one thread: two wait for each other most."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        PromptCache(cache_folder(), read_checkpoint(tiny)).keep_caption(read_source(FIRST).sha256, "a cat")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    write_tiny_adapter(tmp_path / "adapter", tiny)
    return tmp_path / "adapter"


def read_checks(report: Path) -> dict[tuple[str, str], dict[str, Any]]:
    checks = json.loads((report / "report.json").read_text(encoding="utf-8"))["checks"]
    return {(check["place"], check["name"]): check for check in checks}


def failed(report: Path) -> set[tuple[str, str]]:
    return {key for key, check in read_checks(report).items() if check["status"] == "failed"}


class Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.paths += [value for name, value in attrs if tag == "img" and name == "src" and value]


def test_the_dry_run_makes_every_check_and_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    assert accept_real_weights.main(["--tiny", "--pictures", "1", "-o", str(report)]) == 0
    assert capsys.readouterr().out == f"{report / 'report.html'}\n"

    checks = read_checks(report)
    expected = {(files.PLACE, name) for name in files.CLAIMS} | {(place, name) for place in PLACES for name in claims.CLAIMS}
    assert checks.keys() == expected
    assert all(check["value"] for check in checks.values())
    assert {check["status"] for check in checks.values()} == {"passed", "not applicable"}
    assert checks["base, stable-layers", "evaluations"]["numbers"] == {"evaluations": 3}
    assert checks["base, qwen", "evaluations"]["numbers"] == {"evaluations": 4}
    assert checks["base, stable-layers", "text encoder"]["value"].startswith("loaded")
    assert checks["tuned, qwen", "text encoder"]["status"] == "passed"
    assert checks["tuned, qwen", "adapter's effect"]["numbers"]["velocity_change"] > 0.001
    assert checks["tuned, qwen", "memory"]["numbers"]["peak_bytes"] is None

    page = Images()
    page.feed((report / "report.html").read_text(encoding="utf-8"))
    assert page.paths == [f"pictures/astronaut-{label}-{preset}.png" for preset in ("stable-layers", "qwen") for label in ("base", "tuned")]
    assert all((report / path).stat().st_size > 10_000 for path in page.paths)
    assert "script" not in page.tags


def test_an_adapter_with_a_strange_key_is_a_failed_check_and_the_base_still_runs(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "model" / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(iter(tensors))
    save_file({name.replace("attn", "atn") if name == key else name: tensor for name, tensor in tensors.items()}, file)
    report = tmp_path / "report"
    assert accept_real_weights.main(["--model", str(tiny), "--adapter", str(adapter), "-o", str(report), *FAST]) == 1
    checks = read_checks(report)
    assert {(files.PLACE, "adapter keys"), ("tuned, stable-layers", "runs"), ("tuned, qwen", "runs")} <= failed(report)
    assert "1 of 28 keys fit no linear layer" in checks[files.PLACE, "adapter keys"]["value"]
    assert checks["base, qwen", "runs"]["status"] == "passed"
    assert checks["tuned, qwen", "recipe"]["status"] == "not reached"


def test_a_config_that_does_not_describe_its_files_is_found(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    model = with_config(tiny, tmp_path / "model", "transformer", num_layers=3)
    report = tmp_path / "report"
    assert accept_real_weights.main(["--model", str(model), "--adapter", str(adapter), "-o", str(report), *FAST]) == 1
    assert {(files.PLACE, "weight bytes"), (files.PLACE, "tensors")} <= failed(report)
    assert "32 missing (transformer_blocks.2." in read_checks(report)[files.PLACE, "tensors"]["value"]


def test_another_geometry_ends_the_run_with_a_report(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    model = with_config(tiny, tmp_path / "model", "vae", input_channels=3)
    report = tmp_path / "report"
    assert accept_real_weights.main(["--model", str(model), "--adapter", str(adapter), "-o", str(report), *FAST]) == 1
    assert failed(report) == {(files.PLACE, "classes and geometry")}
    assert "input_channels = 3" in (report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tiny: Path) -> Run:
    options = ModelOptions(str(tiny), preset="qwen", steps=2, size=64, device="cpu")
    return run_pictures(options, {"astronaut": read_source(FIRST)}, 4, lambda _: None)


def with_watch(run: Run, **changes: Any) -> Run:
    return replace(run, pictures=[replace(picture, watch=replace(picture.watch, **changes)) for picture in run.pictures])


def other_layers(run: Run) -> Run:
    layers = tuple(replace(layer, pixels=np.flip(layer.pixels)) for layer in run.first.stack.walk())
    return replace(run, first=replace(run.first, stack=run.first.stack.with_layers(layers)))


SPOILT: dict[str, Callable[[Run], Run]] = {
    "evaluations": lambda run: with_watch(run, sigmas=[*run.pictures[0].watch.sigmas, 0.0]),
    "sigma grid": lambda run: with_watch(run, sigmas=[sigma * 0.98 for sigma in run.pictures[0].watch.sigmas]),
    "finite latents": lambda run: with_watch(run, finite=False),
    "decoded range": lambda run: with_watch(run, far_out=0.5),
    "layer count": lambda run: replace(run, layers=5),
    "same bytes twice": other_layers,
    "text encoder": lambda run: replace(run, told=["loading the text encoder of tiny; what it makes is kept"]),
    "noise": lambda run: with_watch(run, states=torch.zeros(1, 6 * 16, 64)),
    "memory": lambda run: replace(run, peak_bytes=1),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_run_that_breaks_a_claim_fails_its_check(run: Run, name: str) -> None:
    assert check_run(replace(run, told=[]))[name].status != "failed"
    assert check_run(SPOILT[name](replace(run, told=[])))[name].status == "failed"


def check_run(run: Run) -> dict[str, Check]:
    checks = Checks({"here": claims.CLAIMS})
    claims.check(checks, "here", run, is_first=False, random_weights=True)
    return checks.at("here")


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report").mkdir()
    assert accept_real_weights.main(["--tiny", "-o", str(tmp_path / "report")]) == 2
    assert f"type --output {tmp_path / 'report-2'}" in capsys.readouterr().err
    assert list((tmp_path / "report").iterdir()) == []


def test_what_is_not_here_is_told_with_the_commands_that_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert accept_real_weights.main(["-o", str(tmp_path / "report")]) == 5
    assert "layerctl pull Qwen/Qwen-Image-Layered   and   layerctl pull StabilityLabs/Stable-Layers" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def with_config(model: Path, folder: Path, part: str, **changes: int) -> Path:
    """A copy of the checkpoint whose config of one part says something else."""
    shutil.copytree(model, folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder
