"""Placing elements and text on a scene in the making, so that a person can tell every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.assets import Split
from benchmarks.usefulness import art, drawing
from benchmarks.usefulness.drawing import Colour
from layerctl.layers import Layer, crop_to_content, on_canvas

Role = Literal["shape", "card", "clipart", "emoji", "cutout", "text"]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SMALLEST_AREA = 0.015
SMALLEST_TEXT_AREA = 0.003
SMALLEST_TEXT_BOX = 0.01
LEAST_VISIBLE = 0.4
LEAST_SHARED = 0.05
GAP = 8
MOST_NEIGHBOURS = 2
LARGEST_SCALE: dict[Role, float] = {"clipart": 1.5, "emoji": 1.7, "cutout": 1.35}
ASPECTS: dict[drawing.ShapeName, tuple[float, float]] = {"pill": (1.5, 3.5), "card": (0.6, 1.7), "blob": (0.6, 1.7)}
SMALLEST_FONT, LARGEST_FONT = 24, 150


@dataclass(slots=True, eq=False)
class Draft:
    """A scene in the making, element 0 is the plate.

    `backdrop`: the composite so far, uint8 H x W x 3. `cores`: where each layer by itself is more than half opaque, bool H x W.
    """

    split: Split
    hue: float
    overlapping: bool
    backdrop: Bytes
    layers: list[Layer]
    cores: list[Mask]
    roles: list[Role]

    @property
    def height(self) -> int:
        return int(self.backdrop.shape[0])

    @property
    def width(self) -> int:
        return int(self.backdrop.shape[1])


def start(plate: Bytes, split: Split, hue: float, overlapping: bool) -> Draft:
    opaque = np.dstack([plate, np.full(plate.shape[:2], 255, np.uint8)])
    everywhere = np.ones(plate.shape[:2], bool)
    return Draft(split, hue, overlapping, plate, [Layer("Background", opaque, kind="background")], [everywhere], ["card"])


def put(draft: Draft, layer: Layer, role: Role) -> None:
    """Lay the layer on top; what lies outside of the canvas is cut off."""
    whole = on_canvas(layer, draft.width, draft.height)
    alpha = whole[..., 3:].astype(np.float32) / 255
    draft.backdrop = (whole[..., :3] * alpha + draft.backdrop * (1 - alpha) + 0.5).astype(np.uint8)
    draft.layers.append(crop_to_content(Layer(layer.name, whole, kind=layer.kind, text=layer.text)))
    draft.cores.append(whole[..., 3] > 127)
    draft.roles.append(role)


def overlaps(cores: list[Mask]) -> tuple[tuple[int, int], ...]:
    """(lower, upper) of all pairs above the plate that share at least 1 % of the smaller one."""
    pairs = [(low, high) for high in range(2, len(cores)) for low in range(1, high)]
    return tuple((low, high) for low, high in pairs if (cores[low] & cores[high]).sum() > 0.01 * min(cores[low].sum(), cores[high].sum()))


def place_element(draft: Draft, role: Role, elements: int, rng: np.random.Generator) -> Layer | None:
    """An element at a spot where it can be told from what is under it; None if 12 draws at 15 spots each found none."""
    for _ in range(12):
        drawn = _element(draft, role, elements, rng)
        if drawn is None or (drawn[0] in {layer.name for layer in draft.layers} and role not in ("shape", "card")):
            continue
        name, rgba = drawn
        shadowed = _shadowed(rgba, rng) if rng.random() < 0.3 else rgba
        margin = (shadowed.shape[0] - rgba.shape[0]) // 2
        partners = list(range(1, len(draft.layers))) if draft.overlapping else []
        together = bool(partners) and (len(draft.layers) == 2 or not overlaps(draft.cores) or rng.random() < 0.4)
        for _ in range(15):
            partner = partners[int(rng.integers(len(partners)))] if together else None
            left, top = _spot(draft, rgba, partner, role, rng)
            layer = Layer(name, shadowed, left - margin, top - margin)
            if _fits(draft, layer, partner):
                return layer
    return None


def place_text(draft: Draft, rng: np.random.Generator) -> Layer | None:
    """A text block on a plain enough spot of the plate or, in scenes with overlaps, wholly on one card or shape; None after 60 tries."""
    shown = {layer.text for layer in draft.layers}
    for _ in range(60):
        hosts = [i for i in range(1, len(draft.layers)) if draft.roles[i] in ("card", "shape")] if draft.overlapping else []
        host = hosts[int(rng.integers(len(hosts)))] if hosts and rng.random() < 0.8 else 0
        left, top, right, bottom = draft.layers[host].box
        words, font, index = _words(draft.split, rng)
        align = "left" if rng.random() < 0.5 else "center"
        reach = drawing.text_size(words, drawing.TextStyle(art.font_path(font), index, 100, align))
        share = rng.uniform(0.6, 0.88) if host else rng.uniform(0.3, 0.85)
        size = int(100 * min(share * (right - left) / reach[0], rng.uniform(0.25, 0.6) * (bottom - top) / reach[1]))
        if size < SMALLEST_FONT or words in shown:
            continue
        outline = max(2, round(size * 0.06)) if size > 44 and rng.random() < 0.15 else 0
        style = drawing.TextStyle(art.font_path(font), index, min(size, LARGEST_FONT), align, outline)
        ink = drawing.text_block(words, style, (0, 0, 0))
        if host:
            x, y = (left + right - ink.shape[1]) // 2, (top + bottom - ink.shape[0]) // 2
        else:
            x, y = (int(rng.uniform(0.03, 0.97) * room) for room in (draft.width - ink.shape[1], draft.height - ink.shape[0]))
        spot = Layer(words.replace("\n", " "), ink, x, y, kind="text", text=words)
        colour = _text_colour(draft, spot, host, rng) if min(x, y) >= 0 else None
        if colour is None:
            continue
        edge = _contrary(colour) if outline else colour
        block = drawing.text_block(words, style, colour, edge)
        shadow = rng.random() < 0.2 and not outline
        grown = drawing.with_shadow(block, max(1.5, size / 22), (round(size / 30), round(size / 18)), 0.4) if shadow else block
        margin = (grown.shape[0] - block.shape[0]) // 2
        return Layer(spot.name, grown, x - margin, y - margin, kind="text", text=words)
    return None


def _spot(draft: Draft, rgba: Bytes, partner: int | None, role: Role, rng: np.random.Generator) -> tuple[int, int]:
    """Left and top: near the edge of the partner, or anywhere; one shape in six reaches over the rim of the canvas."""
    height, width = rgba.shape[:2]
    if partner is not None:
        left, top, right, bottom = draft.layers[partner].box
        reach, angle = rng.uniform(0.3, 0.9), rng.uniform(0, 2 * np.pi)
        x = (left + right) / 2 + reach * np.cos(angle) * (right - left + width) / 2 - width / 2
        y = (top + bottom) / 2 + reach * np.sin(angle) * (bottom - top + height) / 2 - height / 2
        return round(x), round(y)
    over = 0.25 if role == "shape" and rng.random() < 0.17 else -0.02
    x = -over * width + rng.random() * (draft.width - (1 - 2 * over) * width)
    y = -over * height + rng.random() * (draft.height - (1 - 2 * over) * height)
    return round(x), round(y)


def _fits(draft: Draft, layer: Layer, partner: int | None) -> bool:
    """Whether the element is big enough, mostly on the canvas, apart from others or clearly over them, and different at its rim."""
    whole = on_canvas(layer, draft.width, draft.height)
    core = whole[..., 3] > 127
    area = int(core.sum())
    if area < SMALLEST_AREA * core.size or area < 0.72 * (layer.pixels[..., 3] > 127).sum():
        return False
    near = _grown(core, GAP)
    neighbours = [index for index in range(1, len(draft.cores)) if (near & draft.cores[index]).any()]
    if len(neighbours) > MOST_NEIGHBOURS or (partner is None and neighbours) or (partner is not None and partner not in neighbours):
        return False
    for index in neighbours:
        below = draft.cores[index]
        if (below & core).sum() < LEAST_SHARED * min(area, int(below.sum())) or draft.roles[index] == "text":
            return False
        visible = below & ~core
        for above in draft.cores[index + 1 :]:
            visible &= ~above
        if visible.sum() < max(LEAST_VISIBLE * below.sum(), SMALLEST_AREA * core.size):
            return False
    return _stands_out(whole[..., :3].astype(np.uint8, copy=False), core, draft.backdrop)


def _stands_out(rgb: Bytes, core: Mask, backdrop: Bytes) -> bool:
    """Whether the rim differs from what is under it, and mostly also from the blurred surroundings, as texture may hide an element."""
    rim = core & ~cv2.erode(core.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0).astype(bool)
    element, under = _lab(rgb), _lab(backdrop)
    around = cv2.blur(under, (31, 31))
    sharp = np.linalg.norm(element[rim] - under[rim], axis=1) > 16
    smooth = np.linalg.norm(cv2.blur(element, (5, 5))[rim] - around[rim], axis=1) > 16
    return bool(sharp.mean() > 0.75 and smooth.mean() > 0.6)


def _element(draft: Draft, role: Role, elements: int, rng: np.random.Generator) -> tuple[str, Bytes] | None:
    """A name and straight RGBA at its size on the canvas; None when the chosen asset is no clear object or would stay too small."""
    canvas = draft.width * draft.height
    area = float(np.exp(rng.uniform(np.log(0.03), np.log(min(0.24, 0.75 / elements))))) * canvas
    if role in ("shape", "card"):
        name: drawing.ShapeName = "card" if role == "card" else drawing.SHAPES[int(rng.integers(len(drawing.SHAPES)))]
        area = max(area, 0.1 * canvas) if role == "card" else area
        aspect = float(rng.uniform(*ASPECTS.get(name, (0.9, 1.1))))
        width, height = round((1.2 * area * aspect) ** 0.5), round((1.2 * area / aspect) ** 0.5)
        turn = float(rng.choice([0.0, 0.08, 0.33, 0.5, 0.62]))
        fill = drawing.colour(draft.hue + turn, float(rng.uniform(0.05, 0.95)), float(rng.uniform(0.3, 1.0)))
        return name.capitalize(), drawing.shape(name, width, height, (fill, _contrary(fill)), rng)
    if role == "emoji":
        points = art.emoji_points(draft.split)
        point = points[int(rng.integers(len(points)))]
        title, rgba = f"Emoji {chr(point)}", art.load_emoji(point)
    else:
        paths = art.clipart_paths(draft.split) if role == "clipart" else art.stamp_paths(draft.split)
        path = paths[int(rng.integers(len(paths)))]
        title, rgba = path.stem.replace("_", " "), (art.load_clipart if role == "clipart" else art.load_stamp)(path)
    if rgba is None:
        return None
    resized = _resized(rgba, min((area / (rgba[..., 3] > 127).sum()) ** 0.5, LARGEST_SCALE[role]))
    return title, resized[:, ::-1] if role != "emoji" and rng.random() < 0.5 else resized


def _resized(rgba: Bytes, scale: float) -> Bytes:
    """Resampled with premultiplied colours, so that hidden colour does not bleed in."""
    size = (max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale)))
    return np.asarray(Image.fromarray(rgba).convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA"))


def _shadowed(rgba: Bytes, rng: np.random.Generator) -> Bytes:
    offset = (int(rng.integers(-8, 9)), int(rng.integers(3, 13)))
    return drawing.with_shadow(rgba, float(rng.uniform(3, 10)), offset, float(rng.uniform(0.25, 0.45)))


def _words(split: Split, rng: np.random.Generator) -> tuple[str, str, int]:
    """What to write, and the file and index of a font that has all of its letters; one in four is Chinese or Japanese."""
    if rng.random() < 0.25:
        fonts = art.ASIAN_FONTS[split]
        font, index, language = fonts[int(rng.integers(len(fonts)))]
        choices = art.ASIAN_WORDS[split, language]
    else:
        font, index = art.LATIN_FONTS[split][int(rng.integers(len(art.LATIN_FONTS[split])))], 0
        choices = art.WORDS[split]
    return choices[int(rng.integers(len(choices)))], font, index


def _text_colour(draft: Draft, spot: Layer, host: int, rng: np.random.Generator) -> Colour | None:
    """A colour that reads on at least 93 % of what is under the letters; None if there is none or the spot is not free."""
    ink = on_canvas(spot, draft.width, draft.height)[..., 3] > 127
    box = np.zeros_like(ink)
    left, top, right, bottom = spot.box
    box[max(top, 0) : bottom, max(left, 0) : right] = True
    if ink.sum() < SMALLEST_TEXT_AREA * ink.size or box.sum() < SMALLEST_TEXT_BOX * ink.size:
        return None
    others = [core for index, core in enumerate(draft.cores) if index not in (0, host)]
    if any((_grown(box, GAP) & core).any() for core in others):
        return None
    if host and ((_grown(ink, 3) & ~draft.cores[host]).any() or (draft.cores[host] & ~box).sum() < LEAST_VISIBLE * draft.cores[host].sum()):
        return None
    under = _lab(draft.backdrop)[ink]
    vivid = drawing.colour(draft.hue + float(rng.choice([0.0, 0.45, 0.55])), float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.3, 1.0)))
    candidates: list[Colour] = [vivid, (255, 255, 255), (24, 24, 32), (250, 240, 220)]
    for colour in candidates:
        away = np.abs(_lab(np.array([[colour]], np.uint8))[0] - under)
        if (away[:, 0] > 38).mean() > 0.93:
            return colour
    return None


def _contrary(colour: Colour) -> Colour:
    """White for a dark colour, near black for a light one."""
    return (255, 255, 255) if np.dot(colour, (0.3, 0.59, 0.11)) < 140 else (24, 24, 32)


def _grown(mask: Mask, pixels: int) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)).astype(bool)


def _lab(rgb: Bytes) -> Floats:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb, dtype=np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
