"""Faults planted into true layers: what engines get wrong, at a known severity, to find out whether measures and judges see it.

`EXACT` ones leave the flattened picture as it was (within 1/255): only a look at the layers shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.composite import flatten
from layerctl.exact import solve_exact
from layerctl.layers import Layer, LayerStack, crop_to_content, on_canvas
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Planter = Callable[[SourceImage, LayerStack, np.random.Generator, float], LayerStack | None]


def plant(fault: str, source: SourceImage, stack: LayerStack, seed: int, severity: float = 0.5) -> LayerStack | None:
    """The stack with the fault in it, or None where it offers no place for it (two elements to merge, text to alter).

    `stack`: flat, full-size, its bottom layer the background; it flattens to `source`. `severity`: over 0, to 1. The same arguments give
    the same layers. Raises KeyError for an unknown fault; `PLANTERS` has all.
    """
    return PLANTERS[fault](source, stack, np.random.default_rng(seed), severity)


def blank(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack:
    """A layer more, of which next to nothing shows."""
    pixels = np.zeros((stack.height, stack.width, 4), np.uint8)
    pixels[..., 3] = rng.random(pixels.shape[:2]) < 0.01 * (1 - severity)
    return _with(stack, len(stack.layers), Layer("Blank", pixels))


def composite_copy(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack:
    """A layer more, anywhere above the background, that shows the whole picture."""
    pixels = source.pixels.copy()
    pixels[..., 3] = np.rint(pixels[..., 3] * (0.4 + 0.6 * severity)).astype(np.uint8)
    return _with(stack, int(rng.integers(1, len(stack.layers) + 1)), Layer("Copy", pixels))


def duplicate(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """An element twice, the second time a little fainter."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    layer = _layers(stack)[at]
    pixels = layer.pixels.copy()
    pixels[..., 3] = np.rint(pixels[..., 3] * (0.6 + 0.4 * severity)).astype(np.uint8)
    return _with(stack, at + 1, replace(layer, name=f"{layer.name} again", pixels=pixels))


