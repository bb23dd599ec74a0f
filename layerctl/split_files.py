"""One layer of a layered file becomes a group: of a Photoshop file beside it, of a folder in a new folder.

In a Photoshop file nothing else is touched: all other layers, whatever they are, the merged image and the metadata stay as they were
read. A result of layerctl is solved anew as a whole, and written in the formats that it had. Other folders of PNG files come out as such.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, TypeVar

from layerctl import layered_files, registry
from layerctl.composite import flatten, largest_difference
from layerctl.decompose import LARGEST_ERROR, PREVIEW_NAME
from layerctl.errors import InputError, OutputError, UsageError
from layerctl.layers import Group, Layer, LayerStack, named_paths
from layerctl.manifest import MANIFEST_NAME, Manifest, Setting, hash_file, is_result, to_json
from layerctl.names import printable
from layerctl.preview import contact_sheet
from layerctl.quality import assess
from layerctl.records import LAYERS_FOLDER, file_records, layer_records, quality_record
from layerctl.registry import Exporter, ExportOptions
from layerctl.results import move_in, read_manifest, relative_path, result_name, staging
from layerctl.source import SourceImage, read_source
from layerctl.split import check_solvable, exact_tree, with_group

T = TypeVar("T")

_NO_PIXELS = {"type": "is live text", "smartobject": "is a smart object", "shape": "is a shape"}
"""By psd-tools' name for them: layers whose pixels are drawn from something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The layer that is meant. `shown`: its name after those of its groups. `stack`: its picture, for names, profile and resolution."""

    shown: str
    layer: Layer
    stack: LayerStack


class LayeredFile(Protocol):
    """A file or folder of layers, opened."""

    def find(self, name: str) -> Found: ...

    def target(self, output: Path | None) -> Path:
        """Where the result goes if nothing takes that name in the meantime."""
        ...

    def write(self, found: Found, group: Group, target: Path, notes: Sequence[str]) -> tuple[Path, ...]:
        """Write the picture with the group in the layer's place; every file and folder that was written, what to open first."""
        ...


def open_layered(path: Path) -> LayeredFile:
    """Raises InputError for what cannot be read."""
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    if not path.is_dir():
        return _PhotoshopFile(path)
    return _Folder(path.parent if path.name == LAYERS_FOLDER and is_result(path.parent) else path)


