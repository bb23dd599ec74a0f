"""Contact sheets of held-out pictures: a row a picture, the same pictures at every evaluation, so that steps can be compared by eye."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layerctl.colour import converted
from layerctl.composite import flatten
from layerctl.errors import InputError
from layerctl.layers import LayerStack, effective, on_canvas
from layerctl.lettering import MEDIUM, Colour, draw_text, shortened
from layerctl.names import printable
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]

SIDE, LEAST = 184, 16
"""Of a view: its longest side, and the least of the other."""
GAP, MARGIN = 10, 14
TITLE, NAME, CAPTION = 42, 30, 18
"""Heights of lines of words."""
PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 25, 30)
GREY: Colour = (92, 94, 102)
RIM: Colour = (186, 188, 194)
BOARD: tuple[Colour, Colour] = ((250, 250, 250), (224, 225, 229))
DARK_BOARD: tuple[Colour, Colour] = ((104, 106, 113), (84, 86, 93))
SQUARE, PALE = 8, 190
ENLARGED = 4
"""From here on, pixels are kept as squares."""
PLACES = "layerctl"
"""Key of what a sheet's file says of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """`stack`: raw, as the engine made it. `about`: what is said of it, such as a score."""

    name: str
    source: SourceImage
    stack: LayerStack
    about: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """A row's views as pixels, as wide as its sheet."""

    about: str
    pixels: U8


def write_sheet(path: Path, rows: Sequence[SheetRow], *, title: str) -> None:
    """A PNG in sRGB: for each picture itself, its layers from the bottom up on a checkerboard, and what they flatten to."""
    views = [list(_views(row)) for row in rows]
    columns = max(map(len, views), default=1)
    width = 2 * MARGIN + columns * (SIDE + GAP) - GAP
    parts, places, top = [_line(title, "", TITLE, width)], [], TITLE
    for row, shown in zip(rows, views, strict=True):
        band = _band(shown, width)
        parts += [_line(row.name, row.about, NAME, width), band]
        places.append({"name": row.name, "about": row.about, "top": top + NAME, "height": len(band)})
        top += NAME + len(band)
    info = PngInfo()
    info.add_text(PLACES, json.dumps({"title": title, "rows": places}))
    Image.fromarray(np.vstack(parts)).save(path, "PNG", pnginfo=info)


def before_after(sheets: Sequence[Path], *, most: int) -> Image.Image:
    """The first `most` pictures that all sheets have, each as it is in one after the other. Raises InputError."""
    read = [_read(path) for path in sheets]
    width = max(band.pixels.shape[1] for _, bands in read for band in bands.values())
    parts = []
    for name in [name for name in read[-1][1] if all(name in bands for _, bands in read)][:most]:
        parts.append(_line(name, "", TITLE, width))
        for title, bands in read:
            parts += [_line(title, bands[name].about, NAME, width), _widened(bands[name].pixels, width)]
    return Image.fromarray(np.vstack(parts or [_line("No picture is in all sheets", "", TITLE, width)]))


def _views(row: SheetRow) -> Iterator[tuple[str, U8]]:
    stack = row.stack
    yield "picture", row.source.srgb()
    shown = [(layer, opacity) for layer, opacity in effective(stack.layers) if opacity > 0]
    for number, (layer, opacity) in enumerate(shown, 1):
        pixels = on_canvas(replace(layer, opacity=1.0), stack.width, stack.height)
        eight = (pixels // 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
        eight[..., 3] = np.rint(eight[..., 3] * opacity)
        yield f"layer {number}", converted(eight, stack.icc, None)
    yield "recomposition", converted(flatten(stack), stack.icc, None)


def _band(views: Sequence[tuple[str, U8]], width: int) -> U8:
    """Views with captions beside each other; a layer that is all transparent shows the board alone."""
    shown = [_on_board(pixels) for _, pixels in views]
    band = np.full((CAPTION + max(len(view) for view in shown) + GAP, width, 3), PAPER, np.uint8)
    for place, ((caption, _), view) in enumerate(zip(views, shown, strict=True)):
        height, across = view.shape[:2]
        x = MARGIN + place * (SIDE + GAP)
        draw_text(band, x, CAPTION - 6, shortened(caption, 13, SIDE), 13, GREY)
        band[CAPTION : CAPTION + height, x : x + across] = view
        cv2.rectangle(band, (x - 1, CAPTION - 1), (x + across, CAPTION + height), RIM)
    return band


def _on_board(pixels: U8) -> U8:
    """Straight RGBA, its longest side made `SIDE`, on the checkerboard that it stands out from."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(LEAST, round(width * scale)), max(LEAST, round(height * scale))
    method = Image.Resampling.NEAREST if scale >= ENLARGED else Image.Resampling.LANCZOS
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, method, reducing_gap=2.0)
    values = np.asarray(small, np.float32)
    weight = values[..., 3]
    brightness = float((values[..., :3].mean(axis=2) * weight).sum() / max(weight.sum(), 1))
    y, x = np.ogrid[: size[1], : size[0]]
    board = np.asarray(DARK_BOARD if brightness > PALE else BOARD, np.uint8)[(y // SQUARE + x // SQUARE) % 2]
    return np.asarray(Image.alpha_composite(Image.fromarray(board).convert("RGBA"), small).convert("RGB"))


def _line(text: str, about: str, height: int, width: int) -> U8:
    line = np.full((height, width, 3), PAPER, np.uint8)
    size, room = 20 if height == TITLE else 15, width - 2 * MARGIN
    end = draw_text(line, MARGIN, height - 10, shortened(printable(text), size, room, MEDIUM), size, INK, MEDIUM)
    if about and end + 80 < width:
        draw_text(line, end + 12, height - 10, shortened(printable(about), 14, width - MARGIN - end - 12), 14, GREY)
    return line


def _widened(pixels: U8, width: int) -> U8:
    wide = np.full((len(pixels), width, 3), PAPER, np.uint8)
    wide[:, : pixels.shape[1]] = pixels
    return wide


def _read(path: Path) -> tuple[str, dict[str, _Band]]:
    """A sheet's title, and its rows by name, from where its file says that they are."""
    try:
        with Image.open(path) as image:
            said = json.loads(image.info[PLACES])
            pixels = np.asarray(image.convert("RGB"))
        rows = {row["name"]: _Band(row["about"], pixels[row["top"] : row["top"] + row["height"]]) for row in said["rows"]}
        return said["title"], rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no contact sheet of a run: {error}", hint="delete it; the report goes without it") from error
