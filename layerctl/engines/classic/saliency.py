"""What may stand out of a photograph, per superpixel: colour contrast to the background, the network's elements, and sharpness.

Background is what runs on to the picture's rim (Zhu et al., "Saliency Optimization from Robust Background Detection", CVPR 2014, equations
2-9). Sharpness is the loss of slope under a blur (Zhuo and Sim, "Defocus map estimation from a single image", 2011): a photographer focuses
on the subject. Differs from the papers: superpixels are watersheds, geodesic steps are Lab differences above a fixed noise floor, and
sharpness is spread over flat places along the superpixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.network import Maps
from layerctl.engines.classic.segment import Labels, Links, link, superpixels, with_cells

U8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

NOISE = 3.0
"""Lab units: smaller steps between neighbouring superpixels cost nothing, else long smooth ways across a sky add up."""
ALIKE = 10.0
"""Lab units: spread of geodesic distances and of colours that count as alike; the paper's value."""
NEAR = 0.25
"""Share of the long side within which contrast counts; the paper's value."""
STEP = 40.0
"""Sobel slope, of grey levels, from which an edge tells sharpness and not noise."""
BLURS = (0.6, 1.6)
"""Standard deviations, pixels of the work picture, whose slopes are compared: a sharp edge loses half between them."""


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Superpixels 0 .. n - 1 of the small picture and their borders k between `a[k]` and `b[k]`.

    Of each piece: `first`, the place of its first pixel in the flat picture; `pixels`; `rim`, those on the picture's rim; `colour`, mean
    Lab; `place`, row and column as shares of the long side.
    Of a border: `length` in pixels; `seam`, mean Lab step across it; `same`, the network's probability that both sides are one layer.
    """

    labels: Labels
    links: Links
    first: npt.NDArray[np.int64]
    pixels: Floats
    rim: Floats
    colour: Floats
    place: Floats
    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    length: Floats
    seam: Floats
    same: Floats

    @property
    def steps(self) -> Floats:
        """Lab difference of the mean colours, per border."""
        distance: Floats = np.linalg.norm(self.colour[self.a] - self.colour[self.b], axis=1)
        return distance

    def graph(self, weights: Floats) -> Floats:
        """Symmetric matrix of border weights, 0 between pieces that are no neighbours."""
        matrix = np.zeros((self.pixels.size, self.pixels.size))
        matrix[self.a, self.b] = matrix[self.b, self.a] = weights
        return matrix

    def laplacian(self, weights: Floats) -> Floats:
        """The matrix whose quadratic form is the sum of weights times squared differences across borders."""
        matrix = self.graph(weights)
        return np.diag(matrix.sum(axis=1)) - matrix


@dataclass(frozen=True, slots=True, eq=False)
class Cues:
    """Per piece, 0..1: colour contrast to the background, the network's element map, sharpness, and nearness to the middle."""

    contrast: Floats
    element: Floats
    sharp: Floats
    middle: Floats


def patches_of(small: U8, looks: Sequence[Maps]) -> Patches:
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    labels = with_cells(superpixels(lab), looks)
    links = link(labels, looks)
    height, width = labels.shape
    count, flat = int(labels.max()) + 1, labels.ravel()
    pixels = np.bincount(flat).astype(np.float64)
    rows, columns = (np.broadcast_to(axis, labels.shape).ravel() / max(height, width) for axis in np.ogrid[:height, :width])
    rim = np.bincount(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]), minlength=count).astype(np.float64)
    keys, lengths = [], []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[one].ravel().astype(np.int64), labels[other].ravel().astype(np.int64)
        apart = a != b
        keys.append((np.minimum(a, b) * count + np.maximum(a, b))[apart])
        lengths.append(np.linalg.norm(lab[one] - lab[other], axis=-1).ravel()[apart])
    borders, position, length = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    compared = dict(zip((links.a * count + links.b).tolist(), (links.same / links.pairs).tolist(), strict=True))
    return Patches(
        labels=labels,
        links=links,
        first=np.unique(flat, return_index=True)[1],
        pixels=pixels,
        rim=rim,
        colour=np.stack([np.bincount(flat, lab[..., channel].ravel()) / pixels for channel in range(3)], axis=1),
        place=np.stack([np.bincount(flat, axis) / pixels for axis in (rows, columns)], axis=1),
        a=borders // count,
        b=borders % count,
        length=length.astype(np.float64),
        seam=np.bincount(position, np.concatenate(lengths)) / length,
        same=np.array([compared.get(border, UNSEEN) for border in borders.tolist()]),
    )


