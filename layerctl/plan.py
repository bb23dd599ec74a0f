"""Which inputs a command line means, and where each one's result goes, decided before the first picture is read.

A result goes to `<stem>-layers/` beside its input, or under the output folder, which mirrors the folders of a folder input. The next free
of `<stem>-layers-2/`, `-3/`, ... is taken when that name belongs to another input of the same stem (photo.jpg and photo.png, or twins that
differ in case or Unicode form only and are one name on other systems), to a folder that is not ours, or to a result that a
person has touched and that should have been overwritten.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from layerctl.errors import InputError, LayerctlError, UsageError
from layerctl.manifest import MANIFEST_NAME, Manifest, Setting, is_result
from layerctl.results import is_complete, read_manifest, relative_path, result_name, shortened, touched_files
from layerctl.source import PICTURE_SUFFIXES

Action = Literal["write", "replace", "skip"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is done about one input. `remark`: why it is skipped, or why it does not go to the plain name."""

    source: Path
    parent: Path
    stem: str
    number: int = 1
    action: Action = "write"
    remark: str | None = None

    @property
    def folder(self) -> Path:
        return self.parent / result_name(self.stem, self.number)


@dataclass(frozen=True, slots=True)
class Refused:
    """An input that cannot be used, and why."""

    source: Path
    error: LayerctlError


def plan(
    inputs: Sequence[Path], output: Path | None, *, overwrite: bool = False, settings: dict[str, Setting] | None = None
) -> list[Target | Refused]:
    """One entry a picture, in the order of the inputs, folders sorted by name; a picture that is named twice is done once.

    `settings`: as the manifests will hold them; a remark tells when a result that is left was made with others.

    Raises UsageError for an output folder that cannot be one.
    """
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"-o {output} is a file, not a folder", hint="name a folder: -o results")
    if output is not None and is_result(output):
        raise UsageError(f"-o {output} is itself a result of layerctl", hint=f"name the folder above it: -o {output.parent}")
    planner = _Planner(overwrite, settings)
    seen: set[str] = set()
    entries: list[Target | Refused] = []
    for source in inputs:
        for found in _pictures(source):
            if isinstance(found, Refused):
                entries.append(found)
            elif (real := os.path.realpath(found)) not in seen:
                seen.add(real)
                inside = found.parent.relative_to(source) if source.is_dir() else Path()
                entries.append(planner.target(found, output / inside if output else found.parent))
    return entries


class _Planner:
    """The names given away so far; one plan long."""

    def __init__(self, overwrite: bool, settings: dict[str, Setting] | None) -> None:
        self.overwrite = overwrite
        self.settings = settings
        self.owners: dict[str, Path] = {}
        self.listings: dict[Path, dict[str, str]] = {}

    def target(self, source: Path, parent: Path) -> Target:
        stem = shortened(source.stem)
        remark = None
        for number in itertools.count(1):
            target = Target(source, parent, stem, number, remark=remark)
            owner = self.owners.get(_key(target.folder))
            if owner is not None:
                remark = f"{result_name(stem, number)} is the result of {owner.name}"
                continue
            settled = self._settle(target)
            if isinstance(settled, Target):
                self.owners[_key(target.folder)] = source
                return settled
            remark = settled
        raise AssertionError("counting ended")

    def _settle(self, target: Target) -> Target | str:
        """The target with its action, or why its folder cannot be had."""
        folder, name = target.folder, target.folder.name
        on_disk = self._listing(target.parent).get(_folded(name))
        if on_disk is None:
            return target
        manifest = read_manifest(folder) if on_disk == name else None
        if manifest is None:
            return f"{on_disk} is there and is not a result of layerctl"
        if manifest.input.path != relative_path(target.source, folder):
            return f"{name} is the result of {Path(manifest.input.path).name}"
        if not self.overwrite and is_complete(folder, manifest):
            return replace(target, action="skip", remark=f"{name} is there already{self._difference(target, manifest)}")
        touched = touched_files(folder, manifest)
        if touched and self.overwrite:
            return f"{name} holds {touched[0]}, which was edited or added since"
        if touched:
            return replace(target, action="skip", remark=f"{name} is there with {touched[0]}, which was edited or added since")
        return replace(target, action="replace")

    def _difference(self, target: Target, manifest: Manifest) -> str:
        if self.settings is not None and manifest.settings != self.settings:
            changed = [name for name, value in self.settings.items() if manifest.settings.get(name) != value]
            return f", made with another setting of {', '.join(changed)}" if changed else ""
        if target.source.stat().st_mtime > (target.folder / MANIFEST_NAME).stat().st_mtime:
            return ", older than the picture"
        return ""

    def _listing(self, folder: Path) -> dict[str, str]:
        if folder not in self.listings:
            try:
                self.listings[folder] = {_folded(name): name for name in os.listdir(folder)}
            except OSError:
                self.listings[folder] = {}
        return self.listings[folder]


def _pictures(source: Path) -> Iterator[Path | Refused]:
    """The picture itself, or those of a folder and the folders below it, hidden ones and our own results left out."""
    if not source.is_dir():
        yield source if source.is_file() else Refused(source, _not_a_file(source))
        return
    if is_result(source):
        yield Refused(source, InputError(f"{source} is a result of layerctl, not an input", hint="name the picture that it was made from"))
        return
    problems: list[Path | Refused] = []

    def note(error: OSError) -> None:
        problems.append(Refused(Path(error.filename), InputError(f"{error.filename}: {error.strerror}")))

    found = False
    for where, folders, files in os.walk(source, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not is_result(Path(where, name)))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                found = True
                yield Path(where, name)
    yield from problems
    if not found and not problems:
        yield Refused(source, InputError(f"{source}: no pictures in this folder", hint=f"it takes {', '.join(sorted(PICTURE_SUFFIXES))}"))


def _not_a_file(path: Path) -> InputError:
    if path.exists():
        return InputError(f"{path} is neither a file nor a folder")
    return InputError(f"{path}: there is no such file or folder", hint="check the name; put quotes around a name with spaces")


def _key(path: Path) -> str:
    """The same text for names that are one on a system that ignores case or composes Unicode."""
    return _folded(os.path.abspath(path))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
