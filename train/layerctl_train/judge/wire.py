"""What goes to an OpenAI-compatible endpoint, and what its replies mean, whether they are completions or complaints."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from layerctl_train.judge.credentials import scrub
from layerctl_train.judge.question import Picture, schema
from layerctl_train.judge.replies import excerpt, names

if TYPE_CHECKING:
    from layerctl_train.judge.question import Question

MODELS_SHOWN = 20
LONGEST_WAIT = 366 * 86400.0
"""Seconds; who asks to wait longer than a year is not believed."""

Message = dict[str, Any]
Tokens = Annotated[int, Field(strict=True, ge=0, le=10**9)]


class LostError(Exception):
    """A request without an answer that means anything; it may be sent again."""


class RefusedError(Exception):
    """The server's complaint. `wait`: seconds after which it may be asked again, if it said so; `place`: where a redirect leads."""

    def __init__(self, status: int, message: str, code: str = "", wait: float | None = None, place: str = "") -> None:
        super().__init__(f"{status}: {message}" if message else f"status {status}")
        self.status, self.code, self.wait, self.place = status, code, wait, place

    @property
    def may_pass(self) -> bool:
        if self.status == 200:
            return re.search("rate_?limit|overloaded|unavailable|server_error|timeout", self.code.lower()) is not None
        return self.status in (408, 409, 429) or self.status >= 500

    @property
    def is_about_money(self) -> bool:
        return self.status == 402 or "insufficient_quota" in self.code or "billing" in self.code

    @property
    def is_about_content(self) -> bool:
        """Whether this one picture or question is not wanted, and others may be."""
        return re.search("moderation|safety|content.?(policy|filter)", f"{self} {self.code}".lower()) is not None


@dataclass(frozen=True, slots=True)
class Completion:
    """`refusal`: why the model did not answer, "" if it did. `input_tokens`, `output_tokens`: None where the server does not say."""

    text: str
    refusal: str
    is_cut: bool
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """What of the protocol a server knows, as far as it has complained."""

    form: Literal["json_schema", "json_object", "none"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def after(self, refused: RefusedError, question: Question) -> Dialect | None:
        """What to try after this complaint, None if it was about something else."""
        if refused.status not in (400, 422):
            return None
        complaint = f"{refused} {refused.code}".lower()
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return replace(self, limit="max_completion_tokens")
        if self.form != "none" and any(
            word in complaint for word in ("response_format", "json_schema", "json_object", "schema", "grammar")
        ):
            return replace(self, form="json_object" if self.form == "json_schema" else "none")
        return None


def messages(question: Question) -> list[Message]:
    content: list[Message] = []
    for part in question.parts:
        if isinstance(part, Picture):
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(part.png).decode()}"}})
        else:
            content.append({"type": "text", "text": part})
    return [{"role": "system", "content": question.system}, {"role": "user", "content": content}]


def decoding(question: Question, dialect: Dialect, temperature: float, max_tokens: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    """All of a request's body but model and messages."""
    body: dict[str, Any] = {"temperature": temperature, dialect.limit: max_tokens}
    if question.kind != "caption" and dialect.form == "json_schema":
        form = {"name": "scores", "strict": True, "schema": schema(names(question))}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    elif question.kind != "caption" and dialect.form == "json_object":
        body["response_format"] = {"type": "json_object"}
    return {**body, **extra}


def tokens_in(text: str) -> int:
    return math.ceil(len(text) / 4)


def read_completion(body: bytes, key: str | None) -> Completion:
    """The first choice of a completion.

    Raises LostError for what is none: a proxy's page, half a reply; RefusedError for a complaint that is sent as a success.
    """
    try:
        reply = json.loads(body)
        if isinstance(reply, dict) and reply.get("error"):
            said, code = _complaint(reply)
            raise RefusedError(_status_in(reply["error"]), excerpt(scrub(said, key)), code)
        envelope = _Envelope.model_validate(reply)
    except (ValueError, RecursionError):
        raise LostError(f"the reply is no completion: {excerpt(scrub(_decoded(body), key))!r}") from None
    choice = envelope.choices[0]
    content = choice.message.content or ""
    text = scrub(content if isinstance(content, str) else "".join(part.text or "" for part in content if part.type == "text"), key)
    refusal = choice.message.refusal or ("" if choice.finish_reason != "content_filter" else "the server's filter held the answer back")
    usage = _usage(envelope.usage)
    # Half a surrogate pair, which JSON can hold, can be neither kept nor sent.
    text = text.encode("utf-8", "replace").decode()
    return Completion(text, excerpt(scrub(refusal, key)), choice.finish_reason == "length", usage.prompt_tokens, usage.completion_tokens)


def read_refusal(status: int, headers: Mapping[str, str], body: bytes, key: str | None, now: datetime) -> RefusedError:
    """What a reply that is no success says, in whichever of the usual forms."""
    try:
        said, code = _complaint(json.loads(body))
    except (ValueError, RecursionError):
        said, code = _decoded(body), ""
    if said.lstrip().startswith("<"):
        said = "a page for browsers"
    place = excerpt(scrub(headers.get("location", ""), key)) if 300 <= status < 400 else ""
    return RefusedError(status, excerpt(scrub(said, key)), code, _wait(headers.get("retry-after", ""), now), place)


def read_models(body: bytes, key: str | None) -> list[str]:
    """The names of a server's models; raises LostError for what is no list of models."""
    try:
        return [scrub(model.id, key) for model in _Models.model_validate_json(body).data if model.id.isprintable()]
    except (ValueError, RecursionError):
        raise LostError(f"the reply is no list of models: {excerpt(scrub(_decoded(body), key))!r}") from None


def listed(models: Sequence[str]) -> str:
    """Names of models for a message."""
    shown = ", ".join(excerpt(model) for model in models[:MODELS_SHOWN])
    return shown + (f" and {len(models) - MODELS_SHOWN} more" if len(models) > MODELS_SHOWN else "")


class _Part(BaseModel):
    type: str = ""
    text: str | None = None


class _Words(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Words
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None


class _Envelope(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Any = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def _usage(said: Any) -> _Usage:
    try:
        return _Usage.model_validate(said)
    except ValidationError:
        return _Usage()


def _complaint(said: Any) -> tuple[str, str]:
    """What a server complains of in JSON, and its codes for that."""
    if isinstance(said, list) and said:
        said = said[0]
    if isinstance(said, dict):
        said = said.get("error") or said
    code = ""
    if isinstance(said, dict):
        code = excerpt(json.dumps([said.get("code"), said.get("type"), said.get("status")]))
        said = said.get("message") or said.get("detail") or said
    return said if isinstance(said, str) else json.dumps(said), code


def _status_in(error: Any) -> int:
    """Which status a complaint would have come with, 200 if it does not say."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 200


def _decoded(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _wait(text: str, now: datetime) -> float | None:
    """Retry-After: seconds, or a date; None for what is neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds <= LONGEST_WAIT else None
