"""Text layers: lines found by the recogniser, cut out glyph by glyph, and put together by style.

A line whose letters cannot be cut out convincingly gives no block: the text then stays whole in the picture. Convincing means that the letters
alone, black on white, are read as the line again. Text lower than 1.2 % of the picture's long side is left to what it is printed on, unless
most of the picture's lines are as small.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.glyphs import Letters, Window, cut_out, letters_on_smooth, letters_on_texture, window
from layerctl.engines.classic.ocr import Reading, read_line, read_lines, straightened
from layerctl.engines.classic.unmix import Unmixed

MAX_ANGLE = 20.0
LEAST_HEIGHT = 0.012
"""Height of the smallest text that becomes a layer, of the picture's long side."""
LEAST_CONFIDENCE, LEAST_SHORT_CONFIDENCE = 0.7, 0.85
"""Of the recogniser, for more than three letters and for two or three; a single letter is never text."""
LEAST_CONTRAST = 18.0
LEAST_LIKENESS = 0.6


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line as recognised. `box`: left, top, right, bottom on the picture; `angle`: degrees that it falls to the right."""

    text: str
    confidence: float
    box: tuple[int, int, int, int]
    height: float
    angle: float


@dataclass(frozen=True, slots=True, eq=False)
class TextBlock:
    """Lines of one style. `text`: the lines joined by newlines. `confidence`: the lowest of the lines, 0..1. `left`, `top`: place on the picture.

    `alpha`: uint8 H x W, of the letters with outline and shadow. `colour`: uint8 H x W x 3, defined everywhere, also where alpha is 0.
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
        if abs(line.angle) > MAX_ANGLE or not _worth(line, readings, max(rgb.shape)):
            continue
        view = window(rgb, line, readings[:index] + readings[index + 1 :])
        letters = _letters(view, line)
        if letters is not None:
            blocks.append(_block(line, view, cut_out(view, letters)))
    return tuple(blocks)


def group(blocks: tuple[TextBlock, ...], most: int) -> tuple[TextBlock, ...]:
    """At most `most` blocks: the nearest and most similar are put together; lines are never cut."""
    return blocks[:most]


def _worth(line: Reading, readings: tuple[Reading, ...], side: int) -> bool:
    letters = sum(character.isalnum() for character in line.text)
    if letters < 2 or line.confidence < (LEAST_CONFIDENCE if letters > 3 else LEAST_SHORT_CONFIDENCE):
        return False
    return line.height >= LEAST_HEIGHT * side


def _letters(view: Window, line: Reading) -> Letters | None:
    """The most convincing letters for the line, None where nothing convinces."""
    smooth = letters_on_smooth(view)
    likeness = _likeness(smooth, view, line) if smooth is not None else 0.0
    if smooth is not None and smooth.cut < 0.1 and smooth.clutter < 0.03 and likeness >= LEAST_LIKENESS:
        return smooth
    best, score = smooth, likeness - 0.05
    for letters in letters_on_texture(view):
        likeness = _likeness(letters, view, line) - 0.5 * letters.cut
        if likeness > score + 0.03:
            best, score = letters, likeness
    return best if score >= LEAST_LIKENESS else None


def _likeness(letters: Letters, view: Window, line: Reading) -> float:
    """How much of the line's text the letters alone give when they are read again, 0..1."""
    if letters.contrast < LEAST_CONTRAST:
        return 0.0
    ink = np.repeat(np.where(letters.mask, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    text, confidence = read_line(straightened(ink, line.quad - np.asarray([view.left, view.top], np.float32)))
    return difflib.SequenceMatcher(None, text, line.text, autojunk=False).ratio() * (0.9 + 0.1 * confidence)


def _block(line: Reading, view: Window, cut: Unmixed) -> TextBlock:
    rows, columns = np.nonzero(cut.alpha.max(axis=1) > 0)[0], np.nonzero(cut.alpha.max(axis=0) > 0)[0]
    place = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    alpha = np.rint(cut.alpha[place] * 255).astype(np.uint8)
    left, top = view.left + place[1].start, view.top + place[0].start
    box = left, top, left + alpha.shape[1], top + alpha.shape[0]
    entry = TextLine(line.text, line.confidence, box, line.height, line.angle)
    return TextBlock(line.text, line.confidence, left, top, alpha, np.rint(cut.colour[place]).astype(np.uint8), (entry,))
