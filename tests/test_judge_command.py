"""`layerctl judge`, and a judge that chooses for `layerctl decompose`, from the command line to what is written."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from layerctl_exporters.psd import EXPORTER
from layerctl_train.commands.judge import JudgeCommand
from PIL import Image

from layerctl import cli, registry
from layerctl.composite import flatten
from layerctl.errors import ConfigError, JudgeStoppedError, LayerctlError, MissingDependencyError, OutputError
from layerctl.judge_settings import KEY_VARIABLE, JudgeSettings
from layerctl.layered_files import read_stack
from layerctl.layers import LayerStack
from layerctl.registry import DecomposeRequest, ExportOptions, Progress, Proposal
from layerctl.settings import Settings
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.testing.faults import plant
from layerctl.verdict import CRITERIA, GroupVerdict, SampleVerdict, Score, Usage

Capture = pytest.CaptureFixture[str]

SOURCE, TRUE = scene(8, width=240, height=180)
GRIDS = ((2, 0, 1), (1, 0, 2))


def faulty(fault: str) -> LayerStack:
    stack = plant(fault, SOURCE, TRUE, seed=2, severity=0.7)
    assert stack is not None
    return stack


STACKS = {"ghost.psd": faulty("ghost"), "split.psd": faulty("split"), "true.psd": TRUE}


@dataclass
class Oracle:
    """A judge on a far machine that gives the listed rewards and remembers everything."""

    rewards: list[float] = field(default_factory=lambda: [3.0, 8.0, 5.0])
    no_signal: str = ""
    stops_after: int = 1000
    error: Exception = field(default_factory=lambda: JudgeStoppedError("the budget of 3 requests is spent", hint="raise --max-judge-calls"))
    name: str = "oracle"
    model: str = "delphi-9b"
    host: str = "https://delphi.example"
    settings: JudgeSettings = field(default_factory=JudgeSettings)
    tell: Callable[[str], None] = print
    asked: list[tuple[tuple[LayerStack, ...], str]] = field(default_factory=list)
    closed: int = 0

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        self.tell(f"pictures go to {self.host}")
        if len(self.asked) == self.stops_after:
            raise self.error
        self.asked.append((tuple(stacks), told))
        scores = tuple(Score(6, f"saw {name}") for name in CRITERIA)
        samples = tuple(
            SampleVerdict(scores, 6, 2 * reward - 6, reward, "" if math.isfinite(reward) else "the answer was \x1b[31mno JSON")
            for reward in self.rewards[: len(stacks)]
        )
        usage = Usage(5, 2, 12_000, 900, 0.0123)
        orders = (tuple(2 * reward - 6 for reward in self.rewards[: len(stacks)]),) * 2
        grids = GRIDS if len(stacks) == 3 else ()
        return GroupVerdict(samples, self.name, self.model, "ab12", orders, grids, 5.0, 0.75, self.no_signal, self.no_signal, usage, 1.5)

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage(group + 2, 0, 1000 * group, 100 * layers, None)

    def close(self) -> None:
        self.closed += 1


ORACLE = Oracle()


def oracle_judge(settings: JudgeSettings, tell: Callable[[str], None]) -> Oracle:
    ORACLE.settings, ORACLE.tell = settings, tell
    return ORACLE


class Drawn:
    """An engine whose proposals are the stacks above, in turn."""

    name = "drawn"
    version = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        return Proposal(list(STACKS.values())[request.candidate % len(STACKS)])


ENGINE = Drawn()


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    judge = Oracle()
    monkeypatch.setattr(f"{__name__}.ORACLE", judge)
    monkeypatch.setitem(registry.BUILT_IN["judges"], "oracle", f"{__name__}:oracle_judge")
    monkeypatch.setitem(registry.BUILT_IN["engines"], "drawn", f"{__name__}:ENGINE")
    return judge


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    Image.fromarray(SOURCE.pixels).convert("RGB").save(folder / "poster.png")
    for name, stack in STACKS.items():
        EXPORTER.export(stack, folder / name, ExportOptions())
    return folder


@pytest.fixture
def files(folder: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The picture, and its layers in three ways; what a judge sees is small."""
    shutil.copytree(written, folder, dirs_exist_ok=True)
    monkeypatch.setenv("LAYERCTL_JUDGE_SIDE", "128")
    monkeypatch.setenv("LAYERCTL_JUDGE_GRID_SIDE", "512")
    return ["poster.png", *STACKS]


def judge(*arguments: str) -> int:
    return cli.main(["judge", *arguments])


