"""The one thing that a photograph shows: many regions are proposed, a few measures say which is most like a subject, GrabCut draws it.

What stands out is asked of three maps: colour contrast to the background, where background is what runs on to the picture's rim
(Zhu et al., "Saliency Optimization from Robust Background Detection", CVPR 2014, equations 2-9); the network's element map; and
sharpness, the loss of slope under a blur (Zhuo and Sim, "Defocus map estimation from a single image", 2011), because a photographer
focuses on the subject. Each fails on pictures where another succeeds, so that all of them, at several levels, only propose.

Differs from the papers: superpixels are watersheds, geodesic steps are Lab differences above a fixed noise floor, and sharpness is
spread over flat places along the superpixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra, maximum_flow

from layerctl.engines.classic.network import Maps
from layerctl.engines.classic.segment import Labels, Links, joins, link, superpixels, with_cells

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SIDE = 320
"""Long side of the picture on which regions are proposed, pixels; fine enough for a stalk, and dense matrices of its pieces stay small."""
LEAST_AREA, MOST_AREA = 0.012, 0.8
"""Share of the picture that a subject takes: smaller things are told from blotches by chance only, a larger one leaves no background."""
LEVELS = tuple(0.15 + 0.1 * k for k in range(8))
"""Shares of a map's peak at which it is cut into regions."""
PARTS = 3
"""Largest connected parts, per level, that are proposed."""
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


SURE = 0.4
"""Confidence from which a subject is worth a layer: of 26 pictures without one only a cliff before the sky reached it."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """`mask`: where the subject is, of the work picture's size. `confidence`: expected intersection over union with the truth, 0..1."""

    mask: Bool
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Superpixels 0 .. n - 1 of the small picture and their borders k between `a[k]` and `b[k]`.

    `pixels`, `rim`: of each piece, and of those on the picture's rim. `colour`: mean Lab. `place`: row, column as shares of the long side.
    `length`, `seam`, `same`: of a border, pixels, mean Lab step across it, and the network's probability that both sides are one layer.
    """

    labels: Labels
    links: Links
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

    def graph(self, weights: Floats) -> csr_matrix:
        """Symmetric matrix of border weights."""
        ends = (np.r_[self.a, self.b], np.r_[self.b, self.a])
        return coo_matrix((np.r_[weights, weights], ends), shape=(self.pixels.size, self.pixels.size)).tocsr()


@dataclass(frozen=True, slots=True, eq=False)
class _Cues:
    """Per piece, 0..1: colour contrast to the background, the network's element map, sharpness, and nearness to the middle."""

    contrast: Floats
    element: Floats
    sharp: Floats
    middle: Floats


def find_subject(work: U8, looks: Sequence[Maps]) -> Subject | None:
    """The single thing that stands out of a photograph; None where there are no regions to choose from. Trust it from SURE.

    `work`: uint8 H x W x 3, sRGB, long side at most 512. `looks`: what the network says of it. The same input gives the same mask.
    """
    height, width = work.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    small = cv2.resize(work, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA)
    pieces = _pieces(small, looks)
    if pieces.pixels.size < 4:
        return None
    cues = _cues(work, pieces)
    regions = _regions(pieces, cues)
    if not len(regions):
        return None
    palette = _palette(small, pieces)
    best = int(_score(_measures(pieces, cues, palette, regions)).argmax())
    region = _grown(pieces, palette, regions[best])
    measures = _measures(pieces, cues, palette, region[None])
    evidence = TRUST_IN_SCORE * _score(measures) + sum(weight * measures[name] for name, weight in TRUST.items()) - DOUBT
    return Subject(_outlined(region[pieces.labels], width, height), float(1 / (1 + np.exp(-evidence[0]))))


