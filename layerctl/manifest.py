"""`manifest.json`, the record beside every result: what it was made from, with what, and the hash of every file that was written.

It holds no time and no absolute path, so the same input and settings give the same bytes. `Manifest` and the JSON object have the same
fields in the same order; `FORMAT` tells our manifests from the many other files of that name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layerctl.errors import InputError

MANIFEST_NAME = "manifest.json"
FORMAT = "layerctl-manifest"
SCHEMA = 3
OLDEST_SCHEMA = 2
"""Which had no judge."""
SAMPLED_BYTES = 1 << 20

Value = str | int | float | bool | None
Setting = Value | list[str] | list[float]


@dataclass(frozen=True, slots=True)
class InputRecord:
    """`path`: relative to the manifest's folder, with forward slashes. `width`, `height`: upright, in pixels."""

    path: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """`z`: 0 is the bottom. `group`: the names of the groups that it is in, " / " between them, None outside of groups. `box`: left, top,
    right, bottom. `coverage`: the layer's share of the canvas, its alpha counted, 0..1.

    `file`: the layer's own file, where a format writes one. `pixels_sha256`: of the box's straight RGBA bytes, row by row.
    """

    z: int
    name: str
    group: str | None
    kind: str
    text: str | None
    box: tuple[int, int, int, int]
    coverage: float
    file: str | None
    pixels_sha256: str


@dataclass(frozen=True, slots=True)
class FidelityRecord:
    """How far the engine's layers were off the source, at the engine's size, before anything was mended.

    `mean_error`, `high_error`: mean and 99th percentile of the difference, in levels of 255. `shift_x`, `shift_y`: how far the layers
    were moved to meet the source, in pixels of the engine's picture. `drift`: the largest change that black, white and the primaries
    needed, in levels of 255.
    """

    mean_error: float
    high_error: float
    shift_x: float
    shift_y: float
    drift: float


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault by name: `layers` that have it, `severity` 0..1, `message` in words."""

    kind: str
    layers: tuple[str, ...]
    severity: float
    message: str


@dataclass(frozen=True, slots=True)
class QualityRecord:
    """The five criteria and the overall score of the result's layers, 0..1 (`layerctl.quality` defines them), and the faults found."""

    overall: float
    separation: float
    alpha: float
    background: float
    distribution: float
    validity: float
    faults: tuple[FaultRecord, ...]


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """One of several proposals, as the engine made it: its `score`, the overall quality times `coverage` of wanted regions, and whether it
    was `chosen`. `reward`: a judge's, 0..10; None without a judge and where it has none.
    """

    number: int
    score: float
    overall: float
    separation: float
    alpha: float
    background: float
    distribution: float
    validity: float
    coverage: float
    chosen: bool
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """Who judged the proposals: its `name`, the `model` that answered and the version of its prompts.

    `spread`: the range of raw scores, in points of 10. `agreement`: of the row orders, -1..1. Both None where there is none. `no_choice`:
    why its scores tell nothing, "" if they do.
    """

    name: str
    model: str
    prompt_version: str
    spread: float | None
    agreement: float | None
    no_choice: str


@dataclass(frozen=True, slots=True)
class RepairRecord:
    """A layer of the engine's that was left out for a `fault`, or joined with the layer `into`."""

    layer: str
    fault: str
    into: str | None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that was written; `path` relative to the manifest's folder, with forward slashes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """How a result was made. `recomposition_error`: the largest difference of the flattened layers from the input, in levels of 255."""

    input: InputRecord
    engine: str
    engine_version: str
    settings: dict[str, Setting]
    engine_settings: dict[str, Value]
    layers: tuple[LayerRecord, ...]
    recomposition_error: int
    fidelity: FidelityRecord
    quality: QualityRecord
    candidates: tuple[CandidateRecord, ...]
    judge: JudgeRecord | None
    repairs: tuple[RepairRecord, ...]
    warnings: tuple[str, ...]
    copyright: str | None
    versions: dict[str, str]
    files: tuple[FileRecord, ...]
    format: str = field(default=FORMAT)
    schema: int = field(default=SCHEMA)


def to_json(manifest: Manifest) -> bytes:
    """UTF-8; the last field, `seal`, is the hash of all others: `to_json(from_json(data)) == data` tells an edited manifest.

    Bytes of a file name that are no text are escaped as lone surrogates, which JSON allows and `from_json` reads back.
    """
    fields = asdict(manifest)
    if manifest.schema == OLDEST_SCHEMA:
        del fields["judge"]
        for candidate in fields["candidates"]:
            del candidate["reward"]
    fields = {"format": fields.pop("format"), "schema": fields.pop("schema")} | fields
    return _encode(fields | {"seal": hashlib.sha256(_encode(fields)).hexdigest()})


def from_json(data: bytes, name: str = MANIFEST_NAME) -> Manifest:
    """A manifest of this schema or of the one before it, which `schema` tells.

    Raises InputError, which calls the file `name`, for anything else.
    """
    try:
        fields: Any = json.loads(data)
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InputError(f"{name} is not a manifest of layerctl")
        schema = fields.get("schema")
        if schema not in (OLDEST_SCHEMA, SCHEMA):
            is_older = isinstance(schema, int) and schema < OLDEST_SCHEMA
            hint = "decompose its picture again; the result itself is as good as it was" if is_older else "pip install --upgrade layerctl"
            raise InputError(f"{name} has schema {schema!r}, this layerctl reads {OLDEST_SCHEMA} and {SCHEMA}", hint=hint)
        fields.pop("seal")
        layers = tuple(LayerRecord(**layer | {"box": tuple(layer["box"])}) for layer in fields["layers"])
        files = tuple(FileRecord(**file) for file in fields["files"])
        faults = tuple(FaultRecord(**fault | {"layers": tuple(fault["layers"])}) for fault in fields["quality"]["faults"])
        if schema == OLDEST_SCHEMA:
            fields["judge"] = None
        read = {
            "input": InputRecord(**fields["input"]),
            "fidelity": FidelityRecord(**fields["fidelity"]),
            "quality": QualityRecord(**fields["quality"] | {"faults": faults}),
            "candidates": tuple(CandidateRecord(**candidate) for candidate in fields["candidates"]),
            "judge": fields["judge"] and JudgeRecord(**fields["judge"]),
            "repairs": tuple(RepairRecord(**repair) for repair in fields["repairs"]),
        }
        return Manifest(**fields | read | {"layers": layers, "files": files, "warnings": tuple(fields["warnings"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{name} is damaged: {error}") from error


def is_result(folder: Path) -> bool:
    """Whether the folder holds a manifest of ours, a damaged one too; such a folder is never an input."""
    try:
        with open(folder / MANIFEST_NAME, "rb") as file:
            return FORMAT.encode() in file.read(1 << 16)
    except OSError:
        return False


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_sampled(paths: Iterable[Path]) -> str:
    """A hash that tells large files from others: of their names, sizes, first and last MiB. All of 58 GB would take minutes a run."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode("utf-8", "surrogatepass"))
        with open(path, "rb") as file:
            digest.update(file.read(SAMPLED_BYTES))
            file.seek(max(0, size - SAMPLED_BYTES))
            digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def _encode(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")
