"""Reading a picture file exactly: orientation, colour profile, depth, transparency, limits -> `SourceImage`."""

from __future__ import annotations

import hashlib
import math
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from layerctl import depth
from layerctl.colour import converted, to_rgb
from layerctl.errors import InputError, MissingDependencyError, OutOfMemoryError
from layerctl.metadata import Metadata, read_metadata
from layerctl.settings import MAX_PIXELS

PICTURE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""The endings, in lower case, of the files that are taken from a folder."""

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "JPEG2000", "PPM", "QOI")
_READS = "layerctl reads PNG, JPEG, TIFF, WebP, AVIF, HEIC, GIF, BMP, JPEG 2000, PPM, QOI and TGA"
_RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
_DNG_VERSION, _ICC_PROFILE, _WIDTH, _HEIGHT = 50706, 34675, 256, 257
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _XMP = 274, 282, 283, 296, 700
_PNG_BIT_DEPTH_AT = 24
_GET_INTACT = "save it again elsewhere, or get an intact copy"
_BROKEN_EXIF = "its EXIF data is broken and was left out"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Other files that people try, by their first bytes.
_OTHER_FILES = (
    (b"%PDF", "a PDF", "export the page as PNG first"),
    (b"%!PS", "a PostScript drawing", "export it as PNG first"),
    (b"<svg", "an SVG drawing", "export it as PNG first"),
    (b"<?xml", "an XML file", "if it is a drawing, export it as PNG first"),
    (b"8BPS", "a Photoshop file", "export it as PNG or TIFF first"),
    (b"gimp xcf", "a GIMP file", "export it as PNG first"),
    (b"PK\x03\x04", "an archive", "unpack it, or export the picture as PNG first"),
)

# What Pillow's decoders are known to raise on damaged files besides OSError; none of it is a mistake of ours.
_DECODER_FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip

# Pillow's own pixel limit and Python's warning filters belong to the whole process: one picture is decoded at a time.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class SourceImage:
    """A picture as it was read, upright.

    `pixels`: uint8, H x W x 4, straight alpha, the source's own values in its own RGB profile `icc` (None: sRGB). `has_alpha`: some
    pixel is not opaque. `sha256`: of the file's bytes. `warnings`: what was changed on reading, in words.
    """

    pixels: npt.NDArray[np.uint8]
    icc: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    has_alpha: bool = False
    sha256: str = ""
    path: Path | None = None
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def srgb(self) -> npt.NDArray[np.uint8]:
        """The picture in sRGB, H x W x 4, computed at each call; `pixels` itself (not to be written to) if that is sRGB already."""
        return converted(self.pixels, self.icc, None)


def read_source(path: Path, *, max_pixels: int = MAX_PIXELS) -> SourceImage:
    """The picture in a file, decoded to its end.

    Raises InputError for everything that is no readable picture or has more than `max_pixels`, MissingDependencyError for HEIC without
    its extra, OutOfMemoryError for a picture that does not fit.
    """
    # Decoders read as many bytes as a damaged header tells them to: from memory that is never more than there are.
    data = _contents(path)
    file = BytesIO(data)
    _refuse_other_files(data, path)
    with _pillow_limited_to(max_pixels) as remarks:
        try:
            source = _read(file, path, max_pixels)
        except Image.DecompressionBombError as error:
            found = re.search(r"\d+", str(error))
            raise _too_large(path, int(found.group()) if found else max_pixels + 1, max_pixels) from error
        except MemoryError as error:
            raise _no_memory(path) from error
        except _DECODER_FAULTS as error:
            raise InputError(f"{path} is damaged: {error}", hint=_GET_INTACT) from error
    sha256 = hashlib.sha256(data).hexdigest()
    return replace(source, sha256=sha256, warnings=(*source.warnings, *remarks))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height, upright, from the file's header alone. Raises InputError for what is no picture."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            on_its_side = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}", hint="--max-pixels allows larger pictures") from error
    except _DECODER_FAULTS as error:
        raise InputError(f"{path} cannot be read as a picture: {error}", hint=_GET_INTACT) from error
    return (height, width) if on_its_side else (width, height)


def _read(file: BytesIO, path: Path, max_pixels: int) -> SourceImage:
    tags = depth.tiff_tags(file)
    if tags is not None:
        _refuse_tiff(tags, path)
    if tags is not None and depth.is_float(tags):
        return _read_float(file, path, tags, max_pixels)

    image = _opened_image(file, path)
    if image.width * image.height > max_pixels:
        raise _too_large(path, image.width * image.height, max_pixels)
    changes = []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        changes.append(f"it has more than one {'page' if image.format == 'TIFF' else 'frame'}: only the first is used")
    image.load()
    info = image.info
    try:
        exif = image.getexif()
        metadata = read_metadata(exif, info.get("xmp"), info if image.format == "PNG" else {})
        turned = exif.get(_ORIENTATION, 1)
    except _DECODER_FAULTS:
        metadata, turned = Metadata(), 1
        changes.append(_BROKEN_EXIF)

    flat, said = _eight_bits(file, image, path, tags)
    del image
    rgb, icc, repainted = to_rgb(flat, info.get("icc_profile") or None)
    if turned in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[turned])
    # A TIFF is upright after loading, so only its directory still knows that it was turned.
    on_its_side = (tags.get(_ORIENTATION) if tags is not None else turned) in (5, 6, 7, 8)
    return _source(rgb, path, (*changes, *said, *repainted), icc=icc, dpi=_dpi(info.get("dpi"), on_its_side), metadata=metadata)


def _read_float(file: BytesIO, path: Path, tags: depth.Tags, max_pixels: int) -> SourceImage:
    pixels = int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0))
    if pixels > max_pixels:
        raise _too_large(path, pixels, max_pixels)
    image = depth.read_float(file, tags)
    if image is None:
        raise InputError(f"{path} is damaged or compressed in an unknown way", hint="save it as an uncompressed or 16-bit TIFF")
    said = ["floating-point values were read as linear light from 0 to 1 and turned into sRGB; what lies outside was clipped"]
    if _ICC_PROFILE in tags:
        said.append("the colour profile was left out")
    per_inch = {2: 1.0, 3: 2.54}.get(tags.get(_RESOLUTION_UNIT, 2), 0.0)
    resolution = [float(tags.get(tag, 0)) * per_inch for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    try:
        exif = Image.Exif()
        file.seek(0)
        exif.load_from_fp(file)
        metadata = read_metadata(exif, tags.get(_XMP), {})
    except _DECODER_FAULTS:
        metadata = Metadata()
        said.append(_BROKEN_EXIF)
    on_its_side = tags.get(_ORIENTATION) in (5, 6, 7, 8)
    return _source(image.convert("RGBA"), path, tuple(said), icc=None, dpi=_dpi(tuple(resolution), on_its_side), metadata=metadata)


def _source(
    image: Image.Image, path: Path, said: tuple[str, ...], *, icc: bytes | None, dpi: tuple[float, float] | None, metadata: Metadata
) -> SourceImage:
    pixels = np.array(image)
    return SourceImage(pixels, icc, dpi, bool(pixels[..., 3].min() < 255), path=path, metadata=metadata, warnings=said)


def _eight_bits(file: BytesIO, image: Image.Image, path: Path, tags: depth.Tags | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The loaded picture with eight bits a channel, and what that changed."""
    deep = tags is not None and depth.bits(tags) > 8
    if image.mode == "F":
        raise InputError(f"{path} has floating-point values that are not read", hint="save it as a floating-point TIFF or a 16-bit PNG")
    if image.mode.startswith("I"):
        return depth.reduce_gray(image, tags), (_reduced(tags),)
    exact = depth.read_16_bit(file, tags)
    if exact is not None and exact.size == image.size:
        return exact, (_reduced(tags),)
    if image.format == "PNG" and image.mode == "L" and isinstance(image.info.get("transparency"), int):
        # Pillow spreads 2 and 4 bits to 0..255, but leaves the transparent value as it was.
        file.seek(_PNG_BIT_DEPTH_AT)
        image.info["transparency"] *= 255 // ((1 << file.read(1)[0]) - 1)
    if image.mode == "La":
        return image.convert("LA"), ()
    return image, (_reduced(tags),) if deep else ()


