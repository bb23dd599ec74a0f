"""A labelled contact sheet of a decomposition: the picture, what the layers flatten to, and every layer on a checkerboard."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageDraw

from layerctl.composite import flatten
from layerctl.layers import Group, Kind, Layer, LayerStack, Pixels
from layerctl.lettering import MEDIUM, Colour, draw_text, shortened, wrapped
from layerctl.names import printable
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]

SHEET = 1680
MARGIN = 64
GAP = 28
PADDING = 14
CAPTION = 76
CORNER = 8
SMALLEST_ASPECT, LARGEST_ASPECT = 0.5, 6.0
WIDE_ASPECT = 2.4
"""Of wider pictures source and result stand below each other."""
TALLEST = 760
ENLARGED_BELOW = 0.06
"""A layer whose box covers less of the canvas is shown enlarged, with a map of where it is."""
WORTH_ENLARGING = 1.4

PAPER: Colour = (244, 244, 242)
CARD: Colour = (255, 255, 255)
MAT: Colour = (248, 248, 247)
INK: Colour = (28, 29, 33)
GREY: Colour = (116, 118, 126)
HAIRLINE: Colour = (226, 226, 224)
CHECKER: tuple[Colour, Colour] = ((250, 250, 250), (228, 229, 232))
DARK_CHECKER: tuple[Colour, Colour] = ((92, 94, 101), (80, 82, 89))
PALE, ALMOST_ALL = 200, 0.9
KIND_COLOURS: dict[Kind, Colour] = {"background": (88, 112, 150), "element": (31, 135, 104), "text": (142, 84, 190)}
MARKER: Colour = (232, 72, 72)


@dataclass(frozen=True, slots=True)
class _Box:
    """A rectangle of the sheet, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.width - 1, self.top + self.height - 1


def contact_sheet(source: SourceImage, stack: LayerStack, *, title: str, notes: Sequence[str]) -> Image.Image:
    """An RGB picture 1680 pixels wide, in sRGB: `title` and `notes` above, then source and result, then the layers from the bottom up.

    Layers are numbered as the files of a PNG export are. The same input gives the same bytes.
    """
    layers = list(_shown(stack.layers, "", True))
    note_lines = [line for note in notes for line in wrapped(printable(note), 19, SHEET - 2 * MARGIN)]
    columns = _columns(len(layers), stack.width / stack.height)
    first_row = MARGIN + 44 + 30 * len(note_lines) + 30
    heroes = _grid(2, 1 if stack.width > WIDE_ASPECT * stack.height else 2, stack, first_row, TALLEST)
    cards = _grid(len(layers), columns, stack, heroes[-1].top + heroes[-1].height + GAP, TALLEST)
    bottom = (cards or heroes)[-1]
    sheet = Image.new("RGB", (SHEET, bottom.top + bottom.height + MARGIN), PAPER)
    _draw_cards(sheet, [*heroes, *cards])
    for card, pixels, icc in zip(heroes, (source.pixels, flatten(stack)), (source.icc, stack.icc), strict=True):
        whole = Layer("picture", pixels)
        _draw_picture(sheet, card, whole, pixels.shape[1], pixels.shape[0], icc)
    for card, (_, layer, _) in zip(cards, layers, strict=True):
        _draw_picture(sheet, card, layer, stack.width, stack.height, stack.icc)

    canvas = np.array(sheet)
    draw_text(canvas, MARGIN, MARGIN + 26, shortened(printable(title), 36, SHEET - 2 * MARGIN, MEDIUM), 36, INK, MEDIUM)
    for number, line in enumerate(note_lines):
        draw_text(canvas, MARGIN, MARGIN + 68 + 30 * number, line, 19, GREY)
    count = f"{len(layers)} layer{'' if len(layers) == 1 else 's'} flattened"
    size = f"{stack.width} × {stack.height}"
    for card, name, about in zip(heroes, ("Source", "Result"), (f"{source.width} × {source.height}", f"{count} · {size}"), strict=True):
        _draw_caption(canvas, card, "", name, about, None)
    digits = max(2, len(str(len(layers) - 1)))
    for number, (card, (group, layer, visible)) in enumerate(zip(cards, layers, strict=True)):
        _draw_caption(canvas, card, f"{number:0{digits}}", printable(layer.name), _about(layer, stack, visible, group), layer.kind)
    return Image.fromarray(canvas)


def _shown(nodes: tuple[Layer | Group, ...], group: str, visible: bool) -> Iterator[tuple[str, Layer, bool]]:
    """Every layer bottom to top with the name of the group that it is in, and whether it and all its groups are visible."""
    for node in nodes:
        seen = visible and node.visible
        if isinstance(node, Group):
            yield from _shown(node.children, printable(node.name), seen)
        else:
            yield group, node, seen


