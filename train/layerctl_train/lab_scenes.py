"""Scenes of the lab: small, with layers that a picture tells apart; and the same with the faults that a base model is to have.

Soft-edged shapes, plain or patterned, over a gradient, the larger ones below the smaller ones. The faults are those that the Stable-Layers
paper (arXiv 2605.30257) names of its base; how often they come and how strong they are is ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.source import SourceImage

F64 = npt.NDArray[np.float64]

SIDE = 32
LAYERS = (2, 3, 4)
FAULT_RATE = 0.3
"""Of each kind of fault, drawn one by one."""
BLEED = (0.1, 0.25)
"""Alpha of what shimmers through where a layer should be empty."""


def lab_scene(seed: int, *, side: int = SIDE, layers: int | None = None, faulty: bool = False) -> tuple[SourceImage, LayerStack]:
    """A picture and its layers, bottom to top, the same for the same arguments; each layer is as large as the picture.

    `layers`: background included; without it two to four in turn by the seed. `faulty`: a background that shows nothing, a layer that shows
    the whole picture, pictures that shimmer through where a layer is empty, and layers that show nothing, each in `FAULT_RATE` of scenes;
    the picture is the one without them.
    """
    rng = np.random.default_rng((seed, 1))
    count = layers or LAYERS[seed % len(LAYERS)]
    canvases = [_background(rng, side), *(_shape(rng, side, radius) for radius in sorted(rng.uniform(0.13, 0.32, count - 1))[::-1])]
    picture = flatten(_stack(canvases))
    if faulty:
        _spoil(np.random.default_rng((seed, 2)), canvases, picture)
    return SourceImage(picture), _stack(canvases)


def _stack(canvases: list[npt.NDArray[np.uint8]]) -> LayerStack:
    side = len(canvases[0])
    layers = (
        crop_to_content(Layer("Background" if place == 0 else f"Shape {place}", canvas, kind="element" if place else "background"))
        for place, canvas in enumerate(canvases)
    )
    return LayerStack(side, side, tuple(layers))


def _spoil(rng: np.random.Generator, canvases: list[npt.NDArray[np.uint8]], picture: npt.NDArray[np.uint8]) -> None:
    blank, copy, bleed, empty = rng.random(4) < FAULT_RATE
    one, other, third = rng.integers(1, len(canvases), 3)
    if bleed:
        canvas = canvases[one].astype(np.float64)
        haze = rng.uniform(*BLEED) * (1 - canvas[..., 3:] / 255)
        alpha = canvas[..., 3:] / 255 + haze
        colour = (canvas[..., :3] * canvas[..., 3:] / 255 + picture[..., :3] * haze) / np.maximum(alpha, 1e-6)
        canvases[one] = np.rint(np.concatenate([colour, 255 * alpha], axis=-1)).astype(np.uint8)
    if copy:
        canvases[other] = picture.copy()
    if empty:
        canvases[third] = _nothing(len(picture))
    if blank:
        canvases[0] = _nothing(len(picture))


def _nothing(side: int) -> npt.NDArray[np.uint8]:
    """As good as nothing: a layer without any pixel is no layer of a file."""
    canvas = np.zeros((side, side, 4), np.uint8)
    canvas[side // 2, side // 2, 3] = 1
    return canvas


def _background(rng: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    y, x = _grid(side)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    start, end = rng.uniform(0, 255, (2, 3))
    return _canvas(start + (end - start) * along, np.ones((side, side)))


def _shape(rng: np.random.Generator, side: int, radius: float) -> npt.NDArray[np.uint8]:
    """A super-ellipse of any direction with an edge one to two pixels soft, in one colour or in stripes of two."""
    y, x = _grid(side)
    (left, top), turn = rng.uniform(0.27, 0.73, 2), rng.uniform(0, np.pi)
    power, aspect = rng.uniform(1.6, 6), rng.uniform(0.75, 1.33)
    across = (x - left) * np.cos(turn) + (y - top) * np.sin(turn)
    down = (y - top) * np.cos(turn) - (x - left) * np.sin(turn)
    distance = (np.abs(across / (radius * aspect)) ** power + np.abs(down * aspect / radius) ** power) ** (1 / power)
    edge = rng.uniform(1, 2) / (radius * side)
    alpha = np.clip(0.5 + (1 - distance) / edge, 0, 1)
    one, other = rng.uniform(0, 255, (2, 3))
    striped = rng.random() < 0.4
    waves = np.sin((across if rng.random() < 0.5 else down) * side * rng.uniform(0.8, 1.3)) > 0
    return _canvas(np.where((waves & striped)[..., None], other, one), alpha)


def _canvas(colour: F64, alpha: F64) -> npt.NDArray[np.uint8]:
    shown = np.where(alpha[..., None] > 0, np.broadcast_to(colour, (*alpha.shape, 3)), 0)
    return np.rint(np.concatenate([shown, 255 * alpha[..., None]], axis=-1)).astype(np.uint8)


def _grid(side: int) -> tuple[F64, F64]:
    centres = (np.arange(side) + 0.5) / side
    return centres[:, None], centres[None, :]
