"""Alpha of letters from the colours behind them, with what it takes: a background's surface, a smooth fill, clusters of colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SAMPLES = 5000
WEIGHTED = np.asarray([[0.299, 0.587, 0.114], [0.35, -0.294, -0.056], [-0.1, -0.2, 0.3]], np.float32)
"""RGB to luma and reduced chroma: JPEG keeps chroma at half the resolution, so that an edge's colour says less than its lightness."""
PALETTE = 4
"""Colours of letters, outline and shadow that are tried beyond the nearest even one."""


@dataclass(frozen=True, slots=True, eq=False)
class Unmixed:
    """`alpha`: 0..1. `colour`: 0..255, H x W x 3, defined everywhere."""

    alpha: Floats
    colour: Floats


def unmix(rgb: Floats, behind: Floats, support: Mask, solid: Mask, contrast: float, height: float, texture: float = 0.0) -> Unmixed:
    """Alpha and colour of the letters inside `support`, from the colours behind them.

    `solid`: the part of the support that is no shadow. `contrast`: typical difference between letters and background, of 255. `height`: of
    the line in pixels. `texture`: typical deviation of the true background from `behind`. A pixel is explained by the first of these that
    leaves little error: the nearest even colour of a letter, a shade of what is behind (a shadow), another colour found among the pixels
    still unexplained. What none explains is a mixture of the letters' own colours, and opaque,
    but for shadow on a texture.
    """
    difference = rgb - behind
    strength = largest(difference)
    even = _even(rgb, difference, strength, support, contrast, height)
    local = filled(rgb, even)
    distance = np.full(int(support.sum()), np.inf)
    if even.any():
        distance = cv2.distanceTransform((~even).astype(np.uint8), cv2.DIST_L2, 3)[support]
    tolerance = max(10.0, 0.12 * contrast, 1.5 * texture)
    pixels, ground, colour = rgb[support], behind[support], local[support]
    d, below = _weighted(pixels - ground), _weighted(ground)
    power = np.sqrt((d * d).sum(axis=0))
    least = 0.3 * float(np.percentile(power, 92))
    share, error = _projected(d, _weighted(colour) - below)
    error[distance > 3] = np.inf
    shade, shade_error = _projected(d, -below)
    dark = (shade_error < 0.5 * np.minimum(tolerance, error)) & (distance <= 0.15 * height + 4) & (shade < 0.9)
    for _ in range(PALETTE):
        left = (error > tolerance) & (power > least) & ~dark
        if left.sum() < max(4, 0.01 * left.size):
            break
        extreme = left & (power >= np.percentile(power[left], 85))
        entry = cluster_centres(sampled(pixels[extreme]), most=3, distance=30.0)[0]
        a, e = _projected(d, _weighted(entry[None]) - below)
        better = e + 3 < 0.7 * error
        if not better.any():
            break
        share[better], error[better], colour[better] = a[better], e[better], entry
    dark |= (shade_error + 3 < 0.7 * error) & (shade > 0)
    share[dark], error[dark], colour[dark] = shade[dark], shade_error[dark], 0
    unknown = (error > tolerance) & (power > max(least, 2 * texture)) & solid[support]
    share[unknown], colour[unknown] = 1, pixels[unknown]
    veil = ~solid[support]
    share[veil], colour[veil] = shade[veil], 0
    dark |= veil
    alpha, soft = np.zeros(support.shape, np.float32), np.zeros(support.shape, bool)
    alpha[support], soft[support] = share, dark
    if veil.any():
        alpha = np.where(support & ~solid & (alpha < 0.8), _evened(alpha, support & ~solid, 0.04 * height), alpha)
    if len(cluster_centres(sampled(pixels[share > 0.95]), most=3, distance=0.5 * contrast)) > 1:
        alpha = np.maximum(alpha, cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    ringing = (alpha < 0.16) & ~grown(alpha > 0.3, 1) & ~soft
    alpha[ringing | (alpha < 0.02) | ~support] = 0
    share = alpha[support]
    seen = share > 0.35
    colour[seen] = np.clip(ground[seen] + (pixels[seen] - ground[seen]) / share[seen, None], 0, 255)
    canvas = np.zeros_like(rgb)
    canvas[support] = colour
    firm = alpha > 0.9
    extended = filled(canvas, firm if firm.any() else alpha > 0.5)
    return Unmixed(alpha, np.asarray(cv2.copyTo(canvas, (alpha > 0).astype(np.uint8), extended), np.float32))


def _evened(values: Floats, where: Mask, radius: float) -> Floats:
    """The values of `where`, averaged over their neighbours in `where`."""
    weight = where.astype(np.float32)
    total, weight = (cv2.GaussianBlur(plane, (0, 0), max(0.5, radius)) for plane in (values * weight, weight))
    return np.asarray(total / np.maximum(weight, 1e-3), np.float32)


def _even(rgb: Floats, difference: Floats, strength: Floats, support: Mask, contrast: float, height: float) -> Mask:
    """Where the letters are opaque: even colour, and no weaker tint of a stronger colour close by (that is a shadow or an edge)."""
    kernel = np.ones((3, 3), np.uint8)
    spread = largest(cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel))
    even = np.asarray(support & (spread < max(8.0, 0.1 * contrast)) & (strength > 0.25 * contrast), bool)
    reach = 2 * max(1, round(0.06 * height)) + 3
    strongest = cv2.dilate(np.where(even, strength, 0).astype(np.float32), np.ones((reach, reach), np.uint8))
    weak = even & (strength < 0.8 * strongest)
    if not weak.any():
        return even
    d = _weighted(difference[weak])
    share, error = _projected(d, _weighted(filled(difference, even & ~weak)[weak]))
    shade, shade_error = _projected(d, d - _weighted(rgb[weak]))
    tolerance = max(6.0, 0.05 * contrast)
    even[weak] = ~(((error < tolerance) & (share < 0.9)) | ((shade_error < tolerance) & (shade < 0.85)))
    return even