def pick(entries: Sequence[tuple[str, T]], name: str, where: Path) -> tuple[str, T]:
    """The entry of that name: the whole "Group / Name" or the end of it, whatever its case. Raises UsageError unless there is one."""
    wanted = _key(name)
    whole = [entry for entry in entries if _key(entry[0]) == wanted]
    found = whole or [entry for entry in entries if _key(entry[0]).endswith(f"/{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(repr(shown) for shown, _ in found)
        raise UsageError(f"{where} has {len(found)} layers {name!r}: {listed}", hint="name one with its groups, or rename them apart")
    listed = ", ".join(repr(shown) for shown, _ in entries)
    near = get_close_matches(wanted, [_key(shown) for shown, _ in entries], n=1)
    meant = next((f"did you mean {shown!r}? " for shown, _ in entries if [_key(shown)] == near), "")
    raise UsageError(f"{where} has no layer {name!r}", hint=f"{meant}its layers: {listed}")


def _key(shown: str) -> str:
    return re.sub(r"\s*/\s*", "/", unicodedata.normalize("NFC", shown.strip()).casefold())


class _PhotoshopFile:
    """A document of psd-tools, of which one layer is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.psd = layered_files.open_psd(path)
        self.leaves = list(_psd_leaves(self.psd))

    def find(self, name: str) -> Found:
        shown, node = pick(self.leaves, name, self.path)
        problem = _unsplittable(node)
        if problem is not None:
            raise InputError(f"{self.path}: {shown!r} {problem}", hint="rasterize or merge a copy of it first")
        # Only names, profile and resolution count here: what the other layers are is no concern.
        others = tuple(Group(printable(other.name)) for other in self.psd.descendants())
        profile, resolution = layered_files.psd_profile(self.psd), layered_files.psd_resolution(self.psd)
        stack = LayerStack(self.psd.width, self.psd.height, others, profile, resolution)
        return Found(shown, layered_files.psd_layer(node, self.path), stack)

    def target(self, output: Path | None) -> Path:
        suffix = self.path.suffix or ".psd"
        if output is None or output.suffix.lower() not in layered_files.PSD_SUFFIXES:
            folder = self.path.parent if output is None else _checked_folder(output)
            stem = _split_stem(self.path.stem)
            return next(path for path in _numbered(folder, stem, suffix) if not os.path.lexists(path))
        if os.path.lexists(output):
            raise UsageError(f"{output} is there already", hint="name another file with -o")
        return output

    def write(self, found: Found, group: Group, target: Path, notes: Sequence[str]) -> tuple[Path, ...]:
        node = dict(self.leaves)[found.shown]
        with staging(target.parent, target.name) as staged:
            self._put(group, node, staged / "group.psd")
            with (staged / target.name).open("wb") as file:
                # PSDImage.save would draw the merged image anew, and not as Photoshop does.
                self.psd._record.write(file)
                file.flush()
                os.fsync(file.fileno())
            try:
                target.open("xb").close()
            except FileExistsError as error:
                raise OutputError(f"{target} appeared in the meantime", hint="name another file with -o") from error
            os.replace(staged / target.name, target)
        return (target,)

    def _put(self, group: Group, node: Any, scratch: Path) -> None:
        """Replace the node by the group, which goes through a file of its own: our exporter writes it as in any other PSD."""
        from psd_tools import PSDImage

        exporter: Exporter = registry.load("exporters", "psd")
        exporter.export(LayerStack(self.psd.width, self.psd.height, (group,)), scratch, ExportOptions())
        parent = node.parent
        copy = PSDImage.open(scratch)[0].copy_to(parent, parent.index(node))
        copy.blend_mode = node.blend_mode
        parent.remove(node)


def _psd_leaves(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for node in group:
        shown = above + printable(node.name)
        if node.is_group():
            yield from _psd_leaves(node, f"{shown} / ")
        else:
            yield shown, node


def _unsplittable(node: Any) -> str | None:
    """Why a node of psd-tools cannot become a group without losing something, None if it can."""
    if node.kind != "pixel":
        return _NO_PIXELS.get(node.kind, "holds no pixels of its own")
    if node.has_clip_layers():
        return "has layers clipped to it"
    return layered_files.style_of(node)


def _checked_folder(path: Path) -> Path:
    if os.path.lexists(path) and not path.is_dir():
        raise UsageError(f"{path} is no folder", hint="name a folder, or a new file that ends in .psd or .psb, with -o")
    return path


def _split_stem(stem: str) -> str:
    return re.sub(r"-split(-\d+)?$", "", stem) + "-split"


def _numbered(folder: Path, stem: str, suffix: str) -> Iterator[Path]:
    """`stem`, `stem-2`, `stem-3`, ... in the folder."""
    yield folder / (stem + suffix)
    for number in itertools.count(2):
        yield folder / f"{stem}-{number}{suffix}"


class _Folder:
    """A result of layerctl, or any folder of PNG layers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack = layered_files.read_stack(path)
        self.manifest = read_manifest(path.resolve())
        self.settings: dict[str, Setting] = self.manifest.settings if self.manifest else {"formats": ["png"], "full_canvas": True}

    def find(self, name: str) -> Found:
        self._check(self.stack)
        shown, layer = pick(list(named_paths(self.stack.layers)), name, self.path)
        return Found(shown, layer, self.stack)

    def target(self, output: Path | None) -> Path:
        if output is not None and output.suffix.lower() in layered_files.PSD_SUFFIXES:
            raise UsageError(f"{output} is the name of a file, but {self.path} becomes a folder", hint="name a folder with -o")
        parent = self.path.parent if output is None else _checked_folder(output)
        stem = self._stem()
        return next(path for path in (parent / result_name(stem, number) for number in itertools.count(1)) if not os.path.lexists(path))

    def _stem(self) -> str:
        return _split_stem(re.sub(r"-layers(-\d+)?$", "", self.path.name))

    def write(self, found: Found, group: Group, target: Path, notes: Sequence[str]) -> tuple[Path, ...]:
        tree = with_group(self.stack, found.layer, group)
        self._check(tree)
        source = self._source()
        tree = exact_tree(source, tree)
        error = largest_difference(flatten(tree), source.pixels)
        if error > LARGEST_ERROR:
            raise AssertionError(f"the layers of {self.path} flatten to a picture that is {error} levels off")
        masks, original, full_canvas = (bool(self.settings.get(name)) for name in ("masks", "original", "full_canvas"))
        options = ExportOptions(masks, original, full_canvas, source)
        names: list[str] = []
        with staging(target.parent, target.name) as staged:
            for format_name in _texts(self.settings.get("formats")):
                exporter: Exporter = registry.load("exporters", format_name)
                name = LAYERS_FOLDER if exporter.is_folder else self._stem() + exporter.suffix_for(tree, options)
                notes = (*notes, *exporter.export(tree, staged / name, options))
                names.append(name)
            contact_sheet(source, tree, title=self.path.name, notes=notes).save(staged / PREVIEW_NAME, compress_level=4)
            if self.manifest is not None:
                manifest = self._record(self.manifest, source, tree, error, notes, staged, target)
                (staged / MANIFEST_NAME).write_bytes(to_json(manifest))
            folder = move_in(staged, target.parent, self._stem(), 1, replaces=False)
        return tuple(folder / name for name in (*names, PREVIEW_NAME))

    def _check(self, stack: LayerStack) -> None:
        try:
            check_solvable(stack)
        except ValueError as error:
            psd = self.manifest and layered_files.photoshop_file(self.path, self.manifest)
            hint = f"layerctl split {psd} --layer NAME leaves all else as it is" if psd else None
            raise InputError(f"{self.path} cannot be split as a whole: {error}", hint=hint) from error

    def _source(self) -> SourceImage:
        """The picture that the result was made from if it is there and its layers still show it, else what they flatten to."""
        shown = flatten(self.stack)
        if self.manifest is not None:
            about, path = self.manifest.input, self.path / self.manifest.input.path
            if path.is_file() and hash_file(path) == about.sha256:
                source = read_source(path, max_pixels=about.width * about.height)
                if source.pixels.shape == shown.shape and largest_difference(source.pixels, shown) <= 1:
                    stripped = replace(source, metadata=source.metadata.without_location())
                    return stripped if self.settings.get("strip_metadata") else source
        return SourceImage(shown, self.stack.icc, self.stack.dpi, bool((shown[..., 3] < 255).any()))

    def _record(
        self, old: Manifest, source: SourceImage, tree: LayerStack, error: int, notes: Sequence[str], staged: Path, target: Path
    ) -> Manifest:
        """The manifest of the result that was split, with the new layers, what they are worth, files and remarks."""
        return replace(
            old,
            input=replace(old.input, path=relative_path(self.path / old.input.path, target)),
            layers=layer_records(tree, staged),
            recomposition_error=error,
            quality=quality_record(assess(source, tree)),
            warnings=(*old.warnings, *notes),
            files=file_records(staged),
        )


def _texts(value: Setting) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
