"""Names of layers for people: "Background", the text itself, "Subject", "Element 2 (red, top left)"."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np
import numpy.typing as npt

LONGEST = 60
COLOURS = {
    "black": (15, 15, 15), "dark gray": (70, 70, 70), "gray": (130, 130, 130), "light gray": (200, 200, 200), "white": (250, 250, 250),
    "red": (205, 30, 35), "dark red": (110, 20, 25), "orange": (240, 130, 30), "brown": (120, 75, 40), "tan": (205, 170, 125),
    "yellow": (245, 215, 50), "olive": (120, 120, 40), "green": (50, 160, 60), "dark green": (20, 80, 35), "lime": (150, 215, 60),
    "teal": (20, 130, 130), "cyan": (80, 210, 230), "light blue": (150, 190, 235), "blue": (40, 90, 200), "navy": (20, 30, 90),
    "purple": (110, 50, 160), "lilac": (190, 160, 220), "magenta": (215, 40, 160), "pink": (245, 165, 190),
}  # fmt: skip


def colour_name(rgb: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> str:
    """The nearest common colour name to the typical colour of a cut-out (uint8 H x W x 3 and H x W, sRGB)."""
    pixels = rgb[alpha > 127]
    if pixels.size == 0:
        pixels = rgb.reshape(-1, 3)
    step = max(1, len(pixels) // 4000)
    typical = np.median(_lab(pixels[::step]), axis=0)
    return min(COLOURS, key=lambda name: float(((_lab(np.array([COLOURS[name]], np.uint8))[0] - typical) ** 2).sum()))


def place_name(x: float, y: float) -> str:
    """Where a point 0..1 across and down the canvas lies, in words."""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return " ".join(part for part in (row, column) if part) or "centre"


def text_name(text: str) -> str:
    """The text on one line, without control characters, cut at LONGEST characters."""
    shown = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    shown = " ".join(shown.split())
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1].rstrip() + "…"


def _lab(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    converted: npt.NDArray[np.float32] = cv2.cvtColor(pixels.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return converted
