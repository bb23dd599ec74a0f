"""Measures of the Stable-Layers kind (arXiv 2605.30257): layer by layer in the order of the stacks, and without knowing the layers.

The paper's Crello figure shows an L1 of "Pred 0", "Pred 1", ... for every number L of true layers; how its colours under transparency count
could not be read, so both ways are here, and neither is LayerD's metric, which aligns and merges. All values are 0..1, lower is better,
except those of `layerctl.quality`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from layerctl import measures
from layerctl.layers import Layer, LayerStack, mapped
from layerctl.quality import CRITERIA, assess
from layerctl.source import SourceImage
from layerctl.view import view

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

WHITE = 255 * 255
"""A colour level times an alpha level, at most."""


@dataclass(frozen=True, slots=True)
class PerIndex:
    """A picture's L1 of Pred 0, Pred 1, ..., one for each of its L true layers, bottom first, both ways (see `per_index_l1`).

    `missing`: how many of these had no prediction. `extra`: the premultiplied L1, against a blank layer, of every predicted layer beyond
    L; it says how much they hold, and is in no mean.
    """

    premultiplied: tuple[float, ...]
    over_white: tuple[float, ...]
    missing: int
    extra: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PerIndexMeans:
    """A row of the table: means by index over the `pictures` that have `layers` true layers."""

    layers: int
    pictures: int
    premultiplied: tuple[float, ...]
    over_white: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Soundness:
    """What can be said of a raw stack and its source without true layers.

    `layers`: how many there are. `blank`, `duplicate`, `composite_copy`: share of them, 0..1. Unused layers come out blank, which is
    normal, and which LayerD's metric hardly notices. `recomposition`: mean |difference| of the flattened stack from the source, 0..1.
    `criteria`: the five of `layerctl.quality.CRITERIA` in that order, and `overall`, 0..1, higher is better.
    """

    layers: int
    blank: float
    duplicate: float
    composite_copy: float
    recomposition: float
    criteria: tuple[float, ...]
    overall: float


def per_index_l1(prediction: Sequence[U8], truth: Sequence[U8]) -> PerIndex:
    """The L1 of each layer of a pair of stacks: uint8 H x W x 4, straight alpha, bottom to top, all of one size.

    Premultiplied: the mean over pixels and all four channels of |difference|, colours multiplied by alpha. Over white: the mean over
    pixels and three channels of |difference| of the layers laid on white alone. Colour under alpha 0 counts in neither. A prediction that
    is missing counts as a blank layer. Raises ValueError for other shapes.
    """
    shapes = {(layer.shape, str(layer.dtype)) for layer in (*prediction, *truth)}
    if not truth or len(shapes) > 1 or any(len(shape) != 3 or shape[2] != 4 or dtype != "uint8" for shape, dtype in shapes):
        raise ValueError(f"layers of {shapes} cannot be compared: all must be uint8, height x width x 4, of one size")
    blank = np.zeros_like(truth[0])
    given = [*prediction, *[blank] * (len(truth) - len(prediction))]
    pairs = [_differences(one, other) for one, other in zip(given, truth, strict=False)]
    return PerIndex(
        tuple(pair[0] for pair in pairs),
        tuple(pair[1] for pair in pairs),
        missing=max(0, len(truth) - len(prediction)),
        extra=tuple(_differences(layer, blank)[0] for layer in prediction[len(truth) :]),
    )


def by_layer_count(results: Iterable[PerIndex]) -> list[PerIndexMeans]:
    """The table: one row for every L, ascending."""
    rows: dict[int, list[PerIndex]] = {}
    for result in results:
        rows.setdefault(len(result.premultiplied), []).append(result)
    return [
        PerIndexMeans(layers, len(row), _means([one.premultiplied for one in row]), _means([one.over_white for one in row]))
        for layers, row in sorted(rows.items())
    ]


def soundness(source: SourceImage, stack: LayerStack) -> Soundness:
    """The reference-free measures of a raw stack, at its own size or `layerctl.view.SIDE`, whichever is smaller.

    Blank, copy of the picture and duplicate are what `layerctl.quality.assess` calls so; of layers that are alike the lowest is no
    duplicate. A stack without layers counts as one blank layer.
    """
    names = iter(range(sum(1 for _ in stack.walk())))
    numbered = stack.with_layers(mapped(stack.layers, lambda layer: replace(layer, name=str(next(names)))))
    if not any(True for _ in numbered.walk()):
        numbered = stack.with_layers((Layer("0", np.zeros((1, 1, 4), np.uint8)),))
    quality = assess(source, numbered)
    count = sum(1 for _ in numbered.walk())

    def share(kind: str) -> float:
        return len({fault.layers[-1] for fault in quality.faults if fault.kind == kind}) / count

    return Soundness(
        count,
        blank=share("blank"),
        duplicate=share("duplicate"),
        composite_copy=share("composite copy"),
        recomposition=measures.recomposition(view(source, numbered)),
        criteria=tuple(float(getattr(quality, name)) for name in CRITERIA),
        overall=float(quality.overall),
    )


def _differences(one: U8, other: U8) -> tuple[float, float]:
    """Mean |difference| of two layers, 0..1: premultiplied over four channels, and over white over three."""
    *colours, alpha = cv2.split(one)
    *other_colours, other_alpha = cv2.split(other)
    premultiplied = _apart(alpha, other_alpha) * 255
    over_white = 0
    for plane, other_plane in zip(colours, other_colours, strict=True):
        light, other_light = (_light(plane, alpha), _light(other_plane, other_alpha))
        premultiplied += _apart(light, other_light)
        over_white += _apart(light + 255 * (255 - alpha.astype(np.uint16)), other_light + 255 * (255 - other_alpha.astype(np.uint16)))
    return premultiplied / (4 * WHITE * alpha.size), over_white / (3 * WHITE * alpha.size)


def _light(plane: U8, alpha: U8) -> U16:
    """A colour multiplied by alpha, 0..65025."""
    return np.multiply(plane, alpha, dtype=np.uint16)


def _apart(one: U8 | U16, other: U8 | U16) -> int:
    """Sum of |difference|."""
    return round(cv2.norm(one, other, cv2.NORM_L1))


def _means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))
