"""What the scenes draw themselves: shapes, cards, text, soft shadows and the plates of the kind "design".

Every element is straight RGBA uint8 with antialiased edges, in a box of its own size. Randomness comes in as a numpy Generator.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
ShapeName = Literal["disk", "ring", "polygon", "star", "blob", "pill", "card"]
PlateName = Literal["solid", "linear", "radial", "pattern", "paper", "bokeh"]
SHAPES: tuple[ShapeName, ...] = ("disk", "ring", "polygon", "star", "blob", "pill")
PLATES: tuple[PlateName, ...] = ("solid", "linear", "radial", "pattern", "paper", "bokeh")
SUPERSAMPLING = 4


def shape(name: ShapeName, width: int, height: int, colours: tuple[Colour, Colour], rng: np.random.Generator) -> Bytes:
    """A filled figure of about that size; one in three is filled with a gradient between the colours, cards may have a border."""
    mask = _figure(name, width, height, rng)
    fill = np.broadcast_to(np.array(colours[0], np.float64), (height, width, 3))
    if rng.random() < 0.35:
        fill = _linear(width, height, colours[0], _mixed(colours[0], colours[1], 0.5), rng.uniform(0, 2 * np.pi))
    elif name in ("card", "pill", "disk") and rng.random() < 0.3:
        inset = max(3, round(0.025 * min(width, height)))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * inset + 1, 2 * inset + 1))
        inner = cv2.erode(mask, disk, borderValue=0)[..., None] / 255.0
        fill = fill * inner + np.array(colours[1]) * (1 - inner)
    return np.dstack([np.clip(fill + 0.5, 0, 255).astype(np.uint8), mask])


@dataclass(frozen=True, slots=True)
class TextStyle:
    """`index`: which face of a font collection. `size` and `outline` in pixels, no outline at 0. `align`: "left" or "center"."""

    font: Path
    index: int
    size: int
    align: str
    outline: int = 0


def text_size(text: str, style: TextStyle) -> tuple[int, int]:
    """Width and height of the block that `text_block` draws."""
    face = ImageFont.truetype(str(style.font), style.size, index=style.index)
    left, top, right, bottom = _text_box(text, face, style)
    return round(right - left) + 4, round(bottom - top) + 4


def text_block(text: str, style: TextStyle, fill: Colour, edge: Colour | None = None) -> Bytes:
    """One to three lines in one style, `edge` the colour of its outline."""
    face = ImageFont.truetype(str(style.font), style.size, index=style.index)
    spacing = round(0.25 * style.size)
    left, top, _, _ = _text_box(text, face, style)
    masks = []
    for stroke in (0, style.outline):
        mask = Image.new("L", text_size(text, style))
        at = (2 - left + style.outline - stroke, 2 - top + style.outline - stroke)
        ImageDraw.Draw(mask).multiline_text(at, text, 255, face, spacing=spacing, align=style.align, stroke_width=stroke)
        masks.append(np.asarray(mask))
    alpha = np.maximum(masks[0], masks[1])
    share = np.clip(masks[0] / np.maximum(alpha, 1), 0, 1)[..., None]
    return np.dstack([(np.array(fill) * share + np.array(edge or fill) * (1 - share) + 0.5).astype(np.uint8), alpha])


def with_shadow(rgba: Bytes, blur: float, offset: tuple[int, int], strength: float) -> Bytes:
    """The element over its own soft black shadow, one layer; the box grows by what the shadow needs on all sides alike."""
    margin = int(np.ceil(3 * blur)) + max(abs(offset[0]), abs(offset[1]))
    padded = np.pad(rgba, ((margin, margin), (margin, margin), (0, 0))).astype(np.float64)
    alpha = padded[..., 3] / 255
    moved = np.roll(alpha, (offset[1], offset[0]), axis=(0, 1))
    shadow = strength * cv2.GaussianBlur(moved, (0, 0), blur)
    shadow[shadow < 1 / 255] = 0
    total = alpha + shadow * (1 - alpha)
    rgb = padded[..., :3] * (alpha / np.maximum(total, 1e-6))[..., None]
    return np.dstack([rgb, 255 * total]).round().clip(0, 255).astype(np.uint8)


def plate(name: PlateName, width: int, height: int, colours: tuple[Colour, Colour], rng: np.random.Generator) -> Bytes:
    """A background without objects, RGB; `colours[1]` should be near `colours[0]` for a quiet one."""
    base = np.broadcast_to(np.array(colours[0], np.float64), (height, width, 3)).copy()
    if name == "linear":
        base = _linear(width, height, colours[0], colours[1], rng.uniform(0, 2 * np.pi))
    elif name == "radial":
        base = _radial(width, height, colours, rng)
    elif name == "pattern":
        base = _pattern(base, _mixed(colours[0], colours[1], 0.35), rng)
    elif name == "paper":
        base += _paper(width, height, rng)
    elif name == "bokeh":
        base = _bokeh(_linear(width, height, colours[0], colours[1], rng.uniform(0, 2 * np.pi)), rng)
    return (np.clip(base, 0, 255) + 0.5).astype(np.uint8)


def colour(hue: float, saturation: float, value: float) -> Colour:
    """All three within 0..1, the hue wrapped around."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _text_box(text: str, face: ImageFont.FreeTypeFont, style: TextStyle) -> tuple[float, float, float, float]:
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    spacing = round(0.25 * style.size)
    return probe.multiline_textbbox((0, 0), text, face, spacing=spacing, align=style.align, stroke_width=style.outline)


