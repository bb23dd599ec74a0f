"""One picture from its file to a finished result: read, propose layers, solve exactly, check, export, record.

`read_file`, an engine's `decompose` and `write_result` are the three parts that a run of many pictures overlaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl import __version__, registry
from layerctl.composite import flatten, largest_difference
from layerctl.errors import OutOfMemoryError
from layerctl.layers import Layer, LayerStack
from layerctl.manifest import (
    MANIFEST_NAME,
    FidelityRecord,
    FileRecord,
    InputRecord,
    LayerRecord,
    Manifest,
    Setting,
    Value,
    hash_file,
    to_json,
)
from layerctl.plan import Target
from layerctl.preview import contact_sheet
from layerctl.refine import refine
from layerctl.registry import DecomposeRequest, Engine, Exporter, ExportOptions, Progress, Proposal
from layerctl.results import move_in, relative_path, staging
from layerctl.settings import Settings
from layerctl.source import SourceImage, read_source

LARGEST_ERROR = 1
"""What the flattened layers may differ from the picture, in levels of 255."""
PREVIEW_NAME = "preview.png"
LAYERS_FOLDER = "layers"
ERROR_MAP_NAME = "engine-error.png"
RECORDED_SETTINGS = ("layers", "kind", "engine", "formats", "masks", "original", "full_canvas", "strip_metadata", "error_map")
MODEL_SETTINGS = ("model", "adapters", "preset", "prompt", "sampler", "steps", "cfg", "size", "seed", "precision", "compile", "fuse")
"""Recorded too for engines other than the embedded one, which knows none of them."""
RECORDED_VERSIONS = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "psd-tools", "rapidocr")
MODEL_VERSIONS = ("diffusers", "peft", "torch", "transformers")


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Full-size layers that flatten to a picture at most `error` levels from the source.

    `fidelity`, `error_map`: how far the engine's own layers were off, at their size, before they were refined.
    """

    stack: LayerStack
    error: int
    fidelity: FidelityRecord
    error_map: npt.NDArray[np.uint8]
    warnings: tuple[str, ...]
    engine_settings: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Result:
    """What was written for one picture. `exports`: what each format wrote, in the order asked for; `preview` is the contact sheet."""

    folder: Path
    exports: tuple[Path, ...]
    preview: Path
    layers: tuple[str, ...]
    error: int
    warnings: tuple[str, ...]


def decompose(source: SourceImage, engine: Engine, request: DecomposeRequest, progress: Progress) -> Decomposition:
    """The engine's layers, full-size and exact."""
    return solve(source, engine.decompose(source, request, progress), engine.name)


def solve(source: SourceImage, proposal: Proposal, engine: str) -> Decomposition:
    """Full-size, exact layers of a proposal. Raises AssertionError when they do not flatten to the source, which is our mistake."""
    refined = refine(source, replace(proposal.stack, icc=source.icc, dpi=source.dpi))
    solved = refined.stack
    kept = tuple(layer for z, layer in enumerate(solved.walk()) if z == 0 or layer.pixels[..., 3].any())
    gone = [layer.name for layer in solved.walk() if layer not in kept]
    hidden = tuple(f"{name!r} is left out: nothing of it shows" for name in gone)
    stack = solved.with_layers(kept)
    error = largest_difference(flatten(stack), source.pixels)
    if error > LARGEST_ERROR:
        raise AssertionError(f"the layers of engine {engine} flatten to a picture that is {error} levels off")
    warnings = source.warnings + proposal.warnings + refined.warnings + hidden
    return Decomposition(stack, error, refined.fidelity, refined.error, warnings, dict(proposal.settings))


@dataclass(frozen=True, slots=True)
class Parts:
    """The engine and the exporters of a run, loaded once."""

    engine: Engine
    exporters: tuple[Exporter, ...]


