"""Where the text of a picture is and what it says, by the models inside the RapidOCR wheel.

The recogniser knows Latin (with diacritics), digits, punctuation, Chinese and Japanese, and single Greek letters. For Korean, Cyrillic,
Arabic, Thai and Devanagari it gives nothing, and such lines are left out. The models are named by their paths, so that nothing is ever
downloaded.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from layerctl.errors import MissingDependencyError

if TYPE_CHECKING:
    from rapidocr import RapidOCR

DETECTION_SIDE = 736
"""Side of the square whose area the detector's copy of a picture has."""
DETECTION_MAX_SIDE = 1600
MAX_ENLARGEMENT = 2.0
LEAST_SIDE = 8
"""Pictures that are narrower hold no text that can be read."""
READING_HEIGHT = 64
"""Height of the straightened line that the recogniser is given; it works on 48 pixels."""
THREADS = 4
LEAST_CONFIDENCE = 0.5


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
    found = _engine()(np.ascontiguousarray(copy[..., ::-1]), use_det=True, use_rec=False)
    boxes = getattr(found, "boxes", None)
    if boxes is None:
        return ()
    lines = []
    for box in boxes:
        quad = (np.asarray(box, np.float64) * (width / size[0], height / size[1])).astype(np.float32)
        text, confidence = read_line(straightened(rgb, quad))
        if text and confidence >= LEAST_CONFIDENCE:
            lines.append(Reading(quad, text, confidence))
    return tuple(lines)


def read_line(rgb: npt.NDArray[np.uint8]) -> tuple[str, float]:
    """The text of a picture that holds one straight line, and the confidence 0..1; an empty string where nothing is recognised."""
    result = _engine()(np.ascontiguousarray(rgb[..., ::-1]), use_det=False, use_rec=True)
    texts, scores = getattr(result, "txts", None), getattr(result, "scores", None)
    if not texts or not scores:
        return "", 0.0
    return str(texts[0]).strip(), float(scores[0])


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
def _engine() -> RapidOCR:
    """The detector and the recogniser. Raises MissingDependencyError when the wheel's models are not where they should be."""
    from rapidocr import RapidOCR

    folder = resources.files("rapidocr") / "models"
    detector, recogniser = str(folder / "PP-OCRv6_det_small.onnx"), str(folder / "PP-OCRv6_rec_small.onnx")
    for path in (detector, recogniser):
        if not os.path.isfile(path):
            raise MissingDependencyError(f"there is no text recognition model at {path}", hint="pip install --force-reinstall rapidocr")
    threads = min(THREADS, os.cpu_count() or 1)
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.text_score": 0.0,
            "Global.max_side_len": 8192,
            "Global.min_side_len": 1,
            "Det.model_path": detector,
            "Det.limit_type": "max",
            "Det.limit_side_len": 8192,
            "Rec.model_path": recogniser,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
