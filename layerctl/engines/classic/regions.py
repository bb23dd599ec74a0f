"""Wanted regions as layers of their own: lifted off the picture, the last one first, and the picture completed below each of them.

The thing inside of a box is found by GrabCut (Rother et al., SIGGRAPH 2004), started from what the network takes for an element there, in
a crop around the box. Elements are looked for afterwards, in a picture that wanted things are no part of any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic import naming
from layerctl.engines.classic.fill import complete
from layerctl.engines.classic.matte import cut_out
from layerctl.engines.classic.network import element_map, look
from layerctl.engines.classic.proposals import Sight
from layerctl.engines.classic.segment import Labels
from layerctl.engines.classic.text import TextBlock, group
from layerctl.errors import UsageError
from layerctl.layers import Layer, crop_to_content
from layerctl.regions import Box, box_overlap, region_box
from layerctl.registry import DecomposeRequest, Region

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

WORK = 512
"""Long side of the picture that a thing is looked for in, at most."""
LOOK = 256
"""Long side at which the network sees it."""
AROUND = 1.0
"""Of the longer side of a box: how much of its surroundings is looked at, to know what the thing is not."""
ROUNDS = 2
"""Of GrabCut; more change little."""
GROUND = 30
"""Percentile of the network's probability inside of a box up to which a pixel first counts as behind the thing, if that is under a half."""
THING = 0.5
"""Probability of being an element from which a pixel is not continued below a thing."""
HOLE = 0.65
"""Mean probability of being an element from which a hole is filled."""
SOLID = 250
"""Alpha above which a pixel is wholly the thing's."""
LEAST_FIT = 0.3
"""Share of a box that the bounding box of the thing in it has at least: people draw boxes around things."""
FAINT, CONTRAST = 0.15, 10.0
"""Mean probability of being an element, and levels that the mean colours differ, up to which both together what was found is nothing."""
SPECK = 0.02
"""Of the thing: smaller parts apart from it are none of it, and smaller holes are no holes."""
RIM = 6.0
"""Pixels of a work picture around a lifted thing that say nothing of what is below: glow, shadow, edges missed."""
LEAST_KNOWN = 0.02
"""Share of the picture that has to be neither hidden nor a thing, if what is below is to be completed from that alone."""
FILLED = 0.25
"""Share of a region that letters do not fill."""
JUST_TEXT = 0.5
"""Overlap (intersection over union) of a box with that of the text inside of it, from which the text is what is wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Lettering:
    """Where the text goes. Of each region: `inside`, what is cut out with it, and `alone`, the text that it is.

    `misread`: what fills much of a region and goes on outside of it, as a row of icons does that was taken for letters. `others`: the rest.
    """

    inside: tuple[tuple[TextBlock, ...], ...]
    alone: tuple[TextBlock | None, ...]
    misread: tuple[TextBlock, ...]
    others: tuple[TextBlock, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Lifted:
    """A picture without the wanted things.

    `sight`: what is left of it, and `request`: what is still to be found there; `own`: `sight.clean` in the source's own values. `layers`:
    the things, bottom to top. `text`: what becomes text layers because it was wanted.
    """

    sight: Sight
    request: DecomposeRequest
    own: U8
    layers: tuple[Layer, ...] = ()
    text: tuple[TextBlock, ...] = ()
    warnings: tuple[str, ...] = ()


def lift(sight: Sight, rgb: U8, own: U8, clean: U8, request: DecomposeRequest) -> Lifted:
    """Every wanted region as a layer; later regions lie above earlier ones, and wanted text above all of them.

    `rgb`, `own`: uint8 H x W x 3, the picture that was seen, in sRGB and in the source's own values (or one array); `clean`: `own` without
    text (or `sight.clean`). Raises UsageError when no layer would be left for the Background.
    """
    if not request.regions:
        return Lifted(sight, request, clean)
    rest = _rest(request)
    lettering = share_out(sight.blocks, request.regions)
    wanted = [block for block in lettering.alone if block]
    staying, others = [*lettering.misread, *(block for blocks in lettering.inside for block in blocks)], lettering.others
    if rest.layers == 1:
        staying, others = [*staying, *others], ()
    kept = _wide(_letters(staying, rgb.shape[:2]))
    lettered = sight.lettered & ~kept
    seen = np.where(kept[..., None], rgb, sight.clean)
    values = seen if own is rgb else np.where(kept[..., None], own, clean)
    things = _resized(element_map([look(sight.work, LOOK)], *sight.work.shape[1::-1]) > THING, rgb.shape[:2])
    layers: list[Layer] = []
    warnings: list[str] = []
    for k, region in reversed(list(enumerate(request.regions))):
        if lettering.alone[k]:
            continue
        letters = _letters(lettering.inside[k], region.mask.shape)
        text = _wide(letters)[..., None]
        bare = np.where(text, sight.clean, seen)
        thing = None if region.is_outline else find_thing(bare, region_box(region))
        if thing is None and not region.is_outline and letters.any():
            wanted.append(group(lettering.inside[k], 1)[0])
            seen, values = bare, bare if values is seen else np.where(text, clean, values)
            continue
        unknown = _around((region.mask if thing is None else np.maximum(thing.mask(letters.shape), letters)) > 1)
        plate = _completed(seen, unknown, things)
        if thing is None:
            alpha = region.mask
            if not region.is_outline:
                warnings.append(f"nothing stands out inside of target {k + 1}: the whole box is its layer")
        else:
            alpha = np.maximum(thing.alpha(seen), letters)
        hidden = _wide(alpha)[..., None]
        behind = np.where(hidden, plate if values is seen else _completed(values, unknown, things), values)
        name = f"Target {k + 1} ({naming.colour_name(seen, alpha)}, {_place(alpha)})"
        layers.insert(0, crop_to_content(Layer(name, np.dstack([_unmixed(values, behind, alpha), alpha]))))
        seen, values = behind if values is seen else np.where(hidden, plate, seen), behind
    work = cv2.resize(seen, sight.work.shape[1::-1], interpolation=cv2.INTER_AREA)
    left = Sight(seen, lettered, others, work, _resized(lettered, sight.text.shape))
    return Lifted(left, rest, values, tuple(layers), tuple(wanted), tuple(warnings))


def _rest(request: DecomposeRequest) -> DecomposeRequest:
    """What is left of a request without its regions."""
    if request.layers is None:
        return replace(request, regions=())
    count = len(request.regions)
    if count >= request.layers:
        message = f"{count} wanted regions and a Background are more than the {request.layers} layers asked for"
        raise UsageError(message, hint=f"--layers {count + 1}, or fewer regions")
    return replace(request, layers=request.layers - count, regions=())


def share_out(blocks: tuple[TextBlock, ...], regions: Sequence[Region]) -> Lettering:
    """A block goes with the topmost region that most of its letters are inside of; a box around little else than text wants that text."""
    left = list(blocks)
    alone: list[TextBlock | None] = []
    for region in regions:
        within = [block for block in left if not region.is_outline and _is_inside(block, region)]
        is_text = bool(within) and box_overlap(_common_box(within), region_box(region)) > JUST_TEXT
        alone.append(group(tuple(within), 1)[0] if is_text else None)
        left = [block for block in left if not (is_text and block in within)]
    inside: list[tuple[TextBlock, ...]] = []
    for region, text in zip(reversed(regions), reversed(alone), strict=True):
        taken = [block for block in left if text is None and _is_inside(block, region)]
        inside.insert(0, tuple(taken))
        left = [block for block in left if block not in taken]
    misread = [block for block in left if any(_shared(block, region) > FILLED * region.mask.sum(dtype=np.int64) for region in regions)]
    return Lettering(tuple(inside), tuple(alone), tuple(misread), tuple(block for block in left if block not in misread))


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """What was found in a box: `labels`, 1 on the thing, and `element`, what the network says, both of a small copy of the crop `view`."""

    view: tuple[slice, slice]
    labels: Labels
    element: Floats

    def mask(self, size: tuple[int, ...]) -> U8:
        """255 on the thing, of the picture's size, without soft edges."""
        mask = np.zeros(size, np.uint8)
        shape = mask[self.view].shape
        mask[self.view] = cv2.resize(self.labels.astype(np.uint8) * 255, shape[::-1], interpolation=cv2.INTER_NEAREST)
        return mask

    def alpha(self, rgb: U8) -> U8:
        """Alpha of the picture's size, with soft edges."""
        alpha = np.zeros(rgb.shape[:2], np.uint8)
        (cutout,) = cut_out(np.ascontiguousarray(rgb[self.view]), self.labels, self.element, None)
        left, top, right, bottom = cutout.box
        alpha[self.view][top:bottom, left:right] = np.where(cutout.alpha > SOLID, 255, cutout.alpha)
        return alpha