def _about(layer: Layer, stack: LayerStack, visible: bool, group: str) -> str:
    full = np.iinfo(layer.pixels.dtype).max
    coverage = float(layer.pixels[..., 3].mean()) / full * layer.width * layer.height / (stack.width * stack.height)
    share = f"{coverage:.0%}" if coverage >= 0.0995 else f"{coverage:.1%}" if coverage >= 0.0005 else "under 0.1%"
    parts = [f"{layer.width} × {layer.height}", share]
    if layer.opacity < 1:
        parts.append(f"opacity {layer.opacity:.0%}")
    if not visible:
        parts.append("hidden")
    if group:
        parts.append(f"in {group}")
    return " · ".join(parts)


def _columns(count: int, aspect: float) -> int:
    """As many columns as suit the shape of the picture, fewer empty places preferred."""
    usual = 2 if aspect > WIDE_ASPECT else 3 if aspect > 1.7 else 4 if aspect > 0.8 else 5
    if count <= usual:
        return max(count, 2)
    return min((usual, usual + 1, max(usual - 1, 2)), key=lambda columns: -count % columns)


def _grid(count: int, columns: int, stack: LayerStack, top: int, tallest: int) -> list[_Box]:
    width = (SHEET - 2 * MARGIN - (columns - 1) * GAP) // columns
    aspect = min(max(stack.width / stack.height, SMALLEST_ASPECT), LARGEST_ASPECT)
    picture = min(round((width - 2 * PADDING) / aspect), tallest)
    height = PADDING + picture + CAPTION
    places = [divmod(number, columns) for number in range(count)]
    return [_Box(MARGIN + column * (width + GAP), top + row * (height + GAP), width, height) for row, column in places]


def _draw_cards(sheet: Image.Image, cards: list[_Box]) -> None:
    shadow = Image.new("L", sheet.size)
    for card in cards:
        ImageDraw.Draw(shadow).rounded_rectangle((card.left, card.top + 4, card.corners[2], card.corners[3] + 4), 16, fill=34)
    sheet.paste((30, 32, 44), (0, 0), Image.fromarray(cv2.GaussianBlur(np.asarray(shadow), (0, 0), 9)))
    for card in cards:
        face = _rounded_mask(card.width, card.height, 16)
        sheet.paste(CARD, (card.left, card.top), face)


