"""The segmenter's network at run time: what belongs together, what is an element and what lies above what, in cells of four pixels.

`benchmarks/segmenter` trains it and says on which pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.inference import open_model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CELL = 4
MULTIPLE = 32
OFFSETS = tuple((dy * r, dx * r) for r in (1, 3, 8) for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)))
"""(rows, columns) in cells; the training script's own list."""
FILE = Path(__file__).with_name("segmenter.onnx")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network says of a picture whose long side was `side` pixels when it looked.

    `element`: rows x columns, probability that a cell shows an element. `same`, `above`: offsets x rows x columns, probability that
    the cell and its neighbour at OFFSETS[k] show one layer, and that the cell's layer lies above the neighbour's if they do not.
    """

    element: Floats
    same: Floats
    above: Floats


def look(rgb: npt.NDArray[np.uint8], side: int) -> Maps:
    """Run the network on the picture (uint8 H x W x 3, sRGB) scaled to `side` pixels, and on its mirror image; the mean of both."""
    height, width = rgb.shape[:2]
    factor = side / max(height, width)
    size = (max(CELL, round(width * factor)), max(CELL, round(height * factor)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    plain = _run(small)
    rows, columns = plain.shape[1:]
    turned = _run(np.ascontiguousarray(small[:, ::-1]))
    count = len(OFFSETS)
    maps = plain.copy()
    maps[0] = (plain[0] + turned[0][:, ::-1]) / 2
    for k, (dy, dx) in enumerate(OFFSETS):
        # A pair seen in the mirror: the neighbour at (dy, dx) is at (dy, -dx) there; without rows it is the pair's other end.
        if dx == 0:
            same, above = turned[1 + k], turned[1 + count + k]
            maps[1 + k] = (plain[1 + k] + same[:, ::-1]) / 2
            maps[1 + count + k] = (plain[1 + count + k] + above[:, ::-1]) / 2
        elif dy == 0:
            same, above = turned[1 + k][:, ::-1], turned[1 + count + k][:, ::-1]
            maps[1 + k, :, :-dx] = (plain[1 + k, :, :-dx] + same[:, dx:]) / 2
            maps[1 + count + k, :, :-dx] = (plain[1 + count + k, :, :-dx] - above[:, dx:]) / 2
        else:
            twin = OFFSETS.index((dy, -dx))
            maps[1 + k] = (plain[1 + k] + turned[1 + twin][:, ::-1]) / 2
            maps[1 + count + k] = (plain[1 + count + k] + turned[1 + count + twin][:, ::-1]) / 2
    probability = (1 / (1 + np.exp(-maps))).astype(np.float32, copy=False)
    keep_rows, keep_columns = min(rows, -(-size[1] // CELL)), min(columns, -(-size[0] // CELL))
    probability = probability[:, :keep_rows, :keep_columns]
    return Maps(probability[0], probability[1 : 1 + count], probability[1 + count :])


def element_map(looks: Sequence[Maps], width: int, height: int) -> Floats:
    """Probability of being an element, mean of all looks, at the size of the work picture."""
    maps = [cv2.resize(maps.element, (width, height), interpolation=cv2.INTER_LINEAR) for maps in looks]
    return np.mean(maps, axis=0, dtype=np.float32)


def _run(small: npt.NDArray[np.uint8]) -> Floats:
    """Logits, channels x rows x columns; the picture is continued at its right and lower rim to whole multiples."""
    height, width = small.shape[:2]
    down, right = -height % MULTIPLE, -width % MULTIPLE
    padded = cv2.copyMakeBorder(small, 0, down, 0, right, cv2.BORDER_REPLICATE)
    picture = padded.astype(np.float32).transpose(2, 0, 1)[None] / 255
    maps: Floats = _session().run(None, {"picture": np.ascontiguousarray(picture)})[0][0]
    return maps


@cache
def _session() -> InferenceSession:
    return open_model(FILE.read_bytes())
