"""Where the text of a picture is and what it says, by the models inside the RapidOCR wheel.

The wheel brings PP-OCRv6's detector (how likely a pixel is text) and recogniser (how likely each character is in each column of a line,
for connectionist temporal classification). They are run by onnxruntime, with the wheel's settings, without the wheel's own code, whose
configuration takes a second to set up. The recogniser knows Latin (with diacritics), digits, punctuation, Chinese and Japanese, and single
Greek letters. For Korean, Cyrillic, Arabic, Thai and Devanagari it gives nothing, and such lines are left out. The models are named by
their paths, so that nothing is ever downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.inference import open_model
from layerctl.errors import MissingDependencyError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DETECTOR, RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
DETECTION_SIDE = 736
"""Side of the square whose area the detector's copy of a picture has."""
DETECTION_MAX_SIDE = 1600
MAX_ENLARGEMENT = 2.0
MULTIPLE = 32
"""The detector takes sides that are whole multiples of this."""
LEAST_TEXT, LEAST_BOX = 0.3, 0.5
"""Probability of text from which a pixel belongs to a line, and of a line's box on average."""
UNCLIP = 1.6
"""The detector marks the core of a line; its box is wider on every side by this times area over circumference."""
LEAST_CORE, LEAST_GROWN = 3, 5
"""Sides of the smallest core and of the smallest box of a line."""
MOST_BOXES = 1000
ONE_ROW = 10
"""Boxes whose tops are closer than this follow each other from left to right."""
LEAST_SIDE = 8
"""Pictures that are narrower hold no text that can be read."""
READING_HEIGHT = 64
"""Height of the straightened line that the recogniser is given; it works on 48 pixels."""
LINE_HEIGHT, LEAST_LINE_WIDTH = 48, 320
LEAST_CONFIDENCE = 0.5
LEAST_WEIGHT = 1e-30
GRAPH, INITIALIZER, DATA_TYPE, RAW_DATA, FLOAT = 7, 5, 2, 9, 1
"""Numbers of an ONNX file's fields, and its name for 32-bit floats."""
VARINT, FIXED64, BYTES = 0, 1, 2
"""How the value of a protocol buffer's field is stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One line of text. `quad`: 4 x 2, its corners on the picture: top left, top right, bottom right, bottom left as one reads."""

    quad: npt.NDArray[np.float32]
    text: str
    confidence: float

    @property
    def height(self) -> float:
        a, b, c, d = self.quad
        return float(np.hypot(*(d - a)) + np.hypot(*(c - b))) / 2

    @property
    def width(self) -> float:
        a, b, c, d = self.quad
        return float(np.hypot(*(b - a)) + np.hypot(*(c - d))) / 2

    @property
    def angle(self) -> float:
        """Degrees that the line falls to the right."""
        a, b, c, d = self.quad
        x, y = (b - a) + (c - d)
        return math.degrees(math.atan2(float(y), float(x)))


def read_lines(rgb: npt.NDArray[np.uint8]) -> tuple[Reading, ...]:
    """The lines of text in a picture (H x W x 3) with a confidence of at least 0.5, top to bottom."""
    height, width = rgb.shape[:2]
    if min(height, width) < LEAST_SIDE:
        return ()
    scale = min(DETECTION_SIDE / math.sqrt(height * width), DETECTION_MAX_SIDE / max(height, width), MAX_ENLARGEMENT)
    size = max(32, round(width * scale)), max(32, round(height * scale))
    copy = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    lines = []
    for box in _boxes(copy):
        quad = (box * (width / size[0], height / size[1])).astype(np.float32)
        text, confidence = read_line(straightened(rgb, quad))
        if text and confidence >= LEAST_CONFIDENCE:
            lines.append(Reading(quad, text, confidence))
    return tuple(lines)


def read_line(rgb: npt.NDArray[np.uint8]) -> tuple[str, float]:
    """The text of a picture that holds one straight line, and the confidence 0..1; an empty string where nothing is recognised."""
    ratio = rgb.shape[1] / rgb.shape[0]
    room = max(LEAST_LINE_WIDTH, int(LINE_HEIGHT * ratio))
    width = min(math.ceil(LINE_HEIGHT * ratio), room)
    line = np.zeros((1, 3, LINE_HEIGHT, room), np.float32)
    line[..., :width] = _normalised(cv2.resize(rgb, (width, LINE_HEIGHT)))
    chances = _session(RECOGNISER).run(None, {"x": line})[0][0]
    best = chances.argmax(axis=1)
    new = np.flatnonzero((best > 0) & (best != np.concatenate([[0], best[:-1]])))
    characters = _characters()
    text = "".join(characters[k] for k in best[new]).strip()
    return (text, float(chances[new, best[new]].mean())) if text else ("", 0.0)


