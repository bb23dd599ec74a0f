from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from layerctl import cli
from layerctl.testing.checkpoint import write_tiny_checkpoint

Capture = pytest.CaptureFixture[str]

WITHOUT_ACCELERATOR = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has an accelerator"
)
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "functorch", "psutil")


@pytest.fixture(autouse=True)
def empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_checkpoint(folder)
    return folder


def record(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert cli.main(["doctor", "--json", *arguments]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def test_the_published_model_is_planned_where_none_is_on_the_disk(capsys: Capture) -> None:
    assert cli.main(["doctor", "--preset", "stable-layers", "--size", "512", "--layers", "3"]) == 0
    shown = capsys.readouterr().out
    assert "Plan for a picture of 512 × 512 pixels in 3 layers" in shown
    assert "it is not on this disk" in shown
    assert "50 Heun steps without guidance" in shown
    assert "Models on this disk\n  none\n" in shown


def test_models_on_the_disk_are_listed(folder: Path, tiny: Path, capsys: Capture) -> None:
    repository = folder / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / ("ab" * 20))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("ab" * 20)
    assert cli.main(["doctor", "--model", "someone/tiny"]) == 0
    shown = capsys.readouterr().out
    assert "\n  someone/tiny at abababababab, " in shown
    assert "not complete" not in shown
    assert "  model           someone/tiny, weights in " in shown


@WITHOUT_ACCELERATOR
def test_the_last_line_says_which_engine_runs_and_what_to_type_for_the_other(capsys: Capture) -> None:
    assert cli.main(["doctor"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("layerctl decompose would use now: classic, because no GPU is here")
    assert "--engine qwen" in last


def test_an_engine_that_the_settings_name_is_the_one_that_runs(folder: Path, capsys: Capture) -> None:
    (folder / "layerctl.toml").write_text("layers = 6\n")
    (folder.parent / "config" / "layerctl").mkdir(parents=True)
    (folder.parent / "config" / "layerctl" / "config.toml").write_text('engine = "classic"\n')
    read = record(capsys)
    assert read["decompose"] == {"engine": "classic", "because": "your settings name it"}
    assert read["job"]["layers"] == 6


@WITHOUT_ACCELERATOR
def test_a_folder_is_planned_with_its_own_sizes_and_types(tiny: Path, capsys: Capture) -> None:
    from safetensors.torch import load_file

    read = record(capsys, "--model", str(tiny), "--size", "64", "--layers", "2")
    assert read["plan"]["fits"]
    assert read["plan"]["precision"] == "fp32"
    assert read["plan"]["seconds"] > 0
    parts = {part["name"]: part["bytes"] for part in read["plan"]["parts"]}
    for part, folder in (("transformer", "transformer"), ("VAE", "vae"), ("text encoder", "text_encoder")):
        stored = [tensor for file in (tiny / folder).glob("*.safetensors") for tensor in load_file(file).values()]
        assert parts[part] == sum(tensor.nbytes for tensor in stored)


@pytest.mark.parametrize(("preset", "evaluations", "caption"), [("stable-layers", 99, False), ("qwen", 100, True)])
def test_evaluations_are_those_of_the_preset(tiny: Path, capsys: Capture, preset: str, evaluations: int, caption: bool) -> None:
    job = record(capsys, "--model", str(tiny), "--preset", preset)["job"]
    assert (job["evaluations"], job["caption"]) == (evaluations, caption)


@WITHOUT_ACCELERATOR
def test_what_does_not_fit_is_said_with_what_would_and_is_no_error(capsys: Capture) -> None:
    assert cli.main(["doctor", "--precision", "bf16", "--size", "2048", "--layers", "20"]) == 0
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown
    assert "2048 × 2048 pixels in 20 layers with --precision bf16 needs" in shown
    read = record(capsys, "--precision", "bf16", "--size", "2048", "--layers", "20")
    assert read["plan"]["fits"] is False
    assert read["plan"]["refusal"]["hint"]


@pytest.mark.parametrize("arguments", [["--precision", "fp8"], ["--layers", "1"], ["--size", "100"], ["--device", "tpu"]])
def test_a_wish_that_makes_no_sense_is_a_usage_error(arguments: list[str]) -> None:
    assert cli.main(["doctor", *arguments]) == 2


def test_the_base_install_is_told_how_to_get_the_rest(tmp_path: Path) -> None:
    base = tmp_path / "site"
    base.mkdir()
    for path in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        for entry in path.iterdir():
            if not entry.name.startswith(HEAVY) and not (base / entry.name).exists():
                (base / entry.name).symlink_to(entry)
    paths = [str(Path(cli.__file__).parent.parent), str(base)]
    code = f"import sys; sys.path += {paths!r}; from layerctl.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch           missing: pip install 'layerctl[qwen]'" in done.stdout
    assert "torch is not installed, so no graphics card was looked for" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("layerctl decompose would use now: classic, because ")
