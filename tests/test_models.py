"""`layerctl models` over a cache that the real client of the Hub filled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import huggingface_hub
import pytest

from layerctl import cli, hub
from tests.hub_server import HubServer, serving

Capture = pytest.CaptureFixture[str]

INDEX = {"_class_name": "QwenImageLayeredPipeline"} | {part: ["diffusers", "Class"] for part in ("transformer", "vae")}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
BASE = {
    "model_index.json": json.dumps(INDEX).encode(),
    "transformer/config.json": b"{}",
    "vae/config.json": b"{}",
    WEIGHTS: bytes(5000),
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 100,
    "text_encoder/model.safetensors": b"encoder",
}
ADAPTER = {"model/adapter_config.json": b'{"peft_type": "LORA"}', "model/adapter_model.safetensors": b"adapter" * 100}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(tmp_path, monkeypatch) as running:
        yield running


def pull(name: str) -> int:
    return cli.main(["pull", name])


def test_models_lists_what_layerctl_can_use(server: HubServer, capsys: Capture) -> None:
    assert cli.main(["models"]) == 0
    assert capsys.readouterr() == ("", "there are none; layerctl pull fetches one\n")
    base, lora = server.add_repo("org/base", BASE), server.add_repo("org/lora", ADAPTER)
    server.add_repo("org/other", {"config.json": b"{}"})
    pull("org/base")
    pull("org/lora")
    huggingface_hub.hf_hub_download("org/other", "config.json")
    capsys.readouterr()
    assert cli.main(["models"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["org/base", base[:12], "base model  5.4 kB"], ["org/lora", lora[:12], "adapter     721 bytes"]]
    assert cli.main(["models", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["repo_id"], record["revision"], record["complete"]) for record in records] == [
        ("org/base", base, True),
        ("org/lora", lora, True),
    ]


def test_models_shows_what_came_only_partly(server: HubServer, capsys: Capture) -> None:
    commit = server.add_repo("org/base", BASE)
    server.cut(WEIGHTS, 10, times=100)
    pull("org/base")
    capsys.readouterr()
    cli.main(["models"])
    assert f"(only partly; layerctl pull org/base@{commit})" in capsys.readouterr().out


def test_models_rm_deletes_one_revision_and_keeps_what_others_share(server: HubServer, capsys: Capture) -> None:
    older = server.add_repo("org/lora", ADAPTER, revision="v1")
    newer = server.add_repo("org/lora", ADAPTER | {"README.md": b"newer"})
    pull("org/lora@v1")
    pull("org/lora")
    capsys.readouterr()
    assert cli.main(["models", "rm", f"org/lora@{newer[:8]}", "--yes"]) == 0
    assert capsys.readouterr().err == "5 bytes freed (5 bytes)\n"
    assert [model.revision for model in hub.cached()] == [older]
    assert hub.missing_files(hub.cached()[0].folder) == []


def test_models_rm_deletes_all_revisions_and_their_leftovers(server: HubServer, tmp_path: Path, capsys: Capture) -> None:
    server.add_repo("org/lora", ADAPTER, revision="v1")
    server.add_repo("org/lora", ADAPTER | {"README.md": b"newer"})
    pull("org/lora@v1")
    pull("org/lora")
    assert cli.main(["models", "rm", "org/lora", "--yes"]) == 0
    assert "726 bytes freed" in capsys.readouterr().err
    assert not (tmp_path / "hub/models--org--lora").exists()
    assert cli.main(["models", "rm", "org/lora", "--yes"]) == 2
    assert "org/lora is not in the cache" in capsys.readouterr().err


def test_models_rm_asks_first(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    server.add_repo("org/lora", ADAPTER)
    pull("org/lora")
    monkeypatch.setattr("sys.stdin", StringIO())
    assert cli.main(["models", "rm", "org/lora"]) == 2
    assert "type --yes to delete it" in capsys.readouterr().err
    assert len(hub.cached()) == 1
