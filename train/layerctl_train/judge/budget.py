"""What a run may spend, and what it has spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerctl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def price_of(model: str, prices: Sequence[str]) -> Price | None:
    """The model's price among "model=in,out", None if it is not there.

    Raises ConfigError for what is no price.
    """
    found = None
    for entry in prices:
        name, _, dollars = entry.rpartition("=")
        try:
            price = Price(*(float(part) for part in dollars.split(",")))
        except (TypeError, ValueError):
            price = Price(math.nan, math.nan)
        if not name or not (0 <= price.input < math.inf and 0 <= price.output < math.inf):
            raise ConfigError(
                f"judge_prices: {entry!r} is no price", hint='write "model=0.10,0.40": US dollars for a million tokens in, out'
            )
        if name == model:
            found = price
    return found


@dataclass(slots=True)
class Budget:
    """Counts every request from before it is sent, so that the limits hold however many are under way.

    The limit of money holds as far as what is reserved is not less than what a request takes. `cost`: an upper bound once `has_lost`
    requests, of which nobody knows what they took.
    """

    max_calls: int | None = None
    max_cost: float | None = None
    calls: int = 0
    cost: float = 0.0
    has_lost: bool = False
    _reserved: float = 0.0

    def reserve(self, cost: float) -> bool:
        """Whether one more request, of at most this cost, is within the limits; it is counted if so."""
        if self.what_is_spent(cost):
            return False
        self.calls += 1
        self._reserved += cost
        return True

    def settle(self, reserved: float, cost: float | None) -> None:
        """The request that `reserved` was for has taken `cost`, None if it was lost: it may have taken all that was reserved."""
        self._reserved -= reserved
        self.cost += reserved if cost is None else cost
        self.has_lost |= cost is None

    def what_is_spent(self, cost: float) -> str:
        """Which limit one more request of this cost would break, in words; "" if none."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            return f"{self.calls} requests were sent, which is what max_judge_calls allows"
        if self.max_cost is not None and self.cost + self._reserved + cost > self.max_cost:
            spent = f"up to ${self.cost:.4f} is spent, lost requests included" if self.has_lost else f"${self.cost:.4f} is spent"
            return f"{spent}, and one more request may take more than max_judge_cost, ${self.max_cost:g}, allows"
        return ""
