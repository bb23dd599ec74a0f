"""Whether text still says what it said: lines read in the source, in what the layers flatten to, and in the layers one by one."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack
from layerctl.quality import Fault
from layerctl.scale import at_size

if TYPE_CHECKING:
    from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

SIDE = 1024
"""Long side of the copy that is read; smaller stacks are read as they are."""
SURE = 0.85
"""The recogniser's confidence from which a line of the source counts."""
LEAST_LIKENESS = 0.75
"""Of a line read in the layers with the same line read in the source."""
LEAST_LETTERS = 3


def altered_text(source: SourceImage, stack: LayerStack) -> tuple[Fault, ...]:
    """A fault for each line of the source that the flattened layers, or every single layer, no longer show.

    A line that one layer shows is whole, whichever layer that is; one that only the layers together show is cut into pieces. Lines that are
    read with little confidence in the source, and what is written in scripts that the recogniser does not know, are not compared.
    """
    from layerctl.engines.classic.ocr import read_line, read_lines, straightened

    factor = min(1.0, SIDE / max(stack.width, stack.height))
    small = at_size(stack, max(1, round(stack.width * factor)), max(1, round(stack.height * factor)))
    pixels = source.srgb()
    if pixels.shape[:2] != (small.height, small.width):
        pixels = cv2.resize(pixels, (small.width, small.height), interpolation=cv2.INTER_AREA)
    lines = [line for line in read_lines(_on_grey(pixels)) if line.confidence >= SURE and len(normalised(line.text)) >= LEAST_LETTERS]
    if not lines:
        return ()
    shown = _on_grey(np.asarray(_srgb(flatten(small), stack)))
    # Text layers first: the line is most likely whole there, and no other needs to be read.
    layers = sorted(small.walk(), key=lambda layer: layer.kind != "text")
    alone: dict[int, U8] = {}
    faults = []
    for line in lines:
        whole = likeness(read_line(straightened(shown, line.quad))[0], line.text)
        if whole < LEAST_LIKENESS:
            faults.append(_fault(line.text, (), whole, "is changed"))
            continue
        best, best_layer = 0.0, None
        for layer in layers:
            if best < LEAST_LIKENESS and _touches(layer, line.quad):
                if id(layer) not in alone:
                    alone[id(layer)] = _alone(layer, small)
                score = likeness(read_line(straightened(alone[id(layer)], line.quad))[0], line.text)
                if score > best:
                    best, best_layer = score, layer
        if best < LEAST_LIKENESS:
            names = tuple(layer.name for layer in ([best_layer] if best_layer else []))
            faults.append(_fault(line.text, names, best, "is not whole in any layer"))
    return tuple(faults)


def normalised(text: str) -> str:
    """What is compared of a text: its letters, digits and % $ & +, with compatible forms unified, without case, spaces and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LN" or letter in "%$&+")


def likeness(first: str, second: str) -> float:
    """1 - edit distance / length of the longer, of the normalised strings; 1 for two empty ones."""
    a, b = normalised(first), normalised(second)
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return 1 - row[-1] / max(len(a), len(b), 1)


def _fault(text: str, layers: tuple[str, ...], like: float, how: str) -> Fault:
    return Fault("text", layers, round(1 - like, 3), f"the text {text!r} {how}")


def _alone(layer: Layer, stack: LayerStack) -> U8:
    """The layer over the one of white and black that it differs more from."""
    flat = flatten(stack.with_layers((replace(layer, visible=True),)))
    alpha = flat[..., 3:].astype(np.float32) / 255
    weight = max(float(alpha.sum()), 1e-6)
    ground = 0 if float((flat[..., :3].mean(axis=2, keepdims=True) * alpha).sum()) / weight > 127 else 255
    return _over(flat, ground)


def _on_grey(pixels: U8) -> U8:
    return _over(pixels, 127)


def _over(pixels: U8, ground: int) -> U8:
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(pixels[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8)


def _srgb(pixels: U8, stack: LayerStack) -> U8:
    from layerctl import colour

    return np.asarray(colour.converted(pixels, stack.icc, None), np.uint8)


def _touches(layer: Layer, quad: F32) -> bool:
    left, top, right, bottom = layer.box
    x, y = quad[:, 0], quad[:, 1]
    return bool(x.min() < right and x.max() > left and y.min() < bottom and y.max() > top)
