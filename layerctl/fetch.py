"""Fetching base models and adapters from the Hugging Face Hub into its cache.

The traffic is huggingface_hub's, so HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count. Of a repository only what layerctl reads is
fetched, and no pickle ever. Over plain HTTP that library compares sizes alone; here every large file is held against the SHA-256 that the
Hub states before it counts as fetched.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of whichever library is below it
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from layerctl.errors import LayerctlError, MissingDependencyError, OutputError, UsageError
from layerctl.hub import (
    BASE_MODEL,
    LICENCES,
    PIPELINE,
    WEIGHTED,
    Kind,
    LocalCopy,
    Reference,
    first_of,
    is_lora,
    read_object,
    readable_size,
    storage_folder,
)
from layerctl.registry import Progress

FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`sha256` is None for small text files; `here`: the cache has it already."""

    name: str
    size: int
    sha256: str | None
    here: bool


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What a pull fetches: `revision` is the commit, `branch` the name that led to it, None where the commit itself was asked for."""

    repo_id: str
    revision: str
    branch: str | None
    kind: Kind
    files: tuple[RemoteFile, ...]
    licence: str
    gated: bool

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def missing_size(self) -> int:
        """Bytes still to fetch."""
        return sum(file.size for file in self.files if not file.here)


def describe(reference: Reference, *, text_encoder: bool = True) -> RemoteModel:
    """What the Hub has under this name, and how much of it is not here yet; nothing is written.

    Raises UsageError for a repository that layerctl cannot use, MissingDependencyError for one that cannot be reached.
    """
    repo_id = reference.repo_id
    if repo_id is None:
        raise UsageError(f"{reference.path} is on this disk already", hint="type the name of a model on the Hub, such as org/name")
    asked = reference.asked
    with _explained(reference):
        info = HfApi().model_info(repo_id, revision=asked, files_metadata=True)
        if info.id != repo_id:
            raise UsageError(f"{repo_id} is called {info.id} now", hint=f"layerctl pull {Reference(info.id, None, reference.revision)}")
        assert info.sha is not None
        listed = {entry.rfilename: entry for entry in info.siblings or ()}
        parts = _parts_on_hub(repo_id, info.sha, {name: entry.size or 0 for name, entry in listed.items()}, text_encoder)
    folder = storage_folder(repo_id)
    files = []
    for name in filter(_selection(parts, text_encoder), listed):
        entry = listed[name]
        sha256 = entry.lfs.sha256 if entry.lfs else None
        here = (folder / "snapshots" / info.sha / name).exists() or (folder / "blobs" / (sha256 or entry.blob_id or name)).exists()
        files.append(RemoteFile(name, entry.size or 0, sha256, here))
    card: Mapping[str, object] = vars(info.card_data) if info.card_data else {}
    # "other" is what the Hub has for a licence that it does not know, beside which it can have a name.
    stated = card.get("license_name") or card.get("license") or "none stated: ask its author before you use it"
    licence = LICENCES.get(repo_id, str(stated))
    kind: Kind = "adapter" if parts is None else "base model"
    return RemoteModel(repo_id, info.sha, None if asked == info.sha else asked, kind, tuple(files), licence, bool(info.gated))


def free_space() -> int:
    """Bytes that are free where the cache is."""
    cache = Path(constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free


def require_space(remote: RemoteModel, free: int) -> None:
    """Raises OutputError when what is still to fetch does not fit into `free` bytes."""
    if remote.missing_size > free:
        needed = readable_size(remote.missing_size)
        raise OutputError(
            f"{remote.repo_id} needs {needed} on the disk with {constants.HF_HUB_CACHE}, and {readable_size(free)} are free",
            hint="free some space (layerctl models shows what is there), or set HF_HOME to a folder on a larger disk",
        )


def download(remote: RemoteModel, progress: Progress) -> LocalCopy:
    """Fetches what is missing into the Hub's cache, small files first, and checks it.

    A connection that breaks is tried again where it broke. Files that came whole stay, whatever happens. Raises MissingDependencyError
    when the model did not come, OutputError when it could not be written.
    """
    folder = storage_folder(remote.repo_id) / "snapshots" / remote.revision
    reference = Reference(remote.repo_id, None, remote.branch or remote.revision)
    total, done = max(remote.missing_size, 1), 0
    for file in sorted(remote.files, key=lambda file: (file.size, file.name)):
        known = (folder / file.name).exists()

        def loaded(size: int, name: str = file.name, done: int = done) -> None:
            progress(name, min((done + size) / total, 1.0))

        with _explained(reference, file.name):
            link = hf_hub_download(remote.repo_id, file.name, revision=remote.revision, tqdm_class=_bar(loaded))
        done += 0 if file.here else file.size
        if file.sha256 and not known:
            progress(f"checking {file.name}", done / total)
            _check(Path(link), file.sha256, f"layerctl pull {reference}")
    progress("done", 1.0)
    if remote.branch:
        # Only now, so that an older copy of the branch serves until the new one is whole.
        branch = storage_folder(remote.repo_id) / "refs" / remote.branch
        branch.parent.mkdir(parents=True, exist_ok=True)
        branch.write_text(remote.revision, encoding="utf-8")
    # A process that was killed leaves these behind, under names that no later one goes on with.
    blobs = storage_folder(remote.repo_id) / "blobs"
    for leftover in blobs.glob("*.incomplete"):
        if (blobs / leftover.name.partition(".")[0]).exists():
            leftover.unlink(missing_ok=True)
    return LocalCopy(folder, remote.repo_id, remote.revision)


def _parts_on_hub(repo_id: str, commit: str, sizes: dict[str, int], text_encoder: bool) -> tuple[str, ...] | None:
    """The folders of a base model's parts, None for an adapter. `sizes`: of every file in the repository, by name."""
    weights = [name for name in sizes if name.endswith(".safetensors")]
    pickles = [name for name in sizes if name.endswith(PICKLES)]
    if "model_index.json" in sizes:
        with TemporaryDirectory() as folder:
            index = read_object(Path(hf_hub_download(repo_id, "model_index.json", revision=commit, cache_dir=folder)))
        if index.get("_class_name") != PIPELINE:
            raise UsageError(
                f"{repo_id} is a {index.get('_class_name')}, and layerctl runs a {PIPELINE}", hint=f"layerctl pull {BASE_MODEL}"
            )
        for part in WEIGHTED if text_encoder else WEIGHTED[:2]:
            if not any(name.startswith(f"{part}/") for name in weights):
                raise _without_weights(f"{part} of {repo_id}", [name for name in pickles if name.startswith(f"{part}/")])
        return tuple(part for part, entry in index.items() if isinstance(entry, list))
    if not weights:
        raise _without_weights(repo_id, pickles)
    if any(PurePosixPath(name).name == "adapter_config.json" for name in sizes):
        return None
    smallest = min(weights, key=lambda name: sizes[name])
    try:
        tensors = HfApi().parse_safetensors_file_metadata(repo_id, smallest, revision=commit).tensors
    except (SafetensorsParsingError, NotASafetensorsRepoError) as error:
        raise UsageError(f"{smallest} of {repo_id} is no safetensors file", hint="tell its author") from error
    if not is_lora(tensors):
        raise UsageError(
            f"{repo_id} is neither a base model nor an adapter: it has no model_index.json, no adapter_config.json, and {smallest} holds "
            f"no LoRA tensors",
            hint=f"layerctl pull {BASE_MODEL}",
        )
    return None


