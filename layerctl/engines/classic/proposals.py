"""What is proposed for a picture: what the engine sees in it, and which elements and text blocks become its layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic import elements
from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.network import Maps, look
from layerctl.engines.classic.segment import SPACING
from layerctl.engines.classic.text import TextBlock, find_text, group
from layerctl.registry import DecomposeRequest

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
WORK = 512
"""Long side of the picture that elements are looked for in."""
LOOKS = (256, 320, 416)
"""Long sides at which the network sees the picture."""
KINDS: tuple[elements.Kind, ...] = ("design", "photo")
MOST_AUTO = 8
"""Layers, Background included, when as many are asked for as the picture has."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a proposal is come to; by default as the first choice is.

    `kinds`: by whose rules, the likelier of two. `sides`: at which sizes the network looks. `spacing`: of superpixels. `contrast`: how much
    more than usual a design's elements have to differ from its plate. `drop`: how much dearer than usual it is to give an element to the
    plate. `second`: the last element to go is the second cheapest. `subject`: whether a photograph's is an element of its own.
    """

    kinds: tuple[elements.Kind, ...] = KINDS
    sides: tuple[int, ...] = LOOKS
    spacing: int = SPACING
    contrast: float = 1.0
    drop: float = 1.0
    second: bool = False
    subject: Literal["if sure", "always", "never"] = "if sure"


DESIGN: tuple[elements.Kind, ...] = ("design",)
PHOTO: tuple[elements.Kind, ...] = ("photo",)
WAYS: dict[elements.Kind, tuple[Way, ...]] = {
    "design": (
        Way(PHOTO, sides=(512,)),
        Way(DESIGN, contrast=1.75),
        Way(DESIGN, sides=(512,)),
        Way(DESIGN, second=True),
        Way(PHOTO, drop=1 / 3),
        Way(DESIGN, spacing=18),
        Way(PHOTO, subject="always"),
    ),
    "photo": (
        Way(PHOTO, sides=(512,)),
        Way(PHOTO, second=True),
        Way(PHOTO, subject="never"),
        Way(PHOTO, subject="always"),
        Way(PHOTO, spacing=18),
        Way(DESIGN, contrast=1.75),
        Way(PHOTO, sides=(320,)),
    ),
}
"""What follows the first choice, by the kind of that: the ways that gave most beside those before them, on tuning scenes."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A picture before anything is decided.

    `clean`: uint8 H x W x 3, sRGB, its text filled in; `lettered`: where that was. `work`, `text`: the same two at work size.
    `looks`: what the network saw so far, by the long side at which it looked.
    """

    clean: U8
    lettered: Bool
    blocks: tuple[TextBlock, ...]
    work: U8
    text: Bool
    looks: dict[int, Maps] = field(default_factory=dict)

    def look(self, side: int) -> Maps:
        """What the network sees at this size; it looks once."""
        if side not in self.looks:
            self.looks[side] = look(self.work, side)
        return self.looks[side]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What is to be cut out: the elements, and the text blocks above them. `again`: the earlier candidate that this one repeats."""

    elements: elements.Proposal
    blocks: tuple[TextBlock, ...]
    again: int | None = None

    @property
    def layers(self) -> int:
        """How many layers that makes, Background included."""
        return 1 + int(self.elements.labels.max()) + len(self.blocks)


def see(rgb: U8) -> Sight:
    """Read the text of a picture (uint8 H x W x 3, sRGB) and fill in what it stands on."""
    blocks = find_text(rgb)
    lettered = _lettered(blocks, rgb.shape[:2])
    clean = completed(rgb, lettered)
    height, width = clean.shape[:2]
    factor = min(1.0, WORK / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    work = cv2.resize(clean, size, interpolation=cv2.INTER_AREA)
    text = cv2.resize(lettered.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    return Sight(clean, lettered, blocks, work, text)


def choose(sight: Sight, request: DecomposeRequest) -> Choice:
    """The elements and text blocks of a request's candidate; fewer than were asked for where no more stand out."""
    asked = KINDS if request.kind == "auto" else (request.kind,)
    first = Way(asked)
    if request.candidate == 0:
        return _by(first, sight, request)
    kind = asked[0] if len(asked) == 1 else _drafted(first, sight, request)[2].kind
    ways = [first, *(way for way in WAYS[kind] if way.kinds[0] in asked)]
    place = request.candidate % len(ways)
    return replace(_by(ways[place], sight, request), again=place if place < request.candidate else None)


def _by(way: Way, sight: Sight, request: DecomposeRequest) -> Choice:
    looks, drafts, proposal = _drafted(way, sight, request)
    blocks, auto = sight.blocks, request.layers is None
    most = MOST_AUTO if request.layers is None else request.layers
    if proposal.kind == "photo" and way.subject != "never":
        drafts = (elements.with_subject(drafts[-1], proposal.labels, sight.work, looks, way.subject == "always"),)
        proposal = _best(way, looks, drafts, most - 1 - len(blocks), auto)
    if len(blocks) > most // 2:
        elements_there = int(_best(way, looks, drafts, most - 1, auto=True).labels.max())
        if elements_there + len(blocks) > most - 1:
            places = max(1, round((most - 1) * elements_there / (elements_there + len(blocks)))) if elements_there and most > 2 else 0
            proposal = _best(way, looks, drafts, places, auto)
    return Choice(proposal, group(blocks, max(1, most - 1 - int(proposal.labels.max()))))


def _drafted(way: Way, sight: Sight, request: DecomposeRequest) -> tuple[list[Maps], tuple[elements.Draft, ...], elements.Proposal]:
    """What the network sees, the drafts made of it, and the best proposal without a look for a subject."""
    most = MOST_AUTO if request.layers is None else request.layers
    looks = [sight.look(side) for side in way.sides]
    drafts = elements.survey(sight.work, looks, sight.text, way.kinds, way.spacing, way.contrast)
    return looks, drafts, _best(way, looks, drafts, most - 1 - len(sight.blocks), request.layers is None)


def completed(rgb: U8, unknown: Bool) -> U8:
    """The picture with what is unknown filled in; itself if nothing is."""
    return complete(rgb, unknown) if unknown.any() else rgb


def _best(way: Way, looks: list[Maps], drafts: tuple[elements.Draft, ...], count: int, auto: bool) -> elements.Proposal:
    """The better of the drafts' proposals of `count` elements."""
    proposals = [elements.propose(draft, looks, max(0, count), auto, way.drop, way.second) for draft in drafts]
    return max(proposals, key=lambda proposal: proposal.score)


def _lettered(blocks: tuple[TextBlock, ...], size: tuple[int, int]) -> Bool:
    """Where text shows, with a rim of one or two pixels."""
    mask = np.zeros(size, np.uint8)
    for block in blocks:
        height, width = block.alpha.shape
        view = mask[block.top : block.top + height, block.left : block.left + width]
        np.maximum(view, (block.alpha > 2).astype(np.uint8), out=view)
    return cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(bool)