def find_thing(rgb: U8, box: Box) -> Thing | None:
    """The thing that a box was drawn around; None when nothing stands out."""
    left, top, right, bottom = box
    margin = int(AROUND * max(right - left, bottom - top)) + 1
    x0, y0, x1, y1 = max(0, left - margin), max(0, top - margin), min(rgb.shape[1], right + margin), min(rgb.shape[0], bottom + margin)
    crop = rgb[y0:y1, x0:x1]
    factor = min(1.0, WORK / max(crop.shape))
    size = (max(1, round(crop.shape[1] * factor)), max(1, round(crop.shape[0] * factor)))
    work = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    across, down = size[0] / crop.shape[1], size[1] / crop.shape[0]
    inside = np.zeros(work.shape[:2], bool)
    inside[int((top - y0) * down) : round((bottom - y0) * down) + 1, int((left - x0) * across) : round((right - x0) * across) + 1] = True
    element = element_map([look(work, LOOK)], *size)
    thing = _grabbed(work, inside, element)
    return Thing((slice(y0, y1), slice(x0, x1)), thing.astype(np.int32), element) if thing.any() else None


def _grabbed(work: U8, inside: Bool, element: Floats) -> Bool:
    """What GrabCut takes for the thing in the box `inside`, without specks and pinholes.

    Where that is far smaller than the box, it starts again from the whole box.
    """
    ground = element < min(0.5, float(np.percentile(element[inside], GROUND)))
    thing = _cut(work, inside, inside & ~ground)
    if thing.any(0).sum() * thing.any(1).sum() < LEAST_FIT * inside.sum():
        thing = _cut(work, inside, inside)
    thing = _without_holes(_without_parts(thing, SPECK), element)
    return thing & _stands_out(work, thing, element)


