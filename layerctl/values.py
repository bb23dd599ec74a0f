"""Values of settings, from TOML, variables or flags: how each kind is read, and an example for who got one wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Value(NamedTuple):
    """`read` takes what was given, and raises ValueError that says what it is not; `example` is what to give instead.

    `is_shown`: whether a message may repeat what was given, which for some could be a key in the wrong place.
    """

    read: Callable[[object], Any]
    example: str
    is_shown: bool = True


def whole(least: int, most: int | None = None, *, such_as: int) -> Value:
    def read(value: object) -> int:
        found = _whole_number(value)
        if most is not None and not least <= found <= most:
            raise ValueError(f"not within {least} to {most}")
        if found < least:
            raise ValueError(f"less than {least}")
        return found

    return Value(read, f"give a number from {least} {f'to {most}' if most else 'up'}, such as {such_as}")


def number(least: float, most: float = math.inf, *, such_as: float) -> Value:
    """A finite number."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("not a number")
        try:
            found = float(value)
        except ValueError:
            raise ValueError("not a number") from None
        if not math.isfinite(found):
            raise ValueError("not a finite number")
        if not least <= found <= most:
            raise ValueError(f"less than {least:g}" if most == math.inf else f"not within {least:g} to {most:g}")
        return found

    return Value(read, f"give a number from {least:g} {'up' if most == math.inf else f'to {most:g}'}, such as {such_as:g}")


def choice(*words: str) -> Value:
    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError(f"not one of {', '.join(words)}")

    return Value(read, f"give one of {', '.join(words)}")


def optional(value: Value, word: str = "none") -> Value:
    """The value, or a word that stands for none."""
    return value._replace(read=lambda given: None if given == word else value.read(given), example=f"{value.example}, or {word}")


def multiple(value: Value, of: int, example: str) -> Value:
    def read(given: object) -> int:
        found: int = value.read(given)
        if found % of:
            raise ValueError(f"not a multiple of {of}")
        return found

    return Value(read, example)


def name(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError("not a name")


def text(value: object) -> str:
    found = name(value)
    try:
        found.encode()
    except UnicodeEncodeError:
        raise ValueError("not text in UTF-8") from None
    return found


def names(value: object) -> tuple[str, ...]:
    """Without repetitions, in their order."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError("not a list of names")
    return tuple(dict.fromkeys(name(entry) for entry in listed))


def texts(value: object) -> tuple[str, ...]:
    """Commas are part of them: a list, or one."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError("not a list")
    return tuple(text(entry) for entry in listed)


def yes_or_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("neither yes nor no")


def variable_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", value):
        return value
    raise ValueError("not the name of a variable")


def url(value: object) -> str:
    """The base of an endpoint, without a slash at its end; it holds no credentials."""
    given = text(value).rstrip("/")
    try:
        parts = urlsplit(given)
        is_host = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x1f\x7f\\]", given)
    except ValueError:
        is_host = False
    if re.search("[@?#]", given):
        raise ValueError("holds a name, a password or a query, and no setting holds credentials")
    if not is_host or parts.scheme not in ("http", "https"):
        raise ValueError(f"{given!r} does not begin with http:// or https:// and a host")
    return given


def json_object(value: object) -> str:
    """The text of a JSON object; a table of TOML is one too."""
    given = json.dumps(value, default=str) if isinstance(value, dict) else value
    if given == "":
        return ""
    try:
        if isinstance(given, str) and isinstance(json.loads(given), dict):
            return given
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    raise ValueError("not a JSON object")


def weights(count: int) -> Callable[[object], tuple[float, ...]]:
    """So many numbers of 0 or more, not all of them 0: a list, or with commas."""
    one = number(0, such_as=1)

    def read(value: object) -> tuple[float, ...]:
        listed = value.split(",") if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or len(listed) != count:
            raise ValueError(f"not {count} numbers")
        found = tuple(one.read(entry) for entry in listed)
        if not any(found):
            raise ValueError("all of them are 0")
        return found

    return read


def prices(value: object) -> tuple[str, ...]:
    """Texts of the form `name=in,out`, each name once."""
    one = number(0, such_as=1)
    listed = texts(value)
    models = []
    for entry in listed:
        model, _, both = entry.rpartition("=")
        try:
            in_and_out = [one.read(part) for part in both.split(",")]
        except ValueError:
            in_and_out = []
        if not model.strip() or len(in_and_out) != 2:
            raise ValueError(f"{entry!r} is not name=IN,OUT with two numbers from 0 up")
        models.append(model.strip())
    if len(set(models)) < len(models):
        raise ValueError("a model is named twice")
    return listed


def _whole_number(value: object) -> int:
    # In Python True is a number too, and `layers = true` would pass.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError("not a whole number")
