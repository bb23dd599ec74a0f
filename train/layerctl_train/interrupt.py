"""Ctrl-C and SIGTERM, noted and acted on where nothing is half done."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 0.2


class Interrupt:
    """While it is entered, the first signal is noted, and `check` raises KeyboardInterrupt; a second one, `urgent`, does so at once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.noted = self.urgent = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self.noted:
            raise KeyboardInterrupt

    def wait(self, future: Future[T]) -> T:
        """The future's result; raises what it raises, and KeyboardInterrupt."""
        while True:
            self.check()
            try:
                return future.result(_PATIENCE)
            except NotYetError:
                if future.done():
                    return future.result()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.noted:
            self.urgent = True
            raise KeyboardInterrupt
        self.noted = True
        self.tell(f"{signal.Signals(number).name}: saving, and leaving; once more leaves without")
