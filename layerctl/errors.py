"""Every error that layerctl raises on purpose, and the exit code that each one ends in.

LayerctlError                       1
├── UsageError                      2   a request that makes no sense (a number out of range, a missing file name)
├── InputError                      1   a picture that cannot be read (3 when other inputs of the same command went well)
├── OutputError                     1   a result that cannot be written
├── ConfigError                     2   a settings file or variable with an unknown key or a bad value
├── SomeInputsFailedError           3   a batch in which some inputs failed and the others were done
├── JudgeStoppedError               1   a judge that cannot go on: its server is down or refuses, or the budget is spent
├── TrainingStoppedError            1   a training run that must not go on: its numbers say that something is wrong
├── ProcessesLostError              1   a process of a training run that has lost the others
├── OutOfMemoryError                4   the job does not fit in memory
└── MissingDependencyError          5   an extra, a model or credentials that are not there

Exit code 6 (`BELOW_QUALITY`: written, but below the asked quality) and 130 (interrupted) are no errors of the library. The library
raises; only `layerctl.cli.main` catches.

A message has two parts: what was wrong, with the value, and what to type or do next (`hint`).
"""

from __future__ import annotations

BELOW_QUALITY = 6


class LayerctlError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LayerctlError):
    exit_code = 2


class InputError(LayerctlError):
    exit_code = 1


class OutputError(LayerctlError):
    exit_code = 1


class ConfigError(LayerctlError):
    exit_code = 2


class SomeInputsFailedError(LayerctlError):
    exit_code = 3


class JudgeStoppedError(LayerctlError):
    exit_code = 1


class TrainingStoppedError(LayerctlError):
    exit_code = 1


class ProcessesLostError(LayerctlError):
    exit_code = 1


class OutOfMemoryError(LayerctlError):
    exit_code = 4


class MissingDependencyError(LayerctlError):
    exit_code = 5
