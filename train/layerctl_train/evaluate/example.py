"""A picture to evaluate on, and where such pictures come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from layerctl.composite import flatten
from layerctl.layers import LayerStack
from layerctl.source import SourceImage


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One picture and, where they are known, its layers.

    `key`: the same picture's name on every machine and in every run, unique in its data. `truth`: bottom to top, flattens to `source`;
    None where only the picture is known.
    """

    key: str
    source: SourceImage
    truth: LayerStack | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A key without an example. `is_fault`: it cannot be read; else the data's own rules leave it out."""

    key: str
    reason: str
    is_fault: bool = True


class Data(Protocol):
    """Where examples come from. Nothing is read before it is asked for, and one example at a time is in memory."""

    @property
    def name(self) -> str:
        """What a report calls the data, with its version: "crello 5.1.0 test", "scenes, 192 x 128", "folder house-style"."""
        ...

    def keys(self) -> Sequence[str]:
        """All keys in a fixed order; cheap."""
        ...

    def examples(self, keys: Sequence[str]) -> Iterator[Example | Skipped]:
        """One for each of these keys, in the order of `keys()`; a picture that cannot be read does not end it.

        Raises what ends the whole: InputError for a folder or table that cannot be read, MissingDependencyError for one that is not there.
        """
        ...


def picture_of(stack: LayerStack) -> SourceImage:
    """What the stack flattens to. There is no file: `sha256` is of size, profile and pixels."""
    pixels = flatten(stack)
    content = f"{stack.width} x {stack.height}\n".encode() + (stack.icc or b"") + pixels.tobytes()
    return SourceImage(pixels, stack.icc, stack.dpi, bool(pixels[..., 3].min() < 255), hashlib.sha256(content).hexdigest())
