"""What a judge's work takes, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerctl.verdict import Usage


def taken(usage: Usage, model: str, prices: Sequence[str]) -> str:
    """Requests, tokens and money that a judge's `model` took, "" for one that is not known yet. `prices`: the ones that settings give."""
    return f"{_requests(usage)}, {_tokens(usage)}, {_money(usage, model, prices)}"


def expected(usage: Usage, model: str, prices: Sequence[str]) -> str:
    """The same of a forecast, which counts no request that has to be sent again."""
    return f"{_requests(usage)}, repeated ones apart, about {_tokens(usage)}, {_money(usage, model, prices)}"


def _requests(usage: Usage) -> str:
    return "1 request" if usage.calls == 1 else f"{usage.calls} requests"


def _tokens(usage: Usage) -> str:
    return f"{usage.input_tokens:,} tokens in and {usage.output_tokens:,} out"


def _money(usage: Usage, model: str, prices: Sequence[str]) -> str:
    if usage.cost is not None:
        return f"${usage.cost:.4f}"
    return f"at an unknown price ({'--judge-model tells which' if prices and not model else '--judge-price tells it'})"
