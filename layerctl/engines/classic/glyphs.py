"""Glyph-exact alpha of one line of text: what of the picture around it is letter, and what lies behind.

Two ways lead to the support of the letters. On a smooth background (colour, gradient) a robust quadratic surface is fitted to the rim of the line's
box, and whatever differs from it and stays near the box is text, its outline and shadow included. On a textured background the colours inside the
box are clustered, and those that do not continue outside of it are text. Alpha is then unmixed from the colours behind and of the letters.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.ocr import Reading

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MARGIN = 0.55
"""Width of the window around a line's box, in heights of the line."""
SMOOTH_NOISE = 5.0
"""Largest spread (of 255) around the fitted surface that still counts as a smooth background."""
CLUSTERS = 8
SAMPLES = 6000


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The surroundings of one line. `rgb`: float32 0..255. `inside`: the line's box; `near`: the box and a little more; `foreign`: other lines' boxes.
    `open_rim`: left, top, right, bottom rim of the window is not the picture's."""

    left: int
    top: int
    rgb: Floats
    inside: Mask
    near: Mask
    foreign: Mask
    height: float
    open_rim: tuple[bool, bool, bool, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Glyphs:
    """`alpha`: float32 0..1, `colour`: float32 0..255, defined everywhere. `contrast`: of the letters against what is behind, of 255.
    `cut`: share of the text-like pixels in the box that belong to something larger than the line."""

    left: int
    top: int
    alpha: Floats
    colour: Floats
    contrast: float
    cut: float


def window(rgb: npt.NDArray[np.uint8], line: Reading, others: tuple[Reading, ...]) -> Window:
    """The part of the picture around a line."""
    margin = MARGIN * line.height + 6
    x0, y0 = np.maximum(np.floor(line.quad.min(axis=0) - margin).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(line.quad.max(axis=0) + margin).astype(int), [rgb.shape[1], rgb.shape[0]])
    shape = int(y1 - y0), int(x1 - x0)
    offset = np.float32([x0, y0])
    inside = _polygon(shape, line.quad - offset)
    foreign = np.zeros(shape, bool)
    for other in others:
        if (other.quad.max(axis=0) > [x0, y0]).all() and (other.quad.min(axis=0) < [x1, y1]).all():
            foreign |= _polygon(shape, other.quad - offset)
    foreign &= ~inside
    near = _grown(inside, max(2, round(0.2 * line.height))) & ~foreign
    rim = bool(x0 > 0), bool(y0 > 0), bool(x1 < rgb.shape[1]), bool(y1 < rgb.shape[0])
    return Window(int(x0), int(y0), rgb[y0:y1, x0:x1].astype(np.float32), inside, near, foreign, line.height, rim)


def smooth_glyphs(view: Window) -> Glyphs | None:
    """The letters on a smooth background; None where the background is not smooth."""
    reach = max(2, round(0.22 * view.height))
    rim = _grown(view.inside, reach) & ~_shrunk(view.inside, max(1, round(0.08 * view.height))) & ~view.foreign
    surface = _surface(view.rgb, rim)
    residual = np.abs(view.rgb - surface).max(axis=2)
    noise = 1.48 * float(np.median(residual[rim]))
    if noise > SMOOTH_NOISE or float((residual[rim] < max(4.0, 4 * noise)).mean()) < 0.55:
        return None
    low = max(3.0, 4.5 * noise)
    if not (view.inside & (residual > 2 * low)).any():
        return None
    contrast = float(np.percentile(residual[view.inside & (residual > 2 * low)], 80))
    high = max(2.5 * low, 0.3 * contrast)
    support, cut = _text_components(residual > low, residual > high, view)
    if not support.any():
        return None
    known = ~_grown((residual > low) | view.foreign, 2)
    behind = surface + _filled(view.rgb - surface, known)
    return _unmixed(view, behind, _grown(support, 1), contrast, cut)


def textured_glyphs(view: Window) -> tuple[Glyphs, ...]:
    """Candidates for the letters on a textured background, the most likely first."""
    outside = ~_grown(view.inside, max(1, round(0.05 * view.height))) & ~view.foreign
    if outside.sum() < 50 or view.inside.sum() < 50:
        return ()
    lab = cv2.cvtColor(view.rgb / 255, cv2.COLOR_RGB2LAB)
    centres = _cluster_centres(np.concatenate([_sampled(lab[view.inside]), _sampled(lab[outside])]))
    labels = _nearest(lab, centres)
    inner = np.bincount(labels[view.inside], minlength=len(centres)) / view.inside.sum()
    outer = np.bincount(labels[outside], minlength=len(centres)) / outside.sum()
    ratio = inner / (outer + 0.004)
    order = [int(k) for k in np.argsort(-ratio, kind="stable") if inner[k] > 0.01 and ratio[k] > 1.5]
    sets: list[list[int]] = [[k for k in order if ratio[k] > 3]]
    sets += [[k] for k in order[:3]]
    sets.append(order)
    found = []
    for chosen in [s for i, s in enumerate(sets) if s and s not in sets[:i]]:
        mask = np.isin(labels, chosen)
        support, cut = _text_components(mask, mask, view)
        if support.any():
            band = _grown(support, max(1, min(3, round(0.04 * view.height))))
            behind = _filled(view.rgb, ~_grown(support, max(2, round(0.06 * view.height))))
            contrast = float(np.median(np.abs(view.rgb - behind).max(axis=2)[support]))
            found.append(_unmixed(view, behind, band, contrast, cut))
    return tuple(found)


def _unmixed(view: Window, behind: Floats, support: Mask, contrast: float, cut: float) -> Glyphs:
    """Alpha and colour inside `support` from the colours behind it."""
    rgb = view.rgb
    difference = rgb - behind
    strength = np.abs(difference).max(axis=2)
    kernel = np.ones((3, 3), np.uint8)
    spread = (cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel)).max(axis=2)
    plateau = support & (spread < max(8.0, 0.1 * contrast)) & (strength > 0.25 * contrast)
    extreme = support & (strength > np.percentile(strength[support], 92))
    core = plateau if plateau.sum() > 0.02 * support.sum() else extreme
    palette = _cluster_centres(_sampled(rgb[core]), most=4, distance=30.0)
    local = _filled(rgb, plateau) if plateau.any() else np.broadcast_to(palette[0], rgb.shape)
    reach = cv2.distanceTransform((~plateau).astype(np.uint8), cv2.DIST_L2, 3) if plateau.any() else np.full(strength.shape, np.inf, np.float32)
    alpha, error = _projected(difference, local - behind)
    error = np.where(reach > 3, np.float32(np.inf), error)
    colour = np.ascontiguousarray(local)
    for entry in palette:
        a, e = _projected(difference, entry - behind)
        better = (e + 3 < 0.7 * error) | ((error == np.inf) & (e < 12))
        alpha, error = np.where(better, a, alpha), np.where(better, e, error)
        colour[better] = entry
    shade, e = _projected(difference, -behind)
    dark = (e + 3 < 0.7 * error) & (shade > 0)
    alpha = np.where(dark, shade, alpha)
    colour[dark] = 0
    alpha = np.where(support, np.clip(alpha, 0, 1), 0).astype(np.float32)
    if len(palette) > 1:
        alpha = np.where(support, np.maximum(alpha, cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, kernel)), 0).astype(np.float32)
    alpha[alpha < 0.02] = 0
    opaque = alpha > 0.35
    exact = np.clip(behind + difference / np.maximum(alpha, 0.35)[..., None], 0, 255)
    colour = np.where(opaque[..., None], exact, colour)
    colour = np.where((alpha > 0)[..., None], colour, _filled(colour, alpha > 0.5)).astype(np.float32)
    return Glyphs(view.left, view.top, alpha, colour, contrast, cut)


