"""One picture from its file to a finished result: read, propose layers, choose, solve exactly, check, export, record.

`read_file`, an engine's `decompose` and `write_result` are the three parts that a run of many pictures overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl import __version__, measures, registry
from layerctl.choose import Choice, choose
from layerctl.composite import flatten, largest_difference
from layerctl.errors import OutOfMemoryError, UsageError
from layerctl.layers import Layer, LayerStack, named_paths, on_canvas
from layerctl.manifest import (
    MANIFEST_NAME,
    FidelityRecord,
    InputRecord,
    Manifest,
    RepairRecord,
    Setting,
    Value,
    hash_file,
    to_json,
)
from layerctl.plan import Target
from layerctl.preview import contact_sheet
from layerctl.quality import CRITERIA, Quality, assess
from layerctl.records import LAYERS_FOLDER, candidate_record, file_records, judge_record, layer_records, quality_record
from layerctl.refine import refine
from layerctl.regions import box_region, mask_region
from layerctl.registry import DecomposeRequest, Engine, Exporter, ExportOptions, Judge, Progress, Proposal, Region
from layerctl.results import move_in, relative_path, staging
from layerctl.settings import Settings
from layerctl.source import SourceImage, read_source
from layerctl.split import recursed
from layerctl.view import lone_view
from layerctl.wording import altered_text

LARGEST_ERROR = 1
"""What the flattened layers may differ from the picture, in levels of 255."""
PREVIEW_NAME = "preview.png"
ERROR_MAP_NAME = "engine-error.png"
RECORDED_SETTINGS = (
    "layers", "kind", "engine", "formats", "masks", "original", "full_canvas", "strip_metadata", "error_map", "best_of", "keep_faulty",
    "recurse", "targets", "target_masks",
)  # fmt: skip
MODEL_SETTINGS = ("model", "adapters", "preset", "prompt", "sampler", "steps", "cfg", "size", "seed", "precision", "compile", "fuse")
"""Recorded too for engines other than the embedded one, which knows none of them."""
JUDGE_SETTINGS = (
    "prompt", "judge_model", "judge_condition", "judge_orders", "judge_anchors", "judge_seed", "judge_repeat", "judge_blend",
    "judge_weights", "judge_min_spread", "judge_min_agreement", "judge_chance", "judge_side", "judge_grid_side", "judge_temperature",
    "judge_max_tokens", "judge_extra",
)  # fmt: skip
"""Recorded too where a judge chooses; no key, and nothing about how its server is reached."""
RECORDED_VERSIONS = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "psd-tools", "rapidocr")
MODEL_VERSIONS = ("diffusers", "peft", "torch", "transformers")


SEVERAL = 0.25
"""`measures.scatter` and `measures.busyness` of a layer, as one, from which it seems to hold several things."""


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """Full-size layers that flatten to a picture at most `error` levels from the source.

    `fidelity`, `error_map`: how far the engine's own layers were off, at their size, before they were refined. `emptied`: names of layers
    of which nothing was left.
    """

    stack: LayerStack
    error: int
    fidelity: FidelityRecord
    error_map: npt.NDArray[np.uint8]
    warnings: tuple[str, ...]
    engine_settings: dict[str, Value]
    emptied: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """A picture's layers, solved, and how they were chosen."""

    choice: Choice
    decomposition: Decomposition


@dataclass(frozen=True, slots=True)
class Result:
    """What was written for one picture. `exports`: what each format wrote, in the order asked for; `preview` is the contact sheet.

    `quality`: of the full-size layers. `is_good`: whether its overall score is as high as was asked for.
    """

    folder: Path
    exports: tuple[Path, ...]
    preview: Path
    layers: tuple[str, ...]
    error: int
    warnings: tuple[str, ...]
    quality: Quality
    is_good: bool


def decompose(source: SourceImage, engine: Engine, request: DecomposeRequest, progress: Progress) -> Decomposition:
    """The engine's layers, full-size and exact."""
    return solve(source, engine.decompose(source, request, progress), engine.name)


def solve(source: SourceImage, proposal: Proposal, engine: str, *, keep_blank: bool = False) -> Decomposition:
    """Full-size, exact layers of a proposal, without those of which nothing is left, unless `keep_blank`.

    Raises AssertionError when they do not flatten to the source, which is our mistake.
    """
    refined = refine(source, replace(proposal.stack, icc=source.icc, dpi=source.dpi))
    solved = refined.stack
    kept = tuple(layer for z, layer in enumerate(solved.walk()) if z == 0 or keep_blank or layer.pixels[..., 3].any())
    gone = tuple(layer.name for layer in solved.walk() if layer not in kept)
    hidden = tuple(f"{name!r} is left out: nothing of it shows; --keep-faulty keeps it" for name in gone)
    stack = solved.with_layers(kept)
    error = _checked_error(source, stack, engine)
    warnings = source.warnings + proposal.warnings + refined.warnings + hidden
    return Decomposition(stack, error, refined.fidelity, refined.error, warnings, dict(proposal.settings), gone)


