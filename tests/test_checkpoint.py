from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from layerctl.engines.qwen.checkpoint import WEIGHTS, fingerprint, read_checkpoint, weight_files
from layerctl.errors import MissingDependencyError, UsageError


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be spoilt."""
    return shutil.copytree(tiny, tmp_path / "model")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_whole_checkpoint_is_read_with_its_geometry(tiny: Path) -> None:
    checkpoint = read_checkpoint(tiny)
    assert (checkpoint.name, checkpoint.revision) == ("tiny", None)
    assert (checkpoint.latent_channels, checkpoint.text_width) == (16, 16)
    assert all(checkpoint.has_weights(part) for part in WEIGHTS)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ("model_index.json", {"transformer": ["somewhere", "MyTransformer"]}, "MyTransformer"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "AutoencoderKL"),
        ("model_index.json", {"scheduler": None}, "None"),
        ("transformer/config.json", {"use_layer3d_rope": False}, "use_layer3d_rope = False"),
        ("transformer/config.json", {"in_channels": 48}, "in_channels = 48"),
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds = True"),
        ("transformer/config.json", {"auto_map": {"AutoModel": "code.Model"}}, "its own program code"),
        ("vae/config.json", {"input_channels": 3}, "input_channels = 3"),
        ("text_encoder/config.json", {"text_config": {"hidden_size": 99}}, "hidden_size = 99"),
    ],
)
def test_other_models_are_refused_by_what_is_other(copy: Path, file: str, values: dict[str, Any], named: str) -> None:
    change(copy / file, **values)
    with pytest.raises(UsageError, match=named) as caught:
        read_checkpoint(copy)
    assert caught.value.hint


@pytest.mark.parametrize("file", ["model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_or_broken_config_is_named(copy: Path, file: str) -> None:
    (copy / file).write_text("{")
    with pytest.raises(UsageError, match=Path(file).name):
        read_checkpoint(copy)
    (copy / file).unlink()
    with pytest.raises(UsageError, match=file):
        read_checkpoint(copy)


def test_a_model_without_its_text_encoder_is_read_all_the_same(copy: Path) -> None:
    shutil.rmtree(copy / "text_encoder")
    assert not read_checkpoint(copy).has_weights("text_encoder")


def test_missing_weights_are_missed_and_pickles_refused(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(MissingDependencyError, match="transformer"):
        read_checkpoint(copy)
    weights.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(UsageError, match="a pickle"):
        read_checkpoint(copy)


def test_a_part_in_several_files_is_whole_or_not_there(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"one")
    assert weight_files(tmp_path, "model") == []
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"two")
    assert [path.name for path in weight_files(tmp_path, "model")] == sorted(index["weight_map"].values())


def test_a_fingerprint_tells_weights_apart(copy: Path, tiny: Path) -> None:
    part, stem = "transformer", WEIGHTS["transformer"]
    assert fingerprint(copy / part, stem) == fingerprint(tiny / part, stem)
    weights = copy / part / f"{stem}.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(copy / part, stem) != fingerprint(tiny / part, stem)
