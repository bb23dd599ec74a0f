"""A picture to train on as its data has it, and what such data is."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import Protocol

from layerctl_train.evaluate.example import Example, Skipped


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """`prompt`: what its data says about the picture, None where it says nothing."""

    example: Example
    prompt: str | None = None


class TrainingData(Protocol):
    """Where pictures to train on come from. Nothing is read before it is asked for, and one picture at a time is in memory."""

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int | None:
        """How many there are; None where only reading to the end would tell."""
        ...

    def samples(self, keys: Collection[str] | None = None) -> Generator[Sample | Skipped]:
        """All of them, or those with these keys, in a fixed order; a picture that cannot be read does not end it.

        Raises what ends the whole: InputError for data that cannot be read, MissingDependencyError for data that cannot be fetched.
        """
        ...
