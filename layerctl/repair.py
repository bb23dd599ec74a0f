"""Layers that an engine should not have made, taken out before the others are refined: blank ones, and copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from layerctl import measures
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, crop_to_content, on_canvas
from layerctl.view import View, view

if TYPE_CHECKING:
    from layerctl.source import SourceImage

COPY, DUPLICATE = 0.5, 0.5
"""`measures.composite_copy` and `measures.likeness` from which a layer is taken for one."""


@dataclass(frozen=True, slots=True)
class Repair:
    """`layer`: the one that is gone; `into`: the one that it was joined with, None where it was left out."""

    layer: str
    fault: Literal["blank", "composite copy", "duplicate"]
    into: str | None = None

    def __str__(self) -> str:
        if self.into is not None:
            return f"{self.layer!r} was a copy of {self.into!r} and is joined with it; --keep-faulty keeps both"
        what = {"blank": "is blank", "composite copy": "shows the whole picture again", "duplicate": "is a copy"}[self.fault]
        return f"{self.layer!r} {what} and is left out; --keep-faulty keeps it"


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    stack: LayerStack
    repairs: tuple[Repair, ...]


def repaired(source: SourceImage, stack: LayerStack) -> Repaired:
    """The stack (flat, at the engine's size) without blank layers and copies; the bottom layer always stays."""
    layers = list(stack.walk())
    seen = view(source, stack)
    repairs: list[Repair] = []
    kept = [0]
    for k in range(1, len(layers)):
        if measures.is_blank(seen.alphas[k]):
            repairs.append(Repair(layers[k].name, "blank"))
        elif measures.composite_copy(seen, k) > COPY:
            repairs.append(Repair(layers[k].name, "composite copy"))
        else:
            kept.append(k)
    alive = list(kept)
    for position, k in enumerate(kept):
        for j in kept[max(position, 1) + 1 :]:
            if k and k in alive and j in alive and measures.likeness(seen, k, j) > DUPLICATE:
                alive.remove(k)
                layers[j] = layers[j] if _hides(seen, j, k) else _joined(stack, layers, k, j, alive)
                repairs.append(Repair(layers[k].name, "duplicate", into=layers[j].name))
    return Repaired(stack.with_layers(tuple(layers[k] for k in alive)), tuple(repairs))


def _hides(seen: View, upper: int, lower: int) -> bool:
    """Whether next to nothing of the lower layer shows beside and through the upper one."""
    left = seen.alphas[lower] * (1 - seen.alphas[upper])
    return float(left.sum()) < 0.02 * float(seen.alphas[lower].sum())


def _joined(stack: LayerStack, layers: list[Layer], lower: int, upper: int, alive: list[int]) -> Layer:
    """The upper layer over the lower one; the upper one alone where something that lies between them would come below the lower."""
    both = [on_canvas(layers[k], stack.width, stack.height)[..., 3] > 0 for k in (lower, upper)]
    for between in (k for k in alive if lower < k < upper):
        if bool((np.logical_or(*both) & (on_canvas(layers[between], stack.width, stack.height)[..., 3] > 0)).any()):
            return layers[upper]
    pixels = flatten(stack.with_layers((layers[lower], layers[upper])))
    return crop_to_content(replace(layers[upper], pixels=pixels, left=0, top=0, opacity=1.0, visible=True))
