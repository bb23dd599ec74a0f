"""How fast requests may start, and how long to wait before one is sent again."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

SPAN = 60.0
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Started:
    """A request that has started; set `tokens` to what it really took once that is known."""

    when: float
    tokens: int


@dataclass(slots=True)
class Pacer:
    """Lets requests start, first come first, so that no 60 seconds hold more requests or tokens than the limits; 0 is no limit.

    A request with more tokens than a minute may have starts alone.
    """

    requests: int = 0
    tokens: int = 0
    clock: Clock = time.monotonic
    sleep: Sleep = asyncio.sleep
    _recent: deque[Started] = field(default_factory=deque)
    _not_before: float = float("-inf")
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self, tokens: int) -> Started:
        """Returns when a request that is expected to take so many tokens may be sent."""
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                await self.sleep(wait)
            started = Started(self.clock(), tokens)
            if self.requests or self.tokens:
                self._recent.append(started)
            return started

    def hold(self, seconds: float) -> None:
        """No request starts for so long: the server said so."""
        self._not_before = max(self._not_before, self.clock() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self.clock()
        while self._recent and self._recent[0].when <= now - SPAN:
            self._recent.popleft()
        full = bool(self.requests) and len(self._recent) >= self.requests
        full |= bool(self.tokens and self._recent) and sum(started.tokens for started in self._recent) + tokens > self.tokens
        free = self._recent[0].when + SPAN if full else now
        return max(free, self._not_before) - now


def backoff(tries: int, jitter: float) -> float:
    """Seconds before the next attempt, after `tries` that failed: a share, `jitter` 0..1, of a time that doubles."""
    return jitter * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries - 1, 16))
