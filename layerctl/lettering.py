"""Lettering on pictures, alike on every machine.

The face that OpenCV carries within itself (Rubik, WenQuanYi for the rest) covers Latin, Greek, Cyrillic, Chinese, Japanese and Korean.
What it lacks (emoji, Thai, Devanagari) or writes in the wrong direction (Arabic, Hebrew) is drawn by Pillow with the first font of the
machine that has it, else as a plain box.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from threading import Lock
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from layerctl.names import ZERO_WIDTH_JOINER, clusters, fitted

U8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
REGULAR = 400
MEDIUM = 550
FONT_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}
CARRIED: Literal["carried"] = "carried"
NOWHERE: Literal["nowhere"] = "nowhere"
Source = ImageFont.FreeTypeFont | Literal["carried", "nowhere"]
FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
DRAWN_SIZE = 109
"""Other fonts are drawn at this size and scaled: the one size of the colour bitmaps in Noto Color Emoji."""
RIGHT_TO_LEFT = ("R", "AL", "AN", "RLE", "RLI", "RLO")
INVISIBLE = ("\ufe0f", ZERO_WIDTH_JOINER, " ")
WIDE = "()"
"""OpenCV takes these from a Chinese face, where they are as wide as an ideograph."""
_ONE_AT_A_TIME = Lock()
"""For OpenCV's faces: while one draws or measures, which it does beside other threads, it keeps the size and weight of that text."""


def text_width(text: str, size: int, weight: int = REGULAR) -> int:
    """Pixels from the start of `text` to its end."""
    return sum(_run_width(run, source, size, weight) for run, source in _runs(text))


def draw_text(canvas: U8, x: int, baseline: int, text: str, size: int, colour: Colour, weight: int = REGULAR) -> int:
    """Draw `text` on `canvas` (H x W x 3, changed in place) and return the x where it ends."""
    for run, source in _runs(text):
        if source == CARRIED:
            _draw_carried(canvas, x, baseline, run, size, colour, weight)
        elif source == NOWHERE:
            _draw_boxes(canvas, x, baseline, run, size, colour)
        else:
            _draw_with(source, canvas, x, baseline, run, size, colour, weight)
        x += _run_width(run, source, size, weight)
    return x


def shortened(text: str, size: int, width: int, weight: int = REGULAR) -> str:
    """`text`, or as much of it as fits into `width` pixels beside an ellipsis."""
    return fitted(text, width, lambda part: text_width(part, size, weight))


def wrapped(text: str, size: int, width: int) -> list[str]:
    """`text` as lines of at most `width` pixels, broken at spaces; a word longer than a line is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, size, width))
    return lines


@cache
def _face() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _runs(text: str) -> Iterator[tuple[str, Source]]:
    """The longest parts of `text` that are drawn alike, and what draws them.

    Spaces and marks between two parts of the same font go with them, so that words written from the right keep their order.
    """
    runs = [("".join(run), source) for source, run in groupby(clusters(unicodedata.normalize("NFC", text)), _source)]
    for place in range(1, len(runs) - 1):
        (_, before), (run, _), (_, after) = runs[place - 1 : place + 2]
        if isinstance(before, ImageFont.FreeTypeFont) and before is after and not any(map(str.isalnum, run)) and _has(before, run):
            runs[place] = run, before
    for source, same in groupby(runs, lambda run: run[1]):
        yield "".join(run for run, _ in same), source


@cache
def _run_width(run: str, source: Source, size: int, weight: int) -> int:
    if source == CARRIED:
        with _ONE_AT_A_TIME:
            left, _, width, _ = cv2.getTextSize((0, 0), run, (0, 0), _face(), size, weight)
        return int(left + width)
    if source == NOWHERE:
        return sum(_box(size)[2] for _ in clusters(run))
    return round(source.getlength(run) * size / source.size)


@cache
def _source(cluster: str) -> Source:
    """What draws a character: OpenCV, else the first of Pillow's own font and those of this machine that has it, else nothing."""
    if _is_carried(cluster):
        return CARRIED
    fonts = chain((_pillows_own(),), map(_opened, _font_files()))
    return next((font for font in fonts if isinstance(font, ImageFont.FreeTypeFont) and _has(font, cluster)), NOWHERE)