def _pieces(small: U8, looks: Sequence[Maps]) -> _Pieces:
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
    return _Pieces(
        labels=labels,
        links=links,
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
"""Probability of being one layer for neighbours that the network's cells never compared: short borders between small pieces."""


def _cues(work: U8, pieces: _Pieces) -> _Cues:
    element = pieces.links.element
    many = max(3, element.size // 50)
    peak = np.partition(element, -many)[-many]
    sharp = _sharpness(work, pieces)
    dull, crisp = np.percentile(sharp, (10, 95))
    half = np.array(pieces.labels.shape) / max(pieces.labels.shape) / 2
    return _Cues(
        contrast=_contrast(pieces),
        element=np.clip(element / max(FAINT, peak), 0, 1),
        sharp=np.clip((sharp - dull) / max(FAINT, crisp - dull), 0, 1),
        middle=np.exp(-2 * (((pieces.place - half) / half) ** 2).sum(axis=1)),
    )


FAINT = 0.25
"""Peak of a map below which it is not stretched to 1: it says that there is nothing."""


def _contrast(pieces: _Pieces) -> Floats:
    """Colour contrast to what is background because it runs on to the rim, evened out along like colours."""
    steps = pieces.steps
    relative = pieces.pixels / pieces.pixels.mean()
    far = dijkstra(pieces.graph(np.maximum(steps - NOISE, 1e-3)), directed=False, limit=3.5 * ALIKE)
    reach = np.exp(-(far**2) / (2 * ALIKE**2))
    at_rim = reach @ pieces.rim / np.sqrt(pieces.pixels.mean())
    background = 1 - np.exp(-(at_rim**2) / (reach @ relative) / 2)
    apart = np.linalg.norm(pieces.colour[:, None] - pieces.colour[None], axis=-1)
    near = np.exp(-((pieces.place[:, None] - pieces.place[None]) ** 2).sum(-1) / (2 * NEAR**2))
    contrast = _stretched((apart * near) @ (background * relative))
    bonds = pieces.graph(np.exp(-(steps**2) / (2 * ALIKE**2)) + 0.05).toarray()
    return _stretched(np.linalg.solve(np.diag(bonds.sum(1) + 5 * background + contrast) - bonds, contrast))


def _sharpness(work: U8, pieces: _Pieces) -> Floats:
    """How much steeper the edges of a piece are than after a blur; pieces without edges take it from their likes around."""
    grey = cv2.cvtColor(work, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slopes = []
    for blur in BLURS:
        soft = cv2.GaussianBlur(grey, (0, 0), blur)
        slopes.append(np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)))
    labels = cv2.resize(pieces.labels, (work.shape[1], work.shape[0]), interpolation=cv2.INTER_NEAREST).ravel()
    weight = np.where(slopes[0] > STEP, slopes[0], 0).ravel()
    loss = np.clip(slopes[0] / np.maximum(slopes[1], STEP / 10) - 1, 0, 1.5).ravel()
    size = pieces.pixels.size
    total = np.bincount(labels, weight, size)
    sharp = np.bincount(labels, weight * loss, size) / np.maximum(total, 1e-6)
    known = np.clip(total / np.maximum(np.bincount(labels, minlength=size), 1) / STEP, 0, 1)
    bonds = pieces.graph(np.exp(-(pieces.steps**2) / (2 * ALIKE**2)) * pieces.same + 0.05).toarray()
    spread: Floats = np.linalg.solve(np.diag(bonds.sum(1) + known + 0.05) - bonds, known * sharp)
    return spread


def _stretched(values: Floats) -> Floats:
    stretched: Floats = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return stretched


def _regions(pieces: _Pieces, cues: _Cues) -> Bool:
    """Proposals, regions x pieces: connected parts of the maps and of their means at all levels, and what the network would join."""
    mean = (cues.contrast + cues.element + cues.sharp) / 3
    maps = [
        mean, mean * (0.3 + 0.7 * cues.middle), (cues.contrast + cues.sharp) / 2,
        (cues.contrast + cues.element) / 2, cues.contrast, cues.element,
    ]  # fmt: skip
    share = pieces.pixels / pieces.pixels.sum()
    found: dict[bytes, Bool] = {}
    for region in (*_parts(pieces, share, maps), *_joined(pieces, share)):
        whole = _without_holes(pieces, share, region)
        if LEAST_AREA <= share[whole].sum() <= MOST_AREA:
            found[whole.tobytes()] = whole
    return np.array(list(found.values()), bool).reshape(len(found), share.size)


def _parts(pieces: _Pieces, share: Floats, maps: Sequence[Floats]) -> Iterator[Bool]:
    for values in maps:
        for level in LEVELS:
            above = values > level * values.max()
            numbers = _connected(pieces, above)
            areas = np.bincount(numbers, share * above)
            for part in np.argsort(-areas, kind="stable")[:PARTS].tolist():
                if areas[part] >= LEAST_AREA / 2:
                    yield above & (numbers == part)


def _joined(pieces: _Pieces, share: Floats) -> Iterator[Bool]:
    members = {piece: [piece] for piece in range(share.size)}
    areas = share.tolist()
    for join in joins(pieces.links):
        members[join.a] = members[join.a] + members.pop(join.b)
        areas[join.a] += areas[join.b]
        if LEAST_AREA / 2 <= areas[join.a] <= MOST_AREA:
            region = np.zeros(share.size, bool)
            region[members[join.a]] = True
            yield region


def _connected(pieces: _Pieces, inside: Bool) -> npt.NDArray[np.int32]:
    """Numbers of the connected parts; a piece outside is a part by itself."""
    kept = inside[pieces.a] & inside[pieces.b]
    size = inside.size
    numbers: npt.NDArray[np.int32] = connected_components(
        coo_matrix((np.ones(int(kept.sum())), (pieces.a[kept], pieces.b[kept])), shape=(size, size)), directed=False
    )[1]
    return numbers


def _without_holes(pieces: _Pieces, share: Floats, region: Bool) -> Bool:
    """With what it encloses, where that is less than half of it: more is background seen through a frame."""
    numbers = _connected(pieces, ~region)
    open_ = np.bincount(numbers, pieces.rim) > 0
    areas = np.bincount(numbers, share * ~region)
    holes: Bool = (~open_ & (areas < 0.5 * share[region].sum()))[numbers]
    return region | holes


def _measures(pieces: _Pieces, cues: _Cues, palette: Floats, regions: Bool) -> dict[str, Floats]:
    """What may tell a subject, by name, of every region (m x pieces); the names are explained at WEIGHTS."""
    share = pieces.pixels / pieces.pixels.sum()
    inside = regions.astype(np.float64)
    area = inside @ share
    near = pieces.graph(np.ones(pieces.a.size))
    ring = regions
    for _ in range(RING):
        ring = ring | ((near @ ring.T).T > 0)
    ring_share = (ring & ~regions) * share
    around = ring_share / np.maximum(ring_share.sum(axis=1, keepdims=True), 1e-9)
    border = (regions[:, pieces.a] != regions[:, pieces.b]) * pieces.length
    border /= np.maximum(border.sum(axis=1, keepdims=True), 1)
    edges = (pieces.labels[0], pieces.labels[-1], pieces.labels[:, 0], pieces.labels[:, -1])
    colours = share[:, None] * palette
    ours, all_ = inside @ colours, colours.sum(axis=0)
    right = np.maximum(ours, all_ - ours).sum(axis=1)

    def fit(values: Floats) -> Floats:
        shared = inside @ (share * values)
        overlap: Floats = shared / (area + share @ values - shared)
        return overlap

    def mean(values: Floats) -> Floats:
        average: Floats = inside @ (share * values) / area
        return average

    return {
        "smallness": np.log(area) ** 2,
        "contrast_fit": fit(cues.contrast),
        "sharp_fit": fit(cues.sharp),
        "element_fit": fit(cues.element),
        "sharp": mean(cues.sharp),
        "sharp_around": around @ cues.sharp,
        "element_step": mean(cues.element) - around @ cues.element,
        "middle": mean(cues.middle),
        "outline": border @ (1 - pieces.same),
        "seam": border @ pieces.seam,
        "sides": np.sum([regions[:, np.unique(edge)].any(axis=1) for edge in edges], axis=0),
        "own_colours": (ours**2 / np.maximum(all_, 1e-9)).sum(axis=1) / area,
        "told_by_colour": (right - np.maximum(area, 1 - area)) / np.minimum(area, 1 - area),
    }


def _score(measures: dict[str, Floats]) -> Floats:
    """How much like a subject the regions are; only differences within one picture mean something."""
    total: Floats = np.sum([weight * measures[name] for name, weight in WEIGHTS.items()], axis=0)
    return total


RING = 2
"""Superpixels: how far around a region its surroundings reach."""
WEIGHTS = {
    "smallness": -0.14,  # squared logarithm of the area: neither a blotch nor everything
    "contrast_fit": 1.1,  # intersection over union with what a map marks
    "sharp_fit": 2.6,
    "sharp": 6.1,  # in focus
    "sharp_around": -4.6,  # and what is around it is not
    "element_step": 3.5,  # the network sees an element here and none around
    "middle": 7.6,
    "outline": 5.7,  # the network sees a border all along the outline
    "seam": 0.05,  # so do the colours
    "sides": -0.53,  # of the picture, that it touches
    "own_colours": 4.3,  # its colours are not found elsewhere
    "told_by_colour": 4.75,  # how much better than by size alone a pixel's colour tells on which side it is
}
"""Set on benchmark scenes of the tuning split and natural photographs so that the best region wins in as many as possible."""
TRUST_IN_SCORE = 0.184
TRUST = {"sharp_around": 3.34, "element_fit": 1.83, "contrast_fit": 1.73}
"""Focus helps to choose in a picture, but any texture is in focus: here its part of the score is taken back, and the maps count more."""
DOUBT = 5.52
"""Together with the two above: logistic regression of intersection over union on the same pictures and 25 without a subject."""


def _palette(small: U8, pieces: _Pieces) -> Floats:
    """Colour histogram of each piece, pieces x colours: the cells of a Lab grid that the picture uses, softened between like cells."""
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    cells = np.floor(lab / TINT).astype(np.int64) @ np.array([10_000, 100, 1])
    used, colour = np.unique(cells, return_inverse=True)
    count, size = np.bincount(colour), pieces.pixels.size
    mean = np.stack([np.bincount(colour, lab[:, channel]) / count for channel in range(3)], axis=1)
    alike = np.exp(-((mean[:, None] - mean[None]) ** 2).sum(-1) / (2 * (0.6 * TINT) ** 2))
    histogram = coo_matrix((np.ones(colour.size), (pieces.labels.ravel(), colour)), shape=(size, used.size)).toarray()
    soft: Floats = histogram / pieces.pixels[:, None] @ (alike / alike.sum(axis=1, keepdims=True))
    return soft


def _grown(pieces: _Pieces, palette: Floats, region: Bool) -> Bool:
    """The region by GrabCut (Rother et al., SIGGRAPH 2004) on the pieces, near where it was, its main parts, without holes.

    Histograms stand for the paper's Gaussian mixtures; what the network says of a border weighs as much as its colours.
    """
    share = pieces.pixels / pieces.pixels.sum()
    mask = region[pieces.labels].astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.DIST_L2, 5)[1:-1, 1:-1]
    height = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    signed = np.bincount(pieces.labels.ravel(), (depth - height).ravel()) / pieces.pixels / np.sqrt(mask.sum())
    place = HOLD * np.clip(signed / REACH, -4, 4)
    usual = max(float(np.average(pieces.seam**2, weights=pieces.length)), 1e-6)
    bond = BOND * pieces.length * (np.exp(-(pieces.seam**2) / (2 * usual)) + pieces.same**2) / 2
    weight = pieces.pixels / np.sqrt(pieces.pixels.mean())
    grown = region
    for _ in range(ROUNDS):
        ours, theirs = (share * side @ palette for side in (grown, ~grown))
        colour = np.log((ours / ours.sum() + RARE) / (theirs / theirs.sum() + RARE))
        cut = _least_cut(pieces, weight * (palette @ colour + place), bond)
        if not cut.any() or cut.all() or (cut == grown).all():
            break
        grown = cut
    numbers = _connected(pieces, grown)
    areas = np.bincount(numbers, share * grown)
    whole = _without_holes(pieces, share, grown & (areas >= MAIN * areas.max())[numbers])
    return region if whole.all() else whole


