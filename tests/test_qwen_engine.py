"""The whole command with the engine qwen, on a tiny checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from PIL import Image
from psd_tools import PSDImage
from safetensors.torch import save_file

from layerctl.cli import main
from layerctl.colour import converted
from layerctl.engines.qwen import fuse as fuse_module
from layerctl.engines.qwen.prompts import texts, write_embedding
from layerctl.engines.qwen.session import Session
from layerctl.errors import OutOfMemoryError
from layerctl.registry import DecomposeRequest, ModelOptions
from layerctl.source import SourceImage
from tests.hub_server import serving
from tests.test_colour import rgb_profile

FAST = ("--steps", "2", "--size", "64")
TWO = DecomposeRequest(2)


def _silent(_what: str, _share: float) -> None:
    pass


@pytest.fixture(autouse=True)
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def photo(place: Path) -> Path:
    return draw_photo(place / "photo.png", 0)


def draw_photo(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 130, 3), np.uint8)).save(path)
    return path


def decompose(tiny: Path, *arguments: str | Path, preset: str = "stable-layers") -> int:
    return main(["decompose", "--engine", "qwen", "--model", str(tiny), "--preset", preset, *FAST, *map(str, arguments)])


def manifest(result: Path) -> dict[str, Any]:
    return dict(json.loads((result / "manifest.json").read_text(encoding="utf-8")))


def session(tiny: Path, **options: Any) -> Session:
    given: dict[str, Any] = {"preset": "stable-layers", "steps": 2, "size": 64} | options
    return Session(ModelOptions(str(tiny), **given), lambda _: None)


def write_adapter(folder: Path, size: float = 1e-2) -> Path:
    """A LoRA of rank 2 on the first block's attention, in PEFT's format."""
    width, generator = 32, torch.Generator().manual_seed(0)
    tensors = {}
    for layer in ("to_q", "to_out.0"):
        key = f"base_model.model.transformer_blocks.0.attn.{layer}.lora_"
        tensors[f"{key}A.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{key}B.weight"] = size * torch.randn(width, 2, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_q", "to_out.0"], "base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def source(seed: int = 0) -> SourceImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 4), np.uint8)
    pixels[..., 3] = 255
    return SourceImage(pixels, sha256=f"{seed:064d}")


def raw(engine: Session, picture: SourceImage, layers: int = 2, index: int = 0) -> list[np.ndarray]:
    proposal = engine.decompose(picture, DecomposeRequest(layers, index=index), lambda *_: None)
    return [layer.pixels for layer in proposal.stack.walk()]


def test_a_picture_becomes_a_psd_that_flattens_to_it(tiny: Path, photo: Path, place: Path) -> None:
    assert decompose(tiny, photo, "--layers", "3", "--psd") == 0
    psd = PSDImage.open(place / "photo-layers" / "photo.psd")
    assert 2 <= len(list(psd)) <= 3
    flat = psd.topil()
    assert flat is not None
    merged = np.asarray(flat.convert("RGB")).astype(int)
    assert np.abs(merged - np.asarray(Image.open(photo).convert("RGB")).astype(int)).max() <= 1


def test_the_manifest_holds_everything_that_was_used(tiny: Path, photo: Path, place: Path) -> None:
    assert decompose(tiny, photo, "--layers", "3", "--cfg", "2") == 0
    written = manifest(place / "photo-layers")
    used = written["engine_settings"]
    expected = {
        "model": "tiny", "model_revision": None, "preset": "stable-layers", "sampler": "heun", "steps": 2, "evaluations": 6, "cfg": 2.0,
        "negative_prompt": " ", "prompt": "a clean, well composed image", "model_width": 64, "model_height": 48, "seed": 42,
        "noise": "release", "device": "cpu", "dtype": "float32", "precision": "fp32", "offload": "none",
    }  # fmt: skip
    assert {key: used[key] for key in expected} == expected
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", used["model_hash"])
    assert {"torch", "diffusers", "transformers", "peft"} <= written["versions"].keys()
    assert written["settings"]["engine"] == "qwen"
    assert str(tiny.parent) not in json.dumps(written)


@pytest.mark.parametrize(
    ("preset", "arguments", "expected"),
    [
        ("stable-layers", ("--steps", "50"), 99),
        ("qwen", ("--steps", "50", "--prompt", "a cat"), 100),
        ("qwen", ("--steps", "50", "--prompt", "a cat", "--cfg", "1"), 50),
    ],
)
def test_the_transformer_runs_as_often_as_the_preset_says(
    tiny: Path, photo: Path, place: Path, preset: str, arguments: tuple[str, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    forward = QwenImageTransformer2DModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(QwenImageTransformer2DModel, "forward", counted)
    assert decompose(tiny, photo, *arguments, preset=preset) == 0
    assert count == expected
    assert manifest(place / "photo-layers")["engine_settings"]["evaluations"] == expected


def test_the_same_run_gives_the_same_bytes(tiny: Path, photo: Path, place: Path) -> None:
    for output in ("one", "two"):
        assert decompose(tiny, photo, "--psd", "-o", output) == 0
    files = [path.relative_to(place / "one") for path in (place / "one").rglob("*") if path.is_file()]
    assert len(files) == 3
    for file in files:
        assert (place / "one" / file).read_bytes() == (place / "two" / file).read_bytes()


def test_outside_the_release_preset_a_picture_alone_decides_its_layers(tiny: Path) -> None:
    engine = session(tiny, preset="qwen", prompt="a cat")
    first, second = raw(engine, source(1), index=0), raw(engine, source(2), index=1)
    engine = session(tiny, preset="qwen", prompt="a cat")
    again_second, again_first = raw(engine, source(2), index=0), raw(engine, source(1), index=1)
    for one, other in zip(first + second, again_first + again_second, strict=True):
        assert np.array_equal(one, other)


def test_in_the_release_preset_the_place_in_the_run_counts(tiny: Path) -> None:
    engine = session(tiny)
    assert not all(np.array_equal(a, b) for a, b in zip(raw(engine, source(), index=0), raw(engine, source(), index=1), strict=True))


def test_the_seed_changes_the_layers(tiny: Path) -> None:
    one, other = (raw(session(tiny, seed=seed), source()) for seed in (1, 2))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_second_run_needs_no_text_encoder(
    tiny: Path, photo: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    assert decompose(model, photo) == 0
    assert "loading the text encoder of model" in capsys.readouterr().err
    shutil.rmtree(model / "text_encoder")
    assert decompose(model, photo, "--overwrite") == 0
    assert "text encoder" not in capsys.readouterr().err


def test_without_text_encoder_and_cache_it_says_what_is_missing(
    tiny: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    shutil.rmtree(model / "text_encoder")
    assert decompose(model, photo) == 5
    assert "the text encoder of model is not in" in capsys.readouterr().err


def test_a_picture_without_a_prompt_is_captioned_once(tiny: Path, photo: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def caption(_encoder: object, _pixels: object) -> str:
        nonlocal calls
        calls += 1
        return "a picture of noise"

    monkeypatch.setattr("layerctl.engines.qwen.prompts.TextEncoder.caption", caption)
    for _ in range(2):
        assert decompose(tiny, photo, "--overwrite", preset="qwen") == 0
    assert calls == 1
    assert manifest(place / "photo-layers")["engine_settings"]["prompt"] == "a picture of noise"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (MPS allocated: 30.19 GB)")]
)
def test_running_out_of_memory_is_said_once_with_the_next_smaller_way(
    tiny: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(QwenImageTransformer2DModel, "forward", full)
    assert decompose(tiny, photo, "--layers", "3") == 4
    said = capsys.readouterr().err
    assert "the cpu device ran out of memory: 3 layers at size 64 with --precision fp32" in said
    assert "try: " in said


def test_what_cannot_fit_is_refused_before_anything_is_loaded(
    tiny: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerctl.engines.qwen.devices._host_memory", lambda: (100 << 20, 50 << 20))
    monkeypatch.setattr(QwenImageTransformer2DModel, "from_pretrained", None)
    monkeypatch.setattr(AutoencoderKLQwenImage, "from_pretrained", None)
    assert decompose(tiny, photo) == 4
    assert "GB of memory" in capsys.readouterr().err


def test_a_dry_run_tells_plan_and_time_and_writes_nothing(tiny: Path, photo: Path, place: Path) -> None:
    result = CliRunner().invoke(_command(), ["--engine", "qwen", "--model", str(tiny), "--preset", "qwen", "--dry-run", str(photo)])
    assert result.exit_code == 0
    assert "write" in result.stdout
    assert "100 evaluations" in result.stderr
    assert [path.name for path in place.iterdir()] == ["photo.png"]


def _command() -> Any:
    from layerctl.commands.decompose import decompose as command

    return command


def test_layers_of_a_wide_picture_come_in_its_own_profile(tiny: Path) -> None:
    plain = source()
    wide = SourceImage(plain.pixels, icc=rgb_profile(), sha256=plain.sha256)
    layers = {}
    for name, picture in (("plain", plain), ("wide", wide)):
        proposal = session(tiny).decompose(replace(picture, pixels=wide.srgb() if name == "plain" else wide.pixels), TWO, _silent)
        layers[name] = proposal.stack
    assert layers["wide"].icc == wide.icc
    for one, other in zip(layers["plain"].walk(), layers["wide"].walk(), strict=True):
        assert np.array_equal(converted(one.pixels.astype(np.uint8), None, wide.icc), other.pixels)


def test_an_adapter_changes_the_layers_and_is_named_in_the_manifest(tiny: Path, photo: Path, place: Path) -> None:
    adapter = write_adapter(place / "adapter")
    results = {}
    for name, arguments in {"base": (), "tuned": ("--adapter", f"{adapter}:0.5")}.items():
        assert decompose(tiny, photo, *arguments, "-o", name) == 0
        results[name] = manifest(place / name / "photo-layers")
    assert results["base"]["engine_settings"]["adapters"] == ""
    assert re.fullmatch(r"adapter@file:0\.5 sha256 [0-9a-f]{64}", results["tuned"]["engine_settings"]["adapters"])
    assert results["base"]["layers"] != results["tuned"]["layers"]


def test_an_adapter_names_its_preset_and_brings_its_prompts_embedding(tiny: Path, photo: Path, place: Path, tmp_path: Path) -> None:
    adapter = write_adapter(place / "adapter")
    (adapter / "layerctl.json").write_text(json.dumps({"preset": "stable-layers", "prompt": "ours"}))
    about = {"prompt": "ours", "prompt_version": texts().version}
    write_embedding(adapter / "prompt_embedding.safetensors", torch.randn(5, 16), about)
    model = shutil.copytree(tiny, tmp_path / "model")
    shutil.rmtree(model / "text_encoder")
    command = ["decompose", "--model", str(model), "--adapter", str(adapter), *FAST, str(photo)]
    assert main(command) == 0
    used = manifest(place / "photo-layers")["engine_settings"]
    assert (used["preset"], used["prompt"]) == ("stable-layers", "ours")


@pytest.mark.parametrize(
    ("wishes", "prompt", "told"),
    [
        ({"prompt_mode": "caption"}, None, None),
        ({"prompt_mode": "caption", "prompt": "ours"}, None, None),
        ({"prompt_mode": "caption"}, "mine", "mine"),
        ({}, None, "a clean, well composed image"),
    ],
)
def test_an_adapter_that_asks_for_captions_gets_them_unless_a_prompt_was_typed(
    tiny: Path, place: Path, wishes: dict[str, str], prompt: str | None, told: str | None
) -> None:
    adapter = write_adapter(place / "adapter")
    (adapter / "layerctl.json").write_text(json.dumps({"preset": "stable-layers"} | wishes))
    found = session(tiny, preset=None, adapters=(str(adapter),), prompt=prompt)
    assert (found.recipe.name, found.recipe.prompt) == ("stable-layers", told)


def test_adapters_that_differ_in_what_is_told_leave_the_presets_prompt(tiny: Path, place: Path) -> None:
    one, other = write_adapter(place / "one"), write_adapter(place / "other")
    (one / "layerctl.json").write_text(json.dumps({"prompt_mode": "caption"}))
    (other / "layerctl.json").write_text(json.dumps({"prompt": "ours"}))
    assert session(tiny, adapters=(str(one), str(other))).recipe.prompt == "a clean, well composed image"


@pytest.mark.parametrize(("size", "fused"), [(1e-1, True), (1e-9, False)])
def test_adapters_are_fused_only_where_that_keeps_their_effect(
    tiny: Path, photo: Path, place: Path, size: float, fused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(place / "adapter", size)
    assert decompose(tiny, photo, "--adapter", adapter, "--fuse") == 0
    assert manifest(place / "photo-layers")["engine_settings"]["fused"] is fused
    assert ("they run unfused" in capsys.readouterr().err) is not fused


def test_fusing_into_quantised_weights_is_refused(tiny: Path, photo: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = write_adapter(place / "adapter")
    assert decompose(tiny, photo, "--adapter", adapter, "--fuse", "--precision", "int8") == 2
    assert "--fuse does not work with --precision int8" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_smaller_weights_give_nearly_the_same_layers(tiny: Path, precision: str) -> None:
    picture = source()
    whole, small = session(tiny, precision="fp32"), session(tiny, precision=precision)
    for engine in (whole, small):
        engine.decompose(picture, TWO, _silent)
    assert whole.model is not None
    assert small.model is not None
    quantised = [
        name for name, module in small.model.transformer.named_modules() if "Int8" in type(getattr(module, "weight", None)).__name__
    ]
    assert bool(quantised) is (precision == "int8")
    assert small.model.dtype == torch.bfloat16


def test_a_wish_that_the_device_cannot_have_is_refused_at_once(tiny: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decompose(tiny, photo, "--device", "cpu", "--precision", "int4") == 2
    assert "--precision int4 does not work on cpu" in capsys.readouterr().err


def test_a_size_that_is_no_multiple_of_16_is_refused(tiny: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decompose", "--model", str(tiny), "--size", "65", str(photo)]) == 2
    assert "not a multiple of 16" in capsys.readouterr().err


def test_a_model_that_was_not_fetched_is_not_fetched_by_accident(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decompose", "--engine", "qwen", "--model", "org/never-there", str(photo)]) == 5
    assert "layerctl pull org/never-there" in capsys.readouterr().err


def test_an_unknown_folder_is_no_model(photo: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    assert decompose(place / "empty", photo) == 2
    assert "model_index.json" in capsys.readouterr().err


def test_from_the_hub_to_the_psd(tiny: Path, photo: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path / "release" / "model")
    with serving(tmp_path, monkeypatch) as server:
        base = server.add_repo("Qwen/Qwen-Image-Layered", tiny)
        tuned = server.add_repo("StabilityLabs/Stable-Layers", tmp_path / "release")
        model, adapter = f"Qwen/Qwen-Image-Layered@{base}", f"StabilityLabs/Stable-Layers@{tuned}"
        for reference in (model, adapter):
            assert main(["pull", "--yes", reference]) == 0
    # The server is gone: nothing of what follows asks for it.
    command = ["--layers", "3", "--psd", "--engine", "qwen", "--model", model, "--adapter", adapter, *FAST]
    assert main(["decompose", str(photo), *command]) == 0
    assert (place / "photo-layers" / "photo.psd").is_file()
    used = manifest(place / "photo-layers")["engine_settings"]
    assert (used["model"], used["model_revision"], used["preset"]) == ("Qwen/Qwen-Image-Layered", base, "stable-layers")
    assert used["adapters"].startswith(f"StabilityLabs/Stable-Layers@{tuned}:1 sha256 ")


def test_a_model_that_was_half_merged_does_not_serve_the_next_picture(tiny: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = write_adapter(place / "adapter", 1e-1)
    control = raw(session(tiny, adapters=(str(adapter),), fuse=True), source(2))
    engine = session(tiny, adapters=(str(adapter),), fuse=True)
    merge = fuse_module._merge
    failing = iter([True])

    def broken(layer: Any) -> None:
        merge(layer)
        if next(failing, False):
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fuse_module, "_merge", broken)
    with pytest.raises(OutOfMemoryError):
        raw(engine, source(1))
    for one, other in zip(raw(engine, source(2)), control, strict=True):
        assert np.array_equal(one, other)


def test_the_seed_of_the_noise_is_recorded_with_the_place_in_the_run(tiny: Path, place: Path) -> None:
    for number in range(2):
        draw_photo(place / f"{number}.png", number)
    assert decompose(tiny, "0.png", "1.png") == 0
    assert [manifest(place / f"{number}-layers")["engine_settings"]["noise_seed"] for number in range(2)] == [42, 43]


def test_a_dry_run_goes_on_behind_a_broken_picture(tiny: Path, photo: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "broken.png").write_bytes(b"nothing")
    assert decompose(tiny, "broken.png", photo, "--dry-run", "--json") == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["status"] for record in records] == ["failed", "planned"]
    assert any("evaluations" in line for line in records[1]["forecast"])


def test_a_cache_that_cannot_be_written_costs_time_only(
    tiny: Path, photo: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "file"))
    assert decompose(tiny, photo) == 0
    assert "not kept for later runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damaged", ["tokenizer/tokenizer.json", "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"]
)
def test_damaged_files_are_named_with_what_to_do(
    tiny: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / damaged).write_bytes((model / damaged).read_bytes()[:200])
    assert decompose(model, photo) == 2
    said = capsys.readouterr().err
    assert f"the {damaged.partition('/')[0].replace('_', ' ')} of model cannot be read" in said
    assert "bug" not in said