def _weighted(colours: Floats) -> Floats:
    """Of N x 3 colours, 3 x N."""
    return np.asarray(WEIGHTED @ colours.T, np.float32)


def _projected(difference: Floats, direction: Floats) -> tuple[Floats, Floats]:
    """The share 0..1 of `direction` that explains `difference` (both weighted) best, and the largest error that is left."""
    length = np.maximum((direction * direction).sum(axis=0), 25.0)
    share = np.clip((difference * direction).sum(axis=0) / length, 0, 1)
    error = np.abs(difference - share * direction).max(axis=0)
    return share.astype(np.float32), error.astype(np.float32)


def surface(rgb: Floats, where: Mask) -> Floats:
    """A quadratic surface through the pixels of `where`, by iteratively reweighted least squares with Tukey's weights.

    It stays within the range of the pixels that it was fitted to.
    """
    rows, columns = where.shape
    y, x = np.nonzero(where)
    step = max(1, len(y) // SAMPLES)
    y, x = y[::step], x[::step]
    samples = rgb[y, x].astype(np.float64)
    v, u = 2 * y / rows - 1, 2 * x / columns - 1
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    residual = np.abs(samples - np.median(samples, axis=0)).max(axis=1)
    for _ in range(12):
        scale = max(2.0, 4.7 * 1.48 * float(np.median(residual)))
        weight = np.clip(1 - (residual / scale) ** 2, 0, None) ** 2 + 1e-6
        weighted = (terms * weight[:, None]).T
        fitted = np.linalg.solve(weighted @ terms + 1e-6 * np.eye(6), weighted @ samples)
        residual = np.abs(samples - terms @ fitted).max(axis=1)
    firm = samples[weight > 0.1]
    v = (2 * np.arange(rows, dtype=np.float32) / rows - 1)[:, None]
    u = (2 * np.arange(columns, dtype=np.float32) / columns - 1)[None]
    result = np.empty((rows, columns, 3), np.float32)
    for k, (a, b, c, d, e, f) in enumerate(fitted.T.astype(np.float32)):
        plane = (a + b * u + d * u * u) + (c * v + f * v * v) + e * u * v
        np.clip(plane, firm[:, k].min() - 6, firm[:, k].max() + 6, out=result[..., k])
    return result


def filled(values: Floats, known: Mask) -> Floats:
    """The values where they are known, continued smoothly elsewhere: averages of larger cells come in where smaller ones are empty."""
    inside = known.astype(np.uint8)
    levels = [(cv2.copyTo(values, inside), known.astype(np.float32))]
    while min(levels[-1][1].shape) > 1 and not levels[-1][1].all():
        colour, weight = levels[-1]
        size = (weight.shape[1] + 1) // 2, (weight.shape[0] + 1) // 2
        levels.append((cv2.resize(colour, size, interpolation=cv2.INTER_AREA), cv2.resize(weight, size, interpolation=cv2.INTER_AREA)))
    colour, weight = levels[-1]
    mean = colour.sum(axis=(0, 1)) / max(float(weight.sum()), 1e-6)
    result = np.where(weight[..., None] > 1e-6, colour / np.maximum(weight, 1e-6)[..., None], mean).astype(np.float32)
    for level, (colour, weight) in reversed(list(enumerate(levels[:-1]))):
        result = cv2.resize(result, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        if level:
            certain = np.minimum(weight * 4, 1)
            result *= (1 - certain)[..., None]
            result += (certain / np.maximum(weight, 1e-6))[..., None] * colour
    return np.asarray(cv2.copyTo(values, inside, result), np.float32)


def cluster_centres(samples: Floats, most: int, distance: float = 6.0) -> Floats:
    """Centres of up to `most` clusters, the largest first: farthest-point start, then Lloyd's iteration; the same for the same samples."""
    if not len(samples):
        return np.zeros((0, 3), np.float32)
    centres = np.median(samples, axis=0)[None].astype(np.float32)
    while len(centres) < most:
        gap = np.sqrt(_gaps(samples, centres).min(axis=0))
        far = np.percentile(gap, 97)
        if far < distance:
            break
        beyond = samples[gap >= far]
        nearest_first = np.argsort(gap[gap >= far], kind="stable")
        centres = np.concatenate([centres, np.median(beyond[nearest_first[: max(1, len(beyond) // 2)]], axis=0)[None]])
    for _ in range(6):
        labels = _gaps(samples, centres).argmin(axis=0)
        centres = np.stack([samples[labels == k].mean(axis=0) if (labels == k).any() else centres[k] for k in range(len(centres))])
    order = np.argsort(-np.bincount(labels, minlength=len(centres)), kind="stable")
    return np.asarray(centres[order], np.float32)


def nearest_centre(values: Floats, centres: Floats) -> npt.NDArray[np.int64]:
    """The index of the nearest centre of every pixel."""
    return np.asarray(_gaps(values.reshape(-1, 3), centres).argmin(axis=0).reshape(values.shape[:2]), np.int64)


def _gaps(samples: Floats, centres: Floats) -> Floats:
    """Squared distances, centres x samples."""
    planes = np.ascontiguousarray(samples.T)
    return np.stack([(planes[0] - c[0]) ** 2 + (planes[1] - c[1]) ** 2 + (planes[2] - c[2]) ** 2 for c in centres])


def largest(values: Floats) -> Floats:
    """The largest absolute value over the three channels."""
    absolute = np.abs(values)
    return np.asarray(np.maximum(np.maximum(absolute[..., 0], absolute[..., 1]), absolute[..., 2]), np.float32)


def sampled(values: Floats) -> Floats:
    return values[:: max(1, len(values) // SAMPLES)]


def grown(mask: Mask, by: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0, bool)


def shrunk(mask: Mask, by: int) -> Mask:
    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0, bool)
