"""Fakes and pictures that several test files use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest
from PIL import Image

from layerctl import registry
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, Progress, Proposal
from layerctl.source import SourceImage

if TYPE_CHECKING:
    from tests.train_run import Quick


class DrawPicture(Protocol):
    def __call__(self, path: Path, size: tuple[int, int] = (24, 16), colour: str = "teal") -> Path: ...


class Halves:
    """An engine that calls the right half of a picture an element; it fails on pictures 13 pixels wide."""

    name = "halves"
    version = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        if source.width == 13:
            raise ZeroDivisionError("thirteen")
        progress("halving", 0.5)
        middle = source.width // 2
        right = np.ascontiguousarray(source.pixels[:, middle:])
        layers = (Layer("Background", source.pixels.copy(), kind="background"), Layer("Right half", right, left=middle))
        return Proposal(LayerStack(source.width, source.height, layers), warnings=("background guessed",), settings=(("halves", 2),))


HALVES = Halves()


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Halves:
    """The engine above, registered under its name and chosen by the environment; no settings file of the person who runs the tests."""
    monkeypatch.setitem(registry.BUILT_IN["engines"], "halves", f"{__name__}:HALVES")
    monkeypatch.setenv("LAYERCTL_ENGINE", "halves")
    return HALVES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return working


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of the real classes; not to be written to."""
    import torch

    from layerctl.testing.checkpoint import write_tiny_checkpoint

    # On networks this small, threads on a busy machine wait for each other most of the time.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture
def training(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, whatever started the tests, and a cache that all tests share: what is kept there is the same for all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "training-cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def judge(training: None, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """A judge that is quick, under that name; its points are by chance."""
    from tests.train_run import Quick, points_by_chance

    quick = Quick(points_by_chance)
    monkeypatch.setitem(registry.BUILT_IN["judges"], "quick", "tests.train_run:QUICK")
    monkeypatch.setattr("tests.train_run.QUICK", quick)
    return quick


@pytest.fixture
def photos(folder: Path) -> Path:
    """Five pictures of two shapes."""
    from tests.train_run import draw_photos

    return draw_photos(folder / "photos")


@pytest.fixture
def draw() -> DrawPicture:
    """Writes a small picture file of two colours; folders are made."""
    return _draw


def _draw(path: Path, size: tuple[int, int] = (24, 16), colour: str = "teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, colour)
    picture.paste("orange", (size[0] // 2, 2, size[0] - 1, size[1] - 2))
    picture.save(path)
    return path
