"""What `layerctl judge calibrate` says, beside its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerctl_exporters.psd import EXPORTER

from layerctl import cli
from layerctl.registry import ExportOptions
from layerctl.testing import scene
from tests.judge_server import JudgeServer, alone, together, words_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def layers(folder: Path) -> str:
    EXPORTER.export(scene(8, width=160, height=120)[1], folder / "true.psd", ExportOptions())
    return "true.psd"


def calibrate(*arguments: str) -> int:
    return cli.main(["judge", "calibrate", "--faults", "ghost", "--judge-cache", "judge.sqlite", *arguments])


def test_it_says_once_where_pictures_go_and_that_a_second_answer_said_nothing(
    layers: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LAYERCTL_JUDGE_SIDE", "128")
    six = dict.fromkeys("ABCDEF", 5.0)
    with JudgeServer(lambda body, _: together(six) if "candidates, one in each row" in words_of(body) else alone(6)) as server:
        wanted = [layers, "--judge", "openai", "--judge-url", server.url, "--judge-orders", "1"]
        assert calibrate(*wanted) == 0
        out, err = capsys.readouterr()
        assert err.count(server.host) == 1
        assert "2 groups, 12 candidates, judge openai: 26 requests, repeated ones apart, about" in err
        assert "of 1 of equal layers 0% (should be 0%)" in out
        assert "The server answers the same every time: set judge_temperature above 0 to learn how sure it is" in out
        monkeypatch.setenv("LAYERCTL_JUDGE_TEMPERATURE", "0.7")
        assert calibrate(*wanted) == 0
    assert "the same every time" not in capsys.readouterr().out


def test_a_judge_without_a_host_is_not_said_to_be_a_server(layers: str, capsys: Capture) -> None:
    assert calibrate(layers) == 0
    out = capsys.readouterr().out
    assert "phase 1 differs by 0.00 points" in out
    assert "server" not in out


@pytest.mark.parametrize("arguments", [["calibrat"], ["Calibrate", "--scenes", "3"], ["calibration", "true.psd"]])
def test_a_mistyped_command_is_no_picture_that_is_not_there(folder: Path, capsys: Capture, arguments: list[str]) -> None:
    assert cli.main(["judge", *arguments]) == 2
    told = f"there is no file {arguments[0]}\n  for the command, type: layerctl judge calibrate\n"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["poster.png", "true.psd"], ["calibrate"]])
def test_nobody_can_be_no_judge(folder: Path, capsys: Capture, arguments: list[str]) -> None:
    assert cli.main(["judge", *arguments, "--judge", "none"]) == 2
    assert "--judge none leaves nobody to judge" in capsys.readouterr().err
