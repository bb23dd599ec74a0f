"""The benchmark of speed runs to its end with small networks on a CPU; the numbers that it gives there mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import qwen_speed
from benchmarks.qwen_speed import Cost, Fp8Linear, Scaling, bars

ROOT = Path(__file__).parent.parent
SMALL = ("--blocks=1", "--heads=2", "--size=32", "--layers=2", "--steps=3", "--vae-width=4", "--side=64")
TRY = ["--device=cpu", *SMALL, "--rounds=1", "--backend=eager"]


def test_with_torch_and_diffusers_alone_it_runs_and_says_what_a_section_lacks(tmp_path: Path) -> None:
    absent = ("click", "rich", "cv2", "psd_tools", "onnxruntime", "rapidocr", "transformers", "accelerate", "peft")
    command = [*TRY, "--skip", "fp8-tensorwise", "--json", str(tmp_path / "speed.json")]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); sys.path.insert(0, 'benchmarks'); import qwen_speed; "
        f"qwen_speed.main({command})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert list(report["groups"]) == ["eager", "vae", "compiled", "fp8-rowwise"]
    assert report["groups"]["eager"]["diffusers"]["difference"] == 0
    assert report["groups"]["compiled"]["layerctl"]["difference"] == 0
    assert 0 < report["groups"]["fp8-rowwise"]["fp8, compiled"]["difference"] < 0.1
    assert any(note.startswith("lora: failed, ModuleNotFoundError: ") for note in report["notes"])
    assert any(note.startswith("Heun-3, 5 evaluations, compiled: ") and "EXTRAPOLATED" in note for note in report["notes"])
    assert "the aims are for the full size on a GPU" in done.stdout


def test_an_adapter_runs_beside_the_model_and_heun_is_measured_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    qwen_speed.main([*TRY, "--full", "--skip", "eager", "vae", "compiled", "fp8-rowwise", "fp8-tensorwise"])
    said = capsys.readouterr().out
    assert "failed" not in said
    assert "| compiled with LoRA |" in said
    assert "Heun-3, 5 evaluations, eager: " in said
    assert "measured" in said.partition("Heun-3")[2].splitlines()[0]


@pytest.mark.parametrize("scaling", ["rowwise", "tensorwise"])
def test_a_linear_layer_in_fp8_gives_nearly_the_same(scaling: Scaling) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 5, 64, dtype=torch.bfloat16)
    near, exact = Fp8Linear(linear, scaling)(x), linear(x)
    assert near.shape == exact.shape
    assert 0 < (near - exact).float().norm() < 0.06 * exact.float().norm()


def cost(seconds: float, *, to_floor: float | None = None, peak: int | None = None, predicted: int | None = None) -> Cost:
    return Cost(seconds, (seconds, seconds), seconds, peak, None, predicted, to_floor)


def test_an_aim_is_held_missed_or_not_measured() -> None:
    eager = {"layerctl": cost(0.5, peak=100, predicted=105), "diffusers": cost(0.5)}
    vae = {"decode": cost(0.2, peak=120, predicted=90)}
    fp8 = {"fp8, compiled": cost(0.3), "bf16, compiled": cost(0.4)}
    words = [line.rsplit(" ", 1)[1] for line in bars({"eager": eager, "fp8-rowwise": fp8})]
    assert words == ["held", "measured", "held", "held", "MISSED"]
    compiled = {"layerctl": cost(0.33, to_floor=1.3)}
    words = [line.rsplit(" ", 1)[1] for line in bars({"eager": eager, "vae": vae, "compiled": compiled})]
    assert words == ["held", "MISSED", "measured", "MISSED", "held"]
    slower = {"layerctl": cost(0.6), "diffusers": cost(0.5)}
    assert bars({"eager": slower})[0].endswith("MISSED")