def _is_carried(cluster: str) -> bool:
    from_the_right = any(unicodedata.bidirectional(character) in RIGHT_TO_LEFT for character in cluster)
    if from_the_right or any(character in WIDE or character == ZERO_WIDTH_JOINER for character in cluster):
        return False
    return all(character == "?" or _drawn(character) != _drawn("?") for character in cluster)


@cache
def _drawn(character: str) -> bytes:
    canvas = np.zeros((48, 64, 3), np.uint8)
    _draw_carried(canvas, 8, 36, character, 32, (255, 255, 255), REGULAR)
    return canvas.tobytes()


def _draw_carried(canvas: U8, x: int, baseline: int, run: str, size: int, colour: Colour, weight: int) -> None:
    with _ONE_AT_A_TIME:
        cv2.putText(canvas, run, (x, baseline), colour, _face(), size, weight)


def _draw_with(font: ImageFont.FreeTypeFont, canvas: U8, x: int, baseline: int, run: str, size: int, colour: Colour, weight: int) -> None:
    scale = size / font.size
    ascent, descent = font.getmetrics()
    tile = Image.new("RGBA", (max(1, round(font.getlength(run))), ascent + descent), (*colour, 0))
    stroke = (weight - REGULAR) / 60
    ImageDraw.Draw(tile).text((0, ascent), run, font=font, fill=colour, anchor="ls", stroke_width=stroke, embedded_color=True)
    small = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), Image.Resampling.LANCZOS)
    picture = Image.fromarray(canvas)
    picture.paste(small, (x, baseline - round(ascent * scale)), small)
    canvas[:] = np.asarray(picture)


def _draw_boxes(canvas: U8, x: int, baseline: int, run: str, size: int, colour: Colour) -> None:
    bearing, height, advance, width = _box(size)
    for number, _ in enumerate(clusters(run)):
        left = x + number * advance + bearing
        cv2.rectangle(canvas, (left, baseline - height), (left + width, baseline), colour)


def _box(size: int) -> tuple[int, int, int, int]:
    """Side bearing, height, advance and width of the box that stands for a missing character."""
    return size // 10, size * 7 // 10, size * 7 // 10, size // 2


@cache
def _pillows_own() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(DRAWN_SIZE)


@cache
def _font_files() -> tuple[Path, ...]:
    folders = [Path(folder).expanduser() for folder in FONT_FOLDERS.get(sys.platform, FONT_FOLDERS["linux"])]
    found = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.suffix.lower() in FONT_SUFFIXES]
    return tuple(sorted(found, key=lambda path: (_rank(path.stem), str(path))))


def _rank(stem: str) -> int:
    """Colour emoji first (other fonts hold some of them in black), plain upright sans faces next, slanted and heavy ones last."""
    lower = stem.lower()
    if "emoji" in lower:
        return 0
    if any(word in lower for word in ("italic", "oblique", "bold", "black", "light", "thin", "mono", "serif", "condensed")):
        return 3
    return 1 if "sans" in lower or "regular" in lower else 2


@cache
def _opened(path: Path) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, DRAWN_SIZE)
    except OSError:
        return None


def _has(font: ImageFont.FreeTypeFont, run: str) -> bool:
    missing = _glyph(font, "\U0010ffff")
    return all(_glyph(font, character) not in (missing, b"") for character in run if character not in INVISIBLE)


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    """What the font draws for a character, b"" for nothing."""
    mask = font.getmask(character)
    return b"" if mask.getbbox() is None else b"%d %d " % mask.size + bytes(mask)
