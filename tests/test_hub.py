from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from layerctl import hub
from layerctl.errors import MissingDependencyError, UsageError
from layerctl.hub import Reference, local_copy, missing_files, parse_reference, readable_size

SHA = "41b2f7692d2bc6be496f1de1f5dd349e93aa090f"
INDEX = {
    "_class_name": "QwenImageLayeredPipeline",
    "processor": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}
SHARDS = [f"transformer/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def base_model(folder: Path) -> Path:
    write(folder, "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json", "vae/model.safetensors", *SHARDS)
    write(folder, "text_encoder/config.json", "text_encoder/model.safetensors")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    index = {"weight_map": {"a": Path(SHARDS[0]).name, "b": Path(SHARDS[1]).name}}
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def snapshot(cache: Path, commit: str = SHA, repo_id: str = "org/base") -> Path:
    return cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / commit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", Reference("org/name", None, None)),
        ("org/name@main", Reference("org/name", None, "main")),
        ("org/name@refs/pr/4", Reference("org/name", None, "refs/pr/4")),
        (f"org/name@{SHA}:0.5", Reference("org/name", None, SHA, 0.5)),
        ("org/na.me-2_x:-1", Reference("org/na.me-2_x", None, None, -1.0)),
        ("org/name:.25", Reference("org/name", None, None, 0.25)),
    ],
)
def test_a_name_on_the_hub_has_an_optional_revision_and_weight(folder: Path, text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


def test_a_path_that_exists_wins_over_a_name_and_over_a_weight(folder: Path) -> None:
    write(folder, "org/name/adapter_config.json", "odd:0.5", "plain.safetensors")
    assert parse_reference("org/name") == Reference(None, Path("org/name"), None)
    assert parse_reference("org/name:0.5") == Reference(None, Path("org/name"), None, 0.5)
    assert parse_reference("odd:0.5") == Reference(None, Path("odd:0.5"), None)
    assert parse_reference("plain.safetensors:2") == Reference(None, Path("plain.safetensors"), None, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "/no/such/folder",
        "./org/name",
        "org/name@",
        "org/name@a b",
        "org/na/me",
        "org/name:half",
        "C:\\models\\x",
        "C:5",
        "o/a..b",
    ],
)
def test_what_is_neither_a_path_nor_a_name_is_a_usage_error_that_says_what_to_type(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match="neither a file or folder here nor a model on the Hub") as caught:
        parse_reference(text)
    assert "StabilityLabs/Stable-Layers" in str(caught.value.hint)


def test_the_pinned_revision_is_meant_unless_another_one_is_typed() -> None:
    assert parse_reference("StabilityLabs/Stable-Layers").asked == SHA
    assert parse_reference("StabilityLabs/Stable-Layers@main").asked == "main"
    assert parse_reference("org/name").asked == "main"


def test_a_folder_is_its_own_local_copy(tmp_path: Path) -> None:
    assert local_copy(Reference(None, tmp_path, None)) == hub.LocalCopy(tmp_path, None, None)


def test_what_is_not_in_the_cache_is_an_error_with_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(MissingDependencyError, match="org/base at v2 is not on this disk") as caught:
        local_copy(parse_reference("org/base@v2"))
    assert (caught.value.hint, caught.value.exit_code) == ("layerctl pull org/base@v2", 5)
    with pytest.raises(MissingDependencyError) as caught:
        local_copy(parse_reference("org/base"), offline=True)
    assert str(caught.value.hint).startswith("with a connection, and without --offline")


@pytest.mark.parametrize("revision", ["main", SHA, SHA[:12]])
def test_a_copy_is_found_by_branch_by_commit_and_by_the_beginning_of_a_commit(cache: Path, revision: str) -> None:
    folder = base_model(snapshot(cache))
    write(snapshot(cache, "0" * 40))
    (cache / "models--org--base/refs").mkdir()
    (cache / "models--org--base/refs/main").write_text(SHA)
    assert local_copy(Reference("org/base", None, revision)) == hub.LocalCopy(folder, "org/base", SHA)


def test_a_base_model_without_its_text_encoder_counts(cache: Path) -> None:
    folder = base_model(snapshot(cache))
    (folder / "text_encoder/model.safetensors").unlink()
    assert local_copy(Reference("org/base", None, SHA)).folder == folder
    assert missing_files(folder, text_encoder=True) == ["text_encoder/*.safetensors"]


@pytest.mark.parametrize("gone", [*SHARDS, "vae/model.safetensors", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_base_model_with_a_hole_is_an_error_that_names_it(cache: Path, gone: str) -> None:
    folder = base_model(snapshot(cache))
    (folder / gone).unlink()
    with pytest.raises(MissingDependencyError, match="only partly on this disk") as caught:
        local_copy(Reference("org/base", None, SHA))
    assert gone.partition("/")[0] in caught.value.message
    assert caught.value.hint == f"layerctl pull org/base@{SHA}"


def test_a_shard_says_by_its_own_name_that_others_belong_to_it(cache: Path) -> None:
    folder = base_model(snapshot(cache))
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").unlink()
    (folder / SHARDS[1]).unlink()
    assert missing_files(folder) == [SHARDS[1]]


def test_a_link_to_nothing_is_a_missing_file(cache: Path) -> None:
    folder = base_model(snapshot(cache))
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(folder / "gone")
    assert missing_files(folder) == [SHARDS[0]]


def test_an_adapter_needs_its_weights(cache: Path) -> None:
    folder = write(snapshot(cache), "model/adapter_config.json", "elsewhere.safetensors")
    assert missing_files(folder) == ["model/*.safetensors"]
    assert missing_files(write(folder, "model/adapter_model.safetensors")) == []


@pytest.mark.parametrize(("size", "text"), [(999, "999 bytes"), (1000, "1.0 kB"), (330_000_000, "330.0 MB"), (57_700_000_000, "57.7 GB")])
def test_sizes_are_read_in_the_units_of_disks(size: int, text: str) -> None:
    assert readable_size(size) == text


def test_a_portable_name_holds_no_folders(tmp_path: Path) -> None:
    names = []
    for content in (b"one", b"two"):
        (tmp_path / "adapter.safetensors").write_bytes(content)
        names.append(hub.portable_name(str(tmp_path)))
        assert hub.portable_name(f"{tmp_path}:0.5") == f"{names[-1]}:0.5"
        assert re.fullmatch(rf"{tmp_path.name}#[0-9a-f]{{8}}", names[-1])
    assert names[0] != names[1]
    assert hub.portable_name("org/name@main:0.5") == "org/name@main:0.5"
