"""The pictures of a run as the model takes them: pixels at its size and their latents, made once and kept on the disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from layerctl.engines.qwen.memory import PIXELS_PER_TOKEN
from layerctl.source import SourceImage
from layerctl_train.kept_tensors import KeptTensors
from layerctl_train.training_data import Entry

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """`source`: at the model's size, in sRGB, without a file. `latents`: of the condition, [1, rows * columns, C], on the CPU."""

    key: str
    sha256: str
    source: SourceImage
    latents: torch.Tensor
    rows: int
    columns: int
    prompt: str | None = None


class PictureStore:
    """`mark`: of all that decides over pixels and latents besides the picture: sizes, VAE, number format.

    `read`: the picture at full size, asked for once; `resize`: to H x W x 4 at the model's size; `encode`: those pixels into latents,
    [1, h * w, C].
    """

    def __init__(
        self,
        folder: Path,
        mark: str,
        read: Callable[[Entry], SourceImage],
        encode: Callable[[U8], torch.Tensor],
        resize: Callable[[SourceImage], U8],
        tell: Callable[[str], None] = lambda _: None,
        pixels_per_token: int = PIXELS_PER_TOKEN,
    ) -> None:
        self.read, self.encode, self.resize, self.pixels_per_token = read, encode, resize, pixels_per_token
        self.tensors = KeptTensors(folder / marked(mark), tell)

    def keep(self, entry: Entry, source: SourceImage) -> None:
        """Make sure that the picture is kept, from what was just read of it: from then on its file is not needed."""
        self._get(entry, lambda: source)

    def picture(self, entry: Entry) -> Picture:
        """Raises what `read` raises, where nothing is kept."""
        pixels, latents = self._get(entry, lambda: self.read(entry))
        source = SourceImage(pixels, has_alpha=bool(pixels[..., 3].min() < 255), sha256=entry.sha256)
        rows, columns = (side // self.pixels_per_token for side in pixels.shape[:2])
        return Picture(entry.key, entry.sha256, source, latents, rows, columns, entry.prompt)

    def _get(self, entry: Entry, read: Callable[[], SourceImage]) -> tuple[U8, torch.Tensor]:
        def make() -> dict[str, torch.Tensor]:
            pixels = self.resize(read())
            return {"pixels": torch.tensor(pixels), "latents": self.encode(pixels)}

        found = self.tensors.get(entry.sha256, make)
        return found["pixels"].numpy(), found["latents"]


def marked(mark: str) -> str:
    """A folder's name for a mark."""
    return hashlib.sha256(mark.encode()).hexdigest()[:16]
