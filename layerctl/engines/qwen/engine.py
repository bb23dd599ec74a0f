"""The engine: one picture through the model, with what is loaded kept for the next one.

Nothing heavy is imported before a picture or a check needs it, so that naming the engine costs nothing where its extra is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layerctl.engines.choice import missing_packages
from layerctl.errors import MissingDependencyError
from layerctl.registry import DecomposeRequest, ModelOptions, Progress, Proposal
from layerctl.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from layerctl.engines.qwen.session import Session
    from layerctl.source import SourceImage

NAME, VERSION = "qwen", "1"


class QwenEngine:
    """Qwen-Image-Layered; `configured` gives one that knows its checkpoint, adapters and recipe."""

    name = NAME
    version = VERSION

    def __init__(self, session: Session | None = None) -> None:
        self._session = session

    def configured(self, options: ModelOptions, tell: Callable[[str], None]) -> QwenEngine:
        """Raises MissingDependencyError for a missing package or model, UsageError for what does not go together."""
        missing = missing_packages()
        if missing:
            raise MissingDependencyError(f"the engine qwen needs {', '.join(missing)}", hint="pip install 'layerctl[qwen]'")
        from layerctl.engines.qwen.session import Session

        return QwenEngine(Session(options, tell))

    def forecast(self, width: int, height: int, request: DecomposeRequest) -> tuple[str, ...]:
        return self._ready().forecast(width, height, request)

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        """Raises OutOfMemoryError when the device's memory does not suffice in spite of the plan."""
        return self._ready().decompose(source, request, progress)

    def _ready(self) -> Session:
        if self._session is None:
            self._session = self.configured(ModelOptions(DEFAULT_MODEL), lambda _: None)._session
        assert self._session is not None
        return self._session


ENGINE = QwenEngine()