def load_parts(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Parts:
    """Raises UsageError for a name that nothing has, and what a model engine raises for options that cannot be met."""
    exporters = tuple(registry.load("exporters", name) for name in settings.formats)
    engine = registry.load("engines", settings.engine)
    return Parts(engine.configured(settings.model_options(), tell) if hasattr(engine, "configured") else engine, exporters)


def decompose_file(target: Target, parts: Parts, settings: Settings, progress: Progress, index: int = 0) -> Result:
    """Do what the plan says about one picture. Raises LayerctlError for what a person can mend, OSError for what the disk says."""
    source = read_file(target.source, settings)
    return write_result(target, source, propose(target, source, parts.engine, settings, progress, index), parts, settings)


def read_file(path: Path, settings: Settings) -> SourceImage:
    source = read_source(path, max_pixels=settings.max_pixels)
    return replace(source, metadata=source.metadata.without_location()) if settings.strip_metadata else source


def propose(target: Target, source: SourceImage, engine: Engine, settings: Settings, progress: Progress, index: int) -> Proposal:
    """The engine's layers of one picture, the `index`-th of a run."""
    with _memory_errors(target):
        return engine.decompose(source, DecomposeRequest(settings.layers, settings.kind, index), progress)


def write_result(target: Target, source: SourceImage, proposal: Proposal, parts: Parts, settings: Settings) -> Result:
    """The finished result of a proposal, moved in place."""
    engine = parts.engine
    with _memory_errors(target):
        result = solve(source, proposal, engine.name)
    with staging(target.parent, target.folder.name) as staged:
        notes = [_summary(result, engine), *result.warnings]
        with ThreadPoolExecutor(1) as beside:
            drawn = beside.submit(_draw_preview, source, result.stack, target.source.name, notes, staged / PREVIEW_NAME)
            exports, remarks = _export(result.stack, source, parts.exporters, staged / target.stem, settings)
            drawn.result()
        if settings.error_map:
            Image.fromarray(result.error_map).save(staged / ERROR_MAP_NAME)
        warnings = result.warnings + remarks
        manifest = Manifest(
            input=InputRecord(relative_path(target.source, target.folder), source.sha256, source.width, source.height),
            engine=engine.name,
            engine_version=engine.version,
            settings=recorded_settings(settings),
            engine_settings=result.engine_settings,
            layers=_layer_records(result.stack, staged),
            recomposition_error=result.error,
            fidelity=result.fidelity,
            warnings=warnings,
            copyright=source.metadata.copyright,
            versions={"layerctl": __version__} | {name: version(name) for name in _versions(engine)},
            files=_file_records(staged),
        )
        (staged / MANIFEST_NAME).write_bytes(to_json(manifest))
        folder = move_in(staged, target.parent, target.stem, target.number, replaces=target.action == "replace")
    names = tuple(layer.name for layer in result.stack.walk())
    return Result(folder, tuple(folder / name for name in exports), folder / PREVIEW_NAME, names, result.error, warnings)


@contextmanager
def _memory_errors(target: Target) -> Iterator[None]:
    try:
        yield
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise OutOfMemoryError(f"{target.source}: not enough memory", hint="close other programs, or make the picture smaller") from error


def recorded_settings(settings: Settings) -> dict[str, Setting]:
    """What the manifest holds of the settings: all that can change a result."""
    chosen = {name: getattr(settings, name) for name in RECORDED_SETTINGS}
    if settings.engine != "classic":
        from layerctl.hub import portable_name

        chosen |= {name: getattr(settings, name) for name in MODEL_SETTINGS}
        chosen |= {"model": portable_name(settings.model), "adapters": tuple(map(portable_name, settings.adapters))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def _versions(engine: Engine) -> tuple[str, ...]:
    return RECORDED_VERSIONS + (MODEL_VERSIONS if hasattr(engine, "forecast") else ())


def _summary(result: Decomposition, engine: Engine) -> str:
    count = sum(1 for _ in result.stack.walk())
    exactness = "the same as the picture" if result.error == 0 else "within 1/255 of the picture"
    return f"{count} layers by {engine.name} {engine.version}; together {exactness}"


def _draw_preview(source: SourceImage, stack: LayerStack, title: str, notes: list[str], path: Path) -> None:
    contact_sheet(source, stack, title=title, notes=notes).save(path, compress_level=4)


def _export(
    stack: LayerStack, source: SourceImage, exporters: tuple[Exporter, ...], base: Path, settings: Settings
) -> tuple[list[str], tuple[str, ...]]:
    """Write every format beside `base`; what each wrote, by name, and their remarks."""
    options = ExportOptions(
        masks=settings.masks,
        original=settings.original,
        full_canvas=settings.full_canvas,
        source=source,
    )
    names: list[str] = []
    remarks: tuple[str, ...] = ()
    for exporter in exporters:
        name = LAYERS_FOLDER if exporter.is_folder else base.name + exporter.suffix_for(stack, options)
        remarks += exporter.export(stack, base.with_name(name), options)
        names.append(name)
    return names, remarks


def _layer_records(stack: LayerStack, folder: Path) -> tuple[LayerRecord, ...]:
    """Records bottom to top; a folder of layer files holds them in this order by name."""
    layers = list(stack.walk())
    found = sorted((folder / LAYERS_FOLDER).iterdir()) if (folder / LAYERS_FOLDER).is_dir() else []
    files = [f"{LAYERS_FOLDER}/{path.name}" for path in found] if len(found) == len(layers) else [None] * len(layers)
    return tuple(_layer_record(z, layer, file, stack) for z, (layer, file) in enumerate(zip(layers, files, strict=True)))


def _layer_record(z: int, layer: Layer, file: str | None, stack: LayerStack) -> LayerRecord:
    opaque = np.iinfo(layer.pixels.dtype).max
    coverage = float(layer.pixels[..., 3].sum(dtype=np.int64)) / (opaque * stack.width * stack.height)
    sha256 = hashlib.sha256(np.ascontiguousarray(layer.pixels).data).hexdigest()
    return LayerRecord(z, layer.name, layer.kind, layer.text, layer.box, round(coverage, 6), file, sha256)


def _file_records(folder: Path) -> tuple[FileRecord, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(FileRecord(path.relative_to(folder).as_posix(), hash_file(path)) for path in paths)
