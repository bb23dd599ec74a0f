"""One request to a judge that sees pictures, before it becomes anybody's wire format."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.verdict import Usage

PATCH = 28
"""Pixels across the patch that is one token. 28 for Qwen2-VL and Qwen2.5-VL; later ones take 32, and need fewer tokens than counted."""

Kind = Literal["alone", "together", "caption"]


class Picture:
    """`pixels`: uint8 H x W x 3, sRGB. File and hash are made when they are asked for, and kept."""

    # Not functools.cached_property: up to Python 3.11 all objects wait for one another at its lock.
    __slots__ = ("_png", "_sha256", "pixels")

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self._png = b""
        self._sha256 = ""

    @property
    def png(self) -> bytes:
        if not self._png:
            # Level 4 takes half the time of 6, for a fifth more bytes.
            written, data = cv2.imencode(".png", self.pixels[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 4))
            assert written
            self._png = data.tobytes()
        return self._png

    @property
    def sha256(self) -> str:
        """Of size and pixels, whatever file they are in."""
        if not self._sha256:
            digest = hashlib.sha256(f"{self.pixels.shape}".encode())
            digest.update(np.ascontiguousarray(self.pixels).data)
            self._sha256 = digest.hexdigest()
        return self._sha256


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked: instructions, then texts and pictures in the order in which they are shown.

    `kind`: which reply is expected: one candidate's five criteria, a score for each label, or a caption in plain words. `labels`: of
    candidates, top to bottom, for `together`. `version`: of the prompt.
    """

    kind: Kind
    system: str
    parts: tuple[str | Picture, ...]
    version: str
    labels: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What the question takes in a request, its pictures in base64; without the few bytes of JSON around it."""
        return sum(len(text.encode()) for text in self.texts) + sum(4 * -(-len(picture.png) // 3) for picture in self.pictures)

    @property
    def tokens(self) -> int:
        """About: a token for 4 characters, and for each `PATCH` x `PATCH` pixels; models count in ways of their own."""
        patches = (math.prod(-(-side // PATCH) for side in picture.pixels.shape[:2]) for picture in self.pictures)
        return sum(-(-len(text) // 4) for text in self.texts) + sum(patches)

    @property
    def texts(self) -> Sequence[str]:
        return [self.system, *(part for part in self.parts if isinstance(part, str))]

    @property
    def pictures(self) -> Sequence[Picture]:
        return [part for part in self.parts if isinstance(part, Picture)]


class NoAnswerError(Exception):
    """A question that got no usable answer, and why; what was spent on it all the same."""

    def __init__(self, reason: str, usage: Usage, seconds: float) -> None:
        super().__init__(reason)
        self.reason, self.usage, self.seconds = reason, usage, seconds


def schema(names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer: {name: {"evidence": "...", "points": 0..10}, ...}.

    Evidence comes first: a model that writes what it saw before the number takes it into account. Without references, which not all
    servers know.
    """
    opinion = {
        "type": "object",
        "properties": {"evidence": {"type": "string"}, "points": {"type": "number", "minimum": 0, "maximum": 10}},
        "required": ["evidence", "points"],
        "additionalProperties": False,
    }
    return {"type": "object", "properties": dict.fromkeys(names, opinion), "required": list(names), "additionalProperties": False}
