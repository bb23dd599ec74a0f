"""Base models and adapters: what they are called, and which of them are in the Hugging Face Hub's cache on this disk.

Nothing here reaches the network (`layerctl.fetch` does). The cache is the one that huggingface_hub keeps, wherever HF_HOME puts it, and
other programs share its files.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from huggingface_hub import CacheNotFound, HFCacheInfo, constants, scan_cache_dir
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from layerctl.errors import MissingDependencyError, OutputError, UsageError
from layerctl.manifest import hash_sampled

Kind = Literal["base model", "adapter"]

PIPELINE = "QwenImageLayeredPipeline"
BASE_MODEL = "Qwen/Qwen-Image-Layered"
PINNED = {
    "Qwen/Qwen-Image-Layered": "8f0ca708dfff6ba1dd5f2d85d78f8c108a040bcf",
    "StabilityLabs/Stable-Layers": "41b2f7692d2bc6be496f1de1f5dd349e93aa090f",
}
"""Commits that are used when no revision is typed."""

LICENCES = {
    "StabilityLabs/Stable-Layers": "Stability AI Community License (free below 1 M USD yearly revenue, registration for commercial use)",
    BASE_MODEL: "Apache-2.0",
}

WEIGHTED = ("transformer", "vae", "text_encoder")
"""The parts of the pipeline that have weights."""

WEIGHT = re.compile(r"(?P<what>.{2,}):(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))")
NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[^\s@:]+))?", re.ASCII)
SHORT = 8
"""Digits of a commit that people are shown."""
COMMIT = re.compile(r"[0-9a-f]{7,40}")
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as it was typed: a repository on the Hub, or a folder or file on this disk. `weight` is for adapters."""

    repo_id: str | None
    path: Path | None
    revision: str | None
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else str(self.repo_id or self.path)

    @property
    def asked(self) -> str:
        """The branch, tag or commit that is meant: the typed one, the pinned one, or main."""
        return self.revision or PINNED.get(self.repo_id or "", "main")


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """A model on this disk; `revision` is the commit, None for what is not from the Hub."""

    folder: Path
    repo_id: str | None
    revision: str | None


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One revision in the cache; `complete`: nothing that it needs is missing, the text encoder aside."""

    repo_id: str
    revision: str
    kind: Kind
    size: int
    folder: Path
    last_used: datetime
    complete: bool


def parse_reference(text: str) -> Reference:
    """Reads "org/name", "org/name@revision" or a path, each with ":0.5" for a weight; what exists on this disk wins.

    Raises UsageError for what is none of these.
    """
    if os.path.exists(text):
        return Reference(None, Path(text), None)
    weighted = WEIGHT.fullmatch(text)
    what, weight = (weighted["what"], float(weighted["weight"])) if weighted else (text, 1.0)
    if weighted and os.path.exists(what):
        return Reference(None, Path(what), None, weight)
    named = NAME.fullmatch(what)
    try:
        if named is None:
            raise HFValidationError
        validate_repo_id(named["repo"])
    except HFValidationError as error:
        raise UsageError(
            f"{what!r} is neither a file or folder here nor a model on the Hub",
            hint="type a path that exists, or a name such as StabilityLabs/Stable-Layers, with @revision or :weight behind it if need be",
        ) from error
    return Reference(named["repo"], None, named["revision"], weight)


def portable_name(text: str) -> str:
    """The text as another machine would understand it: a Hub id as it is, a path by its last part and what its weights are."""
    reference = parse_reference(text)
    if reference.path is None:
        return text
    path = reference.path.resolve()
    weight = "" if reference.weight == 1 else f":{reference.weight:g}"
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return f"{path.name}#{hash_sampled(files)[:SHORT]}{weight}"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids all traffic."""
    return constants.is_offline_mode()


def local_copy(reference: Reference, *, offline: bool = False) -> LocalCopy:
    """The model on this disk; nothing is ever fetched. A base model without its text encoder counts.

    `offline` changes what is advised only. Raises MissingDependencyError for what is not in the cache or only partly.
    """
    if reference.repo_id is None:
        assert reference.path is not None
        return LocalCopy(reference.path, None, None)
    pull = f"layerctl pull {reference}"
    hint = f"with a connection, and without --offline or HF_HUB_OFFLINE: {pull}" if offline or constants.is_offline_mode() else pull
    folder = _snapshot(reference.repo_id, reference.asked)
    if folder is None:
        revision = reference.asked[:SHORT] if COMMIT.fullmatch(reference.asked) else reference.asked
        raise MissingDependencyError(f"{reference.repo_id} at {revision} is not on this disk", hint=hint)
    missing = missing_files(folder)
    if missing:
        raise MissingDependencyError(f"{reference} is only partly on this disk: {first_of(missing)} missing in {folder}", hint=hint)
    return LocalCopy(folder, reference.repo_id, folder.name)


