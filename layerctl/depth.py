"""Pictures with more than eight bits a sample, reduced to eight.

Pillow cuts 16-bit colour down to its high byte and cannot open float colour at all, so both are decoded by OpenCV, which keeps every bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_GRAY_ALPHA = 4
_HEIGHT, _STRIP_OFFSETS, _ROWS_PER_STRIP = 257, 273, 278
_BITS, _PHOTOMETRIC, _PLANAR, _EXTRA, _FORMAT = 258, 262, 284, 338, 339
_CMYK, _WHITE_IS_ZERO, _SEPARATE_PLANES = 5, 0, 2
_SIGNED, _FLOAT = 2, 3
_DROPPED_ALPHA, _PREMULTIPLIED = 0, 1
_STRIP_PIXELS = 1 << 20

# round(v / 257) for every 16-bit v.
_TO_8_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)

Tags = Mapping[int, Any]


def tiff_tags(file: BytesIO) -> Tags | None:
    """The first directory of a TIFF, None for a file of another format. Raises what Pillow raises for a broken directory."""
    file.seek(0)
    head = file.read(8)
    if head[:4] not in TIFF_MAGIC:
        return None
    if b"+" in head[:4]:
        head += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    return directory


def bits(tags: Tags) -> int:
    """Of the deepest channel."""
    return max(_numbers(tags, _BITS), default=1)


def is_float(tags: Tags) -> bool:
    return _FLOAT in _numbers(tags, _FORMAT)


def unreadable_samples(tags: Tags) -> str | None:
    """What is unusual about a TIFF's samples, in words, where no decoder at hand is to be trusted with them; None for all others."""
    deepest, channels = bits(tags), len(_numbers(tags, _BITS))
    if is_float(tags) and deepest not in (32, 64):
        return f"floating-point samples of {deepest} bits"
    if deepest > 8 and channels > 1 and _numbers(tags, _PLANAR) == (_SEPARATE_PLANES,):
        return f"{deepest}-bit samples in separate planes"
    if not is_float(tags) and deepest > 16:
        return f"whole-number samples of {deepest} bits"
    if deepest > 8 and _SIGNED in _numbers(tags, _FORMAT):
        return f"signed samples of {deepest} bits"
    return None


def lacks_strips(tags: Tags) -> bool:
    """Whether a TIFF names fewer strips of rows than its height takes, which decoders pass over in silence."""
    named, height = len(_numbers(tags, _STRIP_OFFSETS)), tags.get(_HEIGHT, 0)
    rows = tags.get(_ROWS_PER_STRIP, height)
    return named > 0 and named < -(-height // max(rows, 1))


def read_float(file: BytesIO, tags: Tags) -> Image.Image | None:
    """A float TIFF, taken as linear light 0..1, as an upright 8-bit picture in sRGB; None if it cannot be decoded.

    Values outside of 0..1 are clipped and NaN is black: nothing is scaled to the picture's own range, which would give two exposures
    of one scene the same brightness.
    """
    light = _decode(file)
    if light is None or light.dtype.kind != "f" or light.shape[2] > 4:
        return None
    result = np.empty(light.shape, np.uint8)
    colours = min(light.shape[2], 3)
    rows = max(1, _STRIP_PIXELS // light.shape[1])
    for top in range(0, light.shape[0], rows):
        strip = np.nan_to_num(light[top : top + rows].astype(np.float32), nan=0.0)
        if colours < light.shape[2] and _PREMULTIPLIED in _numbers(tags, _EXTRA):
            strip[..., :colours] /= np.maximum(strip[..., colours:], 1e-6)
        np.clip(strip, 0.0, 1.0, out=strip)
        strip[..., :colours] = _srgb_curve(strip[..., :colours])
        result[top : top + rows] = np.rint(strip * 255)
    return _image(result, tags)


def read_16_bit(file: BytesIO, tags: Tags | None) -> Image.Image | None:
    """A PNG or TIFF of 16-bit colour (or gray with alpha) as an 8-bit picture, every value rounded; upright if it is a TIFF.

    None for a picture that is no such thing, or that only Pillow decodes.
    """
    file.seek(0)
    head = file.read(26)
    gray_png = False
    if head.startswith(_PNG_MAGIC):
        if head[24] != 16:
            return None
        gray_png = head[25] == _PNG_GRAY_ALPHA
    elif tags is None or set(_numbers(tags, _BITS)) != {16} or _numbers(tags, _PHOTOMETRIC) == (_CMYK,):
        return None
    deep = _decode(file)
    if deep is None or deep.dtype != np.uint16 or deep.shape[2] > 4:
        return None
    if tags is not None and _PREMULTIPLIED in _numbers(tags, _EXTRA) and deep.shape[2] == 4:
        deep = _straight(deep)
    reduced = _TO_8_BIT[deep]
    if gray_png:
        reduced = reduced[..., 2:]
    return _image(reduced, tags)


def reduce_gray(image: Image.Image, tags: Tags | None) -> Image.Image:
    """A gray picture of Pillow's deep modes (I;16, I) as 8-bit L, or LA where a tRNS value is transparent."""
    largest = (1 << bits(tags)) - 1 if tags is not None else 65535
    table = ((np.arange(largest + 1) * 510 + largest) // (2 * largest)).astype(np.uint8)
    if tags is not None and _numbers(tags, _PHOTOMETRIC) == (_WHITE_IS_ZERO,):
        table = table[::-1]
    values = np.clip(np.asarray(image), 0, largest)
    gray = Image.fromarray(table[values])
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        return Image.merge("LA", (gray, Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8))))
    return gray


def _decode(file: BytesIO) -> npt.NDArray[Any] | None:
    """H x W x C in OpenCV's order: gray, BGR or BGRA."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        pixels = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        return None
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _image(pixels: npt.NDArray[np.uint8], tags: Tags | None) -> Image.Image:
    """Pixels in OpenCV's order as L, LA, RGB or RGBA."""
    channels = pixels.shape[2]
    if channels == 4 and tags is not None and _numbers(tags, _EXTRA)[:1] == (_DROPPED_ALPHA,):
        channels = 3
    order = {1: [0], 2: [0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    ordered = np.ascontiguousarray(pixels[..., order])
    return Image.fromarray(ordered[..., 0] if channels == 1 else ordered)


def _straight(premultiplied: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    alpha = np.maximum(premultiplied[..., 3:].astype(np.uint64), 1)
    colours = np.minimum((premultiplied[..., :3].astype(np.uint64) * 65535 + alpha // 2) // alpha, 65535)
    return np.concatenate([colours.astype(np.uint16), premultiplied[..., 3:]], axis=2)


def _srgb_curve(light: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """IEC 61966-2-1."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.power(light, 1 / 2.4) - 0.055).astype(np.float32)


def _numbers(tags: Tags, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, tuple) else (value,)