def _reduced(tags: depth.Tags | None) -> str:
    return f"{depth.bits(tags) if tags is not None else 16} bits a channel were reduced to 8"


def _dpi(resolution: Any, on_its_side: bool) -> tuple[float, float] | None:
    """Horizontal and vertical resolution of the upright picture, None unless both make sense."""
    try:
        x, y = (float(value) for value in resolution)
    except (TypeError, ValueError, ArithmeticError):
        return None
    if not (math.isfinite(x) and math.isfinite(y) and 1 <= x < 65536 and 1 <= y < 65536):
        return None
    return (y, x) if on_its_side else (x, y)


def _contents(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder, not a picture", hint="name a picture in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is no ordinary file", hint="save the picture to a file first")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}", hint=_similar(path)) from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read", hint=f"chmod u+r '{path}'") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}", hint="check the name and the disk") from error
    except MemoryError as error:
        raise _no_memory(path) from error
    if not data:
        raise InputError(f"{path} is empty", hint="get an intact copy")
    return data


def _no_memory(path: Path) -> OutOfMemoryError:
    return OutOfMemoryError(f"{path} does not fit in memory", hint="make the picture smaller first")


def _similar(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} that can be read"
    near = get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the name: ls shows what is there"


def _refuse_other_files(data: bytes, path: Path) -> None:
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what, hint in _OTHER_FILES:
        if head.startswith(magic):
            raise InputError(f"{path} is {what}, not a picture of pixels", hint=hint)
    if path.suffix.lower() in _RAW_SUFFIXES:
        raise InputError(f"{path} is a camera's raw file", hint="develop it to a 16-bit TIFF or a JPEG first")


