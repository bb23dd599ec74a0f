"""Text layers: lines found by the recogniser, cut out glyph by glyph, and put together by style.

A line whose letters cannot be cut out convincingly gives no block: the text then stays whole in the picture. Convincing means that the
letters alone, on a plain ground, are read as the line again, and that the picture without them is not. Left to what they are printed on:
text lower than 1.2 % of the picture's long side, unless most of the lines are as small; a single letter; two or three small ones, as on a
number plate, where there is little other text; lines that lean by more than 20 degrees or run down.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.glyphs import Letters, Window, cut_out, letters_on_smooth, letters_on_texture, previews, window
from layerctl.engines.classic.ocr import Reading, read_line, read_lines, straightened
from layerctl.engines.classic.unmix import Unmixed, cluster_centres, sampled

MAX_ANGLE = 20.0
LEAST_HEIGHT = 0.012
"""Height of the smallest text that becomes a layer, of the picture's long side."""
KNOWN = ("LATIN", "DIGIT", "CJK", "HIRAGANA", "KATAKANA", "FULLWIDTH", "HALFWIDTH")
"""How the Unicode names of the letters begin that the recogniser reads well; of others (Greek) it knows some, and misses their accents."""
LEAST_CONFIDENCE, LEAST_SHORT_CONFIDENCE = 0.7, 0.85
"""Of the recogniser, for more than three letters and for two or three; a single letter is never text."""
LEAST_CONTRAST = 18.0
LEAST_PIXELS, SMALL_PRINT_LINES = 10, 4
"""Smaller text becomes layers only where most of at least this many lines are as small."""
MARK_LETTERS, MARK_AREA = 3, 0.01
"""So few letters on so small a share of the picture are a mark on a thing, unless there are lines enough besides."""
ONE_STYLE = 0.9
"""Largest unlikeness of two lines of one block."""
LARGEST_CUT = 0.1
"""Largest share of the text-like pixels in a line's box that may belong to something else."""
LEAST_SCORE, CERTAIN_SCORE = 0.6, 0.97


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line as recognised. `box`: left, top, right, bottom on the picture; `angle`: degrees that it falls to the right.
    `colour`: the letters' most frequent one."""

    text: str
    confidence: float
    box: tuple[int, int, int, int]
    height: float
    angle: float
    colour: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class TextBlock:
    """Lines of one style. `text`: the lines joined by newlines. `confidence`: the lowest of the lines, 0..1.

    `left`, `top`: place on the picture. `alpha`: uint8 H x W, of the letters with outline and shadow. `colour`: uint8 H x W x 3, defined
    everywhere, also where alpha is 0.
    """

    text: str
    confidence: float
    left: int
    top: int
    alpha: npt.NDArray[np.uint8]
    colour: npt.NDArray[np.uint8]
    lines: tuple[TextLine, ...]


def find_text(rgb: npt.NDArray[np.uint8]) -> tuple[TextBlock, ...]:
    """The text of an sRGB picture (uint8 H x W x 3) that can be cut out, top to bottom, lines of one style in one block."""
    readings = read_lines(rgb)
    blocks = []
    for index, line in enumerate(readings):
        if abs(line.angle) > MAX_ANGLE or not _worth(line, readings, rgb.shape[:2]):
            continue
        view = window(rgb, line, readings[:index] + readings[index + 1 :])
        letters = _letters(view, line)
        if letters is not None:
            view, cut = cut_out(view, letters)
            if (cut.alpha > 0.5).any():
                blocks.append(_block(line, view, cut))
    return _merged(tuple(blocks), ONE_STYLE, 1)


def group(blocks: tuple[TextBlock, ...], most: int) -> tuple[TextBlock, ...]:
    """At most `most` blocks (at least 1): the nearest and most similar are put together; lines are never cut."""
    return _merged(blocks, math.inf, most)


def _worth(line: Reading, readings: tuple[Reading, ...], size: tuple[int, int]) -> bool:
    side = max(size)
    letters = sum(character.isalnum() for character in line.text)
    known = sum(character.isalnum() and unicodedata.name(character, "").startswith(KNOWN) for character in line.text)
    if letters < 2 or known < 0.8 * letters or line.confidence < (LEAST_CONFIDENCE if letters > 3 else LEAST_SHORT_CONFIDENCE):
        return False
    if letters <= MARK_LETTERS and line.height * line.width < MARK_AREA * size[0] * size[1] and len(readings) < SMALL_PRINT_LINES:
        return False
    if line.height >= LEAST_HEIGHT * side:
        return True
    small = sum(other.height < LEAST_HEIGHT * side for other in readings)
    return line.height >= LEAST_PIXELS and small >= max(SMALL_PRINT_LINES, 0.6 * len(readings))


def _merged(blocks: tuple[TextBlock, ...], limit: float, most: int) -> tuple[TextBlock, ...]:
    """The blocks after joining the most similar pair again and again while it is below `limit` and there are more than `most` groups."""
    groups = [[block] for block in blocks]
    while len(groups) > max(1, most):
        pairs = [
            (min(_unlikeness(a, b) for one in groups[i] for other in groups[j] for a in one.lines for b in other.lines), i, j)
            for i in range(len(groups))
            for j in range(i + 1, len(groups))
        ]
        cost, i, j = min(pairs)
        if cost > limit:
            break
        groups[i] += groups.pop(j)
    return tuple(sorted((_joined(members) for members in groups), key=lambda block: (block.top, block.left)))


