"""Colour profiles: values of RGB sources never change, everything else becomes sRGB by its profile."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from layerctl.colour import colour_space, converted, is_srgb, srgb_profile
from layerctl.source import SourceImage, read_source

# Columns of the matrix from linear Display P3 to XYZ under D50 (CSS Color 4).
P3_COLOURANTS = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(space: bytes, device: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC version 2 profile."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", 128 + len(table) + len(data), b"lcms", 0x02400000, device, space, connection, bytes(12), b"acsp"
    )
    return header.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249) + bytes(48) + table + data


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def rgb_profile(gamma: float = 2.2) -> bytes:
    """Display P3 primaries with a plain power curve."""
    colourants = {name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), P3_COLOURANTS, strict=True)}
    return profile(b"RGB ", b"mntr", {**colourants, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))})


def gray_profile(gamma: float) -> bytes:
    return profile(b"GRAY", b"mntr", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """A press whose cyan ink is red: no plain formula finds that."""
    straight = bytes(range(256))
    nodes = b""
    for ink in range(16):
        cyan, black = ink >> 3 & 1, ink & 1
        lightness, a = (0, 0) if black else (54, 80) if cyan else (100, 0)
        nodes += bytes([round(lightness * 2.55), 128 + a, 128 + (67 if a else 0)])
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 4 + nodes + straight * 3
    return profile(b"CMYK", b"prtr", {b"A2B0": table}, b"Lab ")


def read(folder: Path, image: Image.Image, file_format: str, **options: Any) -> SourceImage:
    path = folder / "picture"
    image.save(path, file_format, **options)
    return read_source(path)


def noise() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (16, 16, 4), np.uint8)


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_a_display_p3_picture_keeps_its_numbers_and_its_profile(tmp_path: Path, file_format: str, options: dict[str, Any]) -> None:
    source = read(tmp_path, Image.fromarray(noise()), file_format, icc_profile=rgb_profile(), **options)
    np.testing.assert_array_equal(source.pixels, noise())
    assert source.icc == rgb_profile()
    assert source.warnings == ()


def test_a_palette_keeps_its_numbers_and_its_profile(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indexed.putpalette([250, 10, 20, 30, 240, 60])
    source = read(tmp_path, indexed, "PNG", icc_profile=rgb_profile())
    assert (source.pixels[0, :, :3].tolist(), source.icc) == ([[250, 10, 20], [30, 240, 60]], rgb_profile())


def test_the_srgb_copy_of_a_display_p3_picture_is_more_vivid_and_keeps_alpha(tmp_path: Path) -> None:
    # Display P3 (0.8, 0.4, 0.4) under a 2.2 curve, to sRGB by the two published matrices.
    pixels = np.array([[[204, 102, 102, 77], [128, 128, 128, 0], [255, 255, 255, 255], [0, 255, 0, 9]]], np.uint8)
    source = read(tmp_path, Image.fromarray(pixels), "PNG", icc_profile=rgb_profile())
    linear = (pixels[0, :, :3] / 255) ** 2.2
    matrix = np.array([[1.22494, -0.22494, 0.0], [-0.04206, 1.04206, 0.0], [-0.01964, -0.07864, 1.09827]])
    light = np.clip(linear @ matrix.T, 0, 1)
    expected = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    found = source.srgb()
    np.testing.assert_allclose(found[0, :, :3], expected, atol=1.5)
    np.testing.assert_array_equal(found[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(source.pixels, pixels)


def test_a_picture_in_srgb_is_its_own_srgb_copy(tmp_path: Path) -> None:
    for icc in (None, srgb_profile()):
        source = read(tmp_path, Image.fromarray(noise()), "PNG", **({"icc_profile": icc} if icc else {}))
        assert source.icc == icc
        assert source.srgb() is source.pixels


def test_a_profile_that_means_srgb_is_recognised_by_its_colours() -> None:
    named_otherwise = srgb_profile().replace(b"s\0R\0G\0B\0", b"o\0t\0h\0r\0")
    assert named_otherwise != srgb_profile()
    assert is_srgb(named_otherwise)
    assert not is_srgb(rgb_profile())


def test_colours_go_to_another_profile_and_back() -> None:
    inside = np.clip(noise(), 60, 190)
    there = converted(inside, None, rgb_profile())
    assert int(np.abs(there.astype(int) - inside)[..., :3].max()) > 5
    np.testing.assert_allclose(converted(there, rgb_profile(), None).astype(int), inside, atol=2)


def test_pictures_without_alpha_are_converted_too() -> None:
    np.testing.assert_array_equal(converted(noise()[..., :3], rgb_profile(), None), converted(noise(), rgb_profile(), None)[..., :3])


def test_a_picture_of_many_strips_is_converted_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = converted(noise(), rgb_profile(), None)
    monkeypatch.setattr("layerctl.colour._STRIP_PIXELS", 48)
    np.testing.assert_array_equal(converted(noise(), rgb_profile(), None), whole)


def test_the_profile_to_embed_is_always_the_same() -> None:
    first = srgb_profile()
    srgb_profile.cache_clear()
    # A profile holds the second in which it was made.
    time.sleep(1.1)
    assert srgb_profile() == first
    assert colour_space(srgb_profile()) == "RGB"


@pytest.mark.parametrize("icc", [b"not a profile at all", rgb_profile()[:200], b"\0" * 400], ids=["words", "cut", "zeros"])
def test_a_broken_profile_is_left_out_and_said(tmp_path: Path, icc: bytes) -> None:
    source = read(tmp_path, Image.fromarray(noise()), "PNG", icc_profile=icc)
    np.testing.assert_array_equal(source.pixels, noise())
    assert source.icc is None
    assert source.warnings == ("the colour profile is broken and was left out; values are taken as sRGB",)


def test_a_profile_of_another_colour_space_is_left_out_and_said(tmp_path: Path) -> None:
    source = read(tmp_path, Image.fromarray(noise()), "PNG", icc_profile=cmyk_profile())
    np.testing.assert_array_equal(source.pixels, noise())
    assert source.icc is None
    assert "is for CMYK values, but the picture is RGB" in source.warnings[0]


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_its_profile(tmp_path: Path, file_format: str) -> None:
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    source = read(tmp_path, inks, file_format, icc_profile=cmyk_profile())
    # This press prints red where the plain formula would say cyan.
    np.testing.assert_allclose(source.pixels[4, 4], (252, 15, 20, 255), atol=12)
    assert source.icc == srgb_profile()
    assert source.warnings == ("CMYK was converted to sRGB by its colour profile",)


def test_cmyk_without_a_profile_is_converted_plainly_and_said(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF")
    assert source.pixels[0, 0].tolist() == [0, 255, 255, 255]
    assert source.icc == srgb_profile()
    assert "without a colour profile" in source.warnings[0]


def test_cmyk_with_a_broken_profile_says_both(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF", icc_profile=b"broken")
    assert [words.split(" ")[0] for words in source.warnings] == ["the", "CMYK"]


def test_gray_with_a_gray_profile_is_converted_by_it(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("L", (4, 4), 128), "PNG", icc_profile=gray_profile(1.0))
    # Half the light: 188 in sRGB.
    assert source.pixels[0, 0].tolist() == [188, 188, 188, 255]
    assert source.icc == srgb_profile()
    assert source.warnings == ("gray was converted to sRGB by its colour profile",)


def test_gray_with_alpha_keeps_its_alpha(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("LA", (4, 4), (128, 99)), "PNG", icc_profile=gray_profile(1.0))
    assert source.pixels[0, 0].tolist() == [188, 188, 188, 99]


def test_gray_with_an_rgb_profile_keeps_values_and_profile(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("L", (4, 4), 128), "PNG", icc_profile=rgb_profile())
    assert (source.pixels[0, 0].tolist(), source.icc) == ([128, 128, 128, 255], rgb_profile())


def test_lab_is_converted(tmp_path: Path) -> None:
    red = Image.frombytes("LAB", (1, 1), bytes([round(53.24 * 2.55), 80, 67]))
    source = read(tmp_path, red, "TIFF")
    np.testing.assert_allclose(source.pixels[0, 0], (255, 0, 0, 255), atol=12)
    assert source.icc == srgb_profile()
    assert source.warnings == ("Lab was converted to sRGB",)


def test_ycbcr_tiffs_are_rgb(tmp_path: Path) -> None:
    source = read(tmp_path, Image.new("RGB", (8, 8), (200, 100, 50)).convert("YCbCr"), "TIFF")
    np.testing.assert_allclose(source.pixels[0, 0], (200, 100, 50, 255), atol=2)


def test_the_srgb_copy_of_a_large_picture_costs_little_more_than_itself(tmp_path: Path) -> None:
    # ru_maxrss is the largest that a process ever was: only a process of its own tells.
    (tmp_path / "p3.icc").write_bytes(rgb_profile())
    code = f"""
import resource
from pathlib import Path
import numpy as np
from layerctl.source import SourceImage
source = SourceImage(np.full((2048, 4096, 4), 90, np.uint8), Path({str(tmp_path / "p3.icc")!r}).read_bytes())
SourceImage(source.pixels[:8], source.icc).srgb()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
copy = source.srgb()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, copy.nbytes / 2**20)
"""
    grown, copy = map(float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert copy == 32
    assert grown < 1.5 * copy


def test_the_profile_written_by_hand_is_one_that_pillow_writes_back() -> None:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG", icc_profile=rgb_profile())
    assert Image.open(file).info["icc_profile"] == rgb_profile()
    assert [colour_space(icc) for icc in (rgb_profile(), gray_profile(2.2), cmyk_profile())] == ["RGB", "GRAY", "CMYK"]
