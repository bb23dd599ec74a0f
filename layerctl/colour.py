"""Colour profiles: what a picture's values mean, an sRGB copy for engines, and pictures that are not RGB.

A profile travels as its ICC bytes; None stands for sRGB. Conversions are relative colorimetric with black-point compensation,
as editors do them.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_STRIP_PIXELS = 1 << 20
_GRAY_MODES = ("1", "L", "LA")
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


@cache
def srgb_profile() -> bytes:
    """An sRGB profile to embed; the same bytes every time."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Bytes 24 to 35 hold the moment of its creation, which would make two runs differ.
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


@lru_cache(maxsize=16)
def colour_space(icc: bytes) -> str | None:
    """The space whose values the profile explains ("RGB", "GRAY", "CMYK", "Lab"), None for a profile that cannot be used."""
    try:
        space = ImageCms.ImageCmsProfile(BytesIO(icc)).profile.xcolor_space.strip()
        if space not in _MODES:
            return None
        # A profile can be well-formed and still explain nothing (a device link, missing tables): only using it tells.
        _transform(icc, _MODES[space], None, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    return space


@lru_cache(maxsize=16)
def is_srgb(icc: bytes | None) -> bool:
    """Whether the profile means the same colours as sRGB, to one level in 255."""
    if icc is None or icc == srgb_profile():
        return True
    ramp = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(9, 81, 3)
    seen = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), _transform(icc, "RGB", None, "RGB")))
    return int(np.abs(seen.astype(np.int16) - cube).max()) <= 1


def converted(pixels: npt.NDArray[np.uint8], source: bytes | None, target: bytes | None) -> npt.NDArray[np.uint8]:
    """The same colours in another RGB profile: H x W x 3 or 4 in, the same shape out, alpha untouched.

    Works in strips, so that only the result is as large as the picture. Returns `pixels` itself where both profiles mean the same.
    """
    if source == target or (is_srgb(source) and is_srgb(target)):
        return pixels
    mode = "RGBA" if pixels.shape[2] == 4 else "RGB"
    transform = _transform(source, mode, target, mode)
    result = np.empty(pixels.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        strip = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows]))
        # Not in place: Pillow shares the memory of the array that a picture is made from.
        result[top : top + rows] = np.asarray(ImageCms.applyTransform(strip, transform))
    return result


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None, tuple[str, ...]]:
    """An 8-bit picture of any mode as RGBA, the RGB profile of the result, and what was changed, in words.

    RGB values stay as they are and keep their profile; CMYK, Lab and gray with a gray profile become sRGB.
    """
    native = "CMYK" if image.mode == "CMYK" else "Lab" if image.mode == "LAB" else "GRAY" if image.mode in _GRAY_MODES else "RGB"
    warnings: tuple[str, ...] = ()
    space = colour_space(icc) if icc is not None else None
    if icc is not None and space is None:
        warnings = ("the colour profile is broken and was left out",)
        icc = None
    elif space is not None and space != native and (native, space) != ("GRAY", "RGB"):
        warnings = (f"the colour profile is for {space} values, but the picture is {native}: the profile was left out",)
        icc = None

    if native == "CMYK":
        if icc is None:
            said = "CMYK without a colour profile was turned into sRGB by a plain formula: colours may be off"
            return image.convert("RGB").convert("RGBA"), srgb_profile(), (*warnings, said)
        return _in_srgb(image, icc), srgb_profile(), ("CMYK was converted to sRGB by its colour profile",)
    if native == "Lab":
        return _in_srgb(image, icc or _lab_profile()), srgb_profile(), (*warnings, "Lab was converted to sRGB")
    if native == "GRAY" and icc is not None and space == "GRAY":
        return _in_srgb(image, icc), srgb_profile(), ("gray was converted to sRGB by its colour profile",)
    if warnings:
        warnings = (f"{warnings[0]}; values are taken as sRGB",)
    return image if image.mode == "RGBA" else image.convert("RGBA"), icc, warnings


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "LA" else None
    plain = image.convert("L") if image.mode in _GRAY_MODES else image
    result = ImageCms.applyTransform(plain, _transform(icc, plain.mode, None, "RGB"))
    assert result is not None, "a transform that is not in place returns a picture"
    result = result.convert("RGBA")
    if alpha is not None:
        result.putalpha(alpha)
    return result


@cache
def _lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _transform(source: bytes | None, source_mode: str, target: bytes | None, target_mode: str) -> ImageCms.ImageCmsTransform:
    from_profile, into_profile = (BytesIO(srgb_profile() if icc is None else icc) for icc in (source, target))
    return ImageCms.buildTransform(from_profile, into_profile, source_mode, target_mode, _INTENT, _FLAGS)
