"""What a judge's answer in words is worth: scores within bounds, or a reason why there are none.

An answer is text from elsewhere: it is parsed, every part of it that was not asked for is dropped, and nothing else is done with it.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Never

from pydantic import BaseModel, Field, ValidationError, create_model

from layerctl.terminal import inert
from layerctl.verdict import CRITERIA, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl_train.judge.question import Question

EVIDENCE = 300
"""The longest line of evidence that is kept, in characters."""
CAPTION = 1000
EXCERPT = 120
THOUGHT, END = "<think>", "</think>"


class InvalidReplyError(Exception):
    """An answer that is not what was asked for; the message says so to whoever answered."""


class Opinion(BaseModel):
    """One score as it has to be written; `question.schema` says the same to servers."""

    evidence: Annotated[str, Field(strict=True)]
    points: Annotated[float, Field(strict=True, ge=0, le=10, allow_inf_nan=False)]


def names(question: Question) -> tuple[str, ...]:
    """What is scored, in the order of the scores: the criteria of one candidate, or the labels of several; nothing for a caption."""
    return {"alone": CRITERIA, "together": question.labels, "caption": ()}[question.kind]


def read_scores(text: str, names: Sequence[str]) -> tuple[Score, ...]:
    """The score of each name, in their order; keys that were not asked for are dropped.

    Raises InvalidReplyError.
    """
    try:
        reply = _reply_of(tuple(names)).model_validate(_json_in(text))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, part['loc'])) or 'answer'}: {part['msg']}" for part in error.errors(include_input=False)]
        raise InvalidReplyError("; ".join(wrong[:6])) from None
    return tuple(Score(float(opinion.points), _line(opinion.evidence, EVIDENCE)) for opinion in (getattr(reply, name) for name in names))


def read_caption(text: str) -> str:
    """The answer as one line of plain words.

    Raises InvalidReplyError.
    """
    caption = _line(_after_thinking(text).rpartition(END)[2], CAPTION)
    if not caption:
        raise InvalidReplyError("the answer is empty")
    return caption


def excerpt(text: str) -> str:
    """The first words, fit to be shown."""
    return _line(text, EXCERPT)


@lru_cache
def _reply_of(names: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(names, (Opinion, ...))
    return create_model("Reply", **fields)


def _after_thinking(text: str) -> str:
    """The answer without the thought that it begins with."""
    if not text.lstrip().startswith(THOUGHT):
        return text
    _, end, said = text.partition(END)
    if not end:
        raise InvalidReplyError(f"it ends inside of {THOUGHT}")
    return said


def _json_in(text: str) -> Any:
    """What the JSON in the answer holds.

    A thought may lack its beginning, which some servers keep, and evidence may quote its end: where that stands between braces, the
    first reading that is JSON counts.
    """
    text = _after_thinking(text)
    last = text.rpartition(END)[2]
    if "}" in last:
        for reading in (text, text.partition(END)[2]):
            with suppress(InvalidReplyError):
                return _object_in(reading)
    return _object_in(last)


def _object_in(text: str) -> Any:
    """What is between the first and the last brace, whatever words or fences are around it."""
    start, end = text.find("{"), text.rfind("}") + 1
    if start < 0:
        raise InvalidReplyError(f"there is no JSON object in the answer: {excerpt(text)!r}" if text.strip() else "the answer is empty")
    inside = text[start : end or None]
    try:
        return json.loads(inside, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise InvalidReplyError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidReplyError(f"the JSON cannot be read: {excerpt(str(error))}") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InvalidReplyError(f"{excerpt(twice)!r} is there twice")
    return found


def _no_number(constant: str) -> Never:
    raise InvalidReplyError(f"{constant} is no number from 0 to 10")


def _line(text: str, length: int) -> str:
    line = inert(" ".join(text[: 10 * length].split()))
    return line if len(line) <= length else line[: length - 1] + "…"
