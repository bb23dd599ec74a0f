"""Photoshop documents: PSD, and by itself PSB (the same with wider numbers) where a PSD would be too large.

Layers are cropped to their content and packed by PackBits, which every reader takes. The merged image that viewers show is made here:
the flattened stack over white with its alpha as a fourth channel, announced by a negative layer count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from psd_tools.constants import ChannelID, ColorMode, Compression, SectionDivider, Tag
from psd_tools.psd import PSD
from psd_tools.psd.header import FileHeader
from psd_tools.psd.image_data import ImageData
from psd_tools.psd.layer_and_mask import (
    ChannelData,
    ChannelDataList,
    ChannelImageData,
    ChannelInfo,
    GlobalLayerMaskInfo,
    LayerAndMaskInformation,
    LayerFlags,
    LayerInfo,
    LayerRecord,
    LayerRecords,
    MaskData,
)
from psd_tools.psd.tagged_blocks import TaggedBlocks

from layerctl.composite import flatten
from layerctl.errors import OutputError
from layerctl.layers import Group, Layer, LayerStack, Pixels, crop_to_content, on_canvas
from layerctl.metadata import Metadata
from layerctl.names import fitted, printable, utf16_units
from layerctl.registry import ExportOptions
from layerctl_exporters.bleed import bleed
from layerctl_exporters.packbits import pack_rows
from layerctl_exporters.psd_resources import image_resources

PackedRows = Iterable[bytes]
COLOURS = (ChannelID.CHANNEL_0, ChannelID.CHANNEL_1, ChannelID.CHANNEL_2)
LARGEST_PSD_SIDE = 30_000
LARGEST_PSB_SIDE = 300_000
LARGEST_PSD_BYTES = 2**31 - 1
LONGEST_NAME = 255
MASK_MARGIN = 32
BAND_ROWS = 64
LOCKED = 0x80000000
"""The protection flag for everything: pixels, position, transparency."""


class PsdExporter:
    name = "psd"
    suffix = ".psd"
    is_folder = False

    def suffix_for(self, stack: LayerStack, options: ExportOptions) -> str:
        return ".psb" if _reason_for_psb(stack, options) else ".psd"

    def export(self, stack: LayerStack, path: Path, options: ExportOptions) -> tuple[str, ...]:
        """Write one file in the format of `suffix_for`. Raises OutputError for a canvas beyond PSB, ValueError for a wrong source size."""
        if max(stack.width, stack.height) > LARGEST_PSB_SIDE:
            raise OutputError(
                f"a canvas of {stack.width} x {stack.height} pixels does not fit into a Photoshop file (at most {LARGEST_PSB_SIDE} a side)",
                hint="scale the picture down, or use --format png",
            )
        source = options.source
        if source is not None and (source.width, source.height) != (stack.width, stack.height):
            raise ValueError(f"the source is {source.width} x {source.height} pixels, the layers {stack.width} x {stack.height}")
        reason = _reason_for_psb(stack, options)
        document, renamed = _document(eight_bit(stack), options, version=2 if reason else 1)
        with path.open("wb") as file:
            document.write(file)
        remarks = [f"written as PSB, Photoshop's large document format, because {reason}"] if reason else []
        if any(layer.pixels.dtype == np.uint16 for layer in stack.walk()):
            remarks.append("the layers have 16 bits a channel, the file has 8")
        remarks += [f"the name {name[:40]!r}... was cut to {LONGEST_NAME} characters" for name in renamed]
        return tuple(remarks)


EXPORTER = PsdExporter()


def eight_bit(stack: LayerStack) -> LayerStack:
    """The stack with every uint16 layer rounded to uint8; the same object if there is none."""
    if all(layer.pixels.dtype == np.uint8 for layer in stack.walk()):
        return stack
    return stack.with_layers(tuple(_eight_bit(node) for node in stack.layers))


def _eight_bit(node: Layer | Group) -> Layer | Group:
    if isinstance(node, Group):
        return replace(node, children=tuple(_eight_bit(child) for child in node.children))
    if node.pixels.dtype == np.uint8:
        return node
    return replace(node, pixels=((node.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _reason_for_psb(stack: LayerStack, options: ExportOptions) -> str | None:
    """Why a PSD cannot hold the stack. The bytes are those of pixels that do not compress, so that the answer is known beforehand."""
    if max(stack.width, stack.height) > LARGEST_PSD_SIDE:
        return f"the canvas is {stack.width} x {stack.height} pixels and a PSD ends at {LARGEST_PSD_SIDE}"
    canvas = stack.width * stack.height
    margin = 2 * MASK_MARGIN if options.masks else 0
    areas = [canvas if options.full_canvas else (layer.width + margin) * (layer.height + margin) for layer in stack.walk()]
    pixels = canvas * (2 if options.original else 1) + sum(areas)
    # PackBits adds at most one byte to 127, and two for each row.
    if pixels * 4 * 1.02 > LARGEST_PSD_BYTES:
        return f"it may take {pixels * 4 / 2**30:.1f} GB and a PSD ends at 2"
    return None


@dataclass(slots=True)
class _Records:
    """The layers of a document in file order, bottom to top, while it is put together."""

    version: int
    records: LayerRecords = field(default_factory=LayerRecords)
    channels: ChannelImageData = field(default_factory=ChannelImageData)
    renamed: list[str] = field(default_factory=list)

    def add(self, name: str, *, opacity: float = 1.0, visible: bool = True) -> LayerRecord:
        clean = printable(name)
        shown = fitted(clean, LONGEST_NAME, utf16_units)
        if shown != clean:
            self.renamed.append(clean)
        # The old name is a byte string in MacRoman; readers prefer the Unicode one.
        old_name = shown.encode("mac_roman", "replace").decode("mac_roman")
        record = LayerRecord(name=old_name, opacity=round(opacity * 255), flags=LayerFlags(visible=visible))
        record.tagged_blocks = TaggedBlocks()
        record.tagged_blocks.set_data(Tag.UNICODE_LAYER_NAME, shown)
        self.records.append(record)
        self.channels.append(ChannelDataList())
        return record

    def add_plane(self, channel: ChannelID, rows: PackedRows) -> None:
        """Append a channel to the record added last."""
        self._add_channel(channel, ChannelData(Compression.RLE, joined(rows, self.version)))

    def add_divider(self, name: str, kind: SectionDivider, *, opacity: float = 1.0, visible: bool = True) -> None:
        record = self.add(name, opacity=opacity, visible=visible)
        record.tagged_blocks.set_data(Tag.SECTION_DIVIDER_SETTING, kind)
        for channel in (ChannelID.TRANSPARENCY_MASK, *COLOURS):
            self._add_channel(channel, ChannelData(Compression.RAW, b""))

    def _add_channel(self, channel: ChannelID, data: ChannelData) -> None:
        self.records[-1].channel_info.append(ChannelInfo(channel, 2 + len(data.data)))
        self.channels[-1].append(data)


def _document(stack: LayerStack, options: ExportOptions, *, version: int) -> tuple[PSD, list[str]]:
    """The file as a structure of psd-tools, and the names that had to be cut."""
    document = _Records(version)
    for node in stack.layers:
        _add_node(document, node, stack, options)
    if options.original and options.source is not None:
        original = Layer("Original", options.source.pixels, visible=False)
        _add_layer(document, original, stack, replace(options, masks=False))
        document.records[-1].tagged_blocks.set_data(Tag.PROTECTED_SETTING, LOCKED)
    merged = over_white(flatten(stack))
    info = LayerInfo(-len(document.records), document.records, document.channels)
    psd = PSD(
        header=FileHeader(version=version, channels=4, width=stack.width, height=stack.height, depth=8, color_mode=ColorMode.RGB),
        image_resources=image_resources(stack, merged, options.source.metadata if options.source else Metadata()),
        layer_and_mask_information=LayerAndMaskInformation(info, GlobalLayerMaskInfo(), TaggedBlocks()),
        image_data=ImageData(Compression.RLE, joined(chain(*packed_planes(merged)), version)),
    )
    return psd, document.renamed


def _add_node(document: _Records, node: Layer | Group, stack: LayerStack, options: ExportOptions) -> None:
    if isinstance(node, Layer):
        _add_layer(document, node, stack, options)
        return
    document.add_divider("</Layer group>", SectionDivider.BOUNDING_SECTION_DIVIDER)
    for child in node.children:
        _add_node(document, child, stack, options)
    document.add_divider(node.name, SectionDivider.OPEN_FOLDER, opacity=node.opacity, visible=node.visible)


def _add_layer(document: _Records, layer: Layer, stack: LayerStack, options: ExportOptions) -> None:
    if options.full_canvas:
        layer = replace(layer, pixels=on_canvas(layer, stack.width, stack.height), left=0, top=0)
    else:
        layer = crop_to_content(layer)
    record = document.add(layer.name, opacity=layer.opacity, visible=layer.visible)
    masked = options.masks and bool((layer.pixels[..., 3] < 255).any())
    if masked:
        layer = _unclipped(layer, stack, options)
    record.left, record.top, record.right, record.bottom = layer.box
    *colours, alpha = packed_planes(layer.pixels if masked else bleed(layer.pixels))
    opaque = pack_rows(np.full((1, layer.width), 255, np.uint8)) * layer.height
    document.add_plane(ChannelID.TRANSPARENCY_MASK, opaque if masked else alpha)
    for channel, plane in zip(COLOURS, colours, strict=True):
        document.add_plane(channel, plane)
    if masked:
        record.mask_data = MaskData(record.top, record.left, record.bottom, record.right)
        document.add_plane(ChannelID.USER_LAYER_MASK, alpha)


def _unclipped(layer: Layer, stack: LayerStack, options: ExportOptions) -> Layer:
    """The layer with a margin, and with the source's colour where it shows nothing: what a retoucher uncovers by painting on the mask."""
    left, top, right, bottom = layer.box
    x0, y0 = min(left, max(0, left - MASK_MARGIN)), min(top, max(0, top - MASK_MARGIN))
    x1, y1 = max(right, min(stack.width, right + MASK_MARGIN)), max(bottom, min(stack.height, bottom + MASK_MARGIN))
    pixels: Pixels = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
    pixels[top - y0 : bottom - y0, left - x0 : right - x0] = layer.pixels
    if options.source is None:
        pixels = bleed(pixels, reach=MASK_MARGIN)
    else:
        # A box outside of the canvas gives empty ranges.
        cx0, cy0 = max(x0, 0), max(y0, 0)
        cx1, cy1 = max(cx0, min(x1, stack.width)), max(cy0, min(y1, stack.height))
        inner = pixels[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0]
        hidden = inner[..., 3] == 0
        inner[hidden, :3] = options.source.pixels[cy0:cy1, cx0:cx1][hidden, :3]
    return replace(layer, pixels=pixels, left=x0, top=y0)


def packed_planes(pixels: Pixels) -> list[list[bytes]]:
    """The rows of the four channels, each packed by itself."""
    planes: list[list[bytes]] = [[], [], [], []]
    # Bands stay in the processor's cache while their channels are copied apart.
    for top in range(0, len(pixels), BAND_ROWS):
        for rows, plane in zip(planes, cv2.split(pixels[top : top + BAND_ROWS]), strict=True):
            rows.extend(pack_rows(np.asarray(plane, np.uint8)))
    return planes


def joined(rows: PackedRows, version: int) -> bytes:
    """The length of every row, then the rows: what follows the compression code of a channel or a merged image."""
    rows = list(rows)
    lengths = np.fromiter(map(len, rows), ">u2" if version == 1 else ">u4", len(rows))
    return b"".join((lengths.tobytes(), *rows))


def over_white(pixels: Pixels) -> Pixels:
    """The picture over white, its alpha kept: how a merged image stores transparency. An opaque picture is returned as it is."""
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        return pixels
    white = Image.new("RGBA", (pixels.shape[1], pixels.shape[0]), "white")
    matted = np.array(Image.alpha_composite(white, Image.fromarray(pixels)))
    matted[..., 3] = alpha
    return matted
