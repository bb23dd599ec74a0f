"""How many layers the strong engine makes unasked, and that its proposals differ, on the tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layerctl import cli
from layerctl.choose import best_of_scores
from layerctl.engines.qwen.session import Session
from layerctl.registry import DecomposeRequest, ModelOptions, Proposal
from layerctl.source import SourceImage


@pytest.fixture(scope="module")
def picture() -> SourceImage:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)
    pixels[..., 3] = 255
    return SourceImage(pixels, sha256="0" * 64)


@pytest.fixture
def engine(tiny: Path) -> Session:
    return Session(ModelOptions(str(tiny), preset="stable-layers", steps=1, size=64, seed=5), lambda _: None)


def proposed(engine: Session, picture: SourceImage, request: DecomposeRequest) -> tuple[Proposal, list[bytes]]:
    proposal = engine.decompose(picture, request, lambda *_: None)
    return proposal, [layer.pixels.tobytes() for layer in proposal.stack.walk()]


def test_every_candidate_has_a_seed_of_its_own_and_comes_again(engine: Session, picture: SourceImage) -> None:
    runs = [proposed(engine, picture, DecomposeRequest(2, candidate=k)) for k in (0, 1, 2, 1)]
    assert runs[1][1] == runs[3][1]
    assert len({tuple(pixels) for _, pixels in runs}) == 3
    assert len({dict(proposal.settings)["seed"] for proposal, _ in runs}) == 3
    assert dict(runs[0][0].settings)["seed"] == 5


def test_without_a_number_the_layers_are_counted_in_the_picture(
    engine: Session, picture: SourceImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter((2, 3))
    monkeypatch.setattr("layerctl.engines.qwen.session.count_layers", lambda source: next(counts))
    assert len(proposed(engine, picture, DecomposeRequest())[1]) == 2
    assert len(proposed(engine, picture, DecomposeRequest())[1]) == 3, "more than were planned for at first"


def test_the_best_of_two_seeds_is_kept_from_the_command_line(
    tiny: Path, picture: SourceImage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    Image.fromarray(picture.pixels).save("noise.png")
    flags = ["--engine", "qwen", "--model", str(tiny), "--preset", "stable-layers", "--steps", "1", "--size", "64", "--quiet"]
    assert cli.main(["decompose", "noise.png", "--layers", "2", "--best-of", "2", "--keep-faulty", *flags]) == 0
    written: dict[str, Any] = json.loads(Path("noise-layers/manifest.json").read_text())
    assert [candidate["number"] for candidate in written["candidates"]] == [0, 1]
    chosen = next(candidate for candidate in written["candidates"] if candidate["chosen"])
    assert chosen["number"] == best_of_scores([candidate["score"] for candidate in written["candidates"]])
    assert written["engine_settings"]["seed"] == 42 + 1_000_003 * chosen["number"]
