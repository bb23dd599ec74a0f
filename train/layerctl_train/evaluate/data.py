"""Pictures to evaluate on: layered files, plain pictures, synthetic scenes, and what `--data` calls them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from layerctl.errors import InputError, LayerctlError, UsageError
from layerctl.layered_files import PSD_SUFFIXES, read_stack
from layerctl.layers import LayerStack, effective, mapped
from layerctl.manifest import is_result
from layerctl.settings import MAX_PIXELS
from layerctl.source import PICTURE_SUFFIXES, SourceImage, read_source
from layerctl.testing import scene
from layerctl_train.evaluate.crello import crello
from layerctl_train.evaluate.example import Data, Example, Skipped, picture_of

SCENES = 100
SCENE_ELEMENTS = (1, 2, 3, 4, 5)

_FORMS = "scenes, scenes:200, crello, crello:FILE.parquet, or a folder of layered files or of pictures"

T = TypeVar("T")


def open_data(text: str, *, offline: bool = False, max_pixels: int = MAX_PIXELS) -> Data:
    """What `--data` means; `offline`: nothing may be fetched; plain pictures with more than `max_pixels` are skipped.

    "scenes", "scenes:200"; "crello", and "crello:FILE" or "crello:FOLDER" for a copy of it; "layered:FOLDER"; "pictures:FOLDER"; else a
    file, or a folder that holds either layered files or pictures. Raises UsageError for anything else, InputError for a folder with none,
    and what `crello` raises.
    """
    kind, colon, rest = text.partition(":")
    match kind:
        case "scenes" if not colon:
            return scenes()
        case "scenes":
            return scenes(_count(rest))
        case "crello" if not colon:
            return crello(offline=offline)
        case "crello":
            return crello(_existing(rest, text))
        case "layered" if colon:
            return layered(_existing(rest, text))
        case "pictures" if colon:
            return pictures(_existing(rest, text), max_pixels)
    return _by_content(_existing(text, text), max_pixels)


def layered(path: Path) -> Data:
    """Layered files with their layers as the truth: PSD, PSB, results of layerctl and folders of PNG layers, alone or anywhere in a folder.

    Hidden layers are not part of the truth. Raises InputError for a folder without any.
    """
    found = _layered_files(path)
    if not found:
        raise InputError(f"{path} holds no layered files", hint="it takes PSD and PSB files, results of layerctl, folders of PNG layers")
    return Items(_title(path), found, read_layered)


def pictures(path: Path, max_pixels: int = MAX_PIXELS) -> Data:
    """Pictures whose layers are not known: one, or all of a folder and the folders below it. Raises InputError for a folder without any."""
    found = _picture_files(path)
    if not found:
        raise InputError(f"{path} holds no pictures", hint=f"it takes {', '.join(sorted(PICTURE_SUFFIXES))}")
    return Items(_title(path), found, lambda file: (read_source(file, max_pixels=max_pixels), None))


def scenes(count: int = SCENES, *, width: int = 192, height: int = 128) -> Data:
    """Synthetic scenes with two to six layers in turn; the first ones are the same for every count."""

    def read(seed: int) -> tuple[SourceImage, LayerStack]:
        elements = SCENE_ELEMENTS[(seed - 1) % len(SCENE_ELEMENTS)]
        _, stack = scene(seed, width=width, height=height, elements=elements)
        return picture_of(stack), stack

    return Items(f"scenes, {width} x {height}", {f"scene-{seed:04d}": seed for seed in range(1, count + 1)}, read)


@dataclass(frozen=True, slots=True, eq=False)
class Items(Generic[T]):
    """Examples that are read one by one from what their keys stand for."""

    name: str
    items: Mapping[str, T]
    read: Callable[[T], tuple[SourceImage, LayerStack | None]]

    def keys(self) -> Sequence[str]:
        return tuple(self.items)

    def examples(self, keys: Sequence[str]) -> Iterator[Example | Skipped]:
        wanted = set(keys)
        for key, item in self.items.items():
            if key in wanted:
                yield self._example(key, item)

    def _example(self, key: str, item: T) -> Example | Skipped:
        try:
            return Example(key, *self.read(item))
        except LayerctlError as error:
            return Skipped(key, error.message)


def read_layered(path: Path) -> tuple[SourceImage, LayerStack]:
    """A layered file's picture and its layers without the hidden ones. Raises InputError for what cannot be read or shows nothing."""
    stack = read_stack(path)
    shown = {id(layer) for layer, opacity in effective(stack.layers) if opacity > 0}
    stack = stack.with_layers(mapped(stack.layers, lambda layer: layer if id(layer) in shown else None))
    if not stack.layers:
        raise InputError(f"{path} shows nothing: all of its layers are hidden", hint="show them in its program, and save it again")
    return replace(picture_of(stack), path=path), stack


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--data scenes:{text}: {text!r} is no number of scenes", hint="give 1 or more: --data scenes:200")
    return int(text)