def _without_weights(what: str, pickles: list[str]) -> UsageError:
    if pickles:
        return UsageError(
            f"{what} has its weights as pickles only ({first_of(pickles)}), and opening a pickle runs whatever code is in it",
            hint="use a repository with .safetensors files, or ask the author for them",
        )
    return UsageError(f"{what} has no .safetensors files", hint="check the name; a base model or an adapter has its weights in such files")


def _selection(parts: tuple[str, ...] | None, text_encoder: bool) -> Callable[[str], bool]:
    """Which files of a repository are fetched. `parts`: the folders of a base model, beside which it may hold other people's formats."""

    def wanted(name: str) -> bool:
        folder, _, _ = name.rpartition("/")
        if not any(fnmatch(name, pattern) for pattern in FETCHED):
            return False
        if parts is None:
            return True
        if name.endswith(".safetensors"):
            return folder in parts and (text_encoder or folder != "text_encoder")
        return not folder or folder.partition("/")[0] in parts

    return wanted


def _check(link: Path, sha256: str, command: str) -> None:
    """Deletes a file with another hash from the cache. A check that is broken off unlinks the file, so that it is made the next time."""
    blob = link.resolve()
    try:
        with blob.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except BaseException:
        link.unlink()
        raise
    if actual != sha256:
        link.unlink()
        blob.unlink(missing_ok=True)
        raise MissingDependencyError(
            f"{link.name} arrived with other content than the Hub states (SHA-256 {actual[:12]}, not {sha256[:12]}) and was deleted",
            hint=f"{command} fetches it anew; if that fails too, a proxy or mirror (HF_ENDPOINT) changes files",
        )