def _draw_picture(sheet: Image.Image, card: _Box, layer: Layer, width: int, height: int, icc: bytes | None) -> None:
    """The layer in its place on a canvas of `width` x `height`, as large as the card allows; a small layer enlarged beside a map."""
    place = _Box(card.left + PADDING, card.top + PADDING, card.width - 2 * PADDING, card.height - PADDING - CAPTION)
    left, top, right, bottom = (max(layer.left, 0), max(layer.top, 0), min(layer.box[2], width), min(layer.box[3], height))
    is_small = left < right and top < bottom and (right - left) * (bottom - top) < ENLARGED_BELOW * width * height
    view = _around((left, top, right, bottom), width, height, place) if is_small else (0, 0, width, height)
    if (view[2] - view[0]) * WORTH_ENLARGING > width:
        view = (0, 0, width, height)
    scale = min(place.width / (view[2] - view[0]), place.height / (view[3] - view[1]))
    shown = max(1, round((view[2] - view[0]) * scale)), max(1, round((view[3] - view[1]) * scale))
    picture = _scaled(layer, view, shown, scale, icc)
    tile = _checkerboard(*shown, DARK_CHECKER if _is_pale(picture) else CHECKER).copy()
    tile.alpha_composite(picture)
    if view != (0, 0, width, height):
        _draw_map(tile, picture, (left, top, right, bottom), width, height)
    radius = min(CORNER, shown[0] // 4, shown[1] // 4)
    ImageDraw.Draw(tile).rounded_rectangle((0, 0, shown[0] - 1, shown[1] - 1), radius, outline=(*HAIRLINE, 255))
    sheet.paste(MAT, (place.left, place.top), _rounded_mask(place.width, place.height, CORNER))
    position = (place.left + (place.width - shown[0]) // 2, place.top + (place.height - shown[1]) // 2)
    sheet.paste(tile.convert("RGB"), position, _rounded_mask(*shown, radius))


def _around(box: tuple[int, int, int, int], width: int, height: int, place: _Box) -> tuple[int, int, int, int]:
    """The part of the canvas to show of a small layer: its box with a margin, in the shape of the place, kept on the canvas."""
    left, top, right, bottom = box
    wide, high = (right - left) * 1.35 + 2, (bottom - top) * 1.35 + 2
    aspect = place.width / place.height
    wide, high = min(max(wide, high * aspect), width), min(max(high, wide / aspect), height)
    x = min(max((left + right - wide) / 2, 0), width - wide)
    y = min(max((top + bottom - high) / 2, 0), height - high)
    return round(x), round(y), max(round(x) + 1, round(x + wide)), max(round(y) + 1, round(y + high))


def _scaled(layer: Layer, view: tuple[int, int, int, int], shown: tuple[int, int], scale: float, icc: bytes | None) -> Image.Image:
    """What of the layer lies within `view`, at the size `shown`, in sRGB."""
    picture = Image.new("RGBA", shown)
    x0, y0, x1, y1 = max(layer.left, view[0]), max(layer.top, view[1]), min(layer.box[2], view[2]), min(layer.box[3], view[3])
    if x0 >= x1 or y0 >= y1:
        return picture
    piece = _eight_bit(layer.pixels[y0 - layer.top : y1 - layer.top, x0 - layer.left : x1 - layer.left])
    at = round((x0 - view[0]) * scale), round((y0 - view[1]) * scale)
    size = max(1, round((x1 - view[0]) * scale) - at[0]), max(1, round((y1 - view[1]) * scale) - at[1])
    # Pixel art and icons keep their pixels; anything else is smoothed.
    method = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.LANCZOS
    small = Image.fromarray(piece).resize(size, method, reducing_gap=2.0)
    if layer.opacity < 1:
        small.putalpha(small.getchannel("A").point([round(level * layer.opacity) for level in range(256)]))
    picture.paste(_in_srgb(small, icc), at)
    return picture


def _eight_bit(pixels: Pixels) -> U8:
    return np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else pixels // 257, np.uint8)


def _in_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """The RGBA picture converted for display; as it is where the profile cannot be used."""
    if icc is None:
        return picture
    try:
        colours = ImageCms.profileToProfile(
            picture.convert("RGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture
    assert colours is not None
    colours.putalpha(picture.getchannel("A"))
    return colours


def _is_pale(picture: Image.Image) -> bool:
    """Whether what shows of a transparent picture would be lost on a light ground."""
    alpha = np.asarray(picture.getchannel("A"), np.float32)
    weight = float(alpha.sum())
    if weight == 0 or weight > 255 * ALMOST_ALL * alpha.size:
        return False
    return float((np.asarray(picture.convert("L"), np.float32) * alpha).sum()) / weight > PALE


def _draw_map(tile: Image.Image, picture: Image.Image, box: tuple[int, int, int, int], width: int, height: int) -> None:
    """In the corner where the picture has least, the canvas in small with the layer's box marked."""
    scale = min(tile.width * 0.2 / width, tile.height * 0.3 / height)
    wide, high = round(width * scale), round(height * scale)
    if min(wide, high) < 8:
        return
    alpha = np.asarray(picture.getchannel("A"))
    corners = [(x, y) for y in (tile.height - high - 10, 10) for x in (tile.width - wide - 10, 10)]
    x, y = min(corners, key=lambda corner: int(alpha[corner[1] : corner[1] + high, corner[0] : corner[0] + wide].sum()))
    drawing = ImageDraw.Draw(tile)
    drawing.rounded_rectangle((x - 2, y - 2, x + wide + 1, y + high + 1), 4, fill=(255, 255, 255, 255), outline=(190, 192, 198, 255))
    marked = [round(edge * scale) for edge in box]
    right, bottom = max(marked[2], marked[0] + 4), max(marked[3], marked[1] + 4)
    shift_x, shift_y = min(0, wide - right), min(0, high - bottom)
    drawing.rectangle(
        (x + marked[0] + shift_x, y + marked[1] + shift_y, x + right + shift_x - 1, y + bottom + shift_y - 1), fill=(*MARKER, 255)
    )


@lru_cache(maxsize=8)
def _checkerboard(width: int, height: int, colours: tuple[Colour, Colour], square: int = 10) -> Image.Image:
    y, x = np.ogrid[:height, :width]
    board = np.asarray(colours, np.uint8)[(y // square + x // square) % 2]
    return Image.fromarray(board).convert("RGBA")


@lru_cache(maxsize=8)
def _rounded_mask(width: int, height: int, radius: int) -> Image.Image:
    """A filled rounded rectangle with smooth corners."""
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32) for n in (height, width))
    inside = np.hypot(np.maximum(radius - 0.5 - y, 0)[:, None], np.maximum(radius - 0.5 - x, 0)[None, :])
    return Image.fromarray((255 * np.clip(radius + 0.5 - inside, 0, 1)).astype(np.uint8))


def _draw_caption(canvas: U8, card: _Box, number: str, name: str, about: str, kind: Kind | None) -> None:
    x, room = card.left + PADDING + 4, card.width - 2 * PADDING - 8
    first, second = card.corners[3] - 42, card.corners[3] - 16
    if number:
        indent = draw_text(canvas, x, first, number, 19, GREY) + 10 - x
        draw_text(canvas, x + indent, first, shortened(name, 21, room - indent, MEDIUM), 21, INK, MEDIUM)
    else:
        draw_text(canvas, x, first, shortened(name, 21, room, MEDIUM), 21, INK, MEDIUM)
    if kind is not None:
        cv2.circle(canvas, (x + 6, second - 6), 5, KIND_COLOURS[kind], cv2.FILLED, cv2.LINE_AA)
        x += 20
        if kind != name.casefold():
            x = draw_text(canvas, x, second, kind.capitalize(), 17, KIND_COLOURS[kind]) + 12
    draw_text(canvas, x, second, shortened(about, 17, card.left + card.width - PADDING - x), 17, GREY)
