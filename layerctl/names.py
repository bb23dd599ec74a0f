"""Names of layers as a format or a line can hold them: cut between whole characters, free of what a terminal or a file refuses."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence

ZERO_WIDTH_JOINER = "\u200d"
REPLACEMENT = "\ufffd"


def fitted(name: str, limit: float, size: Callable[[str], float]) -> str:
    """`name` if its `size` is at most `limit`, else as many whole characters as fit beside an ellipsis.

    A whole character is what a reader sees as one: a letter with its accents, an emoji with its modifiers, a flag.
    """
    if size(name) <= limit:
        return name
    room = limit - size("…")
    kept: list[str] = []
    for cluster in clusters(name):
        room -= size(cluster)
        if room < 0:
            break
        kept.append(cluster)
    return "".join(kept).rstrip() + "…"


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def utf8_bytes(text: str) -> int:
    return len(text.encode())


def printable(name: str) -> str:
    """`name` on one line: control characters and line ends become spaces, halves of surrogate pairs the replacement character.

    Never empty: a name of nothing else is the replacement character.
    """
    return "".join(_printable(character) for character in name).strip() or REPLACEMENT


def clusters(text: str) -> Iterator[str]:
    """The characters of `text` as a reader counts them (UAX 29 without the rules for Indic conjuncts)."""
    cluster = ""
    for character in text:
        if cluster and not _extends(cluster, character):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def unique(names: Sequence[str]) -> list[str]:
    """The names, later twins numbered: "Sale", "Sale (2)"."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name} ({number})"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def _extends(cluster: str, character: str) -> bool:
    if character == ZERO_WIDTH_JOINER or unicodedata.category(character)[0] == "M":
        return True
    is_emoji_modifier = "\U0001f3fb" <= character <= "\U0001f3ff"
    is_tag = "\U000e0020" <= character <= "\U000e007f"
    is_later_jamo = "\u1160" <= character <= "\u11ff"
    is_second_half_of_a_flag = _is_regional(character) and _is_regional(cluster[0]) and len(cluster) == 1
    return cluster[-1] == ZERO_WIDTH_JOINER or is_emoji_modifier or is_tag or is_later_jamo or is_second_half_of_a_flag


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return REPLACEMENT
    return " " if category in ("Cc", "Zl", "Zp") else character
