"""`layerctl pull` with the real client of the Hub, against a server on localhost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from layerctl import cli, fetch, hub
from layerctl.fetch import RemoteFile, RemoteModel
from tests.hub_server import HubServer, serving

Capture = pytest.CaptureFixture[str]

INDEX = {
    "_class_name": "QwenImageLayeredPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"
BASE = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"A base model.",
    "scheduler/scheduler_config.json": b"{}",
    "transformer/config.json": b"{}",
    "vae/config.json": b"{}",
    "text_encoder/config.json": b"{}",
    WEIGHTS: bytes(range(256)) * 40,
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 100,
    ENCODER: b"encoder" * 100,
}
OF_NO_USE = {"comfy.safetensors": b"!" * 50, "vae/diffusion_pytorch_model.bin": b"pickle", "picture.png": b"png", "code.py": b"import os"}
ADAPTER = {"model/adapter_config.json": b'{"peft_type": "LORA"}', "model/adapter_model.safetensors": b"adapter" * 100}


def tensors(*names: str) -> bytes:
    """A safetensors file with empty tensors of these names."""
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(tmp_path, monkeypatch) as running:
        yield running


def pull(*arguments: str) -> int:
    return cli.main(["pull", *arguments])


def answer(capsys: Capture) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


class Typed(StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def unfinished(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "hub").rglob("*.incomplete"))


def test_a_base_model_arrives_whole_and_nothing_else_of_its_repository(server: HubServer, capsys: Capture) -> None:
    commit = server.add_repo("org/base", BASE | OF_NO_USE, licence="apache-2.0")
    assert pull("org/base") == 0
    printed = capsys.readouterr()
    folder = Path(printed.out.strip())
    assert {name: (folder / name).read_bytes() for name in names(folder)} == BASE
    assert folder.name == commit
    assert f"org/base at {commit[:12]}: base model, " in printed.err
    assert "licence: apache-2.0" in printed.err
    assert "free on the disk" in printed.err


def test_an_adapter_in_a_subfolder_arrives_at_its_pinned_commit(server: HubServer, capsys: Capture) -> None:
    pinned = hub.PINNED["StabilityLabs/Stable-Layers"]
    server.add_repo("StabilityLabs/Stable-Layers", ADAPTER, revision=pinned)
    newer = server.add_repo("StabilityLabs/Stable-Layers", ADAPTER | {"README.md": b"newer"})
    assert pull("StabilityLabs/Stable-Layers") == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).name == pinned
    assert names(Path(printed.out.strip())) == set(ADAPTER)
    assert "Stability AI Community License (free below 1 M USD yearly revenue" in printed.err
    assert pull("StabilityLabs/Stable-Layers@main") == 0
    assert Path(capsys.readouterr().out.strip()).name == newer


def test_a_lora_file_without_a_configuration_is_an_adapter_too(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/lora", {"style.safetensors": tensors("transformer.to_q.lora_A.weight")})
    assert pull("org/lora", "--json") == 0
    copy = answer(capsys)
    assert copy["repo_id"] == "org/lora"
    assert [(model.repo_id, model.kind, model.complete) for model in hub.cached()] == [("org/lora", "adapter", True)]
    assert names(Path(copy["folder"])) == {"style.safetensors"}


@pytest.mark.parametrize("by_hash", [False, True])
def test_a_typed_revision_is_fetched(server: HubServer, capsys: Capture, by_hash: bool) -> None:
    older = server.add_repo("org/lora", ADAPTER, revision="v1")
    server.add_repo("org/lora", ADAPTER | {"README.md": b"newer"})
    assert pull(f"org/lora@{older if by_hash else 'v1'}", "--json") == 0
    assert answer(capsys)["revision"] == older
    assert hub.local_copy(hub.parse_reference("org/lora@v1" if not by_hash else f"org/lora@{older}")).revision == older


def test_the_text_encoder_is_left_out_and_comes_later_alone(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/base", BASE)
    assert pull("org/base", "--without-text-encoder") == 0
    folder = Path(capsys.readouterr().out.strip())
    assert set(BASE) - names(folder) == {ENCODER}
    assert hub.local_copy(hub.parse_reference("org/base")).folder == folder
    server.requests.clear()
    assert pull("org/base") == 0
    assert names(folder) == set(BASE)
    assert len(server.sent(ENCODER)) == 1
    assert not server.sent(WEIGHTS)


def test_what_is_there_is_not_fetched_again(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/base", BASE)
    pull("org/base")
    folder = capsys.readouterr().out
    server.requests.clear()
    assert pull("org/base") == 0
    printed = capsys.readouterr()
    assert printed.out == folder
    assert "everything is here already" in printed.err
    assert [request.file for request in server.requests if request.file] == ["model_index.json"] * 2


def test_after_a_cut_only_the_rest_is_asked_for(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/base", BASE)
    server.cut(WEIGHTS, 4000)
    assert pull("org/base") == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / WEIGHTS).read_bytes() == BASE[WEIGHTS]
    assert [request.range for request in server.sent(WEIGHTS)] == [None, "bytes=4000-"]


def test_a_connection_that_stays_broken_is_an_error_and_the_same_command_goes_on(
    server: HubServer, tmp_path: Path, capsys: Capture
) -> None:
    server.add_repo("org/base", BASE)
    server.cut(WEIGHTS, 4000, times=100)
    assert pull("org/base") == 5
    error = capsys.readouterr().err
    assert f"broke while {WEIGHTS} was fetched" in error
    assert "the same command goes on from there: layerctl pull org/base" in error
    assert [request.range for request in server.sent(WEIGHTS)][:2] == [None, "bytes=4000-"]
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size in (4000, len(BASE[WEIGHTS]))]
    assert not unfinished(tmp_path)

    server.mend()
    server.requests.clear()
    assert pull("org/base") == 0
    assert names(Path(capsys.readouterr().out.strip())) == set(BASE)
    assert not server.sent(ENCODER)


def test_a_file_with_another_hash_is_deleted_and_fetched_anew(server: HubServer, tmp_path: Path, capsys: Capture) -> None:
    server.add_repo("org/base", BASE)
    server.send_wrong(WEIGHTS, bytes(len(BASE[WEIGHTS])))
    assert pull("org/base") == 5
    error = capsys.readouterr().err
    assert "arrived with other content than the Hub states" in error
    assert "layerctl pull org/base" in error
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size == len(BASE[WEIGHTS])]

    server.mend()
    assert pull("org/base") == 0
    assert (Path(capsys.readouterr().out.strip()) / WEIGHTS).read_bytes() == BASE[WEIGHTS]


def test_the_client_by_itself_keeps_a_file_with_another_hash(server: HubServer) -> None:
    # If this fails, the client checks hashes by itself, and the check in layerctl.fetch can go.
    server.add_repo("org/base", BASE)
    server.send_wrong(WEIGHTS, bytes(len(BASE[WEIGHTS])))
    kept = huggingface_hub.hf_hub_download("org/base", WEIGHTS)
    assert Path(kept).read_bytes() == bytes(len(BASE[WEIGHTS]))


def test_a_check_that_is_broken_off_is_made_the_next_time(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    server.add_repo("org/lora", ADAPTER)
    server.send_wrong("model/adapter_model.safetensors", bytes(700))
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", interrupted)
        assert pull("org/lora") == 130
    assert pull("org/lora") == 5
    assert "arrived with other content" in capsys.readouterr().err


def test_what_a_killed_process_left_is_cleared_away(server: HubServer, tmp_path: Path) -> None:
    server.add_repo("org/lora", ADAPTER)
    pull("org/lora")
    blob = next(path for path in (tmp_path / "hub/models--org--lora/blobs").iterdir())
    leftover = blob.with_name(f"{blob.name}.0123abcd.incomplete")
    leftover.write_bytes(b"half")
    assert pull("org/lora") == 0
    assert blob.exists()
    assert not leftover.exists()


def test_a_branch_serves_its_older_copy_until_the_newer_one_is_whole(server: HubServer) -> None:
    older = server.add_repo("org/lora", ADAPTER)
    pull("org/lora")
    newer = server.add_repo("org/lora", ADAPTER | {"model/adapter_model.safetensors": b"newer" * 500})
    server.cut("model/adapter_model.safetensors", 100, times=100)
    assert pull("org/lora") == 5
    assert hub.local_copy(hub.parse_reference("org/lora")).revision == older
    server.mend()
    assert pull("org/lora") == 0
    assert hub.local_copy(hub.parse_reference("org/lora")).revision == newer


@pytest.mark.parametrize("by_variable", [False, True])
def test_offline_finds_what_was_fetched_and_nothing_else(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture, by_variable: bool
) -> None:
    server.add_repo("org/lora", ADAPTER)
    pull("org/lora")
    folder = capsys.readouterr().out
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_variable)
    flag = [] if by_variable else ["--offline"]
    assert pull("org/lora", *flag) == 0
    assert capsys.readouterr().out == folder
    assert pull("org/other", *flag) == 5
    assert "org/other at main is not on this disk" in capsys.readouterr().err
    assert not server.requests


def test_without_a_connection_the_error_says_how_to_find_what_is_here(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://somebody:secret@127.0.0.1:9")
    assert pull("org/lora") == 5
    error = capsys.readouterr().err
    assert "no connection to 127.0.0.1" in error
    assert "layerctl pull org/lora --offline" in error
    assert "secret" not in error


def test_what_does_not_fit_is_not_begun(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    server.add_repo("org/base", BASE)
    monkeypatch.setattr(fetch, "free_space", lambda: 5000)
    assert pull("org/base", "--yes") == 1
    error = capsys.readouterr().err
    assert "org/base needs 11.5 kB on the disk with" in error
    assert "5.0 kB are free" in error
    assert not server.sent(WEIGHTS)


def test_only_what_is_still_to_fetch_has_to_fit(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_repo("org/base", BASE)
    assert pull("org/base", "--without-text-encoder") == 0
    monkeypatch.setattr(fetch, "free_space", lambda: len(BASE[ENCODER]))
    assert pull("org/base") == 0


def test_a_large_model_is_asked_for_where_somebody_can_answer(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    large = RemoteModel(
        "org/base", "0" * 40, "main", "base model", (RemoteFile("x", 58_000_000_000, None, here=False),), "mit", gated=False
    )
    monkeypatch.setattr(fetch, "describe", lambda *_, **__: large)
    monkeypatch.setattr(fetch, "free_space", lambda: 10**12)
    monkeypatch.setattr("sys.stdin", StringIO())
    assert pull("org/base") == 2
    error = capsys.readouterr().err
    assert "58.0 GB to fetch, and nobody is here to be asked" in error
    assert "--yes" in error
    monkeypatch.setattr("sys.stdin", Typed("n\n"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert pull("org/base") == 130
    assert "Fetch it?" in capsys.readouterr().err
    assert not server.requests


def test_a_dry_run_lists_the_files_and_writes_nothing(server: HubServer, tmp_path: Path, capsys: Capture) -> None:
    server.add_repo("org/base", BASE | OF_NO_USE)
    assert pull("org/base", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if WEIGHTS in line] == [["fetch", "10,240", WEIGHTS]]
    assert len(lines) == len(BASE)
    assert pull("org/base", "--dry-run", "--json", "--quiet") == 0
    plan = answer(capsys)
    assert plan["missing_size"] == plan["size"] == sum(len(content) for content in BASE.values())
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "weights as pickles only (adapter_model.bin)"),
        ({"model_index.json": b'{"_class_name": "FluxPipeline"}', "x.safetensors": b""}, "is a FluxPipeline, and layerctl runs a Qwen"),
        ({"model.safetensors": tensors("encoder.weight")}, "neither a base model nor an adapter"),
        ({"model.safetensors": b"no such format"}, "is no safetensors file"),
        ({"README.md": b"words"}, "has no .safetensors files"),
    ],
)
def test_a_repository_that_is_of_no_use_is_refused_with_the_reason(
    server: HubServer, tmp_path: Path, capsys: Capture, files: dict[str, bytes], reason: str
) -> None:
    server.add_repo("org/other", files)
    assert pull("org/other") == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()


def test_a_part_whose_weights_are_a_pickle_is_refused_by_name(server: HubServer, capsys: Capture) -> None:
    files = {name: content for name, content in BASE.items() if name != "vae/diffusion_pytorch_model.safetensors"}
    server.add_repo("org/base", files | {"vae/diffusion_pytorch_model.bin": b"pickle"})
    assert pull("org/base") == 2
    assert "vae of org/base has its weights as pickles only (vae/diffusion_pytorch_model.bin)" in capsys.readouterr().err


def test_a_missing_repository_and_a_private_one_look_alike(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    server.add_repo("org/private", ADAPTER, token="hf_secret")
    for name in ("org/missing", "org/private"):
        assert pull(name) == 5
        error = capsys.readouterr().err
        assert f"{name} is not on the Hub, or it is private" in error
        assert "hf auth login" in error
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull("org/private") == 0
    assert "hf_secret" not in "".join(capsys.readouterr())


def test_a_gated_repository_says_where_to_agree(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    server.add_repo("org/gated", ADAPTER, gated=True, token="hf_secret")
    assert pull("org/gated") == 5
    error = capsys.readouterr().err
    assert "org/gated is gated" in error
    assert "/org/gated, then: hf auth login" in error
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull("org/gated") == 0


def test_a_renamed_repository_is_an_error_with_its_new_name(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/old", ADAPTER)
    server.rename("org/old", "org/new")
    assert pull("org/old") == 2
    assert "layerctl pull org/new" in capsys.readouterr().err


def test_a_revision_that_is_not_there_is_a_usage_error(server: HubServer, capsys: Capture) -> None:
    server.add_repo("org/lora", ADAPTER)
    assert pull("org/lora@v9") == 2
    assert "org/lora has no revision 'v9'" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "text"), [(500, "answered 500"), (403, "refuses the token"), (429, "answered 429")])
def test_a_hub_that_is_out_of_order_is_an_error_with_its_answer(server: HubServer, capsys: Capture, status: int, text: str) -> None:
    server.status = status
    assert pull("org/lora") == 5
    assert text in capsys.readouterr().err


def test_a_disk_that_becomes_full_is_an_error_that_says_so(server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device", "/cache/blob")

    server.add_repo("org/lora", ADAPTER)
    monkeypatch.setattr(fetch, "hf_hub_download", full)
    assert pull("org/lora") == 1
    assert "became full while model/adapter_config.json was fetched" in capsys.readouterr().err


def test_progress_rises_to_the_whole_also_over_a_cut(server: HubServer) -> None:
    server.add_repo("org/base", BASE)
    server.cut(WEIGHTS, 4000)
    shares: list[float] = []
    fetch.download(fetch.describe(hub.parse_reference("org/base")), lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 10


def test_the_variables_of_the_hub_are_honoured(server: HubServer, tmp_path: Path) -> None:
    server.add_repo("org/lora", ADAPTER, token="hf_secret")
    home = tmp_path / "home"
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": "hf_secret", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "layerctl", "pull", "org/lora"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(home / "hub")
    again = subprocess.run(command, env=os.environ | variables | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True)
    assert (again.stdout, again.stderr) == (done.stdout, "")
