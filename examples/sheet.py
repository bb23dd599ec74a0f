"""Drawing one layer of a design from plain shapes, soft light and letters.

Coordinates are pixels of the finished picture; everything is drawn `SCALE` times as large and reduced. The letters are Noto CJK's, from
Debian's package (`benchmarks/assets.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks import assets
from layerctl.layers import Kind, Layer, crop_to_content

SCALE = 3
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Fill = str | tuple[str, str]
"""One colour, or the colours at the top and at the bottom of what is filled."""


class Sheet:
    """One layer in the making, `SCALE` times as large as it will be."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.picture = Image.new("RGBA", (size[0] * SCALE, size[1] * SCALE))

    def paint(self, mask: Image.Image, fill: Fill, opacity: float = 1.0) -> None:
        top, bottom = (fill, fill) if isinstance(fill, str) else fill
        box = mask.getbbox()
        if box is None:
            return
        colours = Image.new("RGBA", (1, 2))
        colours.putpixel((0, 0), _rgba(top))
        colours.putpixel((0, 1), _rgba(bottom))
        ramp = colours.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))
        ramp.putalpha(mask.crop(box).point(lambda value: round(value * opacity)))
        self.picture.alpha_composite(ramp, box[:2])

    def disk(self, x: float, y: float, radius: float, fill: Fill, opacity: float = 1.0) -> None:
        self.oval((x - radius, y - radius, x + radius, y + radius), fill, opacity)

    def oval(self, box: Box, fill: Fill, opacity: float = 1.0) -> None:
        mask, pen = self._mask()
        pen.ellipse([value * SCALE for value in box], fill=255)
        self.paint(mask, fill, opacity)

    def card(self, box: Box, radius: float, fill: Fill, opacity: float = 1.0) -> None:
        mask, pen = self._mask()
        pen.rounded_rectangle([value * SCALE for value in box], radius * SCALE, fill=255)
        self.paint(mask, fill, opacity)

    def area(self, points: Sequence[Point], fill: Fill, opacity: float = 1.0) -> None:
        mask, pen = self._mask()
        pen.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=255)
        self.paint(mask, fill, opacity)

    def line(self, points: Sequence[Point], width: float, fill: Fill) -> None:
        """A line with round joints and ends."""
        mask, pen = self._mask()
        large = [(x * SCALE, y * SCALE) for x, y in points]
        pen.line(large, 255, round(width * SCALE), joint="curve")
        reach = width * SCALE / 2
        for x, y in (large[0], large[-1]):
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
        self.paint(mask, fill)

    def arc(self, x: float, y: float, radius: float, width: float, turns: tuple[float, float], fill: Fill) -> None:
        """A band of a circle between two angles in turns, clockwise from the top, with round ends."""
        steps = max(2, round(96 * (turns[1] - turns[0])))
        angles = [2 * math.pi * (turns[0] + (turns[1] - turns[0]) * step / steps) for step in range(steps + 1)]
        self.line([(x + radius * math.sin(angle), y - radius * math.cos(angle)) for angle in angles], width, fill)

    def text(
        self, x: float, y: float, words: str, size: float, fill: Fill, font: str = "Sans-Bold", anchor: str = "ls", spacing: float = 0
    ) -> None:
        """`anchor` as in Pillow; `spacing` between letters in pixels is for left-aligned text."""
        mask, pen = self._mask()
        face = _font(font, round(size * SCALE))
        if not spacing:
            pen.text((x * SCALE, y * SCALE), words, 255, face, anchor=anchor)
        for letter in words if spacing else "":
            pen.text((x * SCALE, y * SCALE), letter, 255, face, anchor=anchor)
            x += face.getlength(letter) / SCALE + spacing
        self.paint(mask, fill)

    def glow(self, x: float, y: float, radius: float, colour: str, opacity: float) -> None:
        """Light that fades to nothing at `radius`."""
        height, width = self.picture.height, self.picture.width
        rows, columns = np.ogrid[0:height, 0:width]
        reach = np.hypot(columns / SCALE - x, rows / SCALE - y) / radius
        mask = Image.fromarray((255 * np.clip(1 - reach, 0, 1) ** 2).astype(np.uint8))
        self.paint(mask, colour, opacity)

    def cast_shadow(self, drop: float, blur: float, opacity: float, colour: str = "#1a1433") -> None:
        """Put a soft shadow under all that was drawn so far."""
        alpha = self.picture.getchannel("A")
        moved = Image.new("L", alpha.size)
        moved.paste(alpha, (0, round(drop * SCALE)))
        drawn, self.picture = self.picture, Image.new("RGBA", self.picture.size)
        self.paint(moved.filter(ImageFilter.GaussianBlur(blur * SCALE)), colour, opacity)
        self.picture.alpha_composite(drawn)

    def layer(self, name: str, kind: Kind = "element") -> Layer:
        small = self.picture.convert("RGBa").resize(self.size, Image.Resampling.BOX).convert("RGBA")
        pixels = np.array(small)
        pixels[pixels[..., 3] == 0] = 0
        return crop_to_content(Layer(name, pixels, kind=kind, text=name if kind == "text" else None))

    def _mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        mask = Image.new("L", self.picture.size)
        return mask, ImageDraw.Draw(mask)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A weight of Noto CJK for simplified Chinese: "Sans-Bold", "Sans-Regular", "Serif-Bold"."""
    family, weight = name.split("-")
    path = next(path for path in assets.files(("fonts-noto-cjk",), (".ttc",)) if path.name == f"Noto{family}CJK-{weight}.ttc")
    return ImageFont.truetype(str(path), size, index=2)


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue, 255
