"""The model in training: what it is told, by whose wish, and what its adapters ask to be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layerctl_train.base import Base
from layerctl_train.run_config import RunConfig, from_toml, resume_run

from layerctl.cli import main
from layerctl.engines.qwen.adapters import find_adapter
from tests.conftest import DrawPicture
from tests.train_run import draw_photos, small_run, train

TOLD = ("method=sft", "sft_batch=2", "updates=1", "holdout=0", "groups=2")
"""A run of two layered pictures, whose one step needs no judge."""


@pytest.fixture(autouse=True)
def place(training: None, folder: Path) -> Path:
    return folder


def base(config: RunConfig) -> tuple[Base, list[str]]:
    said: list[str] = []
    return Base(config.settings, config.training, said.append), said


@pytest.mark.parametrize(
    ("assignment", "wishes"),
    [
        ("prompt_mode=fixed", {"prompt": "a clean, well composed image"}),
        ("prompt=mine", {"prompt": "mine"}),
        ("prompt_mode=empty", {"prompt": " "}),
        ("prompt_mode=caption", {"prompt_mode": "caption"}),
        ("prompt_mode=given", {"prompt_mode": "caption"}),
    ],
)
def test_an_adapter_asks_for_what_it_was_told_in_training(tiny: Path, place: Path, assignment: str, wishes: dict[str, str]) -> None:
    found, said = base(small_run(tiny, draw_photos(place / "photos"), assignment, judge="pixels"))
    assert found.words == {"preset": "stable-layers"} | wishes
    assert said == []


def test_an_adapter_that_was_trained_with_given_prompts_is_run_with_captions(tiny: Path, place: Path, draw: DrawPicture) -> None:
    train(small_run(tiny, "scenes:2", *TOLD, "prompt_mode=given", judge="pixels"), Path("run"))
    adapter = find_adapter(Path("run/adapter"), name="run")
    assert (adapter.preset, adapter.prompt, adapter.prompt_mode) == ("stable-layers", None, "caption")
    draw(place / "photo.png", (64, 48))
    command = [
        "decompose",
        "--engine",
        "qwen",
        "--model",
        str(tiny),
        "--adapter",
        "run/adapter",
        "--steps",
        "1",
        "--size",
        "64",
        "photo.png",
    ]
    assert main(command) == 0
    used = json.loads((place / "photo-layers" / "manifest.json").read_text(encoding="utf-8"))["engine_settings"]
    assert used["preset"] == "stable-layers"
    assert used["prompt"] != "a clean, well composed image"


def test_training_goes_on_with_what_the_adapter_was_told(tiny: Path, place: Path) -> None:
    first = small_run(tiny, "scenes:2", *TOLD, "prompt=mine", judge="pixels")
    train(first, Path("first"))
    config = small_run(tiny, "scenes:2", *TOLD, "start=first/adapter", judge="pixels")
    found, said = base(config)
    assert found.prompt == "mine"
    assert said == ["the adapter adapter is run with the preset stable-layers and the prompt 'mine'"]
    train(config, Path("second"))
    assert find_adapter(Path("second/adapter"), name="second").prompt == "mine"
    kept = from_toml(Path("second/config.toml").read_text(encoding="utf-8"))
    assert (kept.settings.prompt, resume_run(kept)) == ("mine", kept)
    other, said = base(small_run(tiny, "scenes:2", *TOLD, "start=first/adapter", "prompt=another", judge="pixels"))
    assert other.prompt == "another"
    assert "the prompt 'another'" in said[0]