def _checked_error(source: SourceImage, stack: LayerStack, engine: str) -> int:
    error = largest_difference(flatten(stack), source.pixels)
    if error > LARGEST_ERROR:
        raise AssertionError(f"the layers of engine {engine} flatten to a picture that is {error} levels off")
    return error


def holds_several(stack: LayerStack, layer: Layer) -> bool:
    """Whether a layer seems to hold several things: pieces that lie apart, or much that is drawn inside of its outline."""
    seen = lone_view(on_canvas(layer, stack.width, stack.height))
    return 1 - (1 - measures.scatter(seen.alphas[0])) * (1 - measures.busyness(seen)) >= SEVERAL


@dataclass(frozen=True, slots=True)
class Parts:
    """The engine and the exporters of a run, loaded once, and the judge that chooses among several proposals."""

    engine: Engine
    exporters: tuple[Exporter, ...]
    judge: Judge | None = None


def load_parts(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Parts:
    """Raises UsageError for a name that nothing has, and what a model engine raises for options that cannot be met."""
    exporters = tuple(registry.load("exporters", name) for name in settings.formats)
    engine = registry.load("engines", settings.engine)
    return Parts(engine.configured(settings.model_options(), tell) if hasattr(engine, "configured") else engine, exporters)


def is_judged(settings: Settings) -> bool:
    """Whether a judge is named and has something to choose from."""
    return settings.judge is not None and settings.best_of > 1


@contextmanager
def loaded_judge(settings: Settings, tell: Callable[[str], None]) -> Iterator[Judge | None]:
    """The judge of a run, closed at its end; None where there is nothing to judge.

    `tell` takes a line for the person who waits: where pictures go is one. Raises UsageError for a name that nothing has, and what the
    judge raises for what it lacks.
    """
    if not is_judged(settings):
        yield None
        return
    if settings.judge_condition == "prompt" and settings.prompt is None:
        raise UsageError(
            "--judge-condition prompt tells the judge about the picture, and there is nothing to tell", hint="add --prompt TEXT"
        )
    judge: Judge = registry.load("judges", str(settings.judge))(settings, tell)
    with closing(judge):
        yield judge


def decompose_file(target: Target, parts: Parts, settings: Settings, progress: Progress, index: int = 0) -> Result:
    """Do what the plan says about one picture. Raises LayerctlError for what a person can mend, OSError for what the disk says."""
    source = read_file(target.source, settings)
    return write_result(target, source, propose(target, source, parts, settings, progress, index), parts, settings)


def read_file(path: Path, settings: Settings) -> SourceImage:
    source = read_source(path, max_pixels=settings.max_pixels)
    return replace(source, metadata=source.metadata.without_location()) if settings.strip_metadata else source


def propose(target: Target, source: SourceImage, parts: Parts, settings: Settings, progress: Progress, index: int) -> Choice | Solved:
    """The engine's best layers of one picture, the `index`-th of a run; solved already where the engine is needed for that too."""
    engine = parts.engine
    request = DecomposeRequest(settings.layers, settings.kind, index, regions=wanted_regions(source.width, source.height, settings))
    with _memory_errors(target):
        choice = choose(
            source,
            engine,
            request,
            progress,
            best_of=settings.best_of,
            keep_faulty=settings.keep_faulty,
            judge=parts.judge,
            told=settings.prompt or "",
        )
        if not settings.recurse:
            return choice
        flat = solve(source, choice.proposal, engine.name, keep_blank=settings.keep_faulty)
        remarks: list[str] = []
        further = replace(request, layers=None, regions=())
        stack = recursed(source, flat.stack, engine, further, progress, settings.recurse, holds_several, remarks.append)
        error = _checked_error(source, stack, engine.name)
        new = tuple(remark for remark in dict.fromkeys(remarks) if not remark.endswith(flat.warnings))
        return Solved(choice, replace(flat, stack=stack, error=error, warnings=flat.warnings + new))


def wanted_regions(width: int, height: int, settings: Settings) -> tuple[Region, ...]:
    """Masks above boxes. Raises UsageError and InputError for what cannot be a region of a picture of that size."""
    boxes = [box_region(text, width, height) for text in settings.targets]
    return (*boxes, *(mask_region(Path(path), width, height) for path in settings.target_masks))


def write_result(target: Target, source: SourceImage, proposed: Choice | Solved, parts: Parts, settings: Settings) -> Result:
    """The finished result of a proposal, moved in place."""
    engine = parts.engine
    with _memory_errors(target):
        if isinstance(proposed, Choice):
            proposed = Solved(proposed, solve(source, proposed.proposal, engine.name, keep_blank=settings.keep_faulty))
        result, choice = proposed.decomposition, proposed.choice
    with staging(target.parent, target.folder.name) as staged:
        with ThreadPoolExecutor(1) as beside:
            checking = beside.submit(
                _check, source, proposed, settings, _summary(result, engine), target.source.name, staged / PREVIEW_NAME
            )
            exports, remarks = _export(result.stack, source, parts.exporters, staged / target.stem, settings)
            quality, warnings = checking.result()
        if settings.error_map:
            Image.fromarray(result.error_map).save(staged / ERROR_MAP_NAME)
        warnings += remarks
        manifest = Manifest(
            input=InputRecord(relative_path(target.source, target.folder), source.sha256, source.width, source.height),
            engine=engine.name,
            engine_version=engine.version,
            settings=recorded_settings(settings),
            engine_settings=result.engine_settings,
            layers=layer_records(result.stack, staged),
            recomposition_error=result.error,
            fidelity=result.fidelity,
            quality=quality_record(quality),
            candidates=tuple(candidate_record(each, chosen=each.number == choice.chosen) for each in choice.candidates),
            judge=None if choice.verdict is None else judge_record(choice.verdict),
            repairs=(
                *(RepairRecord(repair.layer, repair.fault, repair.into) for repair in choice.repairs),
                *(RepairRecord(name, "hidden", None) for name in result.emptied),
            ),
            warnings=warnings,
            copyright=source.metadata.copyright,
            versions={"layerctl": __version__} | {name: version(name) for name in _versions(engine)},
            files=file_records(staged),
        )
        (staged / MANIFEST_NAME).write_bytes(to_json(manifest))
        folder = move_in(staged, target.parent, target.stem, target.number, replaces=target.action == "replace")
    names = tuple(path for path, _ in named_paths(result.stack.layers))
    files = tuple(folder / name for name in exports)
    return Result(folder, files, folder / PREVIEW_NAME, names, result.error, warnings, quality, _is_good(quality, settings))


def _check(
    source: SourceImage, solved: Solved, settings: Settings, summary: str, title: str, preview: Path
) -> tuple[Quality, tuple[str, ...]]:
    """The quality of a result and all that is to be told of it; both are on the contact sheet, which is drawn."""
    result, choice = solved.decomposition, solved.choice
    found = assess(source, result.stack)
    quality = replace(found, faults=found.faults + altered_text(source, result.stack))
    poor = () if _is_good(quality, settings) else (f"quality {quality.overall:.2f} is below the {settings.min_quality} that was asked for",)
    warnings = (*map(str, choice.repairs), *result.warnings, *(fault.message for fault in quality.faults), *poor)
    _draw_preview(source, result.stack, title, [summary, *_score_lines(quality, choice), *warnings], preview)
    return quality, warnings


def _is_good(quality: Quality, settings: Settings) -> bool:
    return settings.min_quality is None or quality.overall >= settings.min_quality


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
    chosen["target_masks"] = tuple(f"{Path(path).name} sha256 {_mask_hash(path)}" for path in settings.target_masks)
    if settings.engine != "classic":
        from layerctl.hub import portable_name

        chosen |= {name: getattr(settings, name) for name in MODEL_SETTINGS}
        chosen |= {"model": portable_name(settings.model), "adapters": tuple(map(portable_name, settings.adapters))}
    judged = is_judged(settings)
    chosen["judge"] = settings.judge if judged else None
    chosen |= {name: getattr(settings, name) for name in JUDGE_SETTINGS if judged}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def _mask_hash(path: str) -> str:
    try:
        return hash_file(Path(path))
    except OSError as error:
        raise UsageError(
            f"the mask {path} cannot be read: {error.strerror}", hint="give the path of a picture file: --mask mask.png"
        ) from error


def _versions(engine: Engine) -> tuple[str, ...]:
    return RECORDED_VERSIONS + (MODEL_VERSIONS if hasattr(engine, "forecast") else ())


def _summary(result: Decomposition, engine: Engine) -> str:
    count = sum(1 for _ in result.stack.walk())
    exactness = "the same as the picture" if result.error == 0 else "within 1/255 of the picture"
    return f"{count} layers by {engine.name} {engine.version}; together {exactness}"


def _score_lines(quality: Quality, choice: Choice) -> tuple[str, ...]:
    criteria = " · ".join(f"{name} {getattr(quality, name):.2f}" for name in CRITERIA)
    lines: tuple[str, ...] = (f"quality {quality.overall:.2f}: {criteria}",)
    if not choice.candidates:
        return lines
    scores = ", ".join(f"{candidate.score:.2f}" for candidate in choice.candidates)
    place = next(place for place, candidate in enumerate(choice.candidates, 1) if candidate.number == choice.chosen)
    lines = (*lines, f"number {place} of {len(choice.candidates)} proposals, which scored {scores}")
    if choice.verdict is None:
        return lines
    rewards = ", ".join(f"{reward:.1f}" if math.isfinite(reward) else "no score" for reward in choice.verdict.rewards)
    return (*lines, f"judge {choice.verdict.judge}, {choice.verdict.model}, of 10: {rewards}")


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
