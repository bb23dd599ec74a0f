"""The embedded engine, end to end: text off, elements found, each cut out and completed, the plate completed below them.

Looks at an sRGB copy; the layers' colours are the source's own values. Its limits are in the README: designs are its strength.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.colour import is_srgb
from layerctl.engines.classic import elements, naming
from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.matte import Cutout, cut_out
from layerctl.engines.classic.network import Maps, look
from layerctl.engines.classic.text import TextBlock, find_text, group
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.registry import DecomposeRequest, Progress, Proposal
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
WORK = 512
"""Long side of the picture that elements are looked for in."""
LOOKS = (256, 320, 416)
"""Long sides at which the network sees the picture."""
TEXT_CONTRAST = 50.0
"""Distance between the colours of letters and of what is behind, of 442, from which the letters' trace can be told from texture."""
MOST_AUTO = 8
"""Layers, Background included, when as many are asked for as the picture has."""


@dataclass(frozen=True, slots=True)
class ClassicEngine:
    """Classical image processing, a small network and an OCR library, on the CPU; downloads nothing."""

    name: str = "classic"
    version: str = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        """Full-size layers: Background, elements bottom to top, text. At most `request.layers`; fewer come with a warning."""
        rgb = np.ascontiguousarray(source.srgb()[..., :3])
        own = rgb if is_srgb(source.icc) else np.ascontiguousarray(source.pixels[..., :3])
        outside = source.pixels[..., 3] == 0
        if outside.any() and not outside.all():
            ground = _ground(rgb, outside)
            rgb = np.where(outside[..., None], ground, rgb)
            own = rgb if is_srgb(source.icc) else np.where(outside[..., None], ground, own)
        progress("reading text", 0.05)
        blocks = find_text(rgb)
        most = MOST_AUTO if request.layers is None else request.layers
        lettered = _lettered(blocks, rgb.shape[:2])
        clean = _completed(rgb, lettered)
        progress("looking for elements", 0.25)
        work, looks, drafts = _survey(clean, lettered, request.kind)
        auto = request.layers is None
        proposal = _best(looks, drafts, most - 1 - len(blocks), auto)
        if proposal.kind == "photo":
            drafts = (elements.with_subject(drafts[-1], proposal.labels, work, looks),)
            proposal = _best(looks, drafts, most - 1 - len(blocks), auto)
        if len(blocks) > most // 2:
            elements_there = int(_best(looks, drafts, most - 1, auto=True).labels.max())
            if elements_there + len(blocks) > most - 1:
                places = max(1, round((most - 1) * elements_there / (elements_there + len(blocks)))) if elements_there and most > 2 else 0
                proposal = _best(looks, drafts, places, auto)
        blocks = group(blocks, max(1, most - 1 - int(proposal.labels.max())))
        progress("cutting out", 0.4)
        own_clean = clean if own is rgb else _completed(own, lettered)
        layers = _layers(rgb=clean, own=own_clean, proposal=proposal, outside=outside)
        progress("completing", 0.7)
        layers += [_text_layer(block, own, own_clean) for block in blocks]
        names = naming.unique([layer.name for layer in layers])
        layers = [replace(layer, name=name) for layer, name in zip(layers, names, strict=True)]
        warnings = _remarks(request, len(layers), proposal)
        settings: tuple[tuple[str, str | int | float | bool | None], ...] = (
            ("kind", proposal.kind),
            ("elements_found", proposal.found),
            ("text_blocks", len(blocks)),
        )
        return Proposal(LayerStack(source.width, source.height, tuple(layers), source.icc, source.dpi), warnings, settings)


ENGINE = ClassicEngine()


