"""An evaluation written down: `report.json` for programs, `report.md` for people and model cards, `index.html` with pictures."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from pathlib import Path

from layerctl.errors import OutputError
from layerctl.terminal import inert
from layerctl_train.evaluate import tables
from layerctl_train.evaluate.findings import galleries, headlines, name_of, number, remarks
from layerctl_train.evaluate.page import page
from layerctl_train.evaluate.results import METRICS, Evaluation, Summary
from layerctl_train.evaluate.strips import Shown, draw_strip

FORMAT, SCHEMA = "layerctl-evaluation", 1
JSON_NAME, MARKDOWN_NAME, PAGE_NAME, PICTURES = "report.json", "report.md", "index.html", "pictures"
SPECIAL = re.compile(r"([\\`*_{}\[\]>#|~@$]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|:(?=//)|(?<=www)\.)")
JPEG_QUALITY = 90
LABELLED = ("layerd_rgb_l1_0", "layerd_alpha_iou_0", "quality")
"""What a strip says of each system."""


def to_json(evaluation: Evaluation, summary: Summary) -> str:
    """Everything, the same text for the same numbers; a number that is not known is null."""
    found = {
        "format": FORMAT,
        "schema": SCHEMA,
        **_fields(evaluation),
        "unreadable": [{"key": key, "reason": reason} for key, reason in evaluation.unreadable],
        "metrics": _plain(METRICS),
        **_fields(summary),
        "skipped": {name: {"pictures": count, "reason": reason} for name, (count, reason) in sorted(summary.skipped.items())},
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def to_markdown(evaluation: Evaluation, summary: Summary) -> str:
    """The tables, and what is said of them, in GitHub's Markdown."""
    parts = [
        f"## Evaluation on {_escaped(evaluation.data)}",
    ]
    parts += [_escaped(text) for each in headlines(evaluation, summary) for text in (each.sentence, each.besides) if text]
    said = remarks(evaluation, summary)
    if said:
        parts.append("\n".join(f"- {_escaped(remark)}" for remark in said))
    for build in (tables.overview, tables.differences, tables.layerd, tables.per_index, tables.faults, tables.judged):
        parts += [_markdown(table) for table in build(evaluation, summary)]
    made = "\n".join(f"- {_escaped(what)}: {_escaped(value)}" for what, value in tables.facts(evaluation))
    return "\n\n".join([*parts, "### How it was made", made]) + "\n"


def gallery(evaluation: Evaluation, summary: Summary) -> list[str]:
    """The keys of the pictures that the page shows, each once."""
    return list(dict.fromkeys(key for each in galleries(evaluation, summary) for key in each.keys))


def write_report(folder: Path, evaluation: Evaluation, summary: Summary, pictures: Callable[[str], Shown | None]) -> Path:
    """Write the three files and the pictures; return the page.

    `pictures` gives what is known of a picture by its key, one at a time. Strips of an earlier report in the folder that this one does not
    show are deleted. Raises OutputError.
    """
    strips: dict[str, str] = {}
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for key in gallery(evaluation, summary):
            shown = pictures(key)
            if shown is not None:
                name = f"strip-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.jpg"
                _write(folder / PICTURES / name, _jpeg(shown, _labels(evaluation, key)))
                strips[key] = f"{PICTURES}/{name}"
        _write(folder / JSON_NAME, to_json(evaluation, summary).encode())
        _write(folder / MARKDOWN_NAME, to_markdown(evaluation, summary).encode())
        _write(folder / PAGE_NAME, page(evaluation, summary, strips).encode())
        for path in (folder / PICTURES).glob("strip-????????????????.jpg"):
            if f"{PICTURES}/{path.name}" not in strips.values():
                path.unlink()
    except OSError as error:
        raise OutputError(
            f"the report cannot be written into {folder}: {error.strerror}", hint="choose another folder with -o DIR"
        ) from error
    return folder / PAGE_NAME


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _jpeg(shown: Shown, labels: tuple[tuple[str, str], ...]) -> bytes:
    file = io.BytesIO()
    draw_strip(shown, labels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _labels(evaluation: Evaluation, key: str) -> tuple[tuple[str, str], ...]:
    """Each system's name, and what it made of the picture."""
    scores = next(picture.scores for picture in evaluation.pictures if picture.key == key)
    labels = []
    for system, score in zip(evaluation.systems, scores, strict=True):
        numbers = [f"{name_of(metric)} {number(metric, score.values[metric])}" for metric in LABELLED if metric in score.values]
        layers = f"{score.layers} layer{'' if score.layers == 1 else 's'}"
        labels.append((system.name, f"failed: {score.failed}" if score.failed else ", ".join([layers, *numbers])))
    return tuple(labels)


def _fields(record: Evaluation | Summary) -> dict[str, object]:
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def _plain(value: object) -> object:
    """What JSON can hold; mappings by name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _markdown(table: tables.Table) -> str:
    aligned = ["---" if place < table.words else "---:" for place in range(len(table.header))]
    lines = [[_escaped(title) for title in table.header], aligned, *([_cell(cell) for cell in row.cells] for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {_escaped(table.title)}\n\n{_escaped(table.lead)}\n\n{body}"


def _cell(cell: tables.Cell) -> str:
    text = _escaped(cell.text)
    return (f"**{text}**" if cell.mark == "best" else text) + (f" ({_escaped(', '.join(cell.small))})" if cell.small else "")


def _escaped(text: str) -> str:
    """Inert on one line: no markup, no link, no end of a cell."""
    return SPECIAL.sub(r"\\\1", inert(text))
