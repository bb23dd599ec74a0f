"""Which of the keys a run takes: the same on every machine, whatever else the data holds.

A key's place is drawn by a hash of seed and key, not by its position, so a picture that is added or removed changes no other's draw, and a
smaller sample is part of a larger one. A shard takes every n-th of what was sampled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from layerctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number`, from 1, of `count` parts. Raises UsageError for a number that is not one of them."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"there is no shard {self}", hint="the first of four parts is --shard 1/4, the last one --shard 4/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """ "2/4" as a `Shard`. Raises UsageError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if found is None:
        raise UsageError(f"--shard {text} is no part of anything", hint="the first of four parts is --shard 1/4")
    return Shard(int(found[1]), int(found[2]))


def chosen(keys: Sequence[str], *, limit: int | None = None, seed: int = 0, shard: Shard | None = None) -> list[str]:
    """A sample of `limit` keys (None: all of them), of that the shard's, in the order of `keys`. Raises UsageError for a limit below 1."""
    sampled = list(keys) if limit is None else _sample(keys, limit, seed)
    return sampled if shard is None else sampled[shard.number - 1 :: shard.count]


def _sample(keys: Sequence[str], limit: int, seed: int) -> list[str]:
    if limit < 1:
        raise UsageError(f"--limit {limit} leaves no picture", hint="give 1 or more")
    # A file's name need not be text.
    places = {key: hashlib.sha256(f"{seed}:{key}".encode(errors="surrogateescape")).digest() for key in keys}
    drawn = set(sorted(keys, key=places.__getitem__)[:limit])
    return [key for key in keys if key in drawn]
