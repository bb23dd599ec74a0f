"""The pictures that a judge sees: one candidate view by view, or all candidates of a group in one grid.

A view is the source, the result of all layers, a layer on a checkerboard, or a layer's alpha map. All views of a question have one size.
Alpha maps are white where a layer is opaque; red marks alpha of 4 to 31 levels that is no soft edge, which the checkerboard hardly shows.
The checkerboard is the first of three whose colours are not those of the layer's outline, so that a pale rim shows on a dark one.

Names of layers are never shown. They come out of files: they could praise the layer, or tell the judge what to answer, and a good name
makes no layer better. Layers go by number, 1 being the bottom one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from layerctl.colour import colour_space, converted
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, effective, on_canvas
from layerctl.lettering import MEDIUM, Colour, draw_text, shortened, text_width
from layerctl_train.judge.question import Picture

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Size = tuple[int, int]

LAYOUT = 2
"""Raised with every change of what is drawn: it is part of the prompt's version, and so of the cache's key."""

FULL_VIEWS = 10
"""A candidate has no more pixels than ten square views of full size: source, result, and four layers with their alpha maps, as many as the
published recipe makes. More layers share them, so that a request is bounded: pure noise at the default side takes 10 MB, 4 400 tokens."""
MOST_LAYERS = 20
"""Pictures of layers in a question; what is above is shown flattened into the last one."""
LEAST_SIDE = 224
"""Smaller pictures are enlarged, by a whole factor, until a model that sees patches of 28 to 32 pixels has eight of them across."""
LEAST_CELL = 120
"""Side of the square that has as many pixels as the smallest legible view of a grid: four patches of 28 to 32 pixels across."""

LIGHT: tuple[Colour, Colour] = ((250, 250, 250), (210, 211, 214))
DARK: tuple[Colour, Colour] = ((92, 94, 101), (62, 64, 71))
MAUVE: tuple[Colour, Colour] = ((190, 150, 206), (160, 120, 178))
BOARDS = (LIGHT, DARK, MAUVE)
ALIKE, OFTEN = 56, 0.12
"""A board is passed over when more than this share of the layer's outline is within so many levels of it."""
LUMA = (0.299, 0.587, 0.114)
SOLID, RIM = 224, 7
"""The outline: whatever shows, but is not solid or lies within half of so many pixels of what is not."""

PAPER = 236
INK: Colour = (24, 25, 30)
LINE: Colour = (128, 130, 138)
FAINT = (4, 32)
STRIP, LETTERS = 26, 17
GAP, MARGIN = 8, 6
CAPTION, SMALL = 19, 15
LETTER, LETTER_SIZE = 52, 44
LEAST_WIDTH = 168
"""Of a picture's views together, so that the words above them fit."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerPicture:
    """`first` to `last`: which layers, counted from 1 at the bottom; more than one where the top ones had to be shown together."""

    first: int
    last: int
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class SamplePictures:
    """One candidate. `beside`: alpha maps are to the right of the layers, else below. `count`: of visible layers."""

    source: Picture
    result: Picture
    layers: tuple[LayerPicture, ...]
    beside: bool
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class GridPicture:
    """All candidates. `counts`: of visible layers by row; `per_line`: so many layers of a candidate are in one line."""

    picture: Picture
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    per_line: int
    beside: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of a grid: the size of a view, how many layers stand in one line, and where their alpha maps are."""

    view: Size
    per_line: int
    beside: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    first: int
    last: int
    layer: Layer


def draw_source(source: SourceImage, side: int) -> Picture:
    """The source alone, without a word, its longest side at most `side`."""
    view = _fitted((source.width, source.height), side)
    return Picture(_on_board(_source_view(source, view), _square(view)))