def _cut(work: U8, inside: Bool, seeds: Bool) -> Bool:
    """GrabCut's thing inside, `seeds` being taken for it at first; nothing where there is nothing else."""
    if not seeds.any() or seeds.all():
        return np.zeros(inside.shape, bool)
    mask = np.where(seeds, cv2.GC_PR_FGD, np.where(inside, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(work, mask, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return mask == cv2.GC_PR_FGD


def _stands_out(work: U8, thing: Bool, element: Floats) -> bool:
    """Whether the network sees an element, or the colour differs from that of the rest."""
    if not thing.any() or thing.all():
        return False
    difference = np.abs(work[thing].mean(axis=0) - work[~thing].mean(axis=0)).max()
    return bool(element[thing].mean() > FAINT or difference > CONTRAST)


def _without_holes(thing: Bool, element: Floats) -> Bool:
    """With the holes that are small, or that the network takes for an element: those are no windows to what is behind."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((~thing).astype(np.uint8), connectivity=4)
    open_ = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    areas = stats[:, cv2.CC_STAT_AREA]
    filled = (areas < SPECK * thing.sum()) | (np.bincount(parts.ravel(), element.ravel(), count) > HOLE * areas)
    filled[open_] = False
    return thing | filled[parts]


def _without_parts(mask: Bool, share: float) -> Bool:
    """The mask without its connected parts smaller than this share of it."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= share * mask.sum())[parts]


def _around(there: Bool) -> Bool:
    """With RIM pixels of surroundings, in the measure of the work picture."""
    radius = int(np.ceil(RIM * max(there.shape) / WORK))
    return cv2.dilate(there.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)).astype(bool)


def _completed(picture: U8, unknown: Bool, things: Bool) -> U8:
    """The picture completed from what is no thing, where there is enough of that."""
    return complete(picture, unknown, avoid=things if (~unknown & ~things).mean() > LEAST_KNOWN else None)


def _resized(mask: Bool, size: tuple[int, ...]) -> Bool:
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _unmixed(picture: U8, behind: U8, alpha: U8) -> U8:
    """The thing's own colour: where alpha is soft, the picture's without the share of what lies behind."""
    colour = picture.copy()
    soft = (alpha > 0) & (alpha <= SOLID)
    share = alpha[soft].astype(np.float32)[:, None] / 255
    colour[soft] = np.clip(np.round((picture[soft] - (1 - share) * behind[soft]) / np.maximum(share, 0.02)), 0, 255)
    return colour


def _wide(alpha: U8) -> Bool:
    """Where there is anything, with a rim of two pixels, which may be mixed."""
    return cv2.dilate((alpha > 1).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def _letters(blocks: Sequence[TextBlock], size: tuple[int, ...]) -> U8:
    """Alpha of text blocks on the canvas."""
    canvas = np.zeros(size, np.uint8)
    for block in blocks:
        height, width = block.alpha.shape
        view = canvas[block.top : block.top + height, block.left : block.left + width]
        np.maximum(view, block.alpha, out=view)
    return canvas


def _is_inside(block: TextBlock, region: Region) -> bool:
    """Whether most of the letters are."""
    return _shared(block, region) > 0.5 * float(block.alpha.sum(dtype=np.int64))


def _shared(block: TextBlock, region: Region) -> float:
    """Levels of alpha of the letters that are inside."""
    height, width = block.alpha.shape
    mask = region.mask[block.top : block.top + height, block.left : block.left + width]
    return float(mask.astype(np.float32).ravel() @ block.alpha.astype(np.float32).ravel()) / 255


def _common_box(blocks: Sequence[TextBlock]) -> Box:
    corners = [(block.left, block.top, block.left + block.alpha.shape[1], block.top + block.alpha.shape[0]) for block in blocks]
    lefts, tops, rights, bottoms = zip(*corners, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _place(alpha: U8) -> str:
    moments = cv2.moments(alpha)
    height, width = alpha.shape
    return naming.place_name(moments["m10"] / moments["m00"] / width, moments["m01"] / moments["m00"] / height)