def _figure(name: ShapeName, width: int, height: int, rng: np.random.Generator) -> Bytes:
    scale = SUPERSAMPLING
    big = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(big)
    box = (scale, scale, (width - 1) * scale - 1, (height - 1) * scale - 1)
    short = min(width, height) * scale
    if name in ("disk", "ring"):
        pen.ellipse(box, fill=255)
        if name == "ring":
            band = rng.uniform(0.14, 0.24) * short
            pen.ellipse((box[0] + band, box[1] + band, box[2] - band, box[3] - band), fill=0)
    elif name in ("pill", "card"):
        pen.rounded_rectangle(box, radius=short / 2 - scale if name == "pill" else rng.uniform(0, 0.14) * short, fill=255)
    else:
        pen.polygon(_outline(name, width * scale, height * scale, rng), fill=255)
    return np.asarray(big.resize((width, height), Image.Resampling.BOX))


def _outline(name: ShapeName, width: int, height: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Corners of a polygon, star or blob that touch an inscribed ellipse."""
    if name == "blob":
        angles = np.linspace(0, 2 * np.pi, 240, endpoint=False)
        radius = np.ones_like(angles)
        for k in (2, 3, 4):
            radius += rng.uniform(-0.13, 0.13) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
        radius = radius / radius.max()
    else:
        corners = int(rng.integers(3, 8)) if name == "polygon" else 2 * int(rng.integers(5, 9))
        angles = np.arange(corners) * 2 * np.pi / corners + (rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else -np.pi / 2)
        radius = np.ones(corners)
        if name == "star":
            radius[1::2] = rng.uniform(0.45, 0.7)
    x = width / 2 + (width / 2 - SUPERSAMPLING) * radius * np.cos(angles)
    y = height / 2 + (height / 2 - SUPERSAMPLING) * radius * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * np.array(first) + share * np.array(second)).round().astype(int).tolist()
    return red, green, blue


def _linear(width: int, height: int, first: Colour, second: Colour, angle: float) -> Floats:
    y, x = np.mgrid[0:height, 0:width]
    along = x * np.cos(angle) + y * np.sin(angle)
    along = ((along - along.min()) / max(float(np.ptp(along)), 1.0))[..., None]
    return np.asarray(np.array(first) * (1 - along) + np.array(second) * along)


def _radial(width: int, height: int, colours: tuple[Colour, Colour], rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[0:height, 0:width]
    reach = np.hypot(x - rng.uniform(0.2, 0.8) * width, y - rng.uniform(0.2, 0.8) * height)
    reach = (reach / reach.max())[..., None]
    return np.asarray(np.array(colours[0]) * (1 - reach) + np.array(colours[1]) * reach)


def _pattern(base: Floats, ink: Colour, rng: np.random.Generator) -> Floats:
    """Small dots, thin stripes, checks or a grid that repeat every 18..40 px, in an ink near the paper's colour."""
    height, width = base.shape[:2]
    pitch = float(rng.uniform(18, 40))
    angle = float(rng.choice([0.0, np.pi / 4, np.pi / 2]))
    y, x = np.mgrid[0:height, 0:width]
    u = (x * np.cos(angle) + y * np.sin(angle)) / pitch
    v = (-x * np.sin(angle) + y * np.cos(angle)) / pitch
    off_u, off_v = np.abs(u - np.round(u)), np.abs(v - np.round(v))
    soft = 1.5 / pitch
    kind = rng.choice(["dots", "stripes", "checks", "grid"])
    if kind == "dots":
        amount = np.clip((0.2 - np.hypot(off_u, off_v)) / soft, 0, 1)
    elif kind == "stripes":
        amount = np.clip((0.22 - off_u) / soft, 0, 1)
    elif kind == "checks":
        amount = 0.5 + 0.5 * np.clip((off_u - 0.25) / soft, -1, 1) * np.clip((off_v - 0.25) / soft, -1, 1)
    else:
        amount = np.clip((0.06 - np.minimum(off_u, off_v)) / soft, 0, 1)
    return np.asarray(base * (1 - amount[..., None]) + np.array(ink) * amount[..., None])


def _paper(width: int, height: int, rng: np.random.Generator) -> Floats:
    """Grain and slow unevenness, about 4 levels strong."""
    grain = cv2.GaussianBlur(rng.normal(0, 9, (height, width)), (0, 0), 0.9)
    fibres = cv2.GaussianBlur(rng.normal(0, 40, (height, width)), (0, 0), sigmaX=6, sigmaY=1.2)
    slow = cv2.resize(rng.normal(0, 4, (5, 5)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((grain + fibres + slow)[..., None])


def _bokeh(base: Floats, rng: np.random.Generator) -> Floats:
    """Large, very soft, faint lights, none sharp enough to be an object; blurred at a quarter of the size, which no eye can tell."""
    height, width = base.shape[:2]
    for _ in range(int(rng.integers(6, 14))):
        light = np.zeros((height // 4, width // 4), np.float32)
        radius = rng.uniform(0.05, 0.16) * max(light.shape)
        centre = int(rng.uniform(0, light.shape[1])), int(rng.uniform(0, light.shape[0]))
        cv2.circle(light, centre, int(radius), 1.0, -1, cv2.LINE_AA)
        light = cv2.GaussianBlur(light, (0, 0), 0.3 * radius) * rng.uniform(0.08, 0.3)
        strength = cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        base = base * (1 - strength) + 255 * strength
    return base
