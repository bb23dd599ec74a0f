"""`layerctl train` from the command line to where the loop begins."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from layerctl_train.commands.train import next_folder
from layerctl_train.run_config import RunConfig, from_toml, to_toml
from safetensors.numpy import save_file

from layerctl.cli import main
from tests.conftest import DrawPicture

Capture = pytest.CaptureFixture[str]


@dataclass
class Loop:
    """What the command hands to the loop."""

    code: int = 0
    calls: list[tuple[RunConfig, Path, bool]] = field(default_factory=list)

    def run_training(
        self, config: RunConfig, folder: Path, *, resume: bool, tell: Callable[[str], None], progress: Callable[[str, float], None]
    ) -> int:
        self.calls.append((config, folder, resume))
        tell("the loop \x1b[31mtalks")
        return self.code


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """In the place of the real one, which has tests of its own."""
    fake, module = Loop(), ModuleType("layerctl_train.loop")
    module.run_training = fake.run_training  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "layerctl_train.loop", module)
    return fake


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return folder


@pytest.fixture
def photos(place: Path, draw: DrawPicture) -> Path:
    draw(place / "photos" / "a.png")
    draw(place / "photos" / "b" / "c.png", (30, 20), "navy")
    return place / "photos"


def train(*arguments: str | Path) -> int:
    return main(["train", *map(str, arguments)])


def save_run(folder: Path, config: RunConfig) -> None:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")


def test_a_run_begins_with_the_flags_recipe_and_folder_that_were_typed(photos: Path, loop: Loop, capsys: Capture) -> None:
    code = train(
        "--data", photos, "--recipe", "lab", "-o", "out", "--layers", "2-6", "--seed", "7", "--set", "kl=0.5", "--judge-orders", "0",
        "--size", "128", "--eval-data", "scenes:3",
    )  # fmt: skip
    assert code == 0
    ((config, folder, resume),) = loop.calls
    assert (folder, resume, config.recipe, config.data, config.evaluation_data) == (Path("out"), False, "lab", str(photos), "scenes:3")
    assert (config.training.layers, config.training.seed, config.training.kl, config.training.rank) == ((2, 6), 7, 0.5, 16)
    assert (config.settings.judge, config.settings.judge_orders, config.settings.size) == ("pixels", 0, 128)
    assert capsys.readouterr() == ("", "the loop \\x1b[31mtalks\n")


def test_the_loops_exit_code_is_the_commands(photos: Path, loop: Loop) -> None:
    loop.code = 130
    assert train("--data", photos, "--recipe", "lab") == 130


def test_without_a_folder_a_new_one_beside_is_taken(place: Path, photos: Path, loop: Loop) -> None:
    train("--data", photos, "--recipe", "lab")
    (place / "runs" / "photos-1").mkdir(parents=True)
    train("--data", photos, "--recipe", "lab")
    assert [folder for _, folder, _ in loop.calls] == [Path("runs/photos-1"), Path("runs/photos-2")]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos/", "photos"), ("/a/b c", "b-c"), ("hub:org/pictures@v1:train", "pictures"), ("hub:org/pictures", "pictures"),
        ("scenes:40", "scenes"), ("scenes", "scenes"), ("layered:house/style", "style"), ("list.jsonl", "list"), ("v1.2/", "v1.2"),
        (".", "working"), ("/", "run"),
    ],
)  # fmt: skip
def test_a_runs_folder_is_called_after_its_data(data: str, name: str) -> None:
    assert next_folder(data) == Path("runs") / f"{name}-1"


def test_a_dry_run_prints_a_recipe_and_what_the_run_takes_and_begins_nothing(
    photos: Path, tiny: Path, loop: Loop, capsys: Capture, place: Path
) -> None:
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run", "--set", "kl=0.5") == 0
    out, err = capsys.readouterr()
    config = from_toml(out)
    assert (config.training.kl, config.settings.model, config.data) == (0.5, str(tiny), str(photos))
    assert "kl = 0.5  # yours" in out
    assert 'kernel = "flow"  # paper' in out
    assert f"# {photos}, 2 files; {tiny}" in out
    assert "# a step: 640 of sampling" in out
    assert "nothing leaves this machine" in out
    assert (loop.calls, err) == ([], "")
    assert [path.name for path in place.iterdir()] == ["photos"]


def test_a_dry_run_asks_no_judge_and_tells_what_it_would_cost(photos: Path, tiny: Path, capsys: Capture) -> None:
    # Nothing listens there.
    code = train(
        "--data", photos, "--model", tiny, "--size", "64", "--device", "cpu", "--dry-run", "--judge-url", "http://127.0.0.1:9/v1",
        "--judge-model", "m", "--judge-price", "m=1,2", "--updates", "10",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    last = out.splitlines()[-1]
    # 8 groups: 8 candidates alone, and 4 row orders of all.
    assert "judge openai, m: pictures go to 127.0.0.1:9; a step takes 96 requests" in last
    assert "the run 960 requests" in last
    assert last.count("$") == 2


def test_a_dry_run_for_machines_has_config_marks_and_forecast(photos: Path, tiny: Path, capsys: Capture) -> None:
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["learning_rate"] == 3e-4
    assert told["marks"]["kernel"] == "paper"
    assert told["pictures"] == 2
    assert told["forecast"]["work"]["sampling"] == 640
    assert told["fits"] is True


def test_a_dry_run_of_a_model_that_does_not_fit_says_all_and_ends_so(photos: Path, capsys: Capture) -> None:
    code = train(
        "--data", photos, "--judge", "pixels", "--dry-run", "--set", "micro_batch=8", "--set", "checkpointing=false", "--layers", "20"
    )
    out, err = capsys.readouterr()
    assert code == 4
    assert tomllib.loads(out)["layers"] == [20, 20]
    assert "DOES NOT FIT" in out
    assert "training needs" in err


def test_a_dry_run_may_be_for_several_processes(photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run") == 0
    assert "in 8 processes" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run") == 2
    assert "--set groups=9" in capsys.readouterr().err


@pytest.mark.parametrize("world", ["abc", "0", "-1", "", "1.5"])
def test_a_number_of_processes_that_is_none_is_told(
    world: str, photos: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run") == 2
    assert f"WORLD_SIZE is {world!r}, no number of processes" in capsys.readouterr().err


def test_a_dry_run_shows_what_the_start_adapter_asks_for_and_has(place: Path, photos: Path, tiny: Path, capsys: Capture) -> None:
    (place / "mine").mkdir()
    save_file({"a.lora_A.weight": np.zeros((7, 30), np.float32)}, place / "mine" / "a.safetensors")
    (place / "mine" / "layerctl.json").write_text('{"preset": "stable-layers", "prompt": "ours"}', encoding="utf-8")
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run", "--start", "mine") == 0
    out = capsys.readouterr().out
    assert 'prompt = "ours"  # yours' in out
    assert "# rank is the adapter's own" in out
    assert "is not on this disk" not in out
    assert train("--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run", "--start", "org/gone") == 0
    assert "# the adapter org/gone is not on this disk: what it asks for is not known" in capsys.readouterr().out


def test_a_dry_run_reckons_with_the_model_of_the_judge_that_evaluates(photos: Path, tiny: Path, capsys: Capture) -> None:
    code = train(
        "--data", photos, "--recipe", "lab", "--model", tiny, "--dry-run", "--judge", "pixels", "--judge-model", "m", "--set",
        "evaluation_judge=openai", "--set", "evaluation_judge_url=http://127.0.0.1:9/v1", "--set", "evaluation_judge_model=other",
    )  # fmt: skip
    assert code == 0
    assert "judge openai, other: pictures go to 127.0.0.1:9" in capsys.readouterr().out


def test_a_run_goes_on_with_its_own_config(place: Path, photos: Path, loop: Loop) -> None:
    train("--data", photos, "--recipe", "lab", "--set", "kl=0.5", "-o", "out")
    save_run(place / "out", loop.calls[0][0])
    assert train("--resume", "-o", "out", "--updates", "400") == 0
    config, folder, resume = loop.calls[1]
    assert (folder, resume, config.training.kl, config.training.updates, config.data) == (Path("out"), True, 0.5, 400, str(photos))


def test_a_run_that_would_go_on_as_another_is_refused_with_the_difference(place: Path, photos: Path, loop: Loop, capsys: Capture) -> None:
    train("--data", photos, "--recipe", "lab", "-o", "out")
    save_run(place / "out", loop.calls[0][0])
    assert train("--resume", "-o", "out", "--layers", "5", "--set", "kernel=cps") == 2
    assert "layers is 3-3, not 5-5; kernel is flow, not cps" in capsys.readouterr().err
    assert len(loop.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--data photos/"),
        (("--resume",), 2, "--resume -o runs/NAME-1"),
        (("--resume", "-o", "gone"), 1, "there is no run in gone"),
        (("--data", "gone", "--recipe", "lab", "--dry-run"), 2, "gone"),
        (("--data", "scenes", "--recipe", "labb"), 2, "fast, lab, paper"),
        (("--data", "scenes", "--groups", "many"), 2, "--groups is 'many'"),
        (("--data", "scenes", "--layers", "6-2"), 2, "2-6"),
        (("--data", "scenes", "--set", "kernal=cps"), 2, "did you mean kernel?"),
        (("--data", "scenes", "--json"), 2, "--dry-run"),
        (("--data", "scenes", "--adapter", "x"), 2, "--adapter"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_to_type(
    arguments: tuple[str, ...], code: int, words: str, loop: Loop, capsys: Capture
) -> None:
    assert train(*arguments) == code
    assert words in capsys.readouterr().err
    assert loop.calls == []


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_without_the_extra_the_command_names_it(place: Path, arguments: list[str]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from layerctl.cli import main; "
        f"sys.exit(main(['train', '--data', 'scenes:2', '--recipe', 'lab', *{arguments}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 5
    assert "pip install 'layerctl[train]'" in done.stderr


def test_the_help_needs_no_torch_and_no_numpy(place: Path) -> None:
    code = (
        "import sys; from layerctl.cli import main; main(['train', '--help']); "
        "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert done.stderr.strip() == "[]"
    assert "Options of the judge" in done.stdout


def test_a_dry_run_tells_that_nothing_would_be_left_to_train_on(photos: Path, capsys: Capture) -> None:
    train("--data", photos, "--recipe", "lab", "--dry-run")
    assert "# NOTHING IS LEFT TO TRAIN ON: 8 pictures are held out; give more, or --set holdout=0" in capsys.readouterr().out
    train("--data", photos, "--recipe", "lab", "--set", "holdout=1", "--dry-run")
    assert "NOTHING IS LEFT" not in capsys.readouterr().out