def drift(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack:
    """All layers a little off: colours by up to 40 levels, and two pixels to the side, so that they do not show the picture."""
    gain = 1 + rng.uniform(0.05, 0.15, 3) * rng.choice((-1, 1), 3) * 2 * severity
    moved = []
    for layer in _layers(stack):
        pixels = layer.pixels.copy()
        pixels[..., :3] = np.clip(np.rint(pixels[..., :3] * gain), 0, 255)
        moved.append(replace(layer, pixels=pixels, left=layer.left if layer is stack.layers[0] else layer.left + 2))
    return stack.with_layers(tuple(moved))


def halo(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """An element cut too wide: a rim of what is around it has come along."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    pixels = _full(stack, at)
    width = 2 * max(1, round(severity * 0.012 * max(stack.width, stack.height))) + 1
    wide = cv2.dilate(pixels[..., 3], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    free = wide.astype(np.float32) * (1 - _covered_above(stack, at))
    grown = np.maximum(pixels[..., 3], np.rint(free)).astype(np.uint8)
    new = (grown > pixels[..., 3])[..., None]
    return _set(stack, at, np.dstack([np.where(new, source.pixels[..., :3], pixels[..., :3]), grown]))


def dust(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """Specks of the picture in an element, away from it."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    pixels = _full(stack, at)
    far = cv2.dilate((pixels[..., 3] > 0).astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
    if far.sum() < 0.05 * far.size:
        return None
    places = np.flatnonzero(far)
    specks = np.zeros(far.shape, np.uint8)
    for place in rng.choice(places, max(4, round(60 * severity)), replace=places.size < 60):
        y, x = divmod(int(place), far.shape[1])
        cv2.circle(specks, (x, y), int(rng.integers(1, 3)), 255, cv2.FILLED)
    new = far & (specks > 0)
    pixels[new] = source.pixels[new]
    return _set(stack, at, pixels)


def bleed(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """The picture shows faintly in the transparent part of an element."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    pixels = _full(stack, at)
    around = pixels[..., 3] < 13
    pixels[around, :3] = source.pixels[around, :3]
    veil = cv2.resize(rng.random((4, 4), np.float32), around.shape[::-1], interpolation=cv2.INTER_CUBIC)
    faint = np.rint(np.clip(veil, 0.1, 1) * (4 + 34 * severity)).astype(np.uint8)
    pixels[..., 3] = np.where(around, faint, pixels[..., 3])
    return _set(stack, at, pixels)


def hole(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """The background is transparent where an element covers it."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    covered = _full(stack, at)[..., 3] == 255
    pixels = _full(stack, 0)
    pixels[..., 3] = np.where(covered, np.rint(pixels[..., 3] * (1 - severity)), pixels[..., 3])
    return _set(stack, 0, pixels)


def ghost(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """What is above still shows in the covered part of the background."""
    if len(stack.layers) < 2:
        return None
    pixels = _full(stack, 0)
    above = _covered_above(stack, 0)
    share = np.float32(severity) * (above > 0.9999)[..., None]
    colours = pixels[..., :3] * (1 - share) + source.pixels[..., :3] * share
    return _set(stack, 0, np.dstack([np.rint(colours).astype(np.uint8), pixels[..., 3]]))


def split(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """One element in two layers: cut through along a line, the more in the middle the more severe."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    pixels = _full(stack, at)
    y, x = np.nonzero(pixels[..., 3] > 127)
    if y.size < 200:
        return None
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    cut = np.quantile(along, 0.15 + 0.35 * severity)
    height, width = pixels.shape[:2]
    side = np.arange(width)[None, :] * np.cos(angle) + np.arange(height)[:, None] * np.sin(angle) < cut
    first, second = (np.dstack([pixels[..., :3], np.where(part, pixels[..., 3], 0).astype(np.uint8)]) for part in (side, ~side))
    name = _layers(stack)[at].name
    return _with(_set(stack, at, first), at + 1, replace(_layers(stack)[at], name=f"{name}, rest", pixels=second, left=0, top=0))


def merge(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """Two elements, the upper one not under anything between them, in one layer."""
    layers = _layers(stack)
    pairs = [(a, b) for b in range(2, len(layers)) for a in range(1, b) if not _between(stack, a, b)]
    if not pairs:
        return None
    below, above = pairs[int(rng.integers(len(pairs)))]
    under, over = (_full(stack, at).astype(np.float32) / 255 for at in (below, above))
    alpha = over[..., 3] + under[..., 3] * (1 - over[..., 3])
    mixed = over[..., :3] * over[..., 3:] + under[..., :3] * (under[..., 3] * (1 - over[..., 3]))[..., None]
    colours = mixed / np.maximum(alpha, 1e-6)[..., None]
    merged = np.rint(np.dstack([colours, alpha]) * 255).astype(np.uint8)
    name = f"{layers[below].name} and {layers[above].name}"
    joined = crop_to_content(Layer(name, merged))
    return stack.with_layers(tuple(joined if z == below else layer for z, layer in enumerate(layers) if z != above))


def swallowed(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """A share of the elements is no layer of its own: the lowest ones are painted into the background."""
    layers = _layers(stack)
    count = round(severity * (len(layers) - 1))
    if count == 0:
        return None
    painted = flatten(stack.with_layers(tuple(layers[: count + 1])))
    return stack.with_layers((replace(layers[0], pixels=painted, left=0, top=0), *layers[count + 1 :]))


def wrong_order(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """Two neighbours that overlap have changed places, and show the picture all the same."""
    layers = _layers(stack)
    solid = [_full(stack, at)[..., 3] > 200 for at in range(len(layers))]
    pairs = [at for at in range(1, len(layers) - 1) if (solid[at] & solid[at + 1]).sum() > 64]
    if not pairs:
        return None
    at = pairs[int(rng.integers(len(pairs)))]
    changed = (*layers[:at], layers[at + 1], layers[at], *layers[at + 2 :])
    return solve_exact(source, stack.with_layers(changed))


def bitten(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """Where an element covers another, the lower one is cut out: it ends at the upper one's outline."""
    layers = _layers(stack)
    pairs = []
    for upper in range(2, len(layers)):
        cover = _full(stack, upper)[..., 3] == 255
        for lower in range(1, upper):
            if (cover & (_full(stack, lower)[..., 3] > 127)).sum() > 64:
                pairs.append((lower, cover))
    if not pairs:
        return None
    at, cover = pairs[int(rng.integers(len(pairs)))]
    pixels = _full(stack, at)
    pixels[..., 3] = np.where(cover, 0, pixels[..., 3])
    return _set(stack, at, pixels)


def ragged(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """The outline of an element frays: its alpha is cut by noise near the edge."""
    at = _any_element(stack, rng)
    if at is None:
        return None
    pixels = _full(stack, at)
    reach = max(2.0, severity * 0.03 * max(stack.width, stack.height))
    inside = cv2.distanceTransform((pixels[..., 3] > 127).astype(np.uint8), cv2.DIST_L2, 3)
    noise = cv2.GaussianBlur(rng.normal(0, 1, inside.shape).astype(np.float32), (0, 0), max(1.5, reach / 6))
    noise /= max(float(noise.std()), 1e-6)
    gone = (inside > 0) & (inside < reach * (0.5 + 0.5 * noise))
    pixels[..., 3] = np.where(gone, 0, pixels[..., 3])
    return _set(stack, at, pixels)


def text_altered(source: SourceImage, stack: LayerStack, rng: np.random.Generator, severity: float) -> LayerStack | None:
    """A text layer's letters have changed places: stripes of it are mirrored."""
    texts = [at for at, layer in enumerate(_layers(stack)) if layer.kind == "text"]
    if not texts:
        return None
    at = texts[int(rng.integers(len(texts)))]
    layer = _layers(stack)[at]
    pixels = layer.pixels.copy()
    middle = round(layer.width * (1 - severity))
    pixels[:, middle:] = pixels[:, middle:][:, ::-1]
    changed = list(stack.layers)
    changed[at] = replace(layer, pixels=pixels)
    return stack.with_layers(tuple(changed))


PLANTERS: Mapping[str, Planter] = {
    planter.__name__: planter
    for planter in (
        blank, composite_copy, duplicate, drift, halo, dust, bleed, hole, ghost, split, merge, wrong_order, bitten, ragged, text_altered,
        swallowed,
    )
}  # fmt: skip
EXACT = frozenset({"blank", "hole", "ghost", "split", "merge", "wrong_order", "bitten", "swallowed"})


def _layers(stack: LayerStack) -> list[Layer]:
    return list(stack.walk())


def _full(stack: LayerStack, at: int) -> U8:
    return np.asarray(on_canvas(_layers(stack)[at], stack.width, stack.height), np.uint8)


def _set(stack: LayerStack, at: int, pixels: U8) -> LayerStack:
    layers = _layers(stack)
    layers[at] = crop_to_content(replace(layers[at], pixels=pixels, left=0, top=0))
    return stack.with_layers(tuple(layers))


def _with(stack: LayerStack, at: int, layer: Layer) -> LayerStack:
    layers = _layers(stack)
    return stack.with_layers((*layers[:at], crop_to_content(layer), *layers[at:]))


def _any_element(stack: LayerStack, rng: np.random.Generator) -> int | None:
    """A layer above the background that shows well, none where there is none."""
    seen = [at for at in range(1, len(stack.layers)) if (_full(stack, at)[..., 3] * (1 - _covered_above(stack, at))).sum() > 127 * 200]
    return seen[int(rng.integers(len(seen)))] if seen else None


def _covered_above(stack: LayerStack, at: int) -> F32:
    """0..1: how much the layers above this one cover."""
    clear = np.ones((stack.height, stack.width), np.float32)
    for above in range(at + 1, len(stack.layers)):
        clear *= 1 - _full(stack, above)[..., 3].astype(np.float32) / 255
    return 1 - clear


def _between(stack: LayerStack, below: int, above: int) -> bool:
    """Whether a layer between the two lies under the upper one, and over the lower one, so that they cannot be joined."""
    upper: Bool = _full(stack, above)[..., 3] > 0
    return any(bool((upper & (_full(stack, at)[..., 3] > 0)).any()) for at in range(below + 1, above))