def _projected(difference: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """The share of `direction` that explains `difference` best, and the largest error that is left."""
    length = np.maximum((direction * direction).sum(axis=2), 25.0)
    share = np.clip((difference * direction).sum(axis=2) / length, 0, 1.02)
    error = np.abs(difference - share[..., None] * direction).max(axis=2)
    return np.minimum(share, 1).astype(np.float32), error.astype(np.float32)


def _text_components(weak: Mask, strong: Mask, view: Window) -> tuple[Mask, float]:
    """The components of `weak` that hold strong pixels and can be part of the line, and the share of strong pixels in the box that cannot."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    rows, columns = weak.shape
    rim_left, rim_top, rim_right, rim_bottom = view.open_rim
    flat = labels.ravel()
    held = np.bincount(flat, (strong & view.near).ravel(), count)
    near = np.bincount(flat, view.near.ravel(), count)
    x, y, w, h, area = (stats[:, i] for i in range(5))
    on_rim = (rim_left & (x == 0)) | (rim_top & (y == 0)) | (rim_right & (x + w == columns)) | (rim_bottom & (y + h == rows))
    fits = (near > 0.5 * area) & ~on_rim & (held > 0)
    fits[0] = False
    chosen = fits[labels]
    inside = strong & view.inside
    cut = 1 - float((inside & chosen).sum()) / max(int(inside.sum()), 1)
    return chosen, cut


def _surface(rgb: Floats, where: Mask) -> Floats:
    """A quadratic surface through the pixels of `where`, by iteratively reweighted least squares with Tukey's weights."""
    rows, columns = where.shape
    y, x = np.nonzero(where)
    step = max(1, len(y) // SAMPLES)
    y, x = y[::step], x[::step]
    samples = rgb[y, x].astype(np.float64)
    terms = _terms(2 * y / rows - 1, 2 * x / columns - 1)
    residual = np.abs(samples - np.median(samples, axis=0)).max(axis=1)
    fitted = np.zeros((terms.shape[1], 3))
    for _ in range(12):
        scale = max(2.0, 4.7 * 1.48 * float(np.median(residual)))
        weight = np.clip(1 - (residual / scale) ** 2, 0, None) ** 2 + 1e-6
        fitted = np.linalg.solve((terms * weight[:, None]).T @ terms + 1e-6 * np.eye(terms.shape[1]), (terms * weight[:, None]).T @ samples)
        residual = np.abs(samples - terms @ fitted).max(axis=1)
    grid_y, grid_x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    parts = [(_terms(grid_y[i], grid_x[i]) @ fitted).astype(np.float32) for i in range(rows)]
    low, high = samples[weight > 0.1].min(axis=0) - 8, samples[weight > 0.1].max(axis=0) + 8
    return np.clip(np.stack(parts), low, high).astype(np.float32)


def _terms(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _filled(values: Floats, known: Mask) -> Floats:
    """The values where they are known, continued smoothly elsewhere: averages of ever larger cells come in where smaller ones are empty."""
    weight = known.astype(np.float32)
    levels = [(values * weight[..., None], weight)]
    while min(levels[-1][1].shape) > 1 and not levels[-1][1].all():
        colour, weight = levels[-1]
        size = (weight.shape[1] + 1) // 2, (weight.shape[0] + 1) // 2
        levels.append((cv2.resize(colour, size, interpolation=cv2.INTER_AREA), cv2.resize(weight, size, interpolation=cv2.INTER_AREA)))
    colour, weight = levels[-1]
    mean = colour.sum(axis=(0, 1)) / max(float(weight.sum()), 1e-6)
    result = np.where(weight[..., None] > 1e-6, colour / np.maximum(weight, 1e-6)[..., None], mean).astype(np.float32)
    for colour, weight in reversed(levels[:-1]):
        coarse = cv2.resize(result, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        w = np.minimum(weight * 4, 1)[..., None] if weight is not levels[0][1] else weight[..., None]
        result = (w * colour / np.maximum(weight, 1e-6)[..., None] + (1 - w) * coarse).astype(np.float32)
    return result


def _cluster_centres(samples: Floats, most: int = CLUSTERS, distance: float = 6.0) -> Floats:
    """Centres of up to `most` clusters, the largest first: farthest-point start, then Lloyd's iteration; the same for the same samples."""
    centres = np.median(samples, axis=0)[None].astype(np.float32)
    while len(centres) < most:
        gap = np.sqrt(((samples[:, None] - centres[None]) ** 2).sum(axis=2)).min(axis=1)
        far = np.percentile(gap, 97)
        if far < distance:
            break
        candidates = samples[gap >= far]
        centres = np.concatenate([centres, np.median(candidates[np.argsort(gap[gap >= far])[: max(1, len(candidates) // 2)]], axis=0)[None]])
    for _ in range(8):
        labels = ((samples[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack([samples[labels == k].mean(axis=0) if (labels == k).any() else centres[k] for k in range(len(centres))])
    order = np.argsort(-np.bincount(labels, minlength=len(centres)), kind="stable")
    return centres[order].astype(np.float32)


def _nearest(lab: Floats, centres: Floats) -> npt.NDArray[np.int32]:
    best = np.full(lab.shape[:2], np.inf, np.float32)
    labels = np.zeros(lab.shape[:2], np.int32)
    for k, centre in enumerate(centres):
        gap = ((lab - centre) ** 2).sum(axis=2)
        labels[gap < best] = k
        best = np.minimum(best, gap)
    return labels


def _sampled(values: Floats) -> Floats:
    return values[:: max(1, len(values) // SAMPLES)]


def _polygon(shape: tuple[int, int], corners: Floats) -> Mask:
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 1)
    return mask > 0


def _grown(mask: Mask, by: int) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def _shrunk(mask: Mask, by: int) -> Mask:
    return cv2.erode(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0
