"""How near the layers that were found are to the true ones: pure functions on pixels, every value per scene.

Notation: a_i is the alpha of layer i on the canvas (0..1, opacity included), T the true stack, F the found one, both bottom to top.

* Soft IoU of two layers: sum min(a, b) / sum max(a, b), over the whole, also the hidden, part of each (amodal).
* Matching: the one-to-one assignment of true to found layers with the largest sum of IoU (Hungarian). Pairs under `LEAST_MATCH` count in
  the means of IoU but are unmatched for all other tests. An unmatched true layer has IoU 0, and in the move tests the found stack stays
  as it is, so that it pays the full difference.
* "elements": the true layers without the Background against the found ones without the bottom layer; "all": Background included.
* Order: of the truly overlapping pairs, how many are matched on both sides and found in the same order.
* Move tests, for each true element: V_i = a_i times the transparency of what lies above it; exposed = where V_i > 1/2; rim = within
  `RIM` pixels of the outline a_i = 1/2 where nothing covers it. Errors are mean absolute differences of RGB in levels 0..255:
    hide:    |flatten(T without i) - flatten(F without its match)| on exposed
    residue: the same on the rim: what is left standing of the old outline
    move:    both moved sideways by 10 % of the width, towards the roomier side, on exposed and on the place that it covers then
    colours: the layer alone over white, black and magenta against the true one, on the rim, mean of the three
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.wording import likeness as likeness
from layerctl.wording import normalised

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

LEAST_MATCH = 0.25
RIM = 4
SHIFT = 0.1
COLOURS = ((255, 255, 255), (0, 0, 0), (255, 0, 255))


@dataclass(frozen=True, slots=True)
class MoveErrors:
    """Mean errors in levels 0..255 over the elements of a scene, all None where no element shows."""

    hide: float | None
    move: float | None
    residue: float | None
    colours: float | None


def alpha_of(layer: Layer, width: int, height: int) -> Floats:
    """height x width, 0..1; 0 everywhere for a hidden layer."""
    if not layer.visible:
        return np.zeros((height, width), np.float32)
    pixels = on_canvas(layer, width, height)
    return np.asarray(pixels[..., 3] * np.float32(layer.opacity / np.iinfo(pixels.dtype).max), np.float32)


def alphas(stack: LayerStack) -> list[Floats]:
    return [alpha_of(layer, stack.width, stack.height) for layer in stack.walk()]


def soft_iou(first: Floats, second: Floats) -> float:
    """sum min / sum max; 0 for two blank layers, which show nothing that could agree."""
    shared = float(np.minimum(first, second).sum())
    union = float(first.sum()) + float(second.sum()) - shared
    return shared / union if union > 0 else 0.0


def match(true: Sequence[Floats], found: Sequence[Floats]) -> tuple[list[int | None], list[float]]:
    """For each true layer the place of its partner in `found`, None without one, and the IoU with it (0.0)."""
    table = np.array([[soft_iou(t, f) for f in found] for t in true]).reshape(len(true), len(found))
    partners: list[int | None] = [None] * len(true)
    scores = [0.0] * len(true)
    for row, column in zip(*linear_sum_assignment(-table), strict=True):
        if table[row, column] > 0:
            partners[row], scores[row] = int(column), float(table[row, column])
    return partners, scores


def strong_partners(partners: Sequence[int | None], scores: Sequence[float]) -> list[int | None]:
    """The partners without those under `LEAST_MATCH`."""
    return [partner if score >= LEAST_MATCH else None for partner, score in zip(partners, scores, strict=True)]


def order_right(pairs: Sequence[tuple[int, int]], partners: Sequence[int | None]) -> int:
    """How many (lower, upper) pairs of true layers have partners in this order; a pair with an unmatched layer is wrong."""
    right = 0
    for lower, upper in pairs:
        below, above = partners[lower], partners[upper]
        right += below is not None and above is not None and below < above
    return right


def shares(layers: Sequence[Floats]) -> list[Floats]:
    """V_i: how much of each layer is seen at each pixel, its alpha times the transparency of all above."""
    result: list[Floats] = []
    clear = np.ones_like(layers[0])
    for alpha in reversed(layers):
        result.append(alpha * clear)
        clear = clear * (1 - alpha)
    return result[::-1]


def rim_of(alpha: Floats, pixels: int = RIM) -> Mask:
    """Where the outline alpha = 1/2 is at most `pixels` away; the border of the canvas is no outline."""
    inside = alpha > 0.5
    if inside.all() or not inside.any():
        return np.zeros_like(inside)
    return np.asarray((ndimage.distance_transform_edt(inside) <= pixels) & (ndimage.distance_transform_edt(~inside) <= pixels))


def move_errors(true: LayerStack, found: LayerStack, partners: Sequence[int | None]) -> MoveErrors:
    """The move tests over the elements of a scene. `partners[i]`: the place in `found` of the partner of true layer i (0: Background)."""
    true_layers, found_layers = list(true.walk()), list(found.walk())
    true_alphas = alphas(true)
    seen = shares(true_alphas)
    rows: list[tuple[float, float, float, float]] = []
    for index in range(1, len(true_layers)):
        partner = partners[index]
        exposed = seen[index] > 0.5
        clear = np.prod([np.ones_like(exposed, np.float32), *(1 - alpha for alpha in true_alphas[index + 1 :])], axis=0)
        rim = rim_of(true_alphas[index]) & (clear > 0.5)
        if not exposed.any() or not rim.any():
            continue
        hidden = _difference(_without(true, index), _without(found, partner))
        shift = _shift(true_layers[index], true.width)
        moved = _moved(true_layers[index], shift)
        place = alpha_of(moved, true.width, true.height) * clear > 0.5
        shifted = _difference(_replaced(true, index, moved), _replaced(found, partner, _moved_partner(found_layers, partner, shift)))
        colours = _colour_error(true_layers[index], found_layers[partner] if partner is not None else None, rim)
        rows.append((float(hidden[exposed].mean()), float(shifted[exposed | place].mean()), float(hidden[rim].mean()), colours))
    if not rows:
        return MoveErrors(None, None, None, None)
    hide, move, residue, colours = np.mean(rows, axis=0).tolist()
    return MoveErrors(hide, move, residue, colours)


def over(layer: Layer | None, colour: tuple[int, int, int], width: int, height: int) -> Bytes:
    """The layer alone over one colour, RGB."""
    sheet = np.zeros((height, width, 4), np.uint8)
    sheet[:] = (*colour, 255)
    background = Layer("Colour", sheet, kind="background")
    layers = (background,) if layer is None else (background, layer)
    return flatten(LayerStack(width, height, layers))[..., :3]


def remains(text: str, read: Sequence[str]) -> bool:
    """Whether any line of the text is still read somewhere: half of its letters in one piece, at least two of them."""
    pieces = [normalised(line) for line in text.splitlines()]
    for piece in filter(None, pieces):
        needed = max(2, -(-len(piece) // 2))
        if any(piece[start : start + needed] in normalised(line) for line in read for start in range(len(piece) - needed + 1)):
            return True
    return False


def _difference(first: LayerStack, second: LayerStack) -> Floats:
    """Mean over RGB of the absolute difference of the flattened stacks, 0..255 a pixel."""
    a, b = (flatten(stack)[..., :3].astype(np.int16) for stack in (first, second))
    return np.asarray(np.abs(a - b).mean(axis=2), np.float32)


def _without(stack: LayerStack, index: int | None) -> LayerStack:
    return stack.with_layers(tuple(layer for place, layer in enumerate(stack.walk()) if place != index))


def _replaced(stack: LayerStack, index: int | None, layer: Layer | None) -> LayerStack:
    return stack.with_layers(tuple(layer if layer and place == index else old for place, old in enumerate(stack.walk())))


def _shift(layer: Layer, width: int) -> int:
    """10 % of the width in pixels, to the right for a layer whose middle is in the left half."""
    left, _, right, _ = layer.box
    return round(SHIFT * width) * (1 if left + right <= width else -1)


def _moved(layer: Layer, shift: int) -> Layer:
    return replace(layer, left=layer.left + shift)


def _moved_partner(layers: Sequence[Layer], partner: int | None, shift: int) -> Layer | None:
    return None if partner is None else _moved(layers[partner], shift)


def _colour_error(true: Layer, found: Layer | None, rim: Mask) -> float:
    height, width = rim.shape
    errors = []
    for colour in COLOURS:
        a, b = (over(layer, colour, width, height)[rim].astype(np.int16) for layer in (true, found))
        errors.append(float(np.abs(a - b).mean()))
    return float(np.mean(errors))
