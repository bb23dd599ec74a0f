"""A result on disk: whether a person has touched it, and how a new one is moved in without losing anything.

A result is a folder with our manifest. What the manifest does not list, or lists with another hash, is a person's work: a folder that
holds such a file is never replaced. A new result is written into a hidden folder beside its place, synced, and renamed.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerctl.errors import InputError, OutputError
from layerctl.manifest import MANIFEST_NAME, Manifest, from_json, hash_file, to_json

DESKTOP_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Written into folders by file managers, by nobody's hand."""
LONGEST_STEM = 180
"""Bytes of UTF-8; leaves room for what is added to a name where a name has at most 255 bytes."""


def result_name(stem: str, number: int) -> str:
    """`photo-layers`, `photo-layers-2`, ..."""
    return f"{stem}-layers" + (f"-{number}" if number > 1 else "")


def shortened(stem: str) -> str:
    """The stem cut to `LONGEST_STEM` bytes at the border of a character."""
    raw = stem.encode("utf-8", "surrogateescape")
    return stem if len(raw) <= LONGEST_STEM else raw[:LONGEST_STEM].decode("utf-8", "ignore")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a result of ours; None for anything else, a link and a damaged manifest too."""
    if folder.is_symlink():
        return None
    try:
        return from_json((folder / MANIFEST_NAME).read_bytes())
    except (OSError, InputError):
        return None


def is_complete(folder: Path, manifest: Manifest) -> bool:
    """Whether every file that the manifest lists is there."""
    return all((folder / file.path).is_file() for file in manifest.files)


def touched_files(folder: Path, manifest: Manifest) -> list[str]:
    """The files that a person changed or added, relative to the folder, sorted; reads and hashes all of them."""
    hashes = {file.path: file.sha256 for file in manifest.files}
    return sorted(
        name
        for name, path in _files(folder)
        if path.name not in DESKTOP_FILES and (path.is_symlink() or not _is_ours(path, name, manifest, hashes.get(name)))
    )


def relative_path(path: Path, folder: Path) -> str:
    """How the manifest of a result in `folder` names `path`: with forward slashes; only the file's name from another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.name


@contextmanager
def staging(parent: Path, name: str) -> Iterator[Path]:
    """A new hidden folder in `parent`, which is made when it is missing; what is left of the folder afterwards is deleted."""
    folder = parent / f".{name}.{secrets.token_hex(4)}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"cannot write into {parent}: {error.strerror}", hint="choose another folder with -o DIR") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_in(staged: Path, parent: Path, stem: str, number: int, *, replaces: bool) -> Path:
    """Rename `staged` to the result folder of that number, or of the next number that is free, and return where it went.

    With `replaces`, an untouched result of the same input gives way to it; one that was touched since the plan was made does not.
    """
    sync_tree(staged)
    for attempt in itertools.count(number):
        folder = parent / result_name(stem, attempt)
        if os.path.lexists(folder):
            if not (replaces and attempt == number and _swap(staged, folder)):
                continue
        elif not _rename(staged, folder):
            continue
        sync_folder(parent)
        return folder
    raise AssertionError("counting ended")


def _swap(staged: Path, folder: Path) -> bool:
    """Put `staged` in the place of an untouched result; False, and nothing is changed, when the result turns out to be touched."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    folder.rename(aside)
    try:
        manifest = read_manifest(aside)
        done = manifest is not None and not touched_files(aside, manifest) and _rename(staged, folder)
    except BaseException:
        aside.rename(folder)
        raise
    if done:
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(folder)
    return done


def _rename(staged: Path, folder: Path) -> bool:
    try:
        staged.rename(folder)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    return True


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file and link below the folder, with its relative name."""
    for where, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(where, name)))]:
            path = Path(where, name)
            yield path.relative_to(folder).as_posix(), path


def _is_ours(path: Path, name: str, manifest: Manifest, sha256: str | None) -> bool:
    if name == MANIFEST_NAME:
        return path.read_bytes() == to_json(manifest)
    return sha256 is not None and hash_file(path) == sha256


def sync_tree(folder: Path) -> None:
    """Have the system write the folder and all below it to the disk."""
    for where, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_file(Path(where, name))
        sync_folder(Path(where))


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system write the folder's names to the disk; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