def _existing(name: str, text: str) -> Path:
    path = Path(name)
    if not name or not path.exists():
        raise UsageError(f"--data {text}: there is no such file or folder", hint=f"give {_FORMS}")
    return path


def _by_content(path: Path, max_pixels: int) -> Data:
    if path.suffix.lower() == ".parquet":
        raise UsageError(f"--data {path} is a table, not a picture", hint=f"if it has the columns of Crello: --data crello:{path}")
    with_layers = _layered_files(path, sure=True)
    plain = _picture_files(path, apart_from=with_layers.values())
    if with_layers and plain:
        one, other = next(iter(with_layers)), next(iter(plain))
        raise UsageError(
            f"{path} holds layered files ({one}) and pictures ({other})", hint=f"say which: --data layered:{path} or --data pictures:{path}"
        )
    if not with_layers and not plain:
        raise InputError(f"{path} holds neither layered files nor pictures", hint=f"give {_FORMS}")
    return pictures(path, max_pixels) if plain else layered(path)


def _title(path: Path) -> str:
    return f"{'folder' if path.is_dir() else 'file'} {path.resolve().name}"


def _layered_files(path: Path, *, sure: bool = False) -> dict[str, Path]:
    """Everything that `read_stack` takes, by its key. `sure`: folders of PNG files only where they cannot well be anything but layers."""
    if not path.is_dir():
        return {path.name: path} if path.suffix.lower() in PSD_SUFFIXES else {}
    found = []
    for where, folders, files in _walk(path):
        if is_result(where):
            found.append(where)
            folders.clear()
            continue
        found += [where / name for name in files if (where / name).suffix.lower() in PSD_SUFFIXES]
        pngs = [where / name for name in files if name.lower().endswith(".png")]
        if pngs and (not sure or _are_layers(pngs)):
            found.append(where)
    return _keyed(found, path)


def _picture_files(path: Path, *, apart_from: Collection[Path] = ()) -> dict[str, Path]:
    """Every picture that is not in a result of layerctl or another folder of `apart_from`, by its key."""
    if not path.is_dir():
        return {path.name: path} if path.suffix.lower() in PICTURE_SUFFIXES else {}
    found = []
    for where, folders, files in _walk(path):
        if is_result(where):
            folders.clear()
        elif where not in apart_from:
            found += [where / name for name in files if (where / name).suffix.lower() in PICTURE_SUFFIXES]
    return _keyed(found, path)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """The folder and those below it, hidden ones left out, with the names of their folders, which may be cleared, and of their files."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}", hint=f"chmod u+rx '{error.filename}'") from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield Path(where), folders, [name for name in files if not name.startswith(".")]


def _keyed(files: list[Path], folder: Path) -> dict[str, Path]:
    """Each file by its path from the folder, with forward slashes, in the order of these; the folder itself by its name."""
    keys = {file.relative_to(folder).as_posix() if file != folder else folder.resolve().name: file for file in files}
    return dict(sorted(keys.items()))


def _are_layers(pngs: list[Path]) -> bool:
    """Whether PNG files of one folder look like the layers of one picture: several, of one size, some with transparency."""
    headers = [_header(path) for path in pngs]
    return len(pngs) > 1 and len({size for size, _ in headers}) == 1 and any(has_alpha for _, has_alpha in headers)


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """The size of a picture and whether it can be transparent; for what is no picture, a size that no other file has."""
    try:
        with Image.open(path) as image:
            return image.size, image.has_transparency_data
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return (-1, hash(path)), False
