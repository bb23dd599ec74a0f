"""Training pictures for the segmenter: drawn composites with known visible layers, an endless seeded stream.

Only art of the "train" split and with a licence that allows it is used (`benchmarks/assets.py`): public-domain clip-art, emoji under the
Open Font License, ten photographs under CC-BY 4.0 or CC0 by Aitzol Berasategi, "Freespace", Clemens Engelhardt, Abhishek Mudgal and
Jakub Mede, and what is drawn here from random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks import assets

SIDE = 256
CELL = 4
MOST = 8
EMOJI_RANGES = ((0x1F300, 0x1F650), (0x1F680, 0x1F6FD), (0x1F900, 0x1FA00), (0x1FA70, 0x1FAD0), (0x2600, 0x27BF))
WORDS = [
    "Sale",
    "Spring",
    "Open",
    "Coffee",
    "2026",
    "New",
    "Music",
    "Night",
    "Hello",
    "Market",
    "-50%",
    "Free",
    "Summer",
    "Art",
    "Fresh",
    "Go!",
    "Menu",
    "Today",
    "Live",
    "Design",
    "Home",
]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Art:
    """Loaded training art: RGBA cut-outs uint8 up to 192 px, photographs uint8 RGB up to 900 px, font files."""

    clipart: list[npt.NDArray[np.uint8]]
    emoji: list[npt.NDArray[np.uint8]]
    photographs: list[npt.NDArray[np.uint8]]
    fonts: list[Path]


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One training picture and what it is made of.

    `rgb`: uint8, SIDE x SIDE x 3. `labels`: int8 per cell, 0 background, k the k-th element from the bottom, -1 unsure. `overlaps`: bool,
    MOST x MOST.
    """

    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int8]
    overlaps: npt.NDArray[np.bool_]


def load_art(most_clipart: int = 2600) -> Art:
    rng = np.random.default_rng(7)
    paths = [p for p in assets.files(assets.CLIPART, (".png",)) if assets.split_of(p.name, trainable=True) == "train"]
    clipart = []
    for index in rng.permutation(len(paths)):
        picture = _load_cutout(paths[index])
        if picture is not None:
            clipart.append(picture)
        if len(clipart) == most_clipart:
            break
    font = ImageFont.truetype(str(next(iter(assets.files(assets.EMOJI, (".ttf",))))), 109)
    emoji = []
    for first, last in EMOJI_RANGES:
        for point in range(first, last):
            if assets.split_of(f"emoji{_letters(point)}", trainable=True) == "train":
                tile = Image.new("RGBA", (150, 150))
                ImageDraw.Draw(tile).text((5, 5), chr(point), font=font, embedded_color=True)
                cropped = _crop(np.asarray(tile))
                if cropped is not None and cropped.shape[0] > 60 and len(np.unique(cropped[::4, ::4, :3].reshape(-1, 3), axis=0)) > 8:
                    emoji.append(cropped)
    folder = assets.unpacked("lomiri-wallpapers-16.04") / "usr/share/backgrounds"
    photographs = []
    for name in assets.TRAINING_PHOTOGRAPHS:
        photograph = Image.open(folder / name).convert("RGB")
        photograph.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
        photographs.append(np.asarray(photograph))
    fonts = [p for p in assets.files(assets.FONTS, (".ttf", ".otf", ".ttc")) if assets.split_of(p.name, trainable=True) == "train"]
    return Art(clipart, emoji, photographs, fonts)


