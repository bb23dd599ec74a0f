"""What a Photoshop document knows about itself: profile, resolution, thumbnail, rights and place."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image
from psd_tools.constants import Resource
from psd_tools.psd.image_resources import Byte, ImageResource, ImageResources, ResoulutionInfo, ThumbnailResource, VersionInfo

from layerctl.layers import LayerStack, Pixels
from layerctl.metadata import Metadata

THUMBNAIL_SIDE = 256
PIXELS_PER_INCH = 1
INCHES = 1
JPEG_RGB = 1


def image_resources(stack: LayerStack, merged: Pixels, metadata: Metadata) -> ImageResources:
    """The resources of a document whose merged image is `merged` (uint8, RGBA over white)."""
    # Tells readers that the merged image is real and may be shown without reading the layers.
    version = VersionInfo(has_composite=True, writer="layerctl", reader="layerctl")
    resources: list[tuple[Resource, Any]] = [(Resource.VERSION_INFO, version), (Resource.THUMBNAIL_RESOURCE, _thumbnail(merged))]
    if stack.icc is not None:
        resources.append((Resource.ICC_PROFILE, stack.icc))
    if stack.dpi is not None:
        across, down = (_fixed_point(dpi) for dpi in stack.dpi)
        resources.append((Resource.RESOLUTION_INFO, ResoulutionInfo(across, PIXELS_PER_INCH, INCHES, down, PIXELS_PER_INCH, INCHES)))
    exif, xmp = metadata.to_exif(), metadata.to_xmp()
    if exif is not None:
        resources.append((Resource.EXIF_DATA_1, exif))
    if xmp is not None:
        resources.append((Resource.XMP_METADATA, xmp))
    if metadata.copyright is not None:
        resources.append((Resource.COPYRIGHT_FLAG, Byte(1)))
    blocks = ImageResources()
    for key, data in resources:
        blocks[key] = ImageResource(key=key, data=data)
    return blocks


def _fixed_point(dpi: float) -> int:
    """16.16 fixed point, the nearest that the 32 bits can hold."""
    return max(1, min(round(dpi * 65536), 2**32 - 1))


def _thumbnail(merged: Pixels) -> ThumbnailResource:
    height, width = merged.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.asarray(cv2.resize(merged, size, interpolation=cv2.INTER_AREA), np.uint8)).convert("RGB")
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=90)
    row = (image.width * 24 + 31) // 32 * 4
    return ThumbnailResource(JPEG_RGB, image.width, image.height, row, row * image.height, 24, 1, jpeg.getvalue())