def _refuse_tiff(tags: depth.Tags, path: Path) -> None:
    # Pillow would show the thumbnail of a raw file as if it were the picture.
    if _DNG_VERSION in tags:
        raise InputError(f"{path} is a camera's raw file", hint="develop it to a 16-bit TIFF or a JPEG first")
    if depth.lacks_strips(tags):
        raise InputError(f"{path} is damaged: it names fewer strips than it has rows", hint=_GET_INTACT)
    unusual = depth.unreadable_samples(tags)
    if unusual is not None:
        raise InputError(f"{path} holds {unusual}, which are not read", hint="save it as a 16-bit RGB TIFF with interleaved channels")


def _opened_image(file: BytesIO, path: Path) -> Image.Image:
    file.seek(0)
    brands = file.read(32)
    if brands[4:8] == b"ftyp" and re.search(rb"hei[cmsx]|hev[cmsx]|mif1|msf1", brands[8:]) and b"avi" not in brands:
        _register_heic(path)
    Image.init()
    # TGA has no signature: any file could be one, so its ending decides.
    formats = [name for name in (*_FORMATS, *(("TGA",) if path.suffix.lower() == ".tga" else ())) if name in Image.OPEN]
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture, or a damaged one", hint=_READS) from error


def _register_heic(path: Path) -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingDependencyError(f"{path} is HEIC, which needs the package pillow-heif", hint="pip install 'layerctl[heic]'") from error
    pillow_heif.register_heif_opener()


def _too_large(path: Path, pixels: int, max_pixels: int) -> InputError:
    gigabytes = pixels * 4 / 1e9
    return InputError(
        f"{path} has {pixels:,} pixels, more than the limit of {max_pixels:,}",
        hint=f"--max-pixels {pixels} if the memory allows it: one copy takes {gigabytes:.1f} GB",
    )


@contextmanager
def _pillow_limited_to(max_pixels: int) -> Iterator[list[str]]:
    """Our pixel limit in the place of Pillow's, and Pillow's own warnings, in words, in the list that is given."""
    remarks: list[str] = []
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield remarks
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        said = dict.fromkeys(" ".join(str(item.message).split()) for item in caught if issubclass(item.category, UserWarning))
        remarks.extend(f"Pillow says: {words}" for words in said)
