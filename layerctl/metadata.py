"""What a picture says about itself: rights, author, description and place, read from EXIF, XMP and PNG text.

Only these four are carried from a source to what is made of it. Camera settings, thumbnails, edit histories and maker notes describe
a file that the layers no longer are, and stay behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from PIL import Image

_DESCRIPTION, _ARTIST, _COPYRIGHT, _GPS = 0x010E, 0x013B, 0x8298, 0x8825
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_LONGEST_XMP = 1 << 20
_LONGEST_TEXT = 4000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Rights, author and description as plain text on one line.

    `location`: an EXIF block ("MM" or "II" first) that holds a GPS directory and nothing else.
    """

    copyright: str | None = None
    artist: str | None = None
    description: str | None = None
    location: bytes | None = field(default=None, repr=False)

    def without_location(self) -> Metadata:
        return replace(self, location=None)

    def to_exif(self) -> bytes | None:
        """An EXIF block ("MM" first, UTF-8 text) for PNG's eXIf chunk or PSD's resource 1058; None when there is nothing to say."""
        from PIL import Image

        exif = Image.Exif()
        for tag, text in ((_DESCRIPTION, self.description), (_ARTIST, self.artist), (_COPYRIGHT, self.copyright)):
            if text is not None:
                exif[tag] = text.encode()
        if self.location is not None:
            place = Image.Exif()
            place.load(self.location)
            exif[_GPS] = place.get_ifd(_GPS)
        return _exif_block(exif) if len(exif) else None

    def to_xmp(self) -> bytes | None:
        """An XMP packet with the three texts (never the place), for PNG's iTXt or PSD's resource 1060; None when there is no text."""
        fields = [
            _xmp_field("rights", "Alt", ' xml:lang="x-default"', self.copyright),
            _xmp_field("creator", "Seq", "", self.artist),
            _xmp_field("description", "Alt", ' xml:lang="x-default"', self.description),
        ]
        if not any(fields):
            return None
        marked = "<xmpRights:Marked>True</xmpRights:Marked>" if self.copyright is not None else ""
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
            f'<rdf:Description rdf:about="" xmlns:dc="{_DC}" xmlns:xmpRights="{_RIGHTS}">'
            f'{"".join(fields)}{marked}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
        ).encode()


def read_metadata(exif: Image.Exif, xmp: bytes | str | None, text: Mapping[Any, Any]) -> Metadata:
    """The picture's metadata: XMP before EXIF before PNG text (`text`), since XMP alone is Unicode by definition.

    What is malformed counts as absent. Raises what Pillow raises for a GPS directory that cannot be read.
    """
    from_xmp = _read_xmp(xmp)
    gps = exif.get_ifd(_GPS)
    location = None
    if gps:
        place = type(exif)()
        place[_GPS] = gps
        location = _exif_block(place)
    return Metadata(
        copyright=from_xmp.copyright or _plain(exif.get(_COPYRIGHT)) or _plain(text.get("Copyright")),
        artist=from_xmp.artist or _plain(exif.get(_ARTIST)) or _plain(text.get("Author")),
        description=from_xmp.description or _plain(exif.get(_DESCRIPTION)) or _plain(text.get("Description")),
        location=location,
    )


def _read_xmp(packet: bytes | str | None) -> Metadata:
    if packet is None or len(packet) > _LONGEST_XMP:
        return Metadata()
    raw = packet.encode() if isinstance(packet, str) else packet
    # A document type can declare entities that expand without end; XMP never has one.
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        return Metadata()
    try:
        root = ElementTree.fromstring(raw.strip(b"\0 \t\r\n"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return Metadata()
    return Metadata(
        copyright=_in_default_language(root, "rights"),
        artist=_one_line(", ".join(item.text or "" for item in root.iterfind(f".//{{{_DC}}}creator//{{{_RDF}}}li"))),
        description=_in_default_language(root, "description"),
    )


def _in_default_language(root: ElementTree.Element, name: str) -> str | None:
    items = root.findall(f".//{{{_DC}}}{name}//{{{_RDF}}}li")
    chosen = next((item for item in items if item.get(_LANG) == "x-default"), items[0] if items else None)
    return None if chosen is None else _one_line(chosen.text or "")


def _xmp_field(name: str, container: str, attributes: str, text: str | None) -> str:
    if text is None:
        return ""
    return f"<dc:{name}><rdf:{container}><rdf:li{attributes}>{escape(text)}</rdf:li></rdf:{container}></dc:{name}>"


def _exif_block(exif: Image.Exif) -> bytes:
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _plain(value: object) -> str | None:
    """Text on one line, None for no text; EXIF text that is UTF-8 behind Pillow's Latin-1 is put right."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return _one_line(str(value))
    if not isinstance(value, bytes):
        return None
    try:
        return _one_line(value.decode())
    except UnicodeDecodeError:
        return _one_line(value.decode("latin-1"))


def _one_line(text: str) -> str | None:
    return _CONTROLS.sub(" ", text).strip()[:_LONGEST_TEXT] or None