UNSEEN = 0.8
"""Probability of being one layer for neighbours that the network's cells never compared: short borders between small patches."""


def cues_of(work: U8, patches: Patches) -> Cues:
    element = patches.links.element
    many = max(3, element.size // 50)
    peak = np.partition(element, -many)[-many]
    sharp = _sharpness(work, patches)
    dull, crisp = np.percentile(sharp, (10, 95))
    half = np.array(patches.labels.shape) / max(patches.labels.shape) / 2
    return Cues(
        contrast=_contrast(patches),
        element=np.clip(element / max(FAINT, peak), 0, 1),
        sharp=np.clip((sharp - dull) / max(FAINT, crisp - dull), 0, 1),
        middle=np.exp(-2 * (((patches.place - half) / half) ** 2).sum(axis=1)),
    )


FAINT = 0.25
"""Peak of a map below which it is not stretched to 1: it says that there is nothing."""


def _contrast(patches: Patches) -> Floats:
    """Colour contrast to what is background because it runs on to the rim, evened out along like colours."""
    steps = patches.steps
    relative = patches.pixels / patches.pixels.mean()
    reach = np.exp(-((_distances(patches, np.maximum(steps - NOISE, 1e-3)) / ALIKE) ** 2) / 2)
    at_rim = reach @ patches.rim / np.sqrt(patches.pixels.mean())
    background = 1 - np.exp(-(at_rim**2) / (reach @ relative) / 2)
    apart = np.linalg.norm(patches.colour[:, None] - patches.colour[None], axis=-1)
    near = np.exp(-((patches.place[:, None] - patches.place[None]) ** 2).sum(-1) / (2 * NEAR**2))
    contrast = _stretched((apart * near) @ (background * relative))
    bonds = patches.laplacian(np.exp(-(steps**2) / (2 * ALIKE**2)) + 0.05)
    return _stretched(np.asarray(np.linalg.solve(bonds + np.diag(5 * background + contrast), contrast), np.float64))


def _distances(patches: Patches, lengths: Floats) -> npt.NDArray[np.float32]:
    """Lengths of the shortest ways between all pieces, by Floyd and Warshall's recurrence."""
    size = patches.pixels.size
    far = np.full((size, size), np.inf, np.float32)
    np.fill_diagonal(far, 0)
    far[patches.a, patches.b] = far[patches.b, patches.a] = lengths
    longer = np.empty_like(far)
    for k in range(size):
        np.add(far[:, k, None], far[k], out=longer)
        np.minimum(far, longer, out=far)
    return far


def _sharpness(work: U8, patches: Patches) -> Floats:
    """How much steeper the edges of a piece are than after a blur; pieces without edges take it from their likes around."""
    grey = cv2.cvtColor(work, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slopes = []
    for blur in BLURS:
        soft = cv2.GaussianBlur(grey, (0, 0), blur)
        slopes.append(np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)))
    labels = cv2.resize(patches.labels, (work.shape[1], work.shape[0]), interpolation=cv2.INTER_NEAREST).ravel()
    weight = np.where(slopes[0] > STEP, slopes[0], 0).ravel()
    loss = np.clip(slopes[0] / np.maximum(slopes[1], STEP / 10) - 1, 0, 1.5).ravel()
    size = patches.pixels.size
    total = np.bincount(labels, weight, size)
    sharp = np.bincount(labels, weight * loss, size) / np.maximum(total, 1e-6)
    known = np.clip(total / np.maximum(np.bincount(labels, minlength=size), 1) / STEP, 0, 1)
    bonds = patches.laplacian(np.exp(-(patches.steps**2) / (2 * ALIKE**2)) * patches.same + 0.05)
    return np.asarray(np.linalg.solve(bonds + np.diag(known + 0.05), known * sharp), np.float64)


def _stretched(values: Floats) -> Floats:
    stretched: Floats = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return stretched
