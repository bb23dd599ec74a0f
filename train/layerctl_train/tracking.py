"""Where a run's metrics go besides `metrics.jsonl`: nowhere, to trackio or to TensorBoard."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol

from layerctl.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PROJECT = "layerctl"
TENSORBOARD = "tensorboard"
"""Of the run's folder, the part that `tensorboard --logdir` shows."""


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        """What is no finite number is left out."""

    def close(self) -> None:
        """Whatever is still on its way arrives."""


def open_tracker(
    name: Literal["none", "trackio", "tensorboard"],
    folder: Path,
    config: Mapping[str, object],
    *,
    resumed: int | None = None,
    logged: int | None = None,
) -> Tracker:
    """A tracker of the run in `folder`, which a resumed run goes on with.

    `config`: the settings by name, shown with the run. `resumed`: the step of the checkpoint that the run goes on from, None for a new run;
    `logged`: the last step that was logged before, which may lie behind it. What is logged for a step again takes the place of what was
    (TensorBoard) or is left out (trackio, which cannot delete; the numbers are the same). Raises MissingDependencyError.
    """
    if name == "trackio":
        return _Trackio(folder.name, config, is_new=resumed is None, logged=-1 if logged is None else logged)
    if name == "tensorboard":
        return _TensorBoard(folder / TENSORBOARD, config, resumed)
    return _Nowhere()


class _Nowhere:
    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        pass

    def close(self) -> None:
        pass


class _Trackio:
    def __init__(self, run: str, config: Mapping[str, object], *, is_new: bool, logged: int) -> None:
        self._library, self._logged = _package("trackio", "trackio"), logged
        # It talks to stdout, which is for results.
        with redirect_stdout(sys.stderr):
            self._library.init(project=PROJECT, name=run, config=dict(config), resume="never" if is_new else "allow")

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        if step > self._logged:
            with redirect_stdout(sys.stderr):
                self._library.log(_finite(metrics), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._library.finish()


class _TensorBoard:
    def __init__(self, folder: Path, config: Mapping[str, object], resumed: int | None) -> None:
        library = _package("tensorboard", "torch.utils.tensorboard")
        try:
            self._writer: SummaryWriter = library.SummaryWriter(str(folder), purge_step=None if resumed is None else resumed + 1)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written to: {error.strerror}", hint="make room, or go without --track") from error
        if resumed is None:
            rows = "\n".join(f"    {key} = {value}" for key, value in config.items())
            self._writer.add_text("settings", rows, 0)

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        for name, value in _finite(metrics).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _finite(metrics: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)}


def _package(package: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"--track {package} needs the package {package}: {error}", hint=f"pip install {package}") from error