def draw_sample(source: SourceImage, stack: LayerStack, settings: JudgeSettings) -> SamplePictures:
    """Every view at most `judge_side` long, less where there are more than four layers."""
    shown = _shown(stack)
    side, canvas = settings.judge_side, (stack.width, stack.height)
    full = _fitted(canvas, side)
    share = FULL_VIEWS * side**2 / ((2 + 2 * len(shown)) * full[0] * full[1])
    view = full if share >= 1 else _fitted(canvas, int(max(full) * math.sqrt(share)))
    beside = view[0] < 1.5 * view[1]
    count = shown[-1].last if shown else 0
    square = _square(view)
    layers = []
    for entry in shown:
        pixels = _layer_view(entry.layer, stack, view)
        label = f"Layer {_numbers(entry)} of {count}{', bottom' if entry.first == 1 else ', top' if entry.last == count else ''}"
        picture = _labelled((label, "its alpha map"), (_on_board(pixels, square), _alpha_map(pixels)), beside)
        layers.append(LayerPicture(entry.first, entry.last, picture))
    return SamplePictures(
        _labelled(("Source",), (_on_board(_source_view(source, view), square),), beside),
        _labelled(("Result",), (_on_board(_result_view(stack, view), square),), beside),
        tuple(layers),
        beside,
        count,
    )


def draw_group(stacks: Sequence[LayerStack], settings: JudgeSettings) -> GridPicture:
    """A row for each stack, top to bottom, at most `judge_grid_side` wide and high."""
    shown = [_shown(stack) for stack in stacks]
    layout = _layout(_canvas(stacks), [len(entries) for entries in shown], settings.judge_grid_side)
    labels = tuple(_letters(row) for row in range(len(stacks)))
    rows = [_row(stack, entries, label, layout) for stack, entries, label in zip(stacks, shown, labels, strict=True)]
    counts = tuple(entries[-1].last if entries else 0 for entries in shown)
    return GridPicture(Picture(np.vstack(rows)), labels, counts, layout.per_line, layout.beside)


def most_rows(stacks: Sequence[LayerStack], settings: JudgeSettings) -> int:
    """How many of the candidates, whichever they are, fit legibly into one grid; at least 2, for one alone could not be compared."""
    canvas = _canvas(stacks)
    counts = sorted((len(_shown(stack)) for stack in stacks), reverse=True)
    natural = _fitted(canvas, settings.judge_grid_side)
    least = min(LEAST_CELL**2, natural[0] * natural[1])
    for rows in range(len(stacks), 2, -1):
        view = _layout(canvas, counts[:rows], settings.judge_grid_side).view
        if view[0] * view[1] >= least:
            return rows
    return 2


def _canvas(stacks: Sequence[LayerStack]) -> Size:
    return max(((stack.width, stack.height) for stack in stacks), key=lambda size: (size[0] * size[1], size))


def _shown(stack: LayerStack) -> list[_Shown]:
    """Every visible layer with its opacity and those of its groups, bottom to top; all above the 19th as one if they are over 20."""
    layers = [replace(layer, opacity=opacity, visible=True) for layer, opacity in effective(stack.layers) if opacity > 0]
    if len(layers) <= MOST_LAYERS:
        return [_Shown(number, number, layer) for number, layer in enumerate(layers, 1)]
    rest = Layer("rest", flatten(stack.with_layers(tuple(layers[MOST_LAYERS - 1 :]))))
    below = [_Shown(number, number, layer) for number, layer in enumerate(layers[: MOST_LAYERS - 1], 1)]
    return [*below, _Shown(MOST_LAYERS, len(layers), rest)]


def _numbers(entry: _Shown) -> str:
    return str(entry.first) if entry.first == entry.last else f"{entry.first} to {entry.last}"


