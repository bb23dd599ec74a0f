"""Which pixels of the picture are the letters of one line of text, and what lies behind them.

Two ways lead to the letters. On a smooth background (colour, gradient) a robust surface is fitted to the rim of the line's box, and
whatever differs from it and belongs to the box is text, outline and shadow included. On a textured background the colours inside the box
are clustered, and those that do not continue outside of it are text. Components that reach far out of the box belong to the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.ocr import Reading
from layerctl.engines.classic.unmix import (
    Floats,
    Mask,
    Unmixed,
    cluster_centres,
    filled,
    grown,
    largest,
    nearest_centre,
    sampled,
    shrunk,
    surface,
    unmix,
)

MARGIN = 0.55
"""Width of the window around a line's box, in heights of the line."""
SMOOTH_NOISE = 5.0
"""Largest spread (of 255) around the fitted surface that still counts as a smooth background."""
TEXTURE_HEIGHT = 64
"""Height of the line at which colours are clustered."""
SMOOTH_HEIGHT = 192
"""Height of the line, at most, at which letters on a smooth background are found."""
CLUSTERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The surroundings of one line. `rgb`: 0..255. `inside`: the line's box; `foreign`: the other lines' boxes.

    `height`: of the line in pixels. `open_rim`: whether the picture goes on beyond the left, top, right, bottom of the window.
    """

    left: int
    top: int
    rgb: Floats
    inside: Mask
    foreign: Mask
    height: float
    open_rim: tuple[bool, bool, bool, bool]

    @property
    def near(self) -> Mask:
        return grown(self.inside, max(2, round(0.2 * self.height))) & ~self.foreign


@dataclass(frozen=True, slots=True, eq=False)
class Letters:
    """`mask`: the letters in the window; `solid`: without their shadow. `behind`: the background, if it is known already.

    `contrast`: of the letters, of 255. `cut`: share of the text-like pixels in the box that belong to something larger. `clutter`: share of
    the surroundings that looks like letters as well.
    """

    mask: Mask
    solid: Mask
    behind: Floats | None
    contrast: float
    cut: float
    clutter: float


def window(rgb: npt.NDArray[np.uint8], line: Reading, others: tuple[Reading, ...]) -> Window:
    """The part of the picture around a line."""
    margin = MARGIN * line.height + 6
    x0, y0 = np.maximum(np.floor(line.quad.min(axis=0) - margin).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(line.quad.max(axis=0) + margin).astype(int), [rgb.shape[1], rgb.shape[0]])
    shape = int(y1 - y0), int(x1 - x0)
    offset = np.asarray([x0, y0], np.float32)
    inside = _polygon(shape, line.quad - offset)
    foreign = np.zeros(shape, bool)
    for other in others:
        if (other.quad.max(axis=0) > [x0, y0]).all() and (other.quad.min(axis=0) < [x1, y1]).all():
            foreign |= _polygon(shape, other.quad - offset)
    rim = bool(x0 > 0), bool(y0 > 0), bool(x1 < rgb.shape[1]), bool(y1 < rgb.shape[0])
    return Window(int(x0), int(y0), rgb[y0:y1, x0:x1].astype(np.float32), inside, foreign & ~inside, line.height, rim)


def letters_on_smooth(view: Window) -> Letters | None:
    """The letters on a smooth background; None where the background is not smooth."""
    shape = view.inside.shape
    view = _reduced(view, SMOOTH_HEIGHT)
    reach = max(2, round(0.22 * view.height))
    rim = grown(view.inside, reach) & ~shrunk(view.inside, max(1, round(0.08 * view.height))) & ~view.foreign
    fitted = surface(view.rgb, rim)
    residual = largest(view.rgb - fitted)
    noise = 1.48 * float(np.median(residual[rim]))
    if noise > SMOOTH_NOISE:
        return None
    low = max(3.0, 4.5 * noise)
    marked = view.inside & (residual > 2 * low)
    if not marked.any():
        return None
    contrast = float(np.percentile(residual[marked], 95))
    mask, cut, clutter = _of_the_line(residual > low, residual > max(2.5 * low, 0.25 * contrast), view)
    if not mask.any():
        return None
    known = ~grown((residual > low) | view.foreign, 2)
    del residual
    mask = _enlarged(grown(mask, 1), shape)
    return Letters(mask, mask, _resized(fitted + filled(view.rgb - fitted, known), shape), contrast, cut, clutter)


def letters_on_texture(view: Window) -> Iterator[Letters]:
    """Candidates for the letters on a textured background, the fullest first."""
    small = _reduced(view, TEXTURE_HEIGHT)
    outside = ~grown(small.inside, max(1, round(0.05 * small.height))) & ~small.foreign
    if outside.sum() < 50 or small.inside.sum() < 50:
        return
    lab = cv2.cvtColor(small.rgb / 255, cv2.COLOR_RGB2LAB)
    centres = cluster_centres(np.concatenate([sampled(lab[small.inside]), sampled(lab[outside])]), CLUSTERS)
    labels = nearest_centre(lab, centres)
    inner = np.bincount(labels[small.inside], minlength=len(centres)) / small.inside.sum()
    outer = np.bincount(labels[outside], minlength=len(centres)) / outside.sum()
    ratio = inner / (outer + 0.004)
    order = [int(k) for k in np.argsort(-ratio, kind="stable") if inner[k] > 0.01 and ratio[k] > 1.5]
    sets = [[k for k in order if ratio[k] > 3], order, *([k] for k in order[:3])]
    found: list[Mask] = []
    for chosen in [s for i, s in enumerate(sets) if s and s not in sets[:i]]:
        text_like = np.isin(labels, chosen)
        mask, cut, clutter = _of_the_line(text_like, text_like, small)
        if not mask.any():
            continue
        trimmed = _with_trimmings(mask, labels, small)
        bare = ((mask, mask), (trimmed, trimmed))
        for solid, candidate in (*bare, *((solid, _with_shadow(solid, small)) for solid in (mask, trimmed))):
            if not any((candidate == other).all() for other in found):
                found.append(candidate)
                behind = filled(small.rgb, ~grown(candidate, max(2, round(0.06 * small.height))))
                contrast = float(np.percentile(largest(small.rgb - behind)[candidate], 70))
                shape = view.inside.shape
                yield Letters(_enlarged(candidate, shape), _enlarged(solid, shape), None, contrast, cut, clutter)


def _with_trimmings(mask: Mask, labels: npt.NDArray[np.int64], view: Window) -> Mask:
    """The letters with what goes with them: colours enclosed by them, or dense along their edges and rare farther off (an outline)."""
    enclosed = _without_holes(mask) & ~mask
    step = max(1, round(0.05 * view.height))
    along = grown(mask, step) & ~grown(mask, 1) & ~view.foreign
    close = grown(mask, 3 * step) & ~view.foreign
    beyond = grown(mask, 6 * step) & ~close & ~view.foreign
    result = mask.copy()
    for k in range(int(labels.max()) + 1):
        of_k = (labels == k) & ~mask
        if (of_k & enclosed).sum() > max(0.6 * (of_k & view.near).sum(), 0.03 * mask.sum()):
            result |= of_k & enclosed
        elif of_k[along].mean() > max(0.1, 2.5 * of_k[beyond].mean()) if along.any() and beyond.any() else False:
            result |= of_k & close
    count, parts = cv2.connectedComponents(result.astype(np.uint8), connectivity=8)
    touching = np.bincount(parts[mask], minlength=count) > 0
    touching[0] = False
    return np.asarray(touching[parts], bool)


def _with_shadow(mask: Mask, view: Window) -> Mask:
    """The letters with the part of their surroundings that is darker than farther off, on average over the texture."""
    step = max(1, round(0.05 * view.height))
    known = ~grown(mask, 6 * step) & ~view.foreign
    if not known.any():
        return mask
    seen = (~grown(mask, 1)).astype(np.float32)
    level, expected = (values.mean(axis=2) * seen for values in (view.rgb, filled(view.rgb, known)))
    ratio = (cv2.GaussianBlur(level, (0, 0), step) + 1) / (cv2.GaussianBlur(expected, (0, 0), step) + 1)
    shade = (ratio < 0.93) & grown(mask, 4 * step) & ~view.foreign
    count, parts = cv2.connectedComponents((shade | mask).astype(np.uint8), connectivity=8)
    touching = np.bincount(parts[mask], minlength=count) > 0
    touching[0] = False
    return np.asarray(touching[parts], bool)


def cut_out(view: Window, letters: Letters) -> tuple[Window, Unmixed]:
    """Alpha and colour of the letters at full resolution, and the part of the window that they are of."""
    view, letters = _closer(view, letters)
    return view, _unmixed(view, letters)


def _closer(view: Window, letters: Letters) -> tuple[Window, Letters]:
    """Both without what lies far from the letters."""
    margin = max(4, round(0.15 * view.height))
    rows, columns = np.flatnonzero(letters.mask.any(axis=1)), np.flatnonzero(letters.mask.any(axis=0))
    top, left = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
    place = slice(top, int(rows[-1]) + margin + 1), slice(left, int(columns[-1]) + margin + 1)
    near = replace(
        view, left=view.left + left, top=view.top + top, rgb=view.rgb[place], inside=view.inside[place], foreign=view.foreign[place]
    )
    behind = None if letters.behind is None else letters.behind[place]
    return near, replace(letters, mask=letters.mask[place], solid=letters.solid[place], behind=behind)


def _unmixed(view: Window, letters: Letters) -> Unmixed:
    if letters.behind is not None:
        return unmix(view.rgb, letters.behind, letters.mask, letters.solid, letters.contrast, view.height)
    coarse = max(1.0, view.height / TEXTURE_HEIGHT)
    band = grown(letters.mask, max(1, round(coarse)))
    known = ~grown(band, max(1, round(0.03 * view.height)))
    behind = filled(view.rgb, known)
    small = _reduced(view, TEXTURE_HEIGHT)
    smooth = _resized(cv2.GaussianBlur(small.rgb, (0, 0), max(1.0, 0.06 * small.height)), view.inside.shape)
    texture = float(np.median(largest(view.rgb - smooth)[known])) if known.any() else 0.0
    return unmix(view.rgb, behind, band, grown(letters.solid, max(1, round(coarse))), letters.contrast, view.height, texture)


def previews(view: Window, letters: Letters) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The letters alone on a plain ground and the picture without them, reduced to a line of at most 64 pixels."""
    small = _reduced(view, TEXTURE_HEIGHT)
    size = small.inside.shape[::-1]
    mask = cv2.resize(letters.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.4
    if letters.behind is None:
        behind = filled(small.rgb, ~grown(mask, 2))
    else:
        behind = np.asarray(cv2.resize(letters.behind, size, interpolation=cv2.INTER_AREA), np.float32)
    ground = np.median(behind[small.inside], axis=0)
    alone = np.where(mask[..., None], small.rgb, ground)
    rest = np.where(grown(mask, 1)[..., None], behind, small.rgb)
    return np.rint(alone).astype(np.uint8), np.rint(rest).astype(np.uint8)


def _of_the_line(weak: Mask, strong: Mask, view: Window) -> tuple[Mask, float, float]:
    """The components of `weak` that hold strong pixels and can be part of the line, and what `Letters` calls cut and clutter."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    rows, columns = weak.shape
    near = view.near
    held = np.bincount(labels[strong & near], minlength=count)
    within = np.bincount(labels[near], minlength=count)
    x, y, w, h, area = (stats[:, i] for i in range(5))
    rim_left, rim_top, rim_right, rim_bottom = view.open_rim
    on_rim = (rim_left & (x == 0)) | (rim_top & (y == 0)) | (rim_right & (x + w == columns)) | (rim_bottom & (y + h == rows))
    fits = (within > 0.5 * area) & ~on_rim & (held > 0)
    fits[0] = False
    chosen = np.asarray(fits[labels], bool)
    inside = strong & view.inside
    small = ~fits & (np.maximum(w, h) < 1.2 * view.height)
    small[0] = False
    surroundings = ~view.inside & ~view.foreign
    clutter = float(small[labels][surroundings].mean()) if surroundings.any() else 0.0
    return chosen, 1 - float((inside & chosen).sum()) / max(int(inside.sum()), 1), clutter


def _without_holes(mask: Mask) -> Mask:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED) > 0, bool)


def _reduced(view: Window, height: int) -> Window:
    """The window with a line of at most that height."""
    scale = height / view.height
    if scale >= 1:
        return view
    size = max(8, round(view.rgb.shape[1] * scale)), max(8, round(view.rgb.shape[0] * scale))
    inside, foreign = (cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for m in (view.inside, view.foreign))
    small = cv2.resize(view.rgb, size, interpolation=cv2.INTER_AREA)
    return replace(view, rgb=small, inside=inside, foreign=foreign, height=view.height * scale)


def _resized(rgb: Floats, shape: tuple[int, ...]) -> Floats:
    return rgb if rgb.shape[:2] == shape else np.asarray(cv2.resize(rgb, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _enlarged(mask: Mask, shape: tuple[int, int]) -> Mask:
    if mask.shape == shape:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5, bool)


def _polygon(shape: tuple[int, int], corners: Floats) -> Mask:
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 1)
    return np.asarray(mask > 0, bool)
