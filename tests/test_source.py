"""Reading picture files: every file here is made by the test that reads it."""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from layerctl.errors import InputError, MissingDependencyError
from layerctl.source import SourceImage, read_source

RGB, GRAY, WHITE_IS_ZERO, CMYK = 2, 1, 0, 5
WHOLE, SIGNED, FLOAT = 1, 2, 3


def picture(width: int = 12, height: int = 8) -> Image.Image:
    """Every pixel differs, so that a turned, shifted or mirrored copy is never equal."""
    values = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def deep(channels: int) -> npt.NDArray[np.uint16]:
    values = np.random.default_rng(8).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    # Where cutting to the high byte and rounding differ, and both ends.
    values[0, :4, 0] = (0, 65535, 255, 129)
    return values


def rounded(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return np.rint(values / 257).astype(np.uint8)


def png(values: npt.NDArray[np.uint16], colour_type: int, transparent: tuple[int, ...] = ()) -> bytes:
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if transparent:
        chunks.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    return png_file([*chunks, (b"IDAT", zlib.compress(rows))])


def png_file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff(values: npt.NDArray[Any], photometric: int, sample_format: int = WHOLE, *, order: Literal["<", ">"] = "<", **tags: int) -> bytes:
    """An uncompressed TIFF, written by hand because Pillow writes no deep colour. `tags`: `extra`, `orientation`, `planar`, `dng`."""
    height, width, channels = values.shape
    if tags.get("planar") == 2:
        values = values.transpose(2, 0, 1)
    data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(order)).tobytes()
    entries: list[tuple[int, str, tuple[int, ...]]] = [
        (256, "I", (width,)),
        (257, "I", (height,)),
        (258, "H", (values.dtype.itemsize * 8,) * channels),
        (259, "H", (1,)),
        (262, "H", (photometric,)),
        (277, "H", (channels,)),
        (278, "I", (height,)),
        (284, "H", (tags.get("planar", 1),)),
        (339, "H", (sample_format,) * channels),
    ]
    entries += [(number, "H", (tags[name],)) for name, number in (("extra", 338), ("orientation", 274), ("dng", 50706)) if name in tags]
    strips = channels if tags.get("planar") == 2 else 1
    entries.append((279, "I", (len(data) // strips,) * strips))

    def directory(data_at: int) -> bytes:
        offsets = (273, "I", tuple(data_at + i * len(data) // strips for i in range(strips)))
        table, behind = struct.pack(f"{order}H", len(entries) + 1), b""
        for tag, kind, numbers in sorted([*entries, offsets]):
            packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
            if len(packed) > 4:
                place = 8 + 2 + 12 * (len(entries) + 1) + 4 + len(behind)
                behind += packed
                packed = struct.pack(f"{order}I", place)
            table += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + packed.ljust(4, b"\0")
        return table + bytes(4) + behind

    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + directory(8 + len(directory(0))) + data


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def read(folder: Path, data: bytes, name: str = "picture", **options: Any) -> SourceImage:
    path = folder / name
    path.write_bytes(data)
    return read_source(path, **options)


def colours(source: SourceImage) -> npt.NDArray[np.uint8]:
    return source.pixels[..., :3]


# Orientation and resolution


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_undone(tmp_path: Path, orientation: int, file_format: str) -> None:
    upright = np.asarray(picture())
    # The values of EXIF 2.32, table 6: where row 0 and column 0 of the stored picture are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    source = read(tmp_path, saved(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options))
    np.testing.assert_array_equal(colours(source), upright)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_the_resolution_turns_with_the_picture(tmp_path: Path, file_format: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    source = read(tmp_path, saved(picture(), file_format, exif=exif, dpi=(100, 200)))
    assert source.dpi == pytest.approx((200, 100), abs=0.02)


def test_a_resolution_is_any_number_and_nonsense_is_unknown(tmp_path: Path) -> None:
    assert read(tmp_path, saved(picture(), "TIFF", dpi=(299.5, 72.25))).dpi == (299.5, 72.25)
    assert read(tmp_path, saved(picture(), "TIFF", dpi=(0, 0))).dpi is None
    assert read(tmp_path, saved(picture(), "PNG", dpi=(0, 0))).dpi is None
    assert read(tmp_path, saved(picture(), "PNG")).dpi is None


# Depth


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6)])
def test_sixteen_bit_png_colour_is_rounded_not_cut(tmp_path: Path, channels: int, colour_type: int) -> None:
    values = deep(channels)
    source = read(tmp_path, png(values, colour_type))
    np.testing.assert_array_equal(source.pixels[..., :channels], rounded(values))
    assert source.warnings == ("16 bits a channel were reduced to 8",)


def test_a_turned_sixteen_bit_png_is_turned_once(tmp_path: Path) -> None:
    values = deep(3)
    exif = Image.Exif()
    exif[274] = 6
    whole = png(values, 2)
    chunk = png_file([(b"eXIf", exif.tobytes()[6:])])[8:-12]
    # Behind the signature and the header chunk.
    source = read(tmp_path, whole[:33] + chunk + whole[33:])
    np.testing.assert_array_equal(colours(source), np.rot90(rounded(values), -1))


def test_sixteen_bit_png_gray_is_rounded_not_clipped(tmp_path: Path) -> None:
    values = deep(1)
    source = read(tmp_path, png(values, 0))
    np.testing.assert_array_equal(colours(source), rounded(values).repeat(3, axis=2))
    assert source.warnings == ("16 bits a channel were reduced to 8",)


def test_sixteen_bit_png_gray_keeps_its_alpha(tmp_path: Path) -> None:
    values = deep(2)
    source = read(tmp_path, png(values, 4))
    np.testing.assert_array_equal(source.pixels, rounded(values)[..., [0, 0, 0, 1]])


def test_a_transparent_value_of_a_sixteen_bit_png_hides_that_value_only(tmp_path: Path) -> None:
    values = deep(3)
    # The neighbour has the same high bytes.
    values[2, 3] = values[2, 2] ^ 1
    source = read(tmp_path, png(values, 2, transparent=tuple(int(v) for v in values[2, 2])))
    assert np.argwhere(source.pixels[..., 3] == 0).tolist() == [[2, 2]]

    gray = values[..., :1]
    source = read(tmp_path, png(gray, 0, transparent=(int(gray[2, 2, 0]),)))
    np.testing.assert_array_equal(source.pixels[..., 3] == 0, gray[..., 0] == gray[2, 2, 0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_colour_is_rounded_in_both_byte_orders(tmp_path: Path, order: Literal["<", ">"]) -> None:
    values = deep(4)
    source = read(tmp_path, tiff(values, RGB, order=order, extra=2))
    np.testing.assert_array_equal(source.pixels, rounded(values))
    assert source.warnings == ("16 bits a channel were reduced to 8",)


def test_a_turned_sixteen_bit_tiff_is_turned_once(tmp_path: Path) -> None:
    values = deep(3)
    source = read(tmp_path, tiff(values, RGB, orientation=6))
    np.testing.assert_array_equal(colours(source), np.rot90(rounded(values), -1))


def test_a_fourth_channel_that_is_no_alpha_is_left_out(tmp_path: Path) -> None:
    source = read(tmp_path, tiff(deep(4), RGB, extra=0))
    np.testing.assert_array_equal(colours(source), rounded(deep(4))[..., :3])
    assert not source.has_alpha


def test_premultiplied_sixteen_bit_colour_is_made_straight(tmp_path: Path) -> None:
    values = np.array([[[30000, 900, 0, 30000], [10000, 20000, 40000, 40000], [0, 0, 0, 0]]], np.uint16)
    source = read(tmp_path, tiff(values, RGB, extra=1))
    assert source.pixels[0].tolist() == [[255, 8, 0, 117], [64, 128, 255, 156], [0, 0, 0, 0]]


@pytest.mark.parametrize(("photometric", "black"), [(GRAY, 0), (WHITE_IS_ZERO, 255)])
def test_sixteen_bit_gray_tiff_is_rounded_and_knows_its_black(tmp_path: Path, photometric: int, black: int) -> None:
    values = deep(1)
    source = read(tmp_path, tiff(values, photometric))
    np.testing.assert_array_equal(source.pixels[..., 0], rounded(values)[..., 0] ^ black)


def test_a_sixteen_bit_pgm_is_reduced(tmp_path: Path) -> None:
    values = deep(1)
    source = read(tmp_path, b"P5 7 5 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(source.pixels[..., 0], rounded(values)[..., 0])


def test_sixteen_bit_cmyk_says_that_it_was_reduced(tmp_path: Path) -> None:
    source = read(tmp_path, tiff(deep(4), CMYK))
    assert source.warnings[0] == "16 bits a channel were reduced to 8"


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_colour_is_linear_light_and_never_normalised(tmp_path: Path, kind: type[np.floating[Any]]) -> None:
    light = np.array([[[0.0, 0.001, 0.01], [0.18, 0.214041, 0.5], [1.0, 7.5, -2.0], [np.nan, 0.0, 0.0]]], kind)
    source = read(tmp_path, tiff(light, RGB, FLOAT))
    # IEC 61966-2-1 worked out by hand: mid gray 0.18 is 118, half light is 188.
    assert colours(source)[0].tolist() == [[0, 3, 25], [118, 127, 188], [255, 255, 0], [0, 0, 0]]
    assert "linear light" in source.warnings[0]
    darker = read(tmp_path, tiff(light[:, :1], RGB, FLOAT))
    assert colours(darker)[0].tolist() == [[0, 3, 25]]


def test_float_gray_and_float_alpha_are_read(tmp_path: Path) -> None:
    gray = read(tmp_path, tiff(np.array([[[0.5], [1.0]]], np.float32), GRAY, FLOAT, orientation=6))
    assert gray.pixels.tolist() == [[[188, 188, 188, 255]], [[255, 255, 255, 255]]]
    straight = read(tmp_path, tiff(np.array([[[0.5, 0.5, 0.5, 0.5]]], np.float32), RGB, FLOAT, extra=2))
    assert straight.pixels.tolist() == [[[188, 188, 188, 128]]]
    premultiplied = read(tmp_path, tiff(np.array([[[0.25, 0.25, 0.25, 0.5]]], np.float32), RGB, FLOAT, extra=1))
    assert premultiplied.pixels.tolist() == [[[188, 188, 188, 128]]]


@pytest.mark.parametrize(
    ("values", "photometric", "sample_format", "tags", "words"),
    [
        (deep(3), RGB, WHOLE, {"planar": 2}, "16-bit samples in separate planes"),
        (deep(3).astype(np.uint32), RGB, WHOLE, {}, "whole-number samples of 32 bits"),
        (deep(1).astype(np.int16), GRAY, SIGNED, {}, "signed samples of 16 bits"),
        (np.ones((5, 7, 3), np.float16), RGB, FLOAT, {}, "floating-point samples of 16 bits"),
        (deep(3), RGB, WHOLE, {"dng": 1}, "raw file"),
    ],
)
def test_samples_that_no_decoder_gets_right_are_refused_by_name(
    tmp_path: Path, values: npt.NDArray[Any], photometric: int, sample_format: int, tags: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, tiff(values, photometric, sample_format, **tags))


# Transparency and palettes


def test_a_palette_with_transparency_becomes_rgba(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    source = read(tmp_path, saved(indexed, "PNG", transparency=bytes([255, 128, 0])))
    assert source.pixels.tolist() == [[[10, 20, 30, 255], [40, 50, 60, 128], [70, 80, 90, 0]]]
    assert source.has_alpha


def test_a_transparent_colour_of_an_rgb_png_is_transparent(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    source = read(tmp_path, saved(image, "PNG", transparency=(4, 5, 6)))
    assert source.pixels[..., 3].tolist() == [[255, 0]]


@pytest.mark.parametrize(("depth", "row"), [(1, 0b01000000), (2, 0b00011011), (4, 0x01)])
def test_the_transparent_value_of_a_png_of_few_bits_is_found(tmp_path: Path, depth: int, row: int) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, depth, 0, 0, 0, 0)
    data = png_file([(b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(bytes([0, row])))])
    assert read(tmp_path, data).pixels[..., 3].tolist() == [[255, 0]]


def test_colour_under_transparency_is_kept(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7, 0], [1, 2, 3, 4]]], np.uint8)
    source = read(tmp_path, saved(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(source.pixels, pixels)


def test_an_opaque_rgba_picture_has_no_alpha(tmp_path: Path) -> None:
    assert not read(tmp_path, saved(picture().convert("RGBA"), "PNG")).has_alpha


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_every_plain_mode_of_png_comes_out_as_rgba(tmp_path: Path, mode: str) -> None:
    image = picture().convert(mode)
    source = read(tmp_path, saved(image, "PNG"))
    np.testing.assert_array_equal(source.pixels, np.asarray(image.convert("RGBA")))
    assert source.pixels.dtype == np.uint8
    assert (source.warnings, source.icc) == ((), None)


# Limits and bad files


def test_too_many_pixels_are_an_error_that_names_the_flag_and_the_number(tmp_path: Path) -> None:
    data = saved(picture(12, 8), "PNG")
    with pytest.raises(InputError, match="96 pixels, more than the limit of 95") as caught:
        read(tmp_path, data, max_pixels=95)
    assert "--max-pixels 96" in str(caught.value.hint)
    assert read(tmp_path, data, max_pixels=96).width == 12


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG"])
def test_the_limit_holds_before_anything_is_decoded(tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    data = saved(picture(64, 64), file_format)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(InputError, match=r"4,096 pixels, more than the limit of 1,000"):
        read(tmp_path, data, max_pixels=1000)


def test_the_limit_holds_for_float_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="35 pixels, more than the limit of 34"):
        read(tmp_path, tiff(deep(3).astype(np.float32), RGB, FLOAT), max_pixels=34)


def test_the_limit_of_pillow_itself_is_left_as_it_was(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    read(tmp_path, saved(picture(), "PNG"), max_pixels=1000)
    with pytest.raises(InputError):
        read(tmp_path, b"nonsense")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "QOI", "JPEG2000", "AVIF"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, file_format: str) -> None:
    data = saved(picture(96, 64), file_format)
    with pytest.raises(InputError, match=r"cut\.bin"):
        read(tmp_path, data[: len(data) * 6 // 10], "cut.bin")


@pytest.mark.parametrize("sample_format", [WHOLE, FLOAT])
def test_a_truncated_deep_tiff_is_an_error(tmp_path: Path, sample_format: int) -> None:
    values = np.ones((64, 64, 3), np.uint16 if sample_format == WHOLE else np.float32)
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, tiff(values, RGB, sample_format)[:-5000])


def test_a_tiff_that_names_too_few_strips_is_an_error(tmp_path: Path) -> None:
    # The height alone is changed; the one strip still holds five rows.
    entry = struct.pack("<HHI", 257, 4, 1)
    data = tiff(deep(3).astype(np.uint8), RGB)
    assert read(tmp_path, data).height == 5
    with pytest.raises(InputError, match="fewer strips than it has rows"):
        read(tmp_path, data.replace(entry + struct.pack("<I", 5), entry + struct.pack("<I", 50)))


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for file_format, word in (("GIF", "frame"), ("WEBP", "frame"), ("PNG", "frame"), ("TIFF", "page")):
        source = read(tmp_path, saved(frames[0], file_format, save_all=True, append_images=frames[1:], **_exactly(file_format)))
        assert source.pixels[0, 0].tolist() == [255, 0, 0, 255]
        assert source.warnings == (f"it has more than one {word}: only the first is used",)


def _exactly(file_format: str) -> dict[str, bool]:
    return {"lossless": True} if file_format == "WEBP" else {}


def test_an_empty_file_says_that_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        read(tmp_path, b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"just some words", "not a picture"),
        (b"%PDF-1.7 ...", "is a PDF"),
        (b"\n <svg xmlns=''/>", "is an SVG drawing"),
        (b"8BPS\0\1", "is a Photoshop file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript drawing"),
    ],
)
def test_a_file_that_is_no_picture_is_named_for_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, data)
    assert caught.value.hint


def test_a_raw_file_is_not_read_as_its_thumbnail(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raw file"):
        read(tmp_path, saved(picture(), "TIFF"), "DSC_0001.NEF")


def test_a_tga_is_read_by_its_ending_alone(tmp_path: Path) -> None:
    data = saved(picture(), "TGA")
    np.testing.assert_array_equal(colours(read(tmp_path, data, "a.tga")), np.asarray(picture()))
    with pytest.raises(InputError, match="not a picture"):
        read(tmp_path, data, "a.dat")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_source(tmp_path)


def test_a_missing_file_suggests_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "photo.jpeg").touch()
    with pytest.raises(InputError, match="there is no file") as caught:
        read_source(tmp_path / "photo.jpg")
    assert caught.value.hint == f"did you mean {tmp_path / 'photo.jpeg'}?"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no ordinary file"):
        read_source(tmp_path / "pipe")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(saved(picture(), "PNG"))

    # Taking the rights away would not stop a test that runs as root.
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match="may not be read") as caught:
        read_source(path)
    assert str(path) in str(caught.value.hint)


def test_heic_without_its_extra_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingDependencyError) as caught:
        read(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    assert caught.value.hint == "pip install 'layerctl[heic]'"


def test_an_avif_is_not_taken_for_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert read(tmp_path, saved(picture(), "AVIF")).width == 12


# Robustness


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    data = saved(picture(), "PNG")
    assert read(tmp_path, data).sha256 == hashlib.sha256(data).hexdigest()


def test_two_threads_can_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(picture(), "PNG"))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(read_source(tmp_path / "a.png").width)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [12] * 4


def _samples() -> list[bytes]:
    written = Image.Exif()
    written[0x8298] = "nobody"
    written[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    exif = written.tobytes()
    indexed = picture().convert("P")
    return [
        saved(picture(), "PNG", exif=exif),
        saved(picture(), "JPEG", exif=exif, progressive=True),
        saved(picture(), "TIFF", compression="tiff_lzw"),
        saved(picture(), "WEBP", exif=exif),
        saved(indexed, "GIF", save_all=True, append_images=[indexed.rotate(90)]),
        saved(picture(), "BMP"),
        saved(picture(), "JPEG2000"),
        saved(picture(), "AVIF"),
        saved(picture(), "QOI"),
        saved(picture().convert("CMYK"), "TIFF"),
        png(deep(4), 6),
        tiff(deep(4), RGB, extra=2),
        tiff(deep(3).astype(np.float32), RGB, FLOAT),
    ]


@pytest.mark.parametrize("sample", range(13))
def test_a_damaged_file_is_a_picture_or_an_input_error_and_never_slow(tmp_path: Path, sample: int) -> None:
    data = _samples()[sample]
    chance = random.Random(sample)
    for _ in range(16):
        broken = bytearray(data)
        # Headers are where one byte does most.
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(min(len(broken), chance.choice((64, 256, len(broken)))))] = chance.choice(
                (0, 1, 127, 255, chance.randrange(256))
            )
        if chance.random() < 0.3:
            del broken[chance.randrange(len(broken)) :]
        begun = time.perf_counter()
        try:
            source = read(tmp_path, bytes(broken))
        except InputError:
            pass
        else:
            assert source.pixels.shape == (source.height, source.width, 4)
        assert time.perf_counter() - begun < 5
