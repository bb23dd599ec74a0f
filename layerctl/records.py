"""What the manifest says of a result's layers, files and quality."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layerctl.layers import Layer, LayerStack, named_paths
from layerctl.manifest import CandidateRecord, FaultRecord, FileRecord, JudgeRecord, LayerRecord, QualityRecord, hash_file
from layerctl.quality import CRITERIA, Quality

if TYPE_CHECKING:
    from layerctl.choose import Candidate
    from layerctl.verdict import GroupVerdict

LAYERS_FOLDER = "layers"


def quality_record(quality: Quality) -> QualityRecord:
    faults = tuple(FaultRecord(fault.kind, fault.layers, fault.severity, fault.message) for fault in quality.faults)
    return QualityRecord(**_scores(quality), faults=faults)


def candidate_record(candidate: Candidate, *, chosen: bool) -> CandidateRecord:
    return CandidateRecord(
        candidate.number,
        round(candidate.score, 4),
        **_scores(candidate.quality),
        coverage=round(candidate.coverage, 4),
        chosen=chosen,
        reward=_finite(candidate.reward),
    )


def judge_record(verdict: GroupVerdict) -> JudgeRecord:
    """The host that pictures went to is left out: it is about a network, not about the result."""
    spread, agreement = _finite(verdict.spread), _finite(verdict.agreement)
    return JudgeRecord(verdict.judge, verdict.model, verdict.prompt_version, spread, agreement, verdict.no_choice)


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return round(number, 4) if math.isfinite(number) else None


def _scores(quality: Quality) -> dict[str, float]:
    return {name: round(getattr(quality, name), 4) for name in ("overall", *CRITERIA)}


def layer_records(stack: LayerStack, folder: Path) -> tuple[LayerRecord, ...]:
    """Records bottom to top; a folder of layer files holds them in this order by name."""
    layers = list(named_paths(stack.layers))
    found = sorted((folder / LAYERS_FOLDER).iterdir()) if (folder / LAYERS_FOLDER).is_dir() else []
    files = [f"{LAYERS_FOLDER}/{path.name}" for path in found] if len(found) == len(layers) else [None] * len(layers)
    return tuple(_layer_record(z, path, layer, file, stack) for z, ((path, layer), file) in enumerate(zip(layers, files, strict=True)))


def _layer_record(z: int, path: str, layer: Layer, file: str | None, stack: LayerStack) -> LayerRecord:
    opaque = np.iinfo(layer.pixels.dtype).max
    coverage = float(layer.pixels[..., 3].sum(dtype=np.int64)) / (opaque * stack.width * stack.height)
    sha256 = hashlib.sha256(np.ascontiguousarray(layer.pixels).data).hexdigest()
    group = path.removesuffix(layer.name).removesuffix(" / ") or None
    return LayerRecord(z, layer.name, group, layer.kind, layer.text, layer.box, round(coverage, 6), file, sha256)


def file_records(folder: Path) -> tuple[FileRecord, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(FileRecord(path.relative_to(folder).as_posix(), hash_file(path)) for path in paths)