def _letters(number: int) -> str:
    """A code point as letters only, so that every emoji is a family of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _load_cutout(path: Path) -> npt.NDArray[np.uint8] | None:
    try:
        opened = Image.open(path)
    except (OSError, Image.DecompressionBombError):
        return None
    if opened.width * opened.height > 4_000_000:
        return None
    picture = opened.convert("RGBA")
    picture.thumbnail((400, 400), Image.Resampling.BOX)
    cropped = _crop(np.asarray(picture))
    if cropped is None:
        return None
    alpha = cropped[..., 3] > 127
    core = cv2.erode(alpha.astype(np.uint8), np.ones((5, 5), np.uint8)).sum()
    if alpha.mean() < 0.2 or core < 0.35 * alpha.sum() or min(cropped.shape[:2]) < 24:
        return None
    factor = 192 / max(cropped.shape[:2])
    size = (max(8, round(cropped.shape[1] * factor)), max(8, round(cropped.shape[0] * factor)))
    return np.asarray(Image.fromarray(cropped).resize(size, Image.Resampling.BICUBIC)) if factor < 1 else cropped


def _crop(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    rows, columns = np.flatnonzero((rgba[..., 3] > 127).any(1)), np.flatnonzero((rgba[..., 3] > 127).any(0))
    if rows.size < 8 or columns.size < 8:
        return None
    return np.ascontiguousarray(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def draw(art: Art, rng: np.random.Generator) -> Drawing:
    """One training picture."""
    canvas: Floats = plate(art, rng).astype(np.float32)
    count = int(rng.choice(np.arange(7), p=[0.03, 0.15, 0.2, 0.22, 0.2, 0.12, 0.08]))
    photographic = rng.random() < 0.4
    alphas: list[Floats] = []
    masks: list[npt.NDArray[np.bool_]] = []
    unsure = np.zeros((SIDE, SIDE), bool)
    for _ in range(count):
        element = _element(art, rng, photographic)
        placed = _place(element, rng, masks)
        if placed is None:
            continue
        colour, alpha = placed
        if rng.random() < 0.3:
            shade = _shadow(alpha, rng)
            unsure = (unsure & (alpha < 0.1)) | ((shade > 0.06) & (alpha < 0.5))
            canvas *= (1 - shade)[..., None]
        canvas = canvas * (1 - alpha[..., None]) + colour * alpha[..., None]
        unsure &= alpha < 0.5
        alphas.append(alpha)
        masks.append(alpha > 0.5)
    labels = np.zeros((SIDE, SIDE), np.int8)
    overlaps = np.zeros((MOST, MOST), bool)
    for k, mask in enumerate(masks, 1):
        for j in range(1, k):
            overlaps[j, k] = overlaps[k, j] = bool((mask & masks[j - 1]).sum() > 12)
        labels[mask] = k
    overlaps[0, :] = overlaps[:, 0] = True
    labels[unsure & (labels == 0)] = -1
    rgb = _finish(canvas, rng)
    return Drawing(rgb, labels[CELL // 2 :: CELL, CELL // 2 :: CELL].copy(), overlaps)


def _colour(rng: np.random.Generator) -> Floats:
    if rng.random() < 0.3:
        return np.full(3, rng.choice([0, 20, 128, 235, 255]), np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    hsv = np.array([[[rng.integers(0, 180), int(255 * rng.beta(2, 2)), int(255 * rng.beta(3, 1.4))]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def plate(art: Art, rng: np.random.Generator, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """A background: plain, gradient, pattern, texture, landscape of noise or photograph."""
    style = rng.choice(
        ["plain", "linear", "radial", "mesh", "pattern", "noise", "ridges", "photo"], p=[0.1, 0.12, 0.05, 0.09, 0.1, 0.06, 0.08, 0.4]
    )
    yy, xx = np.mgrid[0:side, 0:side].astype(np.float32) / side
    a, b = _colour(rng), _colour(rng)
    out: Floats
    if style == "plain":
        out = np.broadcast_to(a, (side, side, 3)).copy()
    elif style in ("linear", "radial"):
        angle = rng.uniform(0, 2 * np.pi)
        t = (
            np.hypot(xx - rng.uniform(0.1, 0.9), yy - rng.uniform(0.1, 0.9))
            if style == "radial"
            else xx * np.cos(angle) + yy * np.sin(angle)
        )
        t = (t - t.min()) / (t.max() - t.min())
        out = a + (b - a) * t[..., None]
    elif style == "mesh":
        grid = np.stack([_colour(rng) for _ in range(9)]).reshape(3, 3, 3)
        grid = grid * 0.6 + a * 0.4
        out = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    elif style == "pattern":
        out = _pattern(a, a + (b - a) * rng.uniform(0.1, 0.7), rng, side)
    elif style == "noise":
        out = a + _noise(rng, side, rng.uniform(0.2, 1.6))[..., None] * rng.uniform(6, 30) + rng.normal(0, 4, (side, side, 3))
    elif style == "ridges":
        out = a + (b - a) * yy[..., None]
        for level in np.sort(rng.uniform(0.25, 0.95, rng.integers(1, 5))):
            line = level + 0.12 * _noise(rng, side, 1.8)[0]
            texture = _colour(rng) + _noise(rng, side, 1.2)[..., None] * rng.uniform(2, 25)
            mask = cv2.GaussianBlur((yy > line[None, :]).astype(np.float32), (0, 0), rng.uniform(0.4, 2))
            out = out * (1 - mask[..., None]) + texture * mask[..., None]
    else:
        out = _photograph(art, rng, side)
    return np.clip(out, 0, 255).astype(np.uint8)


def _photograph(art: Art, rng: np.random.Generator, side: int) -> Floats:
    picture = art.photographs[rng.integers(len(art.photographs))]
    size = int(min(picture.shape[:2]) * rng.uniform(0.2, 1.0))
    y, x = rng.integers(0, picture.shape[0] - size + 1), rng.integers(0, picture.shape[1] - size + 1)
    crop = cv2.resize(picture[y : y + size, x : x + size], (side, side), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    hsv = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 25)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.2, 1.5), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.6, 1.3) + rng.uniform(-25, 35), 0, 255)
    out = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    if rng.random() < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.6, 5))
    return out


def _noise(rng: np.random.Generator, side: int, power: float) -> Floats:
    """1/f^power noise with standard deviation 1."""
    f = np.hypot(*np.meshgrid(np.fft.rfftfreq(side), np.fft.fftfreq(side)))
    f[0, 0] = 1
    spectrum = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f**power
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(side, side)).astype(np.float32)
    return field / (field.std() + 1e-6)


def _pattern(a: Floats, b: Floats, rng: np.random.Generator, side: int) -> Floats:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 48)
    yy, xx = np.mgrid[0:side, 0:side].astype(np.float32)
    u, v = (xx * np.cos(angle) + yy * np.sin(angle)) / period, (-xx * np.sin(angle) + yy * np.cos(angle)) / period
    style = rng.integers(4)
    if style == 0:
        t = np.clip((np.sin(2 * np.pi * u)) * 3 + 0.5, 0, 1)
    elif style == 1:
        t = np.clip((0.3 - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * period, 0, 1)
    elif style == 2:
        t = np.clip(np.sign(np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)) + 0.5, 0, 1)
    else:
        t = np.clip((np.minimum(u % 1, v % 1) < 0.1).astype(np.float32), 0, 1)
    return a + (b - a) * cv2.GaussianBlur(t.astype(np.float32), (0, 0), 0.5)[..., None]


def _element(art: Art, rng: np.random.Generator, photographic: bool) -> tuple[Floats, Floats]:
    """Colour (H x W x 3, 0..255) and alpha (H x W, 0..1) of one element of up to about 200 px."""
    style = rng.choice(
        ["clipart", "emoji", "shape", "text", "textured"],
        p=[0.3, 0.08, 0.12, 0.06, 0.44] if photographic else [0.46, 0.12, 0.24, 0.08, 0.1],
    )
    if style == "text":
        return _word(art, rng)
    if style == "shape":
        alpha = _silhouette(rng)
        colour = (
            plate(art, rng, 200)[: alpha.shape[0], : alpha.shape[1]].astype(np.float32)
            if rng.random() < 0.4
            else np.broadcast_to(_colour(rng), (*alpha.shape, 3)).copy()
        )
        if rng.random() < 0.25:
            rim = alpha - cv2.erode(alpha, np.ones((7, 7), np.uint8))
            colour = colour * (1 - rim[..., None]) + _colour(rng) * rim[..., None]
        return colour, alpha
    cutout = art.emoji[rng.integers(len(art.emoji))] if style == "emoji" else art.clipart[rng.integers(len(art.clipart))]
    colour, alpha = cutout[..., :3].astype(np.float32), cutout[..., 3].astype(np.float32) / 255
    if style == "textured":
        return _textured(art, rng, colour, alpha if rng.random() < 0.6 else None)
    if rng.random() < 0.4:
        hsv = cv2.cvtColor(colour.astype(np.uint8), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(0, 180)) % 180
        colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
    return colour, alpha


def _textured(art: Art, rng: np.random.Generator, drawing: Floats, alpha: Floats | None) -> tuple[Floats, Floats]:
    """A stand-in for a photographic cut-out: a silhouette filled with photographic texture, shaded as a solid body."""
    if alpha is None:
        alpha = _blob(rng)
        drawing = np.broadcast_to(_colour(rng), (*alpha.shape, 3)).copy()
    solid = cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    h, w = solid.shape
    texture = _photograph(art, rng, 200)[:h, :w]
    tint = _colour(rng)
    mix = rng.uniform(0.2, 1.0)
    grain = texture - texture.mean((0, 1)) * rng.uniform(0.3, 1)
    blurred = cv2.GaussianBlur(drawing, (0, 0), rng.uniform(0.5, 8))
    base = tint if rng.random() < 0.4 else blurred
    colour = base * (1 - 0.5 * mix) + texture * 0.5 * mix + grain * rng.uniform(0.2, 0.8)
    body = cv2.copyMakeBorder((solid > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.GaussianBlur(cv2.distanceTransform(body, cv2.DIST_L2, 3)[1:-1, 1:-1], (0, 0), 3)
    depth = np.sqrt(depth / (depth.max() + 1e-6))
    gy, gx = np.gradient(depth)
    light = 1 + (gx * rng.normal() + gy * rng.normal()) * rng.uniform(5, 25) * rng.random() + (depth - 0.6) * rng.uniform(0, 0.5)
    return np.clip(colour * np.clip(light, 0.25, 1.7)[..., None], 0, 255), solid


def _blob(rng: np.random.Generator) -> Floats:
    side = 160
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 1 + sum(rng.normal(0, 0.35 / k) * np.cos(k * t + rng.uniform(0, 7)) for k in range(1, 9))
    radius = np.clip(radius, 0.25, None) / np.clip(radius, 0.25, None).max() * side * 0.48
    squeeze = rng.uniform(0.45, 1)
    points = np.stack([side / 2 + radius * np.cos(t) * squeeze, side / 2 + radius * np.sin(t)], 1)
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if rng.random() < 0.3:
        ragged = mask.astype(np.float32) + _noise(rng, side, rng.uniform(0.8, 1.4)) * 60 * (cv2.GaussianBlur(mask, (0, 0), 3) % 255 > 5)
        mask = np.clip((ragged - 100) * 3, 0, 255).astype(np.uint8)
    return mask.astype(np.float32) / 255


def _silhouette(rng: np.random.Generator) -> Floats:
    """A geometric shape, antialiased."""
    w, h = int(rng.uniform(40, 190)), int(rng.uniform(40, 190))
    big = Image.new("L", (w * 4, h * 4))
    pen = ImageDraw.Draw(big)
    style = rng.integers(6)
    box = (4, 4, w * 4 - 5, h * 4 - 5)
    if style == 0:
        pen.ellipse(box, fill=255)
    elif style == 1:
        pen.rounded_rectangle(box, radius=float(rng.uniform(0, min(w, h) * 2)), fill=255)
    elif style == 2:
        pen.rectangle(box, fill=255)
    elif style == 3:
        n, inner = int(rng.integers(3, 9)), rng.uniform(0.4, 1)
        t = np.arange(2 * n) * np.pi / n + rng.uniform(0, 7)
        r = np.where(np.arange(2 * n) % 2, inner, 1.0)
        pen.polygon(
            [(float(w * 2 + r_ * w * 1.9 * np.cos(t_)), float(h * 2 + r_ * h * 1.9 * np.sin(t_))) for r_, t_ in zip(r, t, strict=True)],
            fill=255,
        )
    elif style == 4:
        pen.ellipse(box, outline=255, width=int(rng.uniform(0.1, 0.3) * min(w, h) * 4))
    else:
        return _blob(rng)
    return np.asarray(big.resize((w, h), Image.Resampling.BOX)).astype(np.float32) / 255


def _word(art: Art, rng: np.random.Generator) -> tuple[Floats, Floats]:
    font = ImageFont.truetype(str(art.fonts[rng.integers(len(art.fonts))]), int(rng.uniform(24, 70)))
    word = " ".join(rng.choice(WORDS, rng.integers(1, 3)))
    left, top, right, bottom = font.getbbox(word)
    tile = Image.new("L", (max(8, int(right - left) + 8), max(8, int(bottom - top) + 8)))
    ImageDraw.Draw(tile).text((4 - left, 4 - top), word, fill=255, font=font)
    alpha = np.asarray(tile).astype(np.float32) / 255
    return np.broadcast_to(_colour(rng), (*alpha.shape, 3)).copy(), alpha


def _place(element: tuple[Floats, Floats], rng: np.random.Generator, masks: list[npt.NDArray[np.bool_]]) -> tuple[Floats, Floats] | None:
    """The element scaled, turned and put on the canvas so that nothing below it gets hidden almost wholly; None after eight tries."""
    colour, alpha = element
    h, w = alpha.shape
    for _ in range(8):
        area = SIDE * SIDE * np.exp(rng.uniform(np.log(0.015), np.log(0.33)))
        factor = float(np.clip(np.sqrt(area / (alpha.sum() + 1)), 0.1, 2.2))
        angle = rng.normal(0, 12) if rng.random() < 0.5 else 0.0
        turn = np.deg2rad(angle)
        linear = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        reach = 0.15 if rng.random() < 0.8 else -0.03
        centre = rng.uniform(SIDE * reach, SIDE * (1 - reach), 2)
        if masks and rng.random() < 0.45:
            below = masks[rng.integers(len(masks))]
            ys, xs = np.nonzero(below)
            if xs.size:
                pick = rng.integers(xs.size)
                centre = np.array([xs[pick], ys[pick]]) + rng.normal(0, 0.25 * np.sqrt(area), 2)
        shift = centre - linear @ np.array([w / 2, h / 2])
        matrix = np.column_stack([linear, shift]).astype(np.float32)
        smaller = cv2.GaussianBlur(alpha, (0, 0), 0.35 / factor) if factor < 0.7 else alpha
        paint = cv2.GaussianBlur(colour * alpha[..., None], (0, 0), 0.35 / factor) if factor < 0.7 else colour * alpha[..., None]
        a = cv2.warpAffine(smaller, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        mask = a > 0.5
        if mask.sum() < 0.008 * SIDE * SIDE:
            continue
        if any(((m & ~mask).sum() < 0.35 * m.sum()) for m in masks):
            continue
        c = cv2.warpAffine(paint, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR) / np.maximum(a, 1e-3)[..., None]
        if rng.random() < 0.15:
            a = cv2.GaussianBlur(a, (0, 0), rng.uniform(0.5, 2))
        return np.clip(c, 0, 255), a * (rng.uniform(0.8, 1) if rng.random() < 0.1 else 1.0)
    return None


def _shadow(alpha: Floats, rng: np.random.Generator) -> Floats:
    moved = np.roll(alpha, (int(rng.integers(0, 9)), int(rng.integers(-6, 7))), axis=(0, 1))
    return cv2.GaussianBlur(moved, (0, 0), rng.uniform(1, 7)) * rng.uniform(0.15, 0.6)


def _finish(canvas: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if rng.random() < 0.15:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.3:
        canvas = canvas + rng.normal(0, rng.uniform(1, 8), canvas.shape)
    if rng.random() < 0.3:
        canvas = canvas * rng.uniform(0.7, 1.1) + rng.uniform(-15, 15, 3)
    rgb = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))])
        rgb = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return rgb