def _least_cut(pieces: _Pieces, gain: Floats, bond: Floats) -> Bool:
    """The set of pieces with the greatest sum of gains less the bonds that its outline cuts."""
    size = gain.size
    every, ends = np.arange(size), (np.full(size, size), np.full(size, size + 1))
    rows = np.concatenate([ends[0], every, pieces.a, pieces.b])
    columns = np.concatenate([every, ends[1], pieces.b, pieces.a])
    capacity = np.concatenate([np.maximum(gain, 0), np.maximum(-gain, 0), bond, bond])
    whole = np.minimum(capacity * 100, 2e6).round().astype(np.int32)
    network = csr_matrix((whole, (rows, columns)), shape=(size + 2, size + 2))
    left = network - maximum_flow(network, size, size + 1).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    chosen = np.zeros(size + 2, bool)
    chosen[breadth_first_order(left, size, return_predecessors=False)] = True
    return chosen[:size]


def _outlined(mask: Bool, width: int, height: int) -> Bool:
    """The mask at the work picture's size, its outline without the superpixels' teeth."""
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    smooth: Bool = cv2.GaussianBlur(large, (0, 0), TEETH, borderType=cv2.BORDER_REPLICATE) > 0.5
    return smooth


TINT = 10.0
"""Lab units: width of the cells of the colour histograms."""
RARE = 1e-4
"""Share that every colour has at least, so that one unseen colour does not decide for a piece."""
BOND = 2.0
"""What a pixel of outline costs, in units of a pixel's colour evidence over the square root of a piece's size."""
HOLD, REACH = 1.0, 0.1
"""Weight of keeping to where the region was, and the way, in square roots of its area, over which that weight sets in."""
ROUNDS = 4
"""Colours and outline are found by turns; more rounds change nothing."""
MAIN = 0.2
"""Of the largest part: smaller parts apart from it are no subject."""
TEETH = 1.5
"""Standard deviation of the smoothing, pixels of the work picture."""
