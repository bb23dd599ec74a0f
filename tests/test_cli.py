from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from layerctl import __version__, cli, registry
from layerctl.errors import LayerctlError, MissingDependencyError

if TYPE_CHECKING:
    from tests.conftest import DrawPicture, Halves

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("halves")


def run(*arguments: str) -> int:
    return cli.main(["decompose", *arguments])


def records(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_help_imports_click_and_the_standard_library_only() -> None:
    code = (
        "import sys; from layerctl.cli import main; code = main(['--help']); "
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", _with_path(code)], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0", "__main__", "click", "layerctl"]


def _with_path(code: str) -> str:
    """Without `site`, which loads what other packages hook into every start of Python."""
    return f"import sys; sys.path += {[path for path in sys.path if path]!r}; {code}"


def test_the_table_says_of_each_command_what_its_own_help_begins_with() -> None:
    context = click.Context(cli.layerctl)
    for name, (_, summary) in cli.COMMANDS.items():
        command = cli.layerctl.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(limit=200) == summary


def test_the_version_is_the_version_of_the_package(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerctl {__version__}\n"


def test_the_program_runs_as_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "layerctl", "decompose", "--help"], capture_output=True, text=True, check=True)
    assert "layerctl decompose photo.jpg --layers 4 --psd" in done.stdout


def test_no_arguments_show_the_help(capsys: Capture) -> None:
    assert cli.main([]) == 0
    assert "Commands:\n  decompose" in capsys.readouterr().out


@pytest.mark.parametrize("count", ["1", "0", "-3", "21", "four", "1000000000000", "2.5", ""])
def test_a_silly_number_of_layers_is_a_usage_error_that_names_the_range(
    folder: Path, draw: DrawPicture, capsys: Capture, count: str
) -> None:
    draw(Path("photo.png"))
    assert run("photo.png", "--layers", count) == 2
    assert "2 to 20" in capsys.readouterr().err
    assert os.listdir() == ["photo.png"]


@pytest.mark.parametrize("count", ["2", "20", "auto"])
def test_a_sensible_number_of_layers_is_taken(folder: Path, draw: DrawPicture, count: str) -> None:
    draw(Path("photo.png"))
    assert run("photo.png", "-n", count) == 0


