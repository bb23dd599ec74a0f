"""Reading a picture file exactly: orientation, colour profile, depth, transparency, limits -> `SourceImage`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """A picture as it was read, upright.

    `pixels`: uint8, H x W x 4, straight alpha, the source's own values in its own RGB profile `icc` (None: sRGB). `has_alpha`: some pixel is
    not opaque. `sha256`: of the file's bytes. `warnings`: what was changed on reading, in words.
    """

    pixels: npt.NDArray[np.uint8]
    icc: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    has_alpha: bool = False
    sha256: str = ""
    path: Path | None = None
    copyright: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])
