"""The questions that a judge is asked: instructions from the files in `prompts`, and pictures with a line of words before each.

Three things come from outside and are not trusted: pictures, layer names and what is told about the picture. Pictures are declared to be
content, names are left out, and what is told is freed of anything that could end its place (see `_about`). A judge can still be swayed by
what a picture says; it can do nothing with it but give points.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerctl.verdict import CRITERIA
from layerctl_train.judge.pictures import LAYOUT, LayerPicture, draw_group, draw_sample, draw_source
from layerctl_train.judge.question import Picture, Question, schema

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage

FOLDER = Path(__file__).parent / "prompts"
WORDS = 1
"""Raised with every change of the words that this module puts between the pictures."""
LONGEST_TOLD = 2000


def version(texts: Sequence[str]) -> str:
    """Twelve hexadecimal digits that change with any of the texts, with the drawing, and with the words between the pictures."""
    return hashlib.sha256(json.dumps([LAYOUT, WORDS, *texts]).encode()).hexdigest()[:12]


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8").strip()


def _task(name: str, scored: Sequence[str]) -> str:
    """A file with the shape of the answer filled in, taken from where answers are read."""
    lines = ",\n".join(f'  "{key}": {_example(part)}' for key, part in schema(scored)["properties"].items())
    return _read(name).replace("{reply}", f"{{\n{lines}\n}}")


def _example(part: dict[str, Any]) -> str:
    if part["type"] == "object":
        return "{" + ", ".join(f'"{key}": {_example(inner)}' for key, inner in part["properties"].items()) + "}"
    return {"string": '"one short line"', "number": "number from 0 to 10"}[part["type"]]


_TEXTS = {
    "Both phases": _read("rubric.md"),
    "Phase 1: a candidate alone": _task("alone.md", CRITERIA),
    "Phase 2: candidates compared in one grid": _task("together.md", ("A", "B")),
    "A caption, where one is asked for": _read("caption.md"),
}
PROMPT_VERSION = version(tuple(_TEXTS.values()))


def shown_prompt() -> str:
    """All instructions, as a person would read them; phase 2's with the labels of a group of two."""
    rule = "=" * 72
    texts = [f"{rule}\n{title}\n{rule}\n\n{text}" for title, text in _TEXTS.items()]
    return "\n\n".join([f"The judge's instructions, version {PROMPT_VERSION}", *texts]) + "\n"


def about_sample(source: SourceImage, stack: LayerStack, told: str, settings: JudgeSettings) -> Question:
    """Phase 1: the five criteria of one candidate. Raw engine stacks; the source may be larger."""
    drawn = draw_sample(source, stack, settings)
    first, second = ("Left", "Right") if drawn.beside else ("Above", "Below")
    views = f"{first}: on a checkerboard. {second}: alpha map, white is opaque."
    parts: list[str | Picture] = [
        *_about(told, settings),
        "Picture 1: the source.",
        drawn.source,
        f"Picture 2: the result, all {drawn.count} layers over each other." if drawn.count else "Picture 2: the result. There is no layer.",
        drawn.result,
    ]
    for number, layer in enumerate(drawn.layers, 3):
        parts += [f"Picture {number}: {_which(layer, drawn.count)}. {views}", layer.picture]
    system = f"{_read('rubric.md')}\n\n{_task('alone.md', CRITERIA)}"
    return Question("alone", system, (*parts, "Now the evidence and the points, as JSON."), PROMPT_VERSION)


def about_group(
    source: SourceImage, stacks: Sequence[LayerStack], anchors: Sequence[float] | None, told: str, settings: JudgeSettings
) -> Question:
    """Phase 2: all candidates relative to each other, rows in the order given. `anchors`: their scores of phase 1, NaN for none.

    The grid is the last picture. `pictures.most_rows` says how many candidates it shows legibly.
    """
    drawn = draw_group(stacks, settings)
    where = "to the right of it" if drawn.beside else "below it"
    counts = ", ".join(f"{label}: {count}" for label, count in zip(drawn.labels, drawn.counts, strict=True))
    parts: list[str | Picture] = [
        *_about(told, settings),
        "Picture 1: the source.",
        draw_source(source, settings.judge_side),
        f"Picture 2: {len(stacks)} candidates, one in each row, {drawn.labels[0]} to {drawn.labels[-1]}. In a row: the result, then the "
        f"layers by number, 1 being the bottom, each on a checkerboard and its alpha map {where}; at most {drawn.per_line} in a line, "
        f"the next ones below. Visible layers: {counts}.",
        drawn.picture,
    ]
    if anchors is not None:
        scores = ", ".join(f"{label}: {_points(score)}" for label, score in zip(drawn.labels, anchors, strict=True))
        parts.append(f"Points from looking at each alone: {scores}.")
    system = f"{_read('rubric.md')}\n\n{_task('together.md', drawn.labels)}"
    return Question("together", system, (*parts, "Now the evidence and the points, as JSON."), PROMPT_VERSION, drawn.labels)


def about_picture(source: SourceImage, settings: JudgeSettings) -> Question:
    """A caption in plain words."""
    parts = ("The picture:", draw_source(source, settings.judge_side), "Now the sentence.")
    return Question("caption", _read("caption.md"), parts, PROMPT_VERSION)


def _about(told: str, settings: JudgeSettings) -> list[str]:
    """What is told about the picture, in tags that it cannot close: on one line, without angle brackets and invisible characters."""
    plain = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in told)
    line = " ".join(plain.replace("<", "‹").replace(">", "›").split())[:LONGEST_TOLD]
    if not line or settings.judge_condition == "nothing":
        return []
    return [f"<about>{line}</about>"]


def _which(layer: LayerPicture, count: int) -> str:
    if layer.first < layer.last:
        return f"layers {layer.first} to {layer.last} of {count} over each other, the top ones, for want of room"
    place = ", the bottom" if layer.first == 1 else ", the top" if layer.last == count else ""
    return f"layer {layer.first} of {count}{place}"


def _points(score: float) -> str:
    return f"{score:.1f}" if math.isfinite(score) else "no score"
