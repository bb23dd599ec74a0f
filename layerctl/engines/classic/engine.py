"""The embedded engine, end to end: text off, elements found, each cut out and completed, the plate completed below them.

Looks at an sRGB copy; the layers' colours are the source's own values. Its limits are in the README: designs are its strength.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.colour import is_srgb
from layerctl.engines.classic import elements, naming
from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.matte import Cutout, cut_out
from layerctl.engines.classic.proposals import Choice, Sight, choose, completed, see
from layerctl.engines.classic.regions import lift
from layerctl.engines.classic.text import TextBlock
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.names import unique
from layerctl.registry import DecomposeRequest, Progress, Proposal
from layerctl.source import SourceImage

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
TEXT_CONTRAST = 50.0
"""Distance between the colours of letters and of what is behind, of 442, from which the letters' trace can be told from texture."""
LEAST_COUNT = 2
"""Layers that a picture is said to have at the least, for engines that cannot be asked for one."""


@dataclass(frozen=True, slots=True)
class ClassicEngine:
    """Classical image processing, a small network and an OCR library, on the CPU; downloads nothing."""

    name: str = "classic"
    version: str = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        """Full-size layers: Background, elements bottom to top, text. At most `request.layers`; fewer come with a warning."""
        rgb, outside = _opaque(source)
        progress("reading text", 0.05)
        sight = _seen(source, rgb)
        own = rgb if is_srgb(source.icc) else np.where(outside[..., None], rgb, source.pixels[..., :3])
        clean = sight.clean if own is rgb else completed(own, sight.lettered)
        lifted = lift(sight, rgb, own, clean, request)
        progress("looking for elements", 0.25)
        choice = choose(lifted.sight, lifted.request)
        progress("cutting out", 0.4)
        layers = [*_layers(lifted.sight.clean, lifted.own, choice.elements), *lifted.layers]
        progress("completing", 0.7)
        layers += [_text_layer(block, own, clean) for block in (*choice.blocks, *lifted.text)]
        names = unique([layer.name for layer in layers])
        layers = [replace(layer, name=name) for layer, name in zip(layers, names, strict=True)]
        warnings = lifted.warnings + _remarks(request, len(layers), choice)
        settings: tuple[tuple[str, str | int | float | bool | None], ...] = (
            ("kind", choice.elements.kind),
            ("elements_found", choice.elements.found),
            ("text_blocks", len(choice.blocks)),
        )
        return Proposal(LayerStack(source.width, source.height, tuple(layers), source.icc, source.dpi), warnings, settings)


ENGINE = ClassicEngine()


def count_layers(source: SourceImage) -> int:
    """How many layers, Background included, there would be if no number were asked for: 2 to 8, nothing cut out or completed for it."""
    rgb, _ = _opaque(source)
    return max(LEAST_COUNT, choose(_seen(source, rgb), DecomposeRequest()).layers)


_sights: WeakKeyDictionary[SourceImage, Sight] = WeakKeyDictionary()


def _seen(source: SourceImage, rgb: U8) -> Sight:
    """What is seen in the picture; kept as long as the source is, for the proposals that follow the first."""
    if source not in _sights:
        _sights[source] = see(rgb)
    return _sights[source]


def _opaque(source: SourceImage) -> tuple[U8, Bool]:
    """The picture in sRGB, plain where it is transparent, and where that is (nowhere if it is transparent altogether)."""
    rgb = np.ascontiguousarray(source.srgb()[..., :3])
    outside = source.pixels[..., 3] == 0
    if outside.all() or not outside.any():
        return rgb, np.zeros_like(outside)
    # White or black, whichever differs more from what is there to be seen.
    ground = np.uint8(255 if rgb[~outside].mean() < 128 else 0)
    return np.where(outside[..., None], ground, rgb), outside


def _layers(rgb: U8, own: U8, proposal: elements.Proposal) -> list[Layer]:
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
        background = completed(np.where((hidden & around)[..., None], plate, own), hidden & ~around)
    else:
        background = completed(own, hidden)
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


def _remarks(request: DecomposeRequest, count: int, choice: Choice) -> tuple[str, ...]:
    remarks = []
    if choice.again is not None:
        remarks.append(f"there is no candidate {request.candidate}: this is candidate {choice.again} again")
    if request.layers is not None and count < request.layers:
        remarks.append(f"{count} of {request.layers} layers: nothing more was found that stands out as a thing of its own")
    if count > 1:
        remarks.append("what lies hidden behind elements and text is guessed")
    if choice.elements.kind == "photo" and count > 1:
        remarks.append("cut by the rules for photographs, which find about every second element well: look at the preview")
    return tuple(remarks)