def _boxes(rgb: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """The boxes of the lines in the detector's copy of a picture, as quads in whole pixels, top to bottom and left to right."""
    height, width = rgb.shape[:2]
    columns, rows = (max(1, round(side / MULTIPLE)) * MULTIPLE for side in (width, height))
    chance = _session(DETECTOR).run(None, {"x": _normalised(cv2.resize(rgb, (columns, rows)))})[0][0, 0]
    marked = cv2.dilate((chance > LEAST_TEXT).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(marked, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours[:MOST_BOXES]:
        core = cv2.minAreaRect(contour)
        corners = cv2.boxPoints(core)
        if min(core[1]) < LEAST_CORE or _mean_within(chance, corners) < LEAST_BOX:
            continue
        grown = cv2.minAreaRect(_grown(corners, UNCLIP * core[1][0] * core[1][1] / (2 * sum(core[1]))))
        if min(grown[1]) < LEAST_GROWN:
            continue
        box = np.rint(cv2.boxPoints(grown) / (columns, rows) * (width, height))
        box = np.clip(box, 0, (width - 1, height - 1)).astype(np.float32)
        box = box[np.argsort(box[:, 0], kind="stable")]
        left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (box[:2], box[2:]))
        quad = np.stack([left[0], right[0], right[1], left[1]])
        if min(math.dist(quad[0], quad[1]), math.dist(quad[0], quad[3])) >= 4:
            boxes.append(quad)
    boxes.sort(key=lambda quad: float(quad[0, 1]))
    row, places = 0, []
    for before, quad in zip([*boxes[:1], *boxes], boxes, strict=False):
        row += quad[0, 1] - before[0, 1] >= ONE_ROW
        places.append((row, float(quad[0, 0])))
    return [boxes[k] for k in sorted(range(len(boxes)), key=places.__getitem__)]


def _grown(corners: npt.NDArray[np.float32], distance: float) -> npt.NDArray[np.float32]:
    """The outline of a quad moved outward by a distance, in whole pixels, its corners arcs that deviate by a quarter pixel."""
    corners = np.trunc(corners)
    edges = np.roll(corners, -1, axis=0) - corners
    headings = np.arctan2(edges[:, 1], edges[:, 0])
    step = max(2 * math.acos(1 - 0.25 / distance), 2 / distance)
    outline = []
    for corner, before, after in zip(corners, np.roll(headings, 1), headings, strict=True):
        steps = max(1, round((after - before) % (2 * math.pi) / step))
        arc = np.append(before + step * np.arange(steps), after)
        outline.append(corner + distance * np.stack([np.sin(arc), -np.cos(arc)], axis=1))
    return np.floor(np.concatenate(outline) + 0.5).astype(np.float32)


def _mean_within(values: npt.NDArray[np.float32], corners: npt.NDArray[np.float32]) -> float:
    polygon = corners.astype(np.int32)
    low, high = np.maximum(polygon.min(axis=0), 0), polygon.max(axis=0) + 1
    view = values[low[1] : high[1], low[0] : high[0]]
    inside = np.zeros(view.shape, np.uint8)
    cv2.fillPoly(inside, [polygon - low], 1)
    return float(cv2.mean(view, inside)[0])


def _normalised(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """-1..1, 1 x 3 x H x W, blue first."""
    return np.asarray(cv2.dnn.blobFromImage(rgb, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True), np.float32)


def straightened(pixels: npt.NDArray[np.uint8], quad: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The content of the quad as an upright picture, reduced to about 64 pixels in height."""
    line = Reading(quad, "", 0.0)
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 2, 0)
    x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 2
    crop = pixels[y0:y1, x0:x1]
    scale = min(1.0, READING_HEIGHT / max(line.height, 1.0))
    if scale < 1:
        size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    width, height = max(4, round(line.width * scale)), max(4, round(line.height * scale))
    target = np.asarray([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    corners = ((quad - (x0, y0)) * scale).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, target)
    return np.asarray(cv2.warpPerspective(crop, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


@functools.cache
def _characters() -> tuple[str, ...]:
    """What the recogniser's classes stand for: the first is the blank between characters, the last a space."""
    listed = _session(RECOGNISER).get_modelmeta().custom_metadata_map["character"]
    return ("", *listed.splitlines(), " ")


@functools.cache
def _session(name: str) -> InferenceSession:
    """The model of that file name. Raises MissingDependencyError when it is not where the wheel should have put it."""
    wheel = importlib.util.find_spec("rapidocr")
    path = Path(wheel.origin if wheel and wheel.origin else "rapidocr").with_name("models") / name
    if not path.is_file():
        raise MissingDependencyError(f"there is no text recognition model at {path}", hint="pip install --force-reinstall rapidocr")
    return open_model(_without_traces(path.read_bytes()))


def _without_traces(model: bytes) -> bytes:
    """The ONNX model with 0 for weights below 1e-30.

    Two fifths of the weights of the detector's two widest layers are subnormal numbers: they change no result, but many processors take
    many times as long for them, 60 % of the detector's time.
    """
    data = bytearray(model)
    for tensor in (dict(_fields(part)) for graph in _parts(memoryview(data), GRAPH) for part in _parts(graph, INITIALIZER)):
        raw = tensor.get(RAW_DATA)
        if tensor.get(DATA_TYPE) == FLOAT and isinstance(raw, memoryview):
            weights = np.frombuffer(raw, "<f4")
            weights[np.abs(weights) < LEAST_WEIGHT] = 0
    return bytes(data)


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for field, value in _fields(message) if field == number and isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbers and values of the fields of a protocol buffer message, those of fixed width left out."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif kind == BYTES:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        else:
            at += 8 if kind == FIXED64 else 4


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, seven bits a byte with the lowest first, and the place after it."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
