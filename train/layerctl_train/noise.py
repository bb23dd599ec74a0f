"""Everything that training draws, as pure functions of a seed and counters, so that a resumed run draws what the first one would have."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def noise(shape: tuple[int, ...], seed: int, *counters: int | str) -> torch.Tensor:
    """Standard normal noise, float32, made on the CPU: the same on every device."""
    import torch

    generator = torch.Generator("cpu").manual_seed(_number(seed, counters))
    return torch.randn(shape, generator=generator)


def draw(seed: int, *counters: int | str) -> random.Random:
    """A source of small choices, such as layer counts, for one use: it is not kept."""
    return random.Random(_number(seed, counters))


def _number(seed: int, counters: tuple[int | str, ...]) -> int:
    # JSON keeps apart what plain joining would not: ("a", 1) and ("a 1",), 1 and "1".
    digest = hashlib.sha256(json.dumps([seed, *counters]).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
