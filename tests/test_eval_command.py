"""`layerctl eval` from the command line to the report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerctl_exporters.psd import EXPORTER
from PIL import Image

from layerctl import registry
from layerctl.cli import main
from layerctl.errors import InputError
from layerctl.layers import Layer, LayerStack
from layerctl.registry import DecomposeRequest, ExportOptions, Progress, Proposal
from layerctl.source import SourceImage
from tests.conftest import DrawPicture
from tests.test_qwen_engine import write_adapter

Capture = pytest.CaptureFixture[str]

HOSTILE = "a\x1b[31m\u202e<img src=x>|`b`.png"


class Quick:
    """An engine that cuts pictures in halves, and cannot do those that are 13 pixels wide."""

    name = "quick"
    version = "1"
    asked = 0

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        self.asked += 1
        if source.width == 13:
            raise InputError("thirteen")
        middle = source.width // 2
        right = np.ascontiguousarray(source.pixels[:, middle:])
        layers = (Layer("Background", source.pixels.copy(), kind="background"), Layer("Right half", right, left=middle))
        return Proposal(LayerStack(source.width, source.height, layers))


QUICK = Quick()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    monkeypatch.setattr(f"{__name__}.QUICK", Quick())
    monkeypatch.setitem(registry.BUILT_IN["engines"], "quick", f"{__name__}:QUICK")
    return QUICK


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def photos(place: Path, draw: DrawPicture) -> Path:
    draw(place / "photos" / "a.png")
    draw(place / "photos" / "b" / "c.png", (30, 20), "navy")
    return place / "photos"


def evaluate(data: str | Path, *arguments: str | Path, engine: str = "quick") -> int:
    return main(["eval", "--data", str(data), "--engine", engine, *map(str, arguments)])


def report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_report_is_in_the_folder_that_was_named(quick: Quick, photos: Path, place: Path, capsys: Capture) -> None:
    assert evaluate(photos, "--against", "trivial", "-o", "found") == 0
    assert {path.name for path in (place / "found").iterdir()} == {
        "index.html", "report.md", "report.json", "pictures", "predictions",
    }  # fmt: skip
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(Path("found/index.html"))
    assert "quick" in said.out
    found = report(place / "found")
    assert [system["name"] for system in found["systems"]] == ["quick", "trivial"]
    assert [picture["key"] for picture in found["pictures"]] == ["a.png", "b/c.png"]
    assert found["layers"] == "as many as there truly are"


def test_the_same_command_twice_gives_the_same_bytes_and_computes_nothing(quick: Quick, photos: Path, place: Path) -> None:
    command = (photos, "--against", "trivial")
    assert evaluate(*command) == 0
    before, asked = contents(place / "report"), quick.asked
    times = {path: path.stat().st_mtime_ns for path in (place / "report" / "predictions").rglob("*.json")}
    assert evaluate(*command) == 0
    assert contents(place / "report") == before
    assert quick.asked == asked
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_json_is_one_object_on_stdout_and_what_the_file_holds(quick: Quick, photos: Path, place: Path, capsys: Capture) -> None:
    assert evaluate(photos, "--against", "trivial", "--json", "--fail-if", "quality < 2") == 6
    said = capsys.readouterr()
    assert json.loads(said.out) == report(place / "report")
    assert "quality < 2: quality of quick is" in said.err


def test_pictures_without_truth_have_only_what_needs_none(quick: Quick, photos: Path, place: Path) -> None:
    assert evaluate(photos) == 0
    found = report(place / "report")
    assert found["rows"] == []
    assert {"quality", "blank_rate", "recomposition"} <= set(found["means"]["quick"])
    assert not {name for name in found["means"]["quick"] if name.startswith(("layerd_", "l1_"))}


def test_one_picture_has_numbers_without_intervals(quick: Quick, photos: Path, place: Path, capsys: Capture) -> None:
    assert evaluate(photos / "a.png", "--against", "trivial") == 0
    mean = report(place / "report")["means"]["quick"]["quality"]
    assert (mean["count"], mean["low"], mean["high"]) == (1, None, None)
    assert "is not clear" in capsys.readouterr().out


def test_true_layers_of_a_file_are_compared_with(quick: Quick, place: Path) -> None:
    layers = (Layer("Background", np.full((16, 24, 4), 255, np.uint8)), Layer("dot", np.full((5, 5, 4), 200, np.uint8), left=15, top=5))
    (place / "layered").mkdir()  # what the name also means, with a colon behind it
    EXPORTER.export(LayerStack(24, 16, layers), place / "layered" / "one.psd", ExportOptions())
    assert evaluate("layered") == 0
    found = report(place / "report")
    assert (found["rows"][0]["true_layers"], found["rows"][0]["pictures"]) == (2, 1)
    assert "layerd_rgb_l1_5" in found["means"]["quick"]


def test_a_dry_run_tells_and_writes_nothing(quick: Quick, photos: Path, place: Path, capsys: Capture) -> None:
    assert evaluate(photos, "--against", "trivial", "--dry-run") == 0
    assert "2 pictures" in capsys.readouterr().out
    assert evaluate(photos, "--against", "trivial", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["systems"] == ["quick", "trivial"]
    assert not (place / "report").exists()
    assert quick.asked == 0


def test_another_evaluations_report_is_not_replaced_unasked(quick: Quick, photos: Path, place: Path, capsys: Capture) -> None:
    assert evaluate(photos) == 0
    before = contents(place / "report")
    for other, word in (
        (("--against", "trivial"), "systems"),
        (("--limit", "1"), "limit"),
        (("-n", "5"), "layers"),
        (("--seed", "3"), "seed"),
    ):
        assert evaluate(photos, *other) == 2
        assert f"with other {word}" in capsys.readouterr().err
        assert contents(place / "report") == before
    assert evaluate(photos / "a.png") == 2
    assert evaluate(photos, "--limit", "1", "--overwrite") == 0
    assert report(place / "report")["limit"] == 1


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "report.json"])
def test_a_folder_with_something_else_is_refused_even_to_overwrite(quick: Quick, photos: Path, place: Path, name: str) -> None:
    (place / "report" / "predictions").mkdir(parents=True)
    (place / "report" / name).write_text('{"mine": 1}')
    assert evaluate(photos, "--overwrite") == 2
    assert (place / "report" / name).read_text() == '{"mine": 1}'
    assert quick.asked == 0


def test_a_report_that_was_not_finished_is_made_in_its_place(quick: Quick, photos: Path, place: Path) -> None:
    (place / "report" / "pictures").mkdir(parents=True)
    (place / "report" / ".report.json.1234abcd").touch()
    assert evaluate(photos, "--predictions", "kept") == 0
    assert not (place / "report" / "predictions").exists()


@pytest.mark.parametrize("target", ["-o", "--predictions"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(
    quick: Quick, photos: Path, place: Path, capsys: Capture, target: str
) -> None:
    (place / "file").touch()
    assert evaluate(photos, target, "file/below") == 1
    assert "file/below cannot be written to" in capsys.readouterr().err
    assert quick.asked == 0


def test_pictures_that_fail_and_that_cannot_be_read_are_told_and_the_others_done(
    quick: Quick, photos: Path, place: Path, draw: DrawPicture, capsys: Capture
) -> None:
    draw(photos / "thirteen.png", (13, 20))
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    assert evaluate(photos, "--against", "trivial") == 3
    said = capsys.readouterr().err
    assert "quick fails on thirteen.png: thirteen" in said
    assert "cut.png is left out:" in said
    assert "1 pictures have no prediction of some system, 1 could not be read" in said
    found = report(place / "report")
    assert (found["failed"], found["unreadable"][0]["key"]) == ({"quick": 1}, "cut.png")
    assert found["means"]["trivial"]["quality"]["count"] == 3


def test_a_run_of_which_nothing_is_left_ends_in_an_error(quick: Quick, place: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(place / "bad" / "thirteen.png", (13, 20))
    assert evaluate("bad") == 1
    assert "thirteen.png: thirteen" in capsys.readouterr().err
    (place / "worse").mkdir()
    (place / "worse" / "cut.png").write_bytes(b"\x89PNG")
    assert evaluate("worse", "-o", "other") == 1
    assert "cut.png: " in capsys.readouterr().err
    assert not (place / "report" / "report.json").exists()


def test_keys_that_would_do_harm_do_none(quick: Quick, place: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(place / "odd" / HOSTILE)
    Image.new("RGB", (13, 20)).save(place / "odd" / "thirteen\udcff\x1b]0;x.png")
    assert evaluate("odd", "--against", "trivial") == 3
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert report(place / "report")["pictures"][0]["key"] == HOSTILE
    for name in ("index.html", "report.md"):
        text = (place / "report" / name).read_text(encoding="utf-8")
        assert "\x1b" not in text
        assert "<img src=x>" not in text
    assert all(path.name.startswith("strip-") for path in (place / "report" / "pictures").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fail-if", "blnak_rate > 0.1"), "blnak_rate is no metric"),
        (("--fail-if", "difference(quality) > 0"), "does not say against which"),
        (("--shard", "3/2"), "there is no shard 3/2"),
        (("--shard", "x"), "--shard x is no part of anything"),
        (("--shard", "3/3"), "--shard 3/3 of folder photos holds no picture"),
        (("--against", "dammaged"), "did you mean damaged?"),
        (("--against", "quick"), "quick would be compared with itself"),
        (("--samplers", "qwen"), "the engine quick has none"),
        (("--samplers", "qwne"), "--samplers names the preset 'qwne'"),
        (("--samplers", ""), "--samplers names the preset ''"),
        (("--samplers", "qwen", "--preset", "qwen"), "--preset and --samplers"),
        (("--layers", "1"), "--layers is '1'"),
        (("--layers", "many"), "--layers is 'many'"),
        (("--limit", "0"), "--limit"),
        (("--engine", "clasic"), "did you mean classic?"),
        (("--engine", "trivial", "--steps", "3"), "--steps has no meaning for the engine trivial"),
        (("--engine", "classic", "--steps", "3"), "--steps has no meaning for the engine classic"),
        (("--data", "nowhere"), "there is no such file or folder"),
        (("--data", "scenes:many"), "'many' is no number of scenes"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_computed(
    quick: Quick, photos: Path, place: Path, capsys: Capture, arguments: tuple[str, ...], said: str
) -> None:
    assert evaluate(photos, *arguments) == 2
    assert said in capsys.readouterr().err
    assert quick.asked == 0
    assert not (place / "report").exists()


def test_an_empty_folder_is_told(quick: Quick, place: Path, capsys: Capture) -> None:
    (place / "empty").mkdir()
    assert evaluate("empty") == 1
    assert "empty holds neither layered files nor pictures" in capsys.readouterr().err


def test_an_adapter_that_is_not_here_ends_it_before_anything_is_computed(
    quick: Quick, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert evaluate(photos, "--against", "nobody/nothing") == 5
    assert "layerctl pull nobody/nothing" in capsys.readouterr().err
    assert evaluate(photos, "--against", "no/such/place") == 2
    assert quick.asked == 0


def test_a_limit_beyond_the_data_takes_all_of_it(quick: Quick, photos: Path, place: Path) -> None:
    assert evaluate(photos, "--limit", "99") == 0
    assert len(report(place / "report")["pictures"]) == 2


def test_shards_that_share_predictions_leave_nothing_for_the_whole(quick: Quick, photos: Path, place: Path) -> None:
    for part in (1, 2):
        assert evaluate(photos, "--shard", f"{part}/2", "--predictions", "kept", "-o", f"part{part}") == 0
    assert evaluate(photos, "--predictions", "kept") == 0
    assert quick.asked == 2
    parts = [report(place / f"part{part}")["pictures"] for part in (1, 2)]
    assert [*parts[0], *parts[1]] == report(place / "report")["pictures"]


def test_gates_end_in_six_where_they_hold_or_nobody_knows(quick: Quick, photos: Path, capsys: Capture) -> None:
    held = ("--fail-if", "failed > 0", "--fail-if", "difference(recomposition).high > 1")
    assert evaluate(photos, "--against", "trivial", *held) == 0
    assert "--fail-if" not in capsys.readouterr().err
    assert evaluate(photos, "--against", "trivial", *held, "--fail-if", "quality.low < 2", "--fail-if", "judge < 9") == 6
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--fail-if")]
    assert [line.split()[1] for line in said] == ["quality.low", "judge"]


def test_a_judge_compares_the_systems(quick: Quick, photos: Path, place: Path) -> None:
    assert evaluate(photos, "--against", "trivial", "--judge", "pixels") == 0
    found = report(place / "report")
    assert found["judge"].startswith("pixels")
    assert found["means"]["quick"]["judge"]["count"] == 2
    assert found["win_rates"]["trivial"]["count"] == 2
    assert found["win_rates"]["trivial"]["value"] == 1
    assert "Win rate" in (place / "report" / "report.md").read_text(encoding="utf-8")


def test_an_evaluation_that_is_interrupted_ends_in_130(
    quick: Quick, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*_: object) -> Proposal:
        raise KeyboardInterrupt

    monkeypatch.setattr(quick, "decompose", interrupted)
    assert evaluate(photos) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    monkeypatch.undo()


def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_from(place: Path) -> None:
    arguments = [
        sys.executable,
        "-m",
        "layerctl",
        "eval",
        "--data",
        "scenes:2",
        "--engine",
        "trivial",
        "--against",
        "classic",
        "-o",
        "found",
    ]
    environment = os.environ | {"XDG_CONFIG_HOME": str(place)}
    running = subprocess.Popen(arguments, env=environment)
    deadline = time.monotonic() + 60
    # Both of the first system, and one of the second.
    while len(made := list(place.rglob("*.layers"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in made}
    assert len(times) == 3
    assert not (place / "found" / "report.json").exists()
    assert main(arguments[3:]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(report(place / "found")["pictures"]) == 2


def test_options_of_a_model_are_for_the_systems_that_have_one(tiny: Path, photos: Path, capsys: Capture) -> None:
    command = ("--against", "base", "--model", tiny, "--steps", "2", "--size", "64", "--dry-run", "--json")
    for engine in ("classic", "trivial"):
        assert evaluate(photos, *command, engine=engine) == 0
        assert json.loads(capsys.readouterr().out)["systems"] == [engine, "base"]


def test_four_ways_are_one_command(tiny: Path, place: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(place / "photos" / "a.png", (96, 64))
    write_adapter(place / "cats", size=0.5)
    command = (
        "eval", "--data", "photos", "--model", str(tiny), "--adapter", "cats", "--samplers", "stable-layers,qwen",
        "--steps", "2", "--size", "64", "--prompt", "a cat", "-n", "2",
    )  # fmt: skip
    assert main(command) == 0, capsys.readouterr().err
    found = report(place / "report")
    cats = found["systems"][0]["name"].partition(",")[0]
    assert cats.startswith("cats#")
    names = [f"{cats}, stable-layers", "base, stable-layers", f"{cats}, qwen", "base, qwen"]
    assert [system["name"] for system in found["systems"]] == names
    assert {(each["first"], each["other"]) for each in found["differences"]} == {(names[0], names[1]), (names[2], names[3])}
    assert len({json.dumps(scores["values"]) for scores in found["pictures"][0]["scores"]}) == 4
    assert found["versions"]["torch"]
    kept = contents(place / "report" / "predictions")
    assert main(command) == 0
    assert contents(place / "report" / "predictions") == kept
    shutil.rmtree(place / "cats")
    write_adapter(place / "cats", size=0.6)
    assert main(command) == 2
    assert "with other systems" in capsys.readouterr().err
