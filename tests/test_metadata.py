"""What is carried from a picture to its layers: rights, author, description and place."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layerctl.metadata import Metadata
from layerctl.source import read_source

WORDS = Metadata("© 2024 Zoë & Søn <all rights>", "Zoë", "Ein Schloß 城")
GPS = {1: "N", 2: (59.0, 19.0, 46.25), 3: "E", 4: (18.0, 4.0, 7.0)}


def saved_metadata(folder: Path, file_format: str = "PNG", **options: Any) -> Metadata:
    path = folder / "picture"
    Image.new("RGB", (4, 4)).save(path, file_format, **options)
    return read_source(path).metadata


def exif_with(values: dict[int, Any]) -> bytes:
    exif = Image.Exif()
    for tag, value in values.items():
        exif[tag] = value
    return exif.tobytes()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_rights_author_and_description_come_from_exif(tmp_path: Path, file_format: str) -> None:
    values: dict[int, Any] = {0x8298: b"nobody", 0x013B: "José".encode(), 0x010E: b"a castle"}
    # A TIFF holds these in its own directory, where Pillow writes ASCII alone from `exif`.
    options = {"tiffinfo": values} if file_format == "TIFF" else {"exif": exif_with(values)}
    assert saved_metadata(tmp_path, file_format, **options) == Metadata("nobody", "José", "a castle")


def test_exif_in_latin_1_is_understood_too(tmp_path: Path) -> None:
    assert saved_metadata(tmp_path, exif=exif_with({0x8298: "© José".encode("latin-1")})).copyright == "© José"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_xmp_goes_before_exif(tmp_path: Path, file_format: str) -> None:
    xmp = WORDS.to_xmp()
    assert xmp is not None
    exif: dict[int, Any] = {0x8298: b"somebody else"}
    options: dict[str, Any] = {"xmp": xmp, "exif": exif_with(exif)}
    if file_format == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": text, "exif": exif_with(exif)}
    if file_format == "TIFF":
        options = {"tiffinfo": {**exif, 700: xmp}}
    found = saved_metadata(tmp_path, file_format, **options)
    assert (found.copyright, found.artist, found.description) == (WORDS.copyright, WORDS.artist, WORDS.description)


def test_the_default_language_of_xmp_is_taken_and_authors_are_listed(tmp_path: Path) -> None:
    xmp = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">
        <dc:rights><rdf:Alt><rdf:li xml:lang="de">Rechte</rdf:li><rdf:li xml:lang="x-default">Rights</rdf:li></rdf:Alt></dc:rights>
        <dc:creator><rdf:Seq><rdf:li>Ann</rdf:li><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>
      </rdf:Description></rdf:RDF></x:xmpmeta>"""
    assert saved_metadata(tmp_path, "JPEG", xmp=xmp.encode()) == Metadata("Rights", "Ann, Bob")


def test_png_text_is_the_last_resort(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("Copyright", "by text")
    text.add_text("Author", "Ann")
    assert saved_metadata(tmp_path, pnginfo=text) == Metadata("by text", "Ann")
    assert saved_metadata(tmp_path, pnginfo=text, exif=exif_with({0x8298: b"by exif"})).copyright == "by exif"


@pytest.mark.parametrize("xmp", [b"<broken", b"", b"\xff\xfe\0", b"<a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"])
def test_xmp_that_is_broken_or_declares_entities_says_nothing(tmp_path: Path, xmp: bytes) -> None:
    assert saved_metadata(tmp_path, "JPEG", xmp=xmp) == Metadata()


def test_text_is_one_line_without_control_characters(tmp_path: Path) -> None:
    found = saved_metadata(tmp_path, exif=exif_with({0x8298: b"photo\0edit\x1b[31m", 0x013B: b"  \0", 0x010E: b"a\nb"}))
    assert found == Metadata("photo edit [31m", None, "a b")


def test_words_and_place_survive_a_round_trip_through_exif(tmp_path: Path) -> None:
    first = saved_metadata(tmp_path, exif=exif_with({0x8298: (WORDS.copyright or "").encode(), 0x8825: GPS}))
    exif = first.to_exif()
    assert exif is not None
    again = saved_metadata(tmp_path, exif=exif)
    assert again == first
    assert Image.open(BytesIO(_png(exif))).getexif().get_ifd(0x8825) == GPS


def test_stripping_drops_the_place_and_keeps_the_rights(tmp_path: Path) -> None:
    found = saved_metadata(tmp_path, "JPEG", exif=exif_with({0x8298: b"nobody", 0x8825: GPS}))
    assert found.location is not None
    stripped = found.without_location()
    assert stripped == Metadata("nobody")
    exif = stripped.to_exif()
    assert exif is not None
    assert Image.open(BytesIO(_png(exif))).getexif().get_ifd(0x8825) == {}


def test_nothing_to_say_is_no_block_at_all() -> None:
    assert (Metadata().to_exif(), Metadata().to_xmp()) == (None, None)


def test_nothing_of_the_camera_is_carried(tmp_path: Path) -> None:
    found = saved_metadata(tmp_path, exif=exif_with({0x8298: b"nobody", 0x010F: b"Camera Maker", 0x0132: b"2024:01:01 10:00:00"}))
    exif = found.to_exif()
    assert exif is not None
    assert b"nobody" in exif
    assert b"Camera" not in exif
    assert b"2024" not in exif


def _png(exif: bytes) -> bytes:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG", exif=exif)
    return file.getvalue()