@pytest.mark.parametrize("arguments", [["--format", "svgz"], ["--engine", "magic"], ["--kind", "cat"], ["--frobnicate"], ["-o"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_wrong_option_is_a_usage_error(folder: Path, draw: DrawPicture, arguments: list[str], dry: list[str]) -> None:
    draw(Path("photo.png"))
    assert run("photo.png", *dry, *arguments) == 2
    assert os.listdir() == ["photo.png"]


def test_png_is_written_when_no_format_is_named(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    assert run("photo.png") == 0
    assert capsys.readouterr().out == "photo-layers/layers\nphoto-layers/preview.png\n"


def test_formats_add_up_and_each_is_written_once(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    assert run("photo.png", "--format", "png,psd", "--psd") == 0
    assert capsys.readouterr().out == "photo-layers/layers\nphoto-layers/photo.psd\nphoto-layers/preview.png\n"


def test_talk_goes_to_stderr_and_quiet_silences_it(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    run("photo.png")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("photo.png: 2 layers, quality 0.")
    assert said[0].endswith(", in photo-layers: Background, Right half")
    assert said[1:] == ["  background guessed", "  what lies above 'Background' still shows in it"]
    assert run("photo.png", "--overwrite", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_json_is_one_record_a_picture(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("a.png"))
    draw(Path("b.png"))
    run("b.png", "--quiet")
    capsys.readouterr()
    Path("broken.png").write_bytes(b"no picture")
    assert run("a.png", "b.png", "broken.png", "--json") == 3
    written, skipped, failed = records(capsys)
    assert 0 <= written.pop("quality") <= 1
    assert written == {
        "input": "a.png",
        "status": "written",
        "folder": "a-layers",
        "files": ["a-layers/layers", "a-layers/preview.png"],
        "layers": ["Background", "Right half"],
        "recomposition_error": 0,
        "is_good": True,
        "warnings": ["background guessed", "what lies above 'Background' still shows in it"],
    }
    assert (skipped["status"], skipped["remark"]) == ("skipped", "b-layers is there already")
    assert (failed["status"], failed["input"]) == ("failed", "broken.png")


def test_a_bad_file_is_reported_and_the_rest_is_done(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    Path("broken.png").write_bytes(b"no picture")
    draw(Path("photo.png"))
    assert run("broken.png", "missing.png", "photo.png") == 3
    error = capsys.readouterr().err
    assert "broken.png" in error
    assert "missing.png" in error
    assert "2 of 3 inputs failed, the others are done" in error
    assert Path("photo-layers/preview.png").exists()


def test_a_fault_of_the_engine_in_one_picture_does_not_stop_the_rest(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("13.png"), size=(13, 8))
    draw(Path("photo.png"))
    assert run("13.png", "photo.png") == 3
    error = capsys.readouterr().err
    assert "layerctl: 13.png: ZeroDivisionError: thirteen\n  this is a bug in layerctl; --debug shows where it is\n" in error
    assert "Traceback" not in error


def test_debug_shows_where_an_error_comes_from(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("13.png"), size=(13, 8))
    assert run("13.png", "--debug") == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_nothing_but_failures_is_exit_code_1(folder: Path) -> None:
    assert run("missing.png", "missing too.png") == 1


def test_a_second_run_leaves_the_first_result_and_says_so(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    run("photo.png")
    before = Path("photo-layers/manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run("photo.png") == 0
    assert capsys.readouterr().err == "photo.png: skipped, photo-layers is there already; --overwrite makes it anew\n"
    assert Path("photo-layers/manifest.json").stat().st_mtime_ns == before


def test_an_edited_psd_survives_overwriting_and_the_new_result_is_announced(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    run("photo.png", "--psd")
    Path("photo-layers/photo.psd").write_bytes(b"hours of work")
    capsys.readouterr()
    assert run("photo.png", "--psd", "--overwrite") == 0
    assert Path("photo-layers/photo.psd").read_bytes() == b"hours of work"
    captured = capsys.readouterr()
    assert captured.out == "photo-layers-2/photo.psd\nphoto-layers-2/preview.png\n"
    assert "photo-layers holds photo.psd, which was edited or added since" in captured.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.jpg"))
    draw(Path("photo.png"))
    assert run(".", "-o", "out", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "write photo.jpg -> out/photo-layers\nwrite photo.png -> out/photo-layers-2 (photo-layers is the result of photo.jpg)\n"
    )
    assert sorted(os.listdir()) == ["photo.jpg", "photo.png"]
    assert run(".", "--dry-run", "--json") == 0
    assert [(record["status"], record["action"], record["folder"]) for record in records(capsys)] == [
        ("planned", "write", "photo-layers"),
        ("planned", "write", "photo-layers-2"),
    ]


HOSTILE = "\x1b[31mred\x07\u202egnp[bold]\n.png"


def test_names_with_controls_and_markup_are_inert_on_the_terminal(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path(HOSTILE))
    assert run(HOSTILE, "missing" + HOSTILE) == 3
    assert run(".", "--dry-run", "--overwrite") == 0
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "\\x1b[31mred\\x07\\u202egnp[bold]\\n" in shown


def test_a_name_that_is_no_text_is_done_and_shown_escaped(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    draw(Path("photo.png")).rename(name)
    assert run(name) == 0
    assert "caf\\udce9-layers/preview.png" in capsys.readouterr().out


def test_opening_says_when_it_cannot(folder: Path, draw: DrawPicture, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("photo.png"))
    monkeypatch.setenv("PATH", str(folder))
    assert run("photo.png", "--psd", "--open") == 0
    assert "not installed; the file is photo-layers/photo.psd" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the program that opens files there cannot be put into PATH")
def test_opening_hands_the_psd_to_the_desktop(folder: Path, draw: DrawPicture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw(Path("photo.png"))
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" > {tmp_path / "opened"}\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", str(opener.parent))
    monkeypatch.setenv("DISPLAY", ":0")
    assert run("photo.png", "--psd", "--open") == 0
    assert (tmp_path / "opened").read_text() == f"{folder / 'photo-layers' / 'photo.psd'}\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MissingDependencyError("no torch", hint="pip install 'layerctl[qwen]'"), 5, "pip install 'layerctl[qwen]'"),
        (MemoryError(), 4, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "x.png"), 1, "x.png: Permission denied"),
        (LayerctlError("plain"), 1, "plain"),
    ],
)
def test_every_kind_of_error_has_its_words_and_exit_code(
    folder: Path,
    draw: DrawPicture,
    capsys: Capture,
    halves: Halves,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(halves, "decompose", fail)
    draw(Path("photo.png"))
    assert run("photo.png") == code
    assert words in capsys.readouterr().err
    assert os.listdir() == ["photo.png"]


def test_a_plugin_that_is_not_installed_is_named_with_what_there_is(folder: Path, draw: DrawPicture, capsys: Capture) -> None:
    draw(Path("photo.png"))
    assert run("photo.png", "--engine", "magic") == 2
    assert ", ".join(registry.names("engines")) in capsys.readouterr().err