def _bar(loaded: Callable[[int], None]) -> type[Any]:
    """What huggingface_hub takes for a class of progress bars; `loaded` is called with the bytes that are written so far."""

    class Bar:
        total: int | None = None

        def __init__(self, *_: object, **__: object) -> None:
            self.size = 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, number: float | None = 1) -> None:
            self.size += int(number or 0)
            loaded(self.size)

        def update_transfer(self, number: float | None = 1) -> None:
            """Bytes on the wire, which `update` has once they are written."""

        def set_postfix_str(self, *_: object, **__: object) -> None: ...

        set_transfer_postfix_str = set_postfix_str

        def close(self) -> None: ...

    return Bar


@contextmanager
def _explained(reference: Reference, file: str | None = None) -> Iterator[None]:
    """Turns what huggingface_hub raises into errors that say what to type; `file` is the one that is fetched."""
    try:
        yield
    except LayerctlError:
        raise
    # hf_xet, the library's other way of fetching, raises RuntimeError too.
    except (HTTPError, OSError, RuntimeError) as error:
        # huggingface_hub wraps what happened on the wire in "not found in the cache".
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise _explanation(cause, reference, file) from error


def _explanation(error: BaseException, reference: Reference, file: str | None) -> LayerctlError:
    """No address gets into a message as it is: one that was redirected to can hold a signature, a mirror's a password."""
    pull = f"layerctl pull {reference}"
    repo_id, name, host = reference.repo_id, type(error).__name__, urlsplit(constants.ENDPOINT).hostname
    page = f"https://{host}/{repo_id}"
    match error:
        case GatedRepoError():
            message, hint = (
                f"{repo_id} is gated: its author wants to know who uses it",
                f"agree to its terms at {page}, then: hf auth login",
            )
        case RepositoryNotFoundError():
            message = f"{repo_id} is not on the Hub, or it is private; nor is there such a path here"
            hint = "check the name; for a private one: hf auth login"
        case RevisionNotFoundError():
            hint = f"layerctl pull {repo_id}@main, or see {page}/commits"
            return UsageError(f"{repo_id} has no revision {reference.asked!r}", hint=hint)
        case OfflineModeIsEnabled():
            message, hint = f"{reference} cannot be fetched: HF_HUB_OFFLINE is set", f"HF_HUB_OFFLINE=0 {pull}"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            message, hint = f"{host} refuses the token that was sent for {repo_id} ({error.response.status_code})", "hf auth login"
        case HfHubHTTPError():
            message, hint = f"{host} answered {error.response.status_code} for {file or reference}", f"wait a little, then: {pull}"
        case FileMetadataError():
            message, hint = f"{host} does not answer as the Hub does", "check HF_ENDPOINT, and the proxy if there is one"
        case HTTPError() if file is None:
            message = f"no connection to {host} ({name})"
            hint = f"check the connection; what was fetched earlier is found without one: {pull} --offline"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = f"the disk with {constants.HF_HUB_CACHE} became full while {file} was fetched"
            return OutputError(message, hint=f"free some space, or set HF_HOME to a folder on a larger disk, then: {pull}")
        case OSError(errno=int(), filename=str()):
            return OutputError(f"{error.filename} cannot be written: {error.strerror}", hint=f"see that it can be, then: {pull}")
        case _:
            message = f"the connection to {host} broke while {file or reference} was fetched ({name})"
            hint = f"what came whole is kept, and the same command goes on from there: {pull}"
    return MissingDependencyError(message, hint=hint)