def _survey(clean: U8, lettered: Bool, kind: Literal["auto", "design", "photo"]) -> tuple[U8, list[Maps], tuple[elements.Draft, ...]]:
    """The work picture without text, what the network sees in it, and the drafts of both kinds, or of the one that was asked for."""
    height, width = clean.shape[:2]
    factor = min(1.0, WORK / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    work = cv2.resize(clean, size, interpolation=cv2.INTER_AREA)
    text = cv2.resize(lettered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    looks = [look(work, side) for side in LOOKS]
    return work, looks, elements.survey(work, looks, text, ("design", "photo") if kind == "auto" else (kind,))


def _best(looks: list[Maps], drafts: tuple[elements.Draft, ...], count: int, auto: bool) -> elements.Proposal:
    """The better of the drafts' proposals of `count` elements."""
    proposals = [elements.propose(draft, looks, max(0, count), auto) for draft in drafts]
    return max(proposals, key=lambda proposal: proposal.score)


def _ground(rgb: U8, outside: Bool) -> np.uint8:
    """White or black, whichever differs more from what the transparent picture shows."""
    return np.uint8(255 if rgb[~outside].mean() < 128 else 0)


def _lettered(blocks: tuple[TextBlock, ...], size: tuple[int, int]) -> Bool:
    """Where text shows, with a rim of one or two pixels."""
    mask = np.zeros(size, np.uint8)
    for block in blocks:
        height, width = block.alpha.shape
        view = mask[block.top : block.top + height, block.left : block.left + width]
        np.maximum(view, (block.alpha > 2).astype(np.uint8), out=view)
    return cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(bool)


def _completed(rgb: U8, unknown: Bool) -> U8:
    return complete(rgb, unknown) if unknown.any() else rgb


def _layers(rgb: U8, own: U8, proposal: elements.Proposal, outside: Bool) -> list[Layer]:
    """Background and elements in the source's own values."""
    height, width = rgb.shape[:2]
    labels = proposal.labels
    plate, around = None, np.zeros((height, width), bool)
    if proposal.kind == "design" and labels.any():
        wide = cv2.dilate((labels > 0).astype(np.uint8), np.ones((11, 11), np.uint8))
        around = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        plate = complete(rgb, around)
    cutouts = cut_out(rgb, labels, proposal.element, plate)
    covered = np.zeros((height, width), np.uint8)
    for cutout in cutouts:
        left, top, right, bottom = cutout.box
        np.maximum(covered[top:bottom, left:right], (cutout.alpha > 1).astype(np.uint8), out=covered[top:bottom, left:right])
    hidden = cv2.dilate(covered, np.ones((5, 5), np.uint8)).astype(bool)
    if plate is not None and own is rgb:
        background = _completed(np.where((hidden & around)[..., None], plate, own), hidden & ~around)
    else:
        background = _completed(own, hidden)
    layers = [Layer("Background", np.dstack([background, np.full((height, width), 255, np.uint8)]), kind="background")]
    below = background.copy()
    for number, cutout in enumerate(cutouts, 1):
        layers.append(_element(cutout, number, rgb, own, below, number == proposal.subject))
    return layers


def _element(cutout: Cutout, number: int, rgb: U8, own: U8, below: U8, is_subject: bool) -> Layer:
    """The layer of a cut-out; `below`, the composite of what lies under it, becomes the composite with it."""
    left, top, right, bottom = cutout.box
    crop = own[top:bottom, left:right]
    under = below[top:bottom, left:right]
    hidden = (cutout.alpha > 0) & ~cutout.visible
    solid = (cutout.alpha > 250) & cutout.visible
    colour = complete(crop, hidden, avoid=~solid) if hidden.any() and solid.any() else crop.copy()
    soft = (cutout.alpha > 0) & (cutout.alpha <= 250)
    share = cutout.alpha[soft].astype(np.float32)[:, None] / 255
    unmixed = (colour[soft] - (1 - share) * under[soft]) / np.maximum(share, 0.02)
    colour[soft] = np.clip(np.round(unmixed), 0, 255)
    share = cutout.alpha[hidden].astype(np.float32)[:, None] / 255
    under[hidden] = np.round(colour[hidden] * share + under[hidden] * (1 - share))
    np.copyto(under, crop, where=cutout.visible[..., None])
    layer = crop_to_content(Layer("Element", np.dstack([colour, cutout.alpha]), left, top))
    if is_subject:
        return replace(layer, name="Subject")
    across, down = (cutout.alpha.sum(axis, dtype=np.float64) for axis in (0, 1))
    x = (left + (across @ np.arange(across.size)) / max(across.sum(), 1)) / own.shape[1]
    y = (top + (down @ np.arange(down.size)) / max(down.sum(), 1)) / own.shape[0]
    seen = np.where(cutout.visible, cutout.alpha, 0).astype(np.uint8)
    colour_word = naming.colour_name(rgb[top:bottom, left:right], seen)
    return replace(layer, name=f"Element {number} ({colour_word}, {naming.place_name(x, y)})")


def _text_layer(block: TextBlock, own: U8, clean: U8) -> Layer:
    """A text block in the source's own values, its alpha raised where the picture without text would keep a trace of the letters."""
    rim = 3
    height, width = block.alpha.shape
    top, left = max(0, block.top - rim), max(0, block.left - rim)
    bottom, right = min(own.shape[0], block.top + height + rim), min(own.shape[1], block.left + width + rim)
    edges = (block.top - top, bottom - block.top - height, block.left - left, right - block.left - width)
    given = cv2.copyMakeBorder(block.alpha, *edges, cv2.BORDER_CONSTANT)
    colour = cv2.copyMakeBorder(block.colour, *edges, cv2.BORDER_REPLICATE).astype(np.float32)
    picture, behind = own[top:bottom, left:right].astype(np.float32), clean[top:bottom, left:right].astype(np.float32)
    line = colour - behind
    power = (line**2).sum(-1)
    trace = np.clip(((picture - behind) * line).sum(-1) / np.maximum(power, 1), 0, 1) * (power > TEXT_CONTRAST**2)
    near = cv2.dilate((given > 2).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    alpha = np.where(near & (trace > 0.03), np.maximum(given, np.round(trace * 255)), given).astype(np.uint8)
    share = alpha.astype(np.float32)[..., None] / 255
    unmixed = np.clip(np.round((picture - (1 - share) * behind) / np.maximum(share, 1 / 255)), 0, 255)
    pixels = np.dstack([np.where((alpha > 200)[..., None], unmixed, colour).astype(np.uint8), alpha])
    return crop_to_content(Layer(naming.text_name(block.text) or "Text", pixels, left, top, kind="text", text=block.text))


def _remarks(request: DecomposeRequest, count: int, proposal: elements.Proposal) -> tuple[str, ...]:
    remarks = []
    if request.layers is not None and count < request.layers:
        remarks.append(f"{count} of {request.layers} layers: nothing more was found that stands out as a thing of its own")
    if count > 1:
        remarks.append("what lies hidden behind elements and text is guessed")
    if proposal.kind == "photo" and count > 1:
        remarks.append("cut by the rules for photographs, which find about every second element well: look at the preview")
    return tuple(remarks)
