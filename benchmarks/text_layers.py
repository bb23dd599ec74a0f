"""Text layers on rendered scenes with known alpha: `python -m benchmarks.text_layers [--count 60] [--save FOLDER] [--photographs]`.

Scenes are drawn from the "tuning" and "train" assets alone. For every style of plate: recall of lines, likeness of the strings, soft IoU of
alpha (sum of min / sum of max), mean error of alpha near the text, share of text pixels missed (truth > .5, found < .1) and of false pixels
(truth < .02, found > .1, relative to the text's area). `--photographs` lists the blocks found on photographs, `--scripts` what is read of
ten scripts.
"""

from __future__ import annotations

import argparse
import difflib
import io
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks import assets
from layerctl.engines.classic.text import TextBlock, find_text

PLATES = ("solid", "gradient", "pattern", "photograph", "clip-art")
STYLES = ("plain", "plain", "outlined", "hard shadow", "soft shadow", "two-tone")
LATIN = (
    "Grand Opening", "Summer Sale 50% off", "Jazz & Blues", "Saturday, 8 p.m.", "Läuft für immer", "Café du Midi", "hello@example.org",
    "Typography",
    "WINTER IS HERE", "Only $19.99!", "Read the book", "Quiet, please", "Kyoto 2031", "Señor Gómez", "Every day counts", "fjord & glacier",
)  # fmt: skip
CJK = ("秋日音乐会", "新年快乐", "欢迎光临", "限时优惠", "コーヒー", "夏祭り", "東京の夜", "ありがとう")
SCRIPTS = (
    ("Grand Opening 2024", "fonts-lato", "Lato-Bold"), ("Žluťoučký kůň, garçon", "fonts-dejavu-core", "DejaVuSans"),
    ("秋日音乐会", "fonts-noto-cjk", "NotoSansCJK-Regular"), ("東京の夜 コーヒー", "fonts-noto-cjk", "NotoSerifCJK-Regular"),
    ("안녕하세요", "fonts-noto-cjk", "NotoSansCJK-Regular"), ("Добрый вечер", "fonts-dejavu-core", "DejaVuSans"),
    ("Καλημέρα κόσμε", "fonts-dejavu-core", "DejaVuSans"), ("مرحبا بالعالم", "fonts-noto-core", "NotoSansArabic-Regular"),
    ("สวัสดีชาวโลก", "fonts-noto-core", "NotoSansThai-Regular"), ("नमस्ते दुनिया", "fonts-noto-core", "NotoSansDevanagari-Regular"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """`alpha`: float32 H x W, of all text with its outlines and shadows. `lines`: each string and the alpha of its letters alone."""

    name: str
    rgb: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.float32]
    lines: tuple[tuple[str, npt.NDArray[np.float32]], ...]


def scene(seed: int, plate: str) -> Scene:
    """The scene of that number: one to three lines of one style on the plate, every third one as a JPEG."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(560, 1100)), int(rng.integers(480, 900))
    below = _plate(plate, width, height, rng)
    chinese = rng.random() < 0.25
    words = CJK if chinese else LATIN
    size = int(np.exp(rng.uniform(np.log(18), np.log(150))))
    font = _font(rng, size, chinese=chinese)
    style = STYLES[int(rng.integers(len(STYLES)))]
    lines: list[tuple[str, npt.NDArray[np.float32]]] = []
    y = int(rng.integers(10, max(11, height // 3)))
    for _ in range(int(rng.integers(1, 4))):
        text = str(rng.choice(words))
        mask = Image.new("L", (width, height))
        box = font.getbbox(text)
        if box[2] > width - 24 or y + box[3] > height - 8:
            continue
        x = int(rng.integers(12, width - int(box[2]) - 8))
        ImageDraw.Draw(mask).text((x, y), text, fill=255, font=font)
        lines.append((text, (np.asarray(mask, np.float32) / 255).astype(np.float32)))
        y += int(size * rng.uniform(1.2, 1.6)) + 4
    letters = np.zeros((height, width), np.float32)
    for _, mask_of_line in lines:
        letters = np.maximum(letters, mask_of_line)
    rgb, alpha = _drawn(below, letters, style, size, rng)
    picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    if seed % 3 == 2:
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=int(rng.integers(75, 96)))
        picture = np.asarray(Image.open(data).convert("RGB"))
    return Scene(f"{seed:03d}-{plate}-{style.replace(' ', '-')}-{size}", picture, alpha, tuple(lines))


def score(truth: Scene, blocks: tuple[TextBlock, ...]) -> dict[str, float]:
    """The measures of the module's docstring for one scene."""
    found = np.zeros(truth.alpha.shape, np.float32)
    for block in blocks:
        h, w = block.alpha.shape
        view = found[block.top : block.top + h, block.left : block.left + w]
        np.maximum(view, block.alpha.astype(np.float32) / 255, out=view)
    strings = [line.text for block in blocks for line in block.lines]
    likeness = [max((difflib.SequenceMatcher(None, text, other).ratio() for other in strings), default=0.0) for text, _ in truth.lines]
    covered = [float(np.minimum(found, alpha).sum() / max(alpha.sum(), 1)) for _, alpha in truth.lines]
    near = cv2.dilate((truth.alpha > 0.02).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    area = max(float((truth.alpha > 0.5).sum()), 1.0)
    return {
        "recall": float(np.mean([c > 0.7 for c in covered])),
        "likeness": float(np.mean(likeness)),
        "iou": float(np.minimum(found, truth.alpha).sum() / max(np.maximum(found, truth.alpha).sum(), 1e-6)),
        "error": float(np.abs(found - truth.alpha)[near].mean()),
        "missed": float(((truth.alpha > 0.5) & (found < 0.1)).sum() / area),
        "false": float(((truth.alpha < 0.02) & (found > 0.1)).sum() / area),
    }


def scenes(count: int, plates: tuple[str, ...] = PLATES) -> Iterator[tuple[str, Scene]]:
    for index in range(count):
        plate = plates[index % len(plates)]
        made = scene(index, plate)
        if made.lines:
            yield plate, made


def photographs() -> list[Path]:
    """Photographs for the count of false blocks, none of the held-out split."""
    found = assets.files(assets.PHOTOGRAPHS, (".jpg", ".png", ".webp"))
    return [path for path in found if assets.split_of(path.name, trainable=False) != "held-out" and "screenshot" not in path.name]


def _plate(kind: str, width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    colours = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if kind == "solid":
        return np.broadcast_to(colours[0], (height, width, 3)).astype(np.float32)
    if kind == "gradient":
        t = (x * rng.uniform(-1, 1) / width + y * rng.uniform(0.3, 1) / height)[..., None]
        t = (t - t.min()) / (t.max() - t.min())
        return np.asarray(colours[0] * (1 - t) + (colours[0] * 0.5 + colours[1] * 0.5) * t, np.float32)
    if kind == "pattern":
        period, wave = float(rng.uniform(14, 60)), int(rng.integers(3))
        value = {0: np.sin(2 * np.pi * (x + y) / period), 1: np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)}.get(wave)
        on = (value > 0.2) if value is not None else ((x // period + y // period) % 2 > 0)
        soft = cv2.GaussianBlur(on.astype(np.float32), (0, 0), 0.6)[..., None]
        return np.asarray(colours[0] * (1 - soft) + (0.75 * colours[0] + 0.25 * colours[1]) * soft, np.float32)
    if kind == "photograph":
        choices = sorted({path.name: path for path in photographs() if "1920x1080" in path.name or "x" not in path.stem}.values())
        return _photograph(choices[int(rng.integers(len(choices)))], width, height, rng)
    base = np.broadcast_to(128 + colours[0] / 2, (height, width, 3)).astype(np.float32)
    art = [path for path in assets.files(assets.CLIPART, (".png",)) if assets.split_of(path.name, trainable=True) != "held-out"]
    for _ in range(3):
        with Image.open(art[int(rng.integers(len(art)))]) as opened:
            picture = opened.convert("RGBA")
            picture.thumbnail((width // 2, height // 2))
        rgba = np.asarray(picture, np.float32)
        left, top = int(rng.integers(0, width - rgba.shape[1] + 1)), int(rng.integers(0, height - rgba.shape[0] + 1))
        view = base[top : top + rgba.shape[0], left : left + rgba.shape[1]]
        a = rgba[..., 3:] / 255
        view[:] = view * (1 - a) + rgba[..., :3] * a
    return base


def _photograph(path: Path, width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    with Image.open(path) as opened:
        opened.draft("RGB", (width * 2, height * 2))
        picture = opened.convert("RGB")
    scale = max(width / picture.width, height / picture.height) * float(rng.uniform(1.0, 1.5))
    size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    x, y = int(rng.integers(0, picture.width - width + 1)), int(rng.integers(0, picture.height - height + 1))
    return np.asarray(picture.crop((x, y, x + width, y + height)), np.float32)


def _font(rng: np.random.Generator, size: int, *, chinese: bool) -> ImageFont.FreeTypeFont:
    packages = ("fonts-noto-cjk",) if chinese else tuple(name for name in assets.FONTS if name != "fonts-noto-cjk")
    paths = assets.files(packages, (".ttf", ".otf", ".ttc"))
    if not chinese:
        paths = [path for path in paths if assets.split_of(path.name, trainable=True) != "held-out"]
        paths = [path for path in paths if "Hairline" not in path.stem and "Thin" not in path.stem]
    return ImageFont.truetype(str(paths[int(rng.integers(len(paths)))]), size)


def _drawn(
    below: npt.NDArray[np.float32], letters: npt.NDArray[np.float32], style: str, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The plate with the text over it, and the alpha of the text. The colour keeps a distance from the plate's mean under the text."""
    mean = below[letters > 0.5].mean(axis=0) if (letters > 0.5).any() else below.mean(axis=(0, 1))
    spread = below[letters > 0.5].std() if (letters > 0.5).any() else 0.0
    least = 70 + min(spread, 40)
    colour = rng.uniform(0, 255, 3)
    while abs(float((colour - mean) @ [0.299, 0.587, 0.114])) < least:
        colour = rng.choice([rng.uniform(0, 255, 3), np.full(3, 255.0), np.full(3, 0.0)])
    rgb, alpha = below.copy(), np.zeros(letters.shape, np.float32)
    dark = np.zeros(3) if colour.mean() > 90 else np.full(3, 255.0)
    for a, c in _below_letters(letters, style, size, dark):
        rgb = (rgb * (1 - a[..., None]) + c * a[..., None]).astype(np.float32)
        alpha = alpha + a * (1 - alpha)
    top = np.broadcast_to(colour, rgb.shape)
    if style == "two-tone":
        ramp = np.linspace(0, 1, len(rgb))[:, None, None]
        top = colour * (1 - ramp) + (colour * 0.6 + dark * 0.1) * ramp
    rgb = (rgb * (1 - letters[..., None]) + top * letters[..., None]).astype(np.float32)
    return rgb, (alpha + letters * (1 - alpha)).astype(np.float32)


def _below_letters(
    letters: npt.NDArray[np.float32], style: str, size: int, dark: npt.NDArray[np.float64]
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]]:
    width = max(1, round(size / 18))
    if style == "outlined":
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
        return [(cv2.dilate(letters, disc), dark)]
    if style.endswith("shadow"):
        moved = np.roll(letters, (width, width), axis=(0, 1))
        if style == "soft shadow":
            moved = cv2.GaussianBlur(moved, (0, 0), max(1.0, width * 0.9))
        return [(moved * np.float32(0.55), np.zeros(3))]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--only", choices=PLATES)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--photographs", action="store_true")
    parser.add_argument("--scripts", action="store_true")
    arguments = parser.parse_args()
    if arguments.photographs:
        _count_false_blocks()
        return
    if arguments.scripts:
        _read_scripts()
        return
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for plate, made in scenes(arguments.count, (arguments.only,) if arguments.only else PLATES):
        start = time.process_time()
        blocks = find_text(made.rgb)
        result = score(made, blocks) | {"cpu seconds": time.process_time() - start}
        rows[plate].append(result)
        rows[made.name.split("-", 2)[2].rsplit("-", 1)[0].removeprefix("art-")].append(result)
        if result["iou"] < 0.8 or result["false"] > 0.05:
            strings = [block.text for block in blocks]
            print(made.name, {key: round(value, 3) for key, value in result.items()}, [text for text, _ in made.lines], strings)
        if arguments.save:
            _save(arguments.save, made, blocks, result["iou"])
    for name, results in rows.items():
        means = "  ".join(f"{key} {np.mean([row[key] for row in results]):.3f}" for key in results[0])
        print(f"{name:12s} n {len(results):3d}  {means}")


def _count_false_blocks() -> None:
    shown = {path.stem.split("_")[0] + path.parent.name * ("x" in path.stem): path for path in photographs()}
    for path in sorted(shown.values()):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((1200, 1200))
        blocks = find_text(np.asarray(picture))
        print(path.name, [(block.text, round(block.confidence, 2), block.left, block.top, block.alpha.shape) for block in blocks])


def _read_scripts() -> None:
    for text, package, stem in SCRIPTS:
        path = next(path for path in assets.files((package,), (".ttf", ".otf", ".ttc")) if path.stem == stem)
        font = ImageFont.truetype(str(path), 64)
        picture = Image.new("RGB", (900, 220), (236, 232, 220))
        ImageDraw.Draw(picture).text((40, 50), text, fill=(40, 30, 90), font=font)
        blocks = find_text(np.asarray(picture))
        print(text, "->", [(block.text, round(block.confidence, 2)) for block in blocks] or "left whole")


def _save(folder: Path, made: Scene, blocks: tuple[TextBlock, ...], iou: float) -> None:
    """One sheet: the scene, the true alpha, the found alpha, and the found text in its colour on magenta."""
    folder.mkdir(parents=True, exist_ok=True)
    over = np.full(made.rgb.shape, (255, 0, 255), np.float32)
    found = np.zeros(made.alpha.shape, np.float32)
    for block in blocks:
        h, w = block.alpha.shape
        place = slice(block.top, block.top + h), slice(block.left, block.left + w)
        a = block.alpha.astype(np.float32) / 255
        found[place] = np.maximum(found[place], a)
        over[place] = over[place] * (1 - a[..., None]) + block.colour * a[..., None]
    grey = [np.repeat(np.rint(a * 255)[..., None], 3, axis=2) for a in (made.alpha, found)]
    rows, columns = np.nonzero(np.maximum(made.alpha, found) > 0)
    top, left = max(int(rows.min()) - 20, 0), max(int(columns.min()) - 20, 0)
    shown = [part[top : rows.max() + 20, left : columns.max() + 20] for part in (made.rgb.astype(np.float32), *grey, over)]
    sheet = np.concatenate(shown).astype(np.uint8)
    Image.fromarray(sheet).save(folder / f"{iou:.2f}-{made.name}.png")


if __name__ == "__main__":
    main()
