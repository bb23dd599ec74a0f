"""The pictures that `layerctl judge` writes are the ones that the judge got."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerctl_exporters.psd import EXPORTER
from PIL import Image

from layerctl import cli
from layerctl.registry import ExportOptions
from layerctl.testing import scene
from layerctl.testing.faults import plant
from tests.judge_server import Body, JudgeServer, Reply, alone, pictures_of, together, words_of


def is_of_grid(body: Body) -> bool:
    return "candidates, one in each row" in words_of(body)


def scores_all(body: Body, _: int) -> Reply:
    """The scores of three candidates beside each other, or of one."""
    return together({"A": 3, "B": 8, "C": 5}) if is_of_grid(body) else alone(6)


def test_the_folder_holds_the_very_grids_that_the_server_saw(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, true = scene(8, width=240, height=180)
    Image.fromarray(source.pixels).convert("RGB").save("poster.png")
    for name, stack in (("true", true), *((fault, plant(fault, source, true, 2, 0.7)) for fault in ("ghost", "split"))):
        assert stack is not None
        EXPORTER.export(stack, folder / f"{name}.psd", ExportOptions())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer(scores_all) as server:
        wanted = ["--judge", "openai", "--judge-url", server.url, "--judge-cache", "judge.sqlite", "--judge-orders", "6"]
        assert cli.main(["judge", "poster.png", "true.psd", "ghost.psd", "split.psd", *wanted]) == 0
    written = [Path(f"poster-judge/grid-{number}.png").read_bytes() for number in range(1, 7)]
    assert sorted(written) == sorted(pictures_of(body)[-1] for body in server.bodies if is_of_grid(body))
    assert len(set(written)) == 6