def _unlikeness(a: TextLine, b: TextLine) -> float:
    """How far two lines are from being one style, about 0..1 for neighbours of one paragraph."""
    height = (a.height + b.height) / 2
    across = max(0, max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])) / height
    down = max(0, max(a.box[1], b.box[1]) - min(a.box[3], b.box[3])) / height
    edges = (a.box[0] - b.box[0], a.box[2] - b.box[2], (a.box[0] + a.box[2] - b.box[0] - b.box[2]) / 2, (a.box[3] - b.box[3]) * 2)
    aligned = min(abs(edge) for edge in edges) / height
    size = abs(math.log(a.height / b.height))
    tint = max(abs(x - y) for x, y in zip(a.colour, b.colour, strict=True)) / 255
    return 0.5 * (across + down) + 0.3 * min(aligned, 2.0) + 1.5 * size + 2.5 * tint + 0.1 * abs(a.angle - b.angle)


def _joined(blocks: list[TextBlock]) -> TextBlock:
    if len(blocks) == 1:
        return blocks[0]
    left, top = min(block.left for block in blocks), min(block.top for block in blocks)
    right = max(block.left + block.alpha.shape[1] for block in blocks)
    bottom = max(block.top + block.alpha.shape[0] for block in blocks)
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    colour = np.empty((*alpha.shape, 3), np.uint8)
    colour[:] = blocks[0].lines[0].colour
    for block in blocks:
        rows = slice(block.top - top, block.top - top + block.alpha.shape[0])
        columns = slice(block.left - left, block.left - left + block.alpha.shape[1])
        stronger = (block.alpha > alpha[rows, columns]) | (alpha[rows, columns] == 0)
        colour[rows, columns][stronger] = block.colour[stronger]
        np.maximum(alpha[rows, columns], block.alpha, out=alpha[rows, columns])
    lines = tuple(sorted((line for block in blocks for line in block.lines), key=lambda line: (line.box[1], line.box[0])))
    return TextBlock("\n".join(line.text for line in lines), min(line.confidence for line in lines), left, top, alpha, colour, lines)


def _letters(view: Window, line: Reading) -> Letters | None:
    """The most convincing letters for the line, None where nothing convinces."""
    smooth = letters_on_smooth(view)
    score = _score(smooth, view, line) if smooth is not None else 0.0
    if smooth is not None and smooth.cut < LARGEST_CUT and smooth.clutter < 0.03 and score >= LEAST_SCORE:
        return smooth
    best, best_score = smooth, score - 0.1
    for letters in letters_on_texture(view):
        if letters.cut >= LARGEST_CUT:
            continue
        score = _score(letters, view, line)
        if score > best_score + 0.02:
            best, best_score = letters, score
        if score > CERTAIN_SCORE:
            break
    return best if best is not None and best_score >= LEAST_SCORE and best.cut < LARGEST_CUT else None


def _score(letters: Letters, view: Window, line: Reading) -> float:
    """How well the letters alone give the line's text when they are read again, less what the picture without them still gives."""
    if letters.contrast < LEAST_CONTRAST:
        return 0.0
    alone, rest = previews(view, letters)
    scale = alone.shape[1] / view.rgb.shape[1]
    quad = (line.quad - np.asarray([view.left, view.top], np.float32)) * np.float32(scale)
    shown = _likeness(alone, quad, line.text)
    if shown < LEAST_SCORE:
        return 0.0
    return shown - 0.7 * _likeness(rest, quad, line.text) - 0.5 * letters.cut + 0.1 * letters.contrast / 255


def _likeness(rgb: npt.NDArray[np.uint8], quad: npt.NDArray[np.float32], text: str) -> float:
    again, confidence = read_line(straightened(rgb, quad))
    return difflib.SequenceMatcher(None, again, text, autojunk=False).ratio() * (0.9 + 0.1 * confidence)


def _block(line: Reading, view: Window, cut: Unmixed) -> TextBlock:
    rows, columns = np.nonzero(cut.alpha.max(axis=1) > 0)[0], np.nonzero(cut.alpha.max(axis=0) > 0)[0]
    place = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    alpha = np.rint(cut.alpha[place] * 255).astype(np.uint8)
    left, top = view.left + place[1].start, view.top + place[0].start
    box = left, top, left + alpha.shape[1], top + alpha.shape[0]
    colour = np.rint(cut.colour[place]).astype(np.uint8)
    opaque = colour[alpha >= max(int(alpha.max()) - 8, 1)].astype(np.float32)
    red, green, blue = (round(float(value)) for value in cluster_centres(sampled(opaque), most=3, distance=60.0)[0])
    entry = TextLine(line.text, line.confidence, box, line.height, line.angle, (red, green, blue))
    return TextBlock(line.text, line.confidence, left, top, alpha, colour, (entry,))