def decompose(*arguments: str) -> int:
    return cli.main(["decompose", *arguments, "--engine", "drawn", "--judge", "oracle"])


def read_json(path: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return fields


def test_without_a_name_the_measures_judge_and_true_layers_come_first(files: list[str], capsys: Capture) -> None:
    assert judge(*files) == 0
    out, err = capsys.readouterr()
    heading, _, *rows = out.splitlines()
    assert heading.split()[0] == "stack"
    assert {row.split()[0]: row.split()[-1] for row in rows[:3]} == {"ghost.psd": "2", "split.psd": "3", "true.psd": "1"}
    assert "judge pixels, layerctl.quality: " in out
    assert err.startswith("poster-judge: grid-1.png (from the top: ")


def test_the_table_shows_scores_ranks_what_they_are_worth_and_what_they_cost(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    assert judge(*files, "--judge", "oracle") == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[2:5]] == [
        ["ghost.psd", *["6.0"] * 6, "0.0", "3.0", "3"],
        ["split.psd", *["6.0"] * 6, "10.0", "8.0", "1"],
        ["true.psd", *["6.0"] * 6, "4.0", "5.0", "2"],
    ]
    assert out[5:] == [
        "2 row orders agree by 0.75, raw scores lie within 5.0 points",
        "as a group to learn from: yes",
        "judge oracle, delphi-9b: 5 requests, 12,000 tokens in and 900 out, $0.0123, 2 answers from the cache, 1.5 s",
    ]
    assert oracle.closed == 1


def test_a_group_that_teaches_nothing_says_why(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    oracle.no_signal = "the row orders agree by 0.10"
    assert judge(*files, "--judge", "oracle") == 0
    assert "as a group to learn from: no, the row orders agree by 0.10" in capsys.readouterr().out


def test_evidence_is_shown_on_request(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    judge(*files, "--judge", "oracle")
    assert "saw alpha" not in capsys.readouterr().out
    judge(*files, "--judge", "oracle", "--evidence")
    assert "\ntrue.psd\n  separation 6.0: saw separation\n  alpha 6.0: saw alpha\n" in capsys.readouterr().out


def test_the_folder_holds_the_verdict(files: list[str], oracle: Oracle) -> None:
    assert judge(*files, "--judge", "oracle") == 0
    assert sorted(os.listdir("poster-judge")) == ["grid-1.png", "grid-2.png", "verdict.json"]
    fields = read_json("poster-judge/verdict.json")
    assert (fields["format"], fields["schema"], fields["source"]) == ("layerctl-verdict", 1, "poster.png")
    assert [(sample["stack"], sample["reward"], sample["rank"]) for sample in fields["samples"]] == [
        ("ghost.psd", 3, 3), ("split.psd", 8, 1), ("true.psd", 5, 2),
    ]  # fmt: skip
    assert fields["samples"][0]["criteria"]["alpha"] == {"points": 6, "evidence": "saw alpha"}
    assert fields["grids"] == [{"file": "grid-1.png", "rows": [2, 0, 1]}, {"file": "grid-2.png", "rows": [1, 0, 2]}]
    assert fields["settings"]["judge_orders"] == 2
    assert fields["usage"] == {"calls": 5, "cached": 2, "input_tokens": 12_000, "output_tokens": 900, "cost": 0.0123}


def test_neither_key_nor_address_is_written(files: list[str], oracle: Oracle, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    assert judge(*files, "--judge", "oracle", "--judge-url", "https://delphi.example/v1", "--json") == 0
    written = capsys.readouterr().out + Path("poster-judge/verdict.json").read_text()
    assert "sesame" not in written
    assert "delphi.example" not in written


def test_json_on_stdout_is_the_verdict_that_is_written(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    assert judge(*files, "--judge", "oracle", "--json") == 0
    assert capsys.readouterr().out == Path("poster-judge/verdict.json").read_text()


def test_an_earlier_verdict_is_never_replaced(files: list[str], oracle: Oracle) -> None:
    Path("poster-judge").write_text("mine")
    judge(*files, "--judge", "oracle")
    judge(*files, "--judge", "oracle")
    assert Path("poster-judge").read_text() == "mine"
    assert Path("poster-judge-2/verdict.json").is_file()
    assert Path("poster-judge-3/verdict.json").is_file()


def test_the_folder_goes_where_it_is_asked_for_or_nowhere(files: list[str], oracle: Oracle) -> None:
    before = sorted(os.listdir())
    assert judge(*files, "--judge", "oracle", "--no-pictures") == 0
    assert sorted(os.listdir()) == before
    assert judge(*files, "--judge", "oracle", "-o", "new/place") == 0
    assert Path("new/place/poster-judge/verdict.json").is_file()


def test_a_stack_without_a_score_has_its_reason_and_exit_code_3(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    oracle.rewards[1] = math.nan
    assert judge(*files, "--judge", "oracle") == 3
    out, err = capsys.readouterr()
    assert "split.psd has no score: the answer was \\x1b[31mno JSON" in out
    assert "1 of 3 stacks have no score: split.psd" in err
    sample = read_json("poster-judge/verdict.json")["samples"][1]
    assert (sample["reward"], sample["rank"], sample["phase2"]) == (None, None, None)
    assert sample["reason"] == "the answer was \x1b[31mno JSON"


def test_where_no_stack_has_a_score_the_exit_code_is_1(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    oracle.rewards = [math.nan] * 3
    assert judge(*files, "--judge", "oracle") == 1
    assert "no stack has a score" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(JudgeStoppedError("the server is down"), 1), (MissingDependencyError("no key", hint="export it"), 5)]
)
def test_what_stops_the_judge_ends_in_its_exit_code_and_the_judge_is_closed(
    files: list[str], oracle: Oracle, error: Exception, code: int
) -> None:
    oracle.error, oracle.stops_after = error, 0
    assert judge(*files, "--judge", "oracle") == code
    assert oracle.closed == 1
    assert not Path("poster-judge").exists()


def test_a_dry_run_asks_nothing_writes_nothing_and_tells_what_it_would_take(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    before = sorted(os.listdir())
    assert judge(*files, "--judge", "oracle", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "judge oracle, delphi-9b: pictures go to https://delphi.example"
    assert out.splitlines()[1].startswith(
        "5 requests, repeated ones apart, about 3,000 tokens in and 500 out, at an unknown price (--judge-price tells it), and "
    )
    assert judge(*files, "--judge", "oracle", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["host"], told["requests"], told["cost"]) == ("https://delphi.example", 5, None)
    assert 10_000 < told["bytes"] < 1_000_000
    assert oracle.asked == []
    assert sorted(os.listdir()) == before


def test_a_price_without_the_model_that_it_is_of_is_no_price_and_the_model_is_asked_for(
    files: list[str], oracle: Oracle, capsys: Capture
) -> None:
    oracle.model = ""
    assert judge(*files, "--judge", "oracle", "--dry-run", "--judge-price", "delphi-9b=1,2") == 0
    assert decompose("poster.png", "--best-of", "4", "--dry-run", "--judge-price", "delphi-9b=1,2") == 0
    out, err = capsys.readouterr()
    for said in (out, err):
        assert "at an unknown price (--judge-model tells which)" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 50, 80, 200])
def test_every_number_is_shown_whole_on_a_terminal_of_any_width(
    files: list[str], oracle: Oracle, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    os.rename("true.psd", "a name as long as they are in a folder of layers.psd")
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    assert judge("poster.png", "ghost.psd", "split.psd", "a name as long as they are in a folder of layers.psd", "--judge", "oracle") == 0
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue()).partition("2 row orders")[0]
    assert "…" not in shown
    assert "..." not in shown
    assert [line for line in shown.splitlines() if len(line) > width and "a name" not in line] == []
    words = shown.split()
    assert (words.count("6.0"), words.count("10.0"), words.count("8.0"), words.count("3.0")) == (18, 1, 1, 1)
    assert all(words.count(heading) == (3 if width < 80 else 1) for heading in ("alpha", "reward", "rank"))
    assert words.count("phase") == (6 if width < 80 else 2)
    assert {"ghost.psd", "split.psd"} <= set(words)


def test_where_pictures_go_is_told_even_to_who_wants_quiet(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    assert judge(*files, "--judge", "oracle", "--quiet") == 0
    assert capsys.readouterr().err == "pictures go to https://delphi.example\n"


def test_what_is_told_about_the_picture_sets_the_condition(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    assert judge(*files, "--judge", "oracle", "--about", "a cat") == 0
    assert oracle.asked[0][1] == "a cat"
    assert oracle.settings.judge_condition == "prompt"
    assert read_json("poster-judge/verdict.json")["settings"]["prompt"] == "a cat"
    assert judge(*files, "--judge", "oracle", "--about", " ", "--no-pictures") == 0
    assert (oracle.asked[1][1], oracle.settings.judge_condition) == ("", "nothing")
    assert judge(*files, "--about", "a cat", "--judge-condition", "caption") == 2
    assert judge(*files, "--judge-condition", "prompt") == 2
    assert '--about "a poster"' in capsys.readouterr().err


def test_layers_may_be_of_another_size_but_not_of_other_proportions(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    large = cv2.resize(SOURCE.pixels, (1200, 900))
    Image.fromarray(large).convert("RGB").save("large.png")
    assert judge("large.png", "true.psd", "--judge", "oracle", "--no-pictures") == 0
    Image.fromarray(large[:, :900]).convert("RGB").save("square.png")
    assert judge("square.png", "true.psd", "--judge", "oracle") == 1
    assert "true.psd is 240 x 180 pixels, square.png 900 x 900: other proportions" in capsys.readouterr().err


def test_the_name_of_a_file_moves_nothing_on_the_terminal(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    os.rename("true.psd", "tr\x1b[2Jue[bold].psd")
    assert judge("poster.png", "tr\x1b[2Jue[bold].psd", "--judge", "oracle") == 0
    out, err = capsys.readouterr()
    assert "tr\\x1b[2Jue[bold].psd" in out
    assert "\x1b" not in out + err


@pytest.mark.parametrize("arguments", [[], ["poster.png"], ["poster.png", "true.psd", "--judge", "magic"]])
def test_wrong_usage_is_exit_code_2(files: list[str], arguments: list[str]) -> None:
    assert judge(*arguments) == 2


def test_the_prompt_is_shown_without_a_picture(capsys: Capture) -> None:
    assert judge("--show-prompt") == 0
    shown = capsys.readouterr().out
    assert [name for name in CRITERIA if name not in shown] == []


def test_the_table_of_the_group_says_what_each_commands_own_help_begins_with() -> None:
    group = cli.layerctl.get_command(click.Context(cli.layerctl), "judge")
    assert isinstance(group, JudgeCommand)
    for name, (_, summary) in JudgeCommand.table.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert command.get_short_help_str(limit=200) == summary


@click.command()
@click.option("--seeds")
@click.pass_context
def other(ctx: click.Context, seeds: str) -> None:
    """Another command."""
    click.echo(f"{ctx.command_path} with {seeds} seeds")


def test_the_first_word_may_name_another_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(JudgeCommand, "table", {"calibrate": (f"{__name__}:other", "Another command.")})
    assert judge("calibrate", "--seeds", "3") == 0
    assert capsys.readouterr().out == "layerctl judge calibrate with 3 seeds\n"
    assert judge("--help") == 0
    shown = capsys.readouterr().out
    assert "Usage: layerctl judge [OPTIONS] SOURCE STACK..." in shown
    assert "Options of the judge:\n  --judge NAME" in shown
    assert "Commands:\n  calibrate  Another command." in shown


def test_a_picture_may_be_named_nearly_like_a_command(files: list[str], oracle: Oracle) -> None:
    os.link("poster.png", "calibrat")
    assert judge("calibrat", "true.psd", "--judge", "oracle", "--no-pictures") == 0


def test_the_judge_chooses_among_proposals_and_the_manifest_says_so(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    assert decompose("poster.png", "--best-of", "3", "--judge-orders", "4", "--judge-condition", "prompt", "--prompt", "a cat") == 0
    fields = read_json("poster-layers/manifest.json")
    assert [(each["reward"], each["chosen"]) for each in fields["candidates"]] == [(3, False), (8, True), (5, False)]
    assert fields["judge"] == {
        "name": "oracle", "model": "delphi-9b", "prompt_version": "ab12", "spread": 5.0, "agreement": 0.75, "no_choice": "",
    }  # fmt: skip
    settings = fields["settings"]
    assert (settings["judge"], settings["judge_orders"], settings["judge_weights"], settings["prompt"]) == ("oracle", 4, [1.0] * 5, "a cat")
    assert not {"judge_url", "judge_key_env", "judge_key_file", "judge_concurrency"} & settings.keys()
    assert oracle.asked == [(tuple(STACKS.values()), "a cat")]
    assert oracle.closed == 1
    assert "pictures go to https://delphi.example" in capsys.readouterr().err
    assert np.abs(flatten(read_stack(Path("poster-layers"))).astype(int) - SOURCE.pixels).max() <= 1


def test_where_the_judge_tells_nothing_the_result_says_so(files: list[str], oracle: Oracle) -> None:
    oracle.no_signal = "the row orders agree by 0.10"
    assert decompose("poster.png", "--best-of", "3", "--quiet") == 0
    fields = read_json("poster-layers/manifest.json")
    assert [each["chosen"] for each in fields["candidates"]] == [False, False, True]
    assert "the measured quality chose, not the judge oracle: the row orders agree by 0.10" in fields["warnings"]
    assert fields["judge"]["no_choice"] == "the row orders agree by 0.10"


def test_without_a_judge_the_manifest_holds_none(files: list[str], oracle: Oracle) -> None:
    assert cli.main(["decompose", "poster.png", "--engine", "drawn", "--best-of", "2"]) == 0
    fields = read_json("poster-layers/manifest.json")
    assert (fields["judge"], fields["settings"]["judge"]) == (None, None)
    assert [each["reward"] for each in fields["candidates"]] == [None, None]


def test_a_judge_with_nothing_to_choose_from_is_a_usage_error_when_typed(
    files: list[str], oracle: Oracle, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert decompose("poster.png") == 2
    assert "--judge chooses among several proposals, and one is made\n  add --best-of 4\n" in capsys.readouterr().err
    monkeypatch.setenv("LAYERCTL_JUDGE", "oracle")
    assert cli.main(["decompose", "poster.png", "--engine", "drawn"]) == 0
    assert oracle.closed == 0


STOPS = (
    JudgeStoppedError("the budget of 3 requests is spent"),
    MissingDependencyError("the server wants a key"),
    OutputError("the disk is full"),
    ConfigError("max_judge_cost needs a price"),
)


@pytest.mark.parametrize("error", STOPS, ids=lambda error: type(error).__name__)
def test_whatever_the_judge_raises_ends_the_run_and_what_was_finished_stays(
    files: list[str], oracle: Oracle, capsys: Capture, error: LayerctlError
) -> None:
    oracle.error = error
    for name in ("a.png", "b.png", "c.png", "d.png"):
        os.link("poster.png", name)
    oracle.stops_after = 1
    assert decompose("a.png", "b.png", "c.png", "d.png", "--best-of", "3", "--json") == 3
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["input"], record["status"]) for record in records] == [
        ("a.png", "written"), ("b.png", "failed"), ("c.png", "not done"), ("d.png", "not done"),
    ]  # fmt: skip
    assert err.count(error.message) == 1
    assert "not done: c.png, d.png\n" in err
    assert "3 of 4 inputs failed, the others are done" in err
    assert Path("a-layers/manifest.json").is_file()
    assert oracle.closed == 1


def test_where_the_judge_ends_a_run_at_once_the_exit_code_is_that_of_its_error(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    os.link("poster.png", "other.png")
    oracle.error, oracle.stops_after = MissingDependencyError("the server wants a key", hint="export LAYERCTL_JUDGE_KEY=..."), 0
    assert decompose("poster.png", "other.png", "--best-of", "3") == 5
    assert "the server wants a key\n  export LAYERCTL_JUDGE_KEY=...\nnot done: other.png\n" in capsys.readouterr().err


def test_a_dry_run_with_a_judge_tells_its_host_and_what_each_picture_takes(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    os.link("poster.png", "other.png")
    assert decompose("poster.png", "other.png", "--best-of", "4", "--layers", "5", "--dry-run") == 0
    told = "judge oracle: {} requests, repeated ones apart, about {} tokens in and {} out, at an unknown price (--judge-price tells it); "
    told += "pictures go to https://delphi.example\n"
    one, total = told.format(6, "4,000", "500"), told.format(12, "8,000", "1,000")
    err = capsys.readouterr().err
    assert err.count(one) == 2
    assert f"in all: {total}" in err
    assert oracle.asked == []


def test_a_prompt_may_be_the_judges_whatever_the_engine(files: list[str], oracle: Oracle, capsys: Capture) -> None:
    arguments = ["decompose", "poster.png", "--engine", "classic", "--best-of", "2", "--judge", "oracle", "--dry-run"]
    assert cli.main([*arguments, "--prompt", "a cat"]) == 2
    assert "--prompt has no meaning for the engine classic" in capsys.readouterr().err
    assert cli.main([*arguments, "--prompt", "a cat", "--judge-condition", "prompt"]) == 0
    assert cli.main([*arguments, "--judge-condition", "prompt"]) == 2
    assert "add --prompt TEXT" in capsys.readouterr().err


def test_settings_are_all_that_a_judge_gets(files: list[str], oracle: Oracle) -> None:
    assert judge(*files, "--judge", "oracle", "--max-judge-calls", "7", "--judge-price", "delphi-9b=1,2", "--replay") == 0
    assert isinstance(oracle.settings, Settings)
    assert (oracle.settings.max_judge_calls, oracle.settings.judge_prices, oracle.settings.judge_replay) == (7, ("delphi-9b=1,2",), True)
