"""Reading the text of a picture, for the tests that a text layer says what it should and that nothing of it is left below."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.usefulness import metrics
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack

Bytes = npt.NDArray[np.uint8]
LEAST_LIKENESS = 0.9


def read(rgb: Bytes) -> list[str]:
    """The lines of text in a picture, from top to bottom, those of one height from left to right."""
    result = _reader()(np.ascontiguousarray(rgb[..., ::-1]))
    if not result.txts:
        return []
    boxes = np.asarray(result.boxes)
    heights = np.ptp(boxes[..., 1], axis=1)
    rows = np.round(boxes[..., 1].mean(axis=1) / max(float(np.median(heights)), 1.0))
    order = np.lexsort((boxes[..., 0].min(axis=1), rows))
    return [str(result.txts[place]) for place in order]


def says(layer: Layer | None, text: str, width: int, height: int) -> bool:
    """Whether the layer alone over the more contrasting of white and black reads as the text, with a likeness of at least .9."""
    if layer is None:
        return False
    visible = layer.pixels[..., 3] > 127
    if not visible.any():
        return False
    dark = layer.pixels[..., :3][visible].mean() < 128
    sheet = metrics.over(layer, (255, 255, 255) if dark else (0, 0, 0), width, height)
    return metrics.likeness("".join(read(sheet)), text) >= LEAST_LIKENESS


def is_clean(stack: LayerStack, partners: list[int | None], text: str) -> bool:
    """Whether nothing of the text is read in the stack without the layers that stand for text."""
    rest = stack.with_layers(tuple(layer for place, layer in enumerate(stack.walk()) if place not in partners))
    return not metrics.remains(text, read(flatten(rest)[..., :3]))


@cache
def _reader() -> Any:
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1})
