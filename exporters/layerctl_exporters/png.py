"""A folder of PNG files, one a layer, bottom layer first by name."""

from __future__ import annotations

import struct
import unicodedata
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2

from layerctl.errors import OutputError
from layerctl.layers import Layer, LayerStack, Pixels, crop_to_content, on_canvas
from layerctl.names import ZERO_WIDTH_JOINER, fitted, utf8_bytes
from layerctl.registry import ExportOptions
from layerctl_exporters.bleed import bleed

LONGEST_NAME = 100
"""Bytes of a whole file name: leaves room for the folders above it, and for file systems that encrypt names."""
END_OF_HEADER = 33
"""Eight bytes of signature and the IHDR chunk, which has to come first."""
THREADS = 2


class PngExporter:
    name = "png"
    suffix = ""
    is_folder = True

    def suffix_for(self, stack: LayerStack, options: ExportOptions) -> str:
        return ""

    def export(self, stack: LayerStack, path: Path, options: ExportOptions) -> tuple[str, ...]:
        """Make the folder `path` and write `file_names(stack)` into it; a cropped file holds its place on the canvas as an oFFs chunk."""
        path.mkdir()
        write = partial(_write, stack=stack, options=options)
        paths = [path / name for name in file_names(stack)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(write, stack.walk(), paths))
        faint = [f"{layer.name!r} {layer.opacity:.0%}" for layer in stack.walk() if layer.opacity < 1]
        return (f"PNG files hold no layer opacity: {', '.join(faint)}",) if faint else ()


EXPORTER = PngExporter()


def file_names(stack: LayerStack) -> list[str]:
    """The file names of `stack.walk()`, in its order: `00-background.png`, `01-element-2-red-top-left.png`.

    Safe on Windows, macOS and Linux: lower case, composed (NFC), letters, digits and pictographs of any script joined by hyphens, at most
    100 bytes. The number makes every name unique and none of them reserved ("con", "nul").
    """
    layers = list(stack.walk())
    digits = max(2, len(str(len(layers) - 1)))
    return [_file_name(f"{number:0{digits}}-", layer.name) for number, layer in enumerate(layers)]


def _file_name(prefix: str, name: str) -> str:
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())
    words = "".join(character if _is_safe(character) else " " for character in composed).split()
    room = LONGEST_NAME - len(prefix) - len(".png")
    stem = fitted("-".join(words), room, utf8_bytes).rstrip("…").rstrip("-")
    return f"{prefix}{stem or 'layer'}.png"


def _is_safe(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or unicodedata.category(character) in ("So", "Sk") or character == ZERO_WIDTH_JOINER


def _write(layer: Layer, path: Path, *, stack: LayerStack, options: ExportOptions) -> None:
    if options.full_canvas:
        left, top, pixels = 0, 0, on_canvas(layer, stack.width, stack.height)
    else:
        cropped = crop_to_content(layer)
        left, top, pixels = cropped.left, cropped.top, cropped.pixels
    path.write_bytes(encode_png(bleed(pixels), _chunks(stack, options, left, top)))


def encode_png(pixels: Pixels, chunks: bytes = b"") -> bytes:
    """A PNG of 8 or 16 bits a channel with `chunks` (complete ones) after its header, packed fast rather than small."""
    channels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    done, encoded = cv2.imencode(".png", channels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OutputError(f"a layer of {pixels.shape[1]} x {pixels.shape[0]} pixels cannot be written as PNG")
    data: bytes = encoded.tobytes()
    return data[:END_OF_HEADER] + chunks + data[END_OF_HEADER:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(stack: LayerStack, options: ExportOptions, left: int, top: int) -> bytes:
    return b"".join(_metadata(stack, options, left, top))


def _metadata(stack: LayerStack, options: ExportOptions, left: int, top: int) -> Iterator[bytes]:
    if stack.icc is not None:
        yield chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(stack.icc))
    if stack.dpi is not None:
        across, down = (max(1, min(round(dpi / 0.0254), 2**31 - 1)) for dpi in stack.dpi)
        yield chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if (left, top) != (0, 0):
        yield chunk(b"oFFs", struct.pack(">iiB", left, top, 0))
    if options.source is not None:
        exif, xmp = options.source.metadata.to_exif(), options.source.metadata.to_xmp()
        if exif is not None:
            yield chunk(b"eXIf", exif)
        if xmp is not None:
            yield chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
