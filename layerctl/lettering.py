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
from itertools import groupby
from pathlib import Path

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
FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
DRAWN_SIZE = 109
"""Other fonts are drawn at this size and scaled: the one size of the colour bitmaps in Noto Color Emoji."""
RIGHT_TO_LEFT = ("R", "AL", "AN", "RLE", "RLI", "RLO")
INVISIBLE = ("\ufe0f", ZERO_WIDTH_JOINER, " ")
WIDE = "()"
"""OpenCV takes these from a Chinese face, where they are as wide as an ideograph."""


def text_width(text: str, size: int, weight: int = REGULAR) -> int:
    """Pixels from the start of `text` to its end."""
    return sum(_run_width(run, is_carried, size, weight) for run, is_carried in _runs(text))


def draw_text(canvas: U8, x: int, baseline: int, text: str, size: int, colour: Colour, weight: int = REGULAR) -> int:
    """Draw `text` on `canvas` (H x W x 3, changed in place) and return the x where it ends."""
    for run, is_carried in _runs(text):
        if is_carried:
            cv2.putText(canvas, run, (x, baseline), colour, _face(), size, weight)
        else:
            _draw_otherwise(canvas, x, baseline, run, size, colour, weight)
        x += _run_width(run, is_carried, size, weight)
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


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    """The longest parts of `text` that are drawn alike, and whether OpenCV draws them.

    Spaces and marks between two parts that it does not draw go with them, so that words written from the right keep their order.
    """
    runs = [("".join(run), is_carried) for is_carried, run in groupby(clusters(unicodedata.normalize("NFC", text)), _is_carried)]
    joins = [
        is_carried and 0 < place < len(runs) - 1 and not any(character.isalnum() for character in run)
        for place, (run, is_carried) in enumerate(runs)
    ]
    drawn = [(run, is_carried and not join) for (run, is_carried), join in zip(runs, joins, strict=True)]
    for is_carried, same in groupby(drawn, lambda run: run[1]):
        yield "".join(run for run, _ in same), is_carried


@cache
def _run_width(run: str, is_carried: bool, size: int, weight: int) -> int:
    if is_carried:
        left, _, width, _ = cv2.getTextSize((0, 0), run, (0, 0), _face(), size, weight)
        return int(left + width)
    font = _other_font(run)
    return sum(_box(size)[2] for _ in clusters(run)) if font is None else round(font.getlength(run) * size / font.size)


@cache
def _is_carried(cluster: str) -> bool:
    if any(
        character in WIDE or character == ZERO_WIDTH_JOINER or unicodedata.bidirectional(character) in RIGHT_TO_LEFT
        for character in cluster
    ):
        return False
    return all(character == "?" or _drawn(character) != _drawn("?") for character in cluster)


@cache
def _drawn(character: str) -> bytes:
    canvas = np.zeros((48, 64, 3), np.uint8)
    cv2.putText(canvas, character, (8, 36), (255, 255, 255), _face(), 32, REGULAR)
    return canvas.tobytes()


def _draw_otherwise(canvas: U8, x: int, baseline: int, run: str, size: int, colour: Colour, weight: int) -> None:
    picture = Image.fromarray(canvas)
    font = _other_font(run)
    if font is None:
        for number, _ in enumerate(clusters(run)):
            left, top, advance, edge = _box(size)
            start = x + number * advance + left
            ImageDraw.Draw(picture).rectangle((start, baseline - top, start + edge, baseline), outline=colour)
    else:
        scale = size / font.size
        ascent, descent = font.getmetrics()
        stroke = (weight - REGULAR) / 60
        tile = Image.new("RGBA", (max(1, round(font.getlength(run))), ascent + descent), (*colour, 0))
        ImageDraw.Draw(tile).text((0, ascent), run, font=font, fill=colour, anchor="ls", stroke_width=stroke, embedded_color=True)
        small = tile.resize((max(1, round(tile.width * scale)), max(1, round(tile.height * scale))), Image.Resampling.LANCZOS)
        picture.paste(small, (x, baseline - round(ascent * scale)), small)
    canvas[:] = np.asarray(picture)


def _box(size: int) -> tuple[int, int, int, int]:
    """Side bearing, height, advance and width of the box that stands for a missing character."""
    return size // 10, size * 7 // 10, size * 7 // 10, size // 2


@cache
def _other_font(run: str) -> ImageFont.FreeTypeFont | None:
    """The first of Pillow's own font and those of this machine that has all of `run`."""
    own = ImageFont.load_default(DRAWN_SIZE)
    if isinstance(own, ImageFont.FreeTypeFont) and _has(own, run):
        return own
    fonts = (_opened(path) for path in _font_files())
    return next((font for font in fonts if font is not None and _has(font, run)), None)


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