def missing_files(folder: Path, *, text_encoder: bool = False) -> list[str]:
    """What a base model or adapter in this folder lacks; its text encoder counts only if asked for."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    needed = {*_shards(names), *_indexed(folder, names)}
    if "model_index.json" in names:
        index = read_object(folder / "model_index.json")
        parts = [part for part, entry in index.items() if isinstance(entry, list) and entry[:1] != [None]]
        needed |= {f"{part}/config.json" for part in parts if part in WEIGHTED}
        patterns = [f"{part}/*.safetensors" if part in WEIGHTED else f"{part}/*" for part in parts]
    else:
        adapters = [name.removesuffix("adapter_config.json") for name in names if name.endswith("adapter_config.json")]
        patterns = [f"{adapter}*.safetensors" for adapter in adapters or [""]]
    lacking = (needed - names) | {pattern for pattern in patterns if not fnmatch.filter(names, pattern)}
    return sorted(name for name in lacking if text_encoder or not name.startswith("text_encoder/"))


def cached() -> list[CachedModel]:
    """The base models and adapters in the Hub's cache, one entry a revision, by name and then the latest used first."""
    found = []
    for repo in _scan().repos:
        for entry in repo.revisions:
            kind = _kind_on_disk(entry.snapshot_path)
            if kind is not None:
                used = datetime.fromtimestamp(max((file.blob_last_accessed for file in entry.files), default=repo.last_accessed), UTC)
                complete = not missing_files(entry.snapshot_path)
                found.append(CachedModel(repo.repo_id, entry.commit_hash, kind, entry.size_on_disk, entry.snapshot_path, used, complete))
    return sorted(found, key=lambda model: (model.repo_id, -model.last_used.timestamp()))


def find_cached(reference: Reference) -> list[CachedModel]:
    """The revisions in the cache that the reference names: all of them without a revision. Raises UsageError when there is none."""
    models = [model for model in cached() if model.repo_id == reference.repo_id]
    if reference.repo_id and reference.revision:
        folder = _snapshot(reference.repo_id, reference.revision)
        models = [model for model in models if folder is not None and model.revision == folder.name]
    if not models:
        raise UsageError(f"{reference} is not in the cache", hint="layerctl models")
    return models


def remove(models: Sequence[CachedModel]) -> int:
    """Deletes these revisions from the cache and returns the bytes that became free; files that other revisions share stay."""
    repo_ids = {model.repo_id for model in models}
    cache = _scan()
    # A copy of a repository under another name has the same commits, and stays.
    cache = replace(cache, repos=frozenset(repo for repo in cache.repos if repo.repo_id in repo_ids))
    plan = cache.delete_revisions(*(model.revision for model in models))
    plan.execute()
    for model in models:
        # The library logs what it cannot delete and goes on.
        if model.folder.exists():
            raise OutputError(f"{model.folder} could not be deleted", hint=f"chmod -R u+w '{model.folder}', and the same command again")
    return plan.expected_freed_size


def readable_size(size: int) -> str:
    """The size in decimal units, as disks and the Hub state it: 57.7 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def storage_folder(repo_id: str) -> Path:
    """Where the cache has a repository."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one for what is no such thing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names holds a LoRA."""
    return any("lora_" in name.lower() or ".lora." in name.lower() for name in names)


def first_of(names: Sequence[str]) -> str:
    """The names for a message, the first three of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _snapshot(repo_id: str, revision: str) -> Path | None:
    """The folder of a branch, tag, commit or the beginning of one commit in the cache."""
    snapshots = storage_folder(repo_id) / "snapshots"
    branch = storage_folder(repo_id) / "refs" / revision
    commit = branch.read_text(encoding="utf-8").strip() if branch.is_file() else revision
    if COMMIT.fullmatch(commit) and snapshots.is_dir():
        matching = [folder for folder in snapshots.iterdir() if folder.name.startswith(commit)]
        return matching[0] if len(matching) == 1 else None
    return None


def _scan() -> HFCacheInfo:
    """What is in the cache, of models."""
    try:
        everything = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return HFCacheInfo(0, frozenset(), frozenset(), [])
    return replace(everything, repos=frozenset(repo for repo in everything.repos if repo.repo_type == "model"))


def _kind_on_disk(folder: Path) -> Kind | None:
    """None for what layerctl cannot use."""
    if (folder / "model_index.json").is_file():
        return "base model" if read_object(folder / "model_index.json").get("_class_name") == PIPELINE else None
    if any(folder.rglob("adapter_config.json")):
        return "adapter"
    weights = [path for path in folder.rglob("*.safetensors") if path.is_file()]
    smallest = min(weights, key=lambda path: path.stat().st_size, default=None)
    return "adapter" if smallest is not None and is_lora(_tensor_names(smallest)) else None


def _shards(names: Iterable[str]) -> Iterator[str]:
    """All the siblings of files that say of themselves that they are one of several."""
    for name in names:
        found = SHARD.fullmatch(name)
        if found:
            count = int(found["count"])
            yield from (f"{found['stem']}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))


def _indexed(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """The files that an index of shards names."""
    for name in names:
        if name.endswith(".safetensors.index.json"):
            files = read_object(folder / name).get("weight_map")
            yield from ((PurePosixPath(name).parent / str(file)).as_posix() for file in (files.values() if isinstance(files, dict) else ()))


def _tensor_names(path: Path) -> list[str]:
    """The names in the header of a safetensors file: 8 bytes of length, little-endian, then a JSON object."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # What the format allows at most.
        header = file.read(length) if length <= 100_000_000 else b""
    try:
        value = json.loads(header)
    except ValueError:
        return []
    return list(value) if isinstance(value, dict) else []
