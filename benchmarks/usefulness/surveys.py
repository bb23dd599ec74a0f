"""What the embedded engine sees in a tuning scene before it decides anything, kept on disk, beside the true layers at the same size.

Rules can be tried on these without reading text again and without running the network again.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks import assets
from benchmarks.usefulness import metrics, scenes
from layerctl.engines.classic.proposals import Choice, Sight, see

CACHE = assets.CACHE.parent / "usefulness" / "surveys"
SIDES = (192, 256, 320, 416, 512)
"""Long sides at which the network looks at every scene."""
Floats = npt.NDArray[np.float32]
# The tuning scenes are drawn from seeds and go on past those that the reports on them take.
scenes.SCENES_A_KIND["tuning"] = 120


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """`sight`: at work size throughout, but for its text blocks, which belong to a picture of `size`, (height, width).

    `truth`: soft alphas of the true layers above the Background at work size, float16.
    """

    name: str
    kind: scenes.SceneKind
    sight: Sight
    size: tuple[int, int]
    truth: tuple[npt.NDArray[np.float16], ...]


def names(kind: scenes.SceneKind, count: int) -> list[str]:
    """The first scenes of a kind."""
    return scenes.names("tuning", kind)[:count]


def survey(name: str) -> Survey:
    """The survey of a scene, kept on disk once it was made."""
    path = CACHE / scenes.drawn_by() / f"{name}.pickle"
    if path.exists():
        with path.open("rb") as file:
            kept: Survey = pickle.load(file)
        return kept
    made = _made(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_bytes(pickle.dumps(made))
    half.replace(path)
    return made


def iou(survey: Survey, choice: Choice) -> float:
    """Mean IoU of the true layers above the Background, 0..1.

    The elements are taken as they were chosen, at work size: cutting out, which softens edges and completes what is covered, is left out.
    """
    height, width = survey.sight.work.shape[:2]
    labels = choice.elements.labels
    found = [(labels == number).astype(np.float32) for number in range(1, int(labels.max()) + 1)]
    for block in choice.blocks:
        sheet = np.zeros(survey.size, np.float32)
        sheet[block.top : block.top + block.alpha.shape[0], block.left : block.left + block.alpha.shape[1]] = block.alpha / 255
        found.append(cv2.resize(sheet, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32))
    return float(np.mean(metrics.match([alpha.astype(np.float32) for alpha in survey.truth], found)[1]))


def _made(name: str) -> Survey:
    scene = scenes.scene(name)
    sight = see(scene.image)
    for side in SIDES:
        sight.look(side)
    height, width = sight.work.shape[:2]
    alphas = metrics.alphas(scene.stack)[1:]
    truth = tuple(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA).astype(np.float16) for alpha in alphas)
    small = Sight(sight.work, sight.text, sight.blocks, sight.work, sight.text, sight.looks)
    return Survey(name, scene.kind, small, (scene.stack.height, scene.stack.width), truth)