def _letters(row: int) -> str:
    """A to Z, then AA, AB."""
    return (_letters(row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def _fitted(size: Size, side: int) -> Size:
    """The size at which a picture is shown within a square of `side`: smaller, as it is, or a tiny one by a whole factor larger."""
    longest = max(size)
    if longest > side:
        return max(1, size[0] * side // longest), max(1, size[1] * side // longest)
    factor = max(1, min(-(-LEAST_SIDE // longest), side // longest))
    return size[0] * factor, size[1] * factor


def _layout(canvas: Size, counts: Sequence[int], side: int) -> _Layout:
    """The one in which views are largest; of two alike, the one with the smaller grid."""
    longest = max(canvas)
    found = []
    for per_line in range(1, max(1, *counts) + 1):
        lines = sum(max(1, -(-count // per_line)) for count in counts)
        for beside in (True, False):
            across, down = (1 + 2 * per_line, lines) if beside else (1 + per_line, 2 * lines)
            wide = LETTER + MARGIN + (1 + per_line) * (GAP + 2)
            high = lines * (CAPTION + GAP + 2) + len(counts) * 2 * MARGIN
            room = min((side - wide) * longest / (across * canvas[0]), (side - high) * longest / (down * canvas[1]))
            view = _fitted(canvas, max(1, int(room)))
            area = (wide + across * view[0]) * (high + down * view[1])
            found.append((-view[0] * view[1], area, _Layout(view, per_line, beside)))
    return min(found, key=lambda entry: entry[:2])[2]


def _row(stack: LayerStack, shown: list[_Shown], label: str, layout: _Layout) -> U8:
    """The band of one candidate: its letter, the result, then its layers in lines, each with its alpha map.

    Nothing but the letter tells where in the grid it stands.
    """
    width, height = layout.view
    step = (2 * width + 2 if layout.beside else width) + GAP, CAPTION + (height if layout.beside else 2 * height + 2) + GAP
    lines = max(1, -(-len(shown) // layout.per_line))
    left = LETTER + width + GAP
    band = np.full((2 * MARGIN + lines * step[1], left + layout.per_line * step[0] + MARGIN, 3), PAPER, np.uint8)
    band[:2] = LINE
    square = _square(layout.view)
    baseline = MARGIN + CAPTION + min(height, LETTER_SIZE + 8) // 2 + LETTER_SIZE // 3
    room = LETTER - 2 * MARGIN
    size = min(LETTER_SIZE, LETTER_SIZE * room // max(1, text_width(label, LETTER_SIZE, MEDIUM)))
    draw_text(band, MARGIN, baseline, label, size, INK, MEDIUM)
    _place(band, LETTER, MARGIN, "result", _on_board(_result_view(stack, layout.view), square))
    for place, entry in enumerate(shown):
        line, column = divmod(place, layout.per_line)
        x, y = left + column * step[0], MARGIN + line * step[1]
        pixels = _layer_view(entry.layer, stack, layout.view)
        _place(band, x, y, _numbers(entry).replace(" to ", "-"), _on_board(pixels, square))
        shift = (width + 2, 0) if layout.beside else (0, height + 2)
        _place(band, x + shift[0], y + shift[1], "", _alpha_map(pixels))
    return band


def _place(band: U8, x: int, y: int, caption: str, view: U8) -> None:
    if caption:
        draw_text(band, x + 1, y + SMALL - 1, shortened(caption, SMALL, view.shape[1], MEDIUM), SMALL, INK, MEDIUM)
    _framed(band, x, y + CAPTION, view)


def _labelled(labels: Sequence[str], views: Sequence[U8], beside: bool) -> Picture:
    """Views side by side or below each other, each under its label."""
    height, width = views[0].shape[:2]
    room = max(width, LEAST_WIDTH // len(views) if beside else LEAST_WIDTH)
    step = (room + GAP, 0) if beside else (0, height + GAP + STRIP)
    further = len(views) - 1
    canvas = np.full((STRIP + height + 1 + further * step[1], room + 2 + further * step[0], 3), PAPER, np.uint8)
    for number, (label, view) in enumerate(zip(labels, views, strict=True)):
        x, y = 1 + number * step[0], number * step[1]
        draw_text(canvas, x + 1, y + LETTERS + 1, shortened(label, LETTERS, room, MEDIUM), LETTERS, INK, MEDIUM)
        _framed(canvas, x, y + STRIP, view)
    return Picture(canvas)


def _framed(canvas: U8, x: int, y: int, view: U8) -> None:
    """A line around the view tells a white alpha map from the paper."""
    height, width = view.shape[:2]
    canvas[y : y + height, x : x + width] = view
    cv2.rectangle(canvas, (x - 1, y - 1), (x + width, y + height), LINE)


def _source_view(source: SourceImage, view: Size) -> U8:
    return _in_srgb(_resized(source.pixels, view), source.icc)


def _result_view(stack: LayerStack, view: Size) -> U8:
    return _in_srgb(_resized(flatten(stack), view), stack.icc)


def _layer_view(layer: Layer, stack: LayerStack, view: Size) -> U8:
    pixels = on_canvas(layer, stack.width, stack.height)
    eight = (pixels // 257).astype(np.uint8) if pixels.dtype == np.uint16 else np.asarray(pixels, np.uint8)
    small = _in_srgb(_resized(eight, view), stack.icc)
    if layer.opacity == 1:
        return small
    return np.dstack([small[..., :3], np.rint(small[..., 3] * layer.opacity).astype(np.uint8)])


def _in_srgb(pixels: U8, icc: bytes | None) -> U8:
    return converted(pixels, icc, None) if icc is not None and colour_space(icc) == "RGB" else pixels


def _resized(pixels: U8, size: Size) -> U8:
    """Straight RGBA at another size: the mean of blocks, colours weighted by alpha; enlarged, each pixel becomes a block."""
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _square(view: Size) -> int:
    """Side of the checkerboard's squares: about 32 across, and never smaller than what is left of one after a model's own scaling."""
    return max(6, max(view) // 32)


def _on_board(pixels: U8, square: int) -> U8:
    """Straight RGBA over the checkerboard that shows its outline best, H x W x 3."""
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    board = _checkerboard(pixels.shape[1], pixels.shape[0], square, _board(pixels))
    return np.asarray(Image.alpha_composite(board, Image.fromarray(pixels)).convert("RGB"))


@lru_cache(maxsize=8)
def _checkerboard(width: int, height: int, square: int, colours: tuple[Colour, Colour]) -> Image.Image:
    y, x = np.ogrid[:height, :width]
    return Image.fromarray(np.asarray(colours, np.uint8)[(y // square + x // square) % 2]).convert("RGBA")


def _board(pixels: U8) -> tuple[Colour, Colour]:
    alpha = pixels[..., 3]
    inside = cv2.erode((alpha >= SOLID).astype(np.uint8), np.ones((RIM, RIM), np.uint8))
    rim = pixels[(alpha >= FAINT[1]) & (inside == 0)][:, :3].astype(np.int16)
    if not rim.size:
        return LIGHT

    def likeness(board: tuple[Colour, Colour]) -> float:
        return float(np.mean([_contrast(rim, grey) <= ALIKE for grey in board]) * len(board))

    return next((board for board in BOARDS if likeness(board) <= OFTEN), min(BOARDS, key=likeness))


def _contrast(colours: npt.NDArray[np.int16], other: Colour) -> F32:
    """In levels: of brightness, or half of that in the channel that differs most, because thin things are seen by their brightness."""
    apart = np.abs(colours - np.asarray(other)).astype(np.float32)
    brightness = np.abs((colours - np.asarray(other)) @ np.asarray(LUMA, np.float32))
    return np.maximum(brightness, apart.max(axis=1) / 2)


def _alpha_map(pixels: U8) -> U8:
    alpha = pixels[..., 3]
    shown = cv2.merge([alpha] * 3)
    near = cv2.dilate((alpha >= FAINT[1]).astype(np.uint8), np.ones((5, 5), np.uint8))
    faint = (alpha >= FAINT[0]) & (near == 0)
    shown[faint] = np.stack([96 + 5 * alpha[faint], *[np.zeros_like(alpha[faint])] * 2], axis=1)
    return np.asarray(shown, np.uint8)
