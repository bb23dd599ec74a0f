"""How well a hole in a plate is filled, against the truth and against simpler ways.

Run: python -m benchmarks.fill_quality [FOLDER]      (pictures to look at go to FOLDER when one is given)

Plates without objects: solid grounds, gradients and patterns drawn here, and photographs of the tuning split. Holes: two silhouettes of
cut-outs each. Columns: mean absolute error in the hole; "seam", the mean step from the hole's last pixel to the known one beside it,
less the truth's own; "grain", the fine contrast in the hole over the truth's (1 is right, 0 is a blur); all in levels but the last.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.assets import CUTOUTS, PHOTOGRAPHS, files, split_of
from layerctl.engines.classic import fill

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
SIZE = 768
Plates = list[tuple[str, U8]]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    holes = _silhouettes(24)
    kinds = {"smooth": _smooth(), "pattern": _patterns(), "photograph": _photographs(16)}
    print("| plates | way | error | seam | grain | CPU s |\n|---|---|---|---|---|---|")
    for kind, plates in kinds.items():
        rows: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in WAYS}
        for index, (name, plate) in enumerate(plates):
            hole = holes[index % len(holes)]
            hidden = plate.copy()
            hidden[hole] = (255, 0, 255)
            results = [hidden]
            for way, run in WAYS.items():
                started = time.process_time()
                filled = run(hidden, hole)
                rows[way].append((*_scores(plate, filled, hole), time.process_time() - started))
                results.append(filled)
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.hstack([plate, *results[:2]])).save(folder / f"{kind}-{index:02}-{name}.png")
        for way, scores in rows.items():
            print(f"| {kind} ({len(plates)}) | {way} | " + " | ".join(f"{value:.2f}" for value in np.mean(scores, axis=0)) + " |")


def _scores(truth: U8, filled: U8, hole: Bool) -> tuple[float, float, float]:
    error = float(np.abs(filled.astype(np.float32) - truth)[hole].mean())
    seam = _step(filled, hole) - _step(truth, hole)
    inside = cv2.erode(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    fine = [_grain(picture, inside) for picture in (filled, truth)]
    return error, seam, fine[0] / max(fine[1], 0.5)


def _grain(picture: U8, where: Bool) -> float:
    values = picture.astype(np.float32)
    return float((values - cv2.GaussianBlur(values, (0, 0), 2))[where].std())


def _step(picture: U8, hole: Bool) -> float:
    values = picture.astype(np.float32)
    across, down = hole[:, 1:] != hole[:, :-1], hole[1:] != hole[:-1]
    steps = np.concatenate([np.abs(np.diff(values, axis=1))[across], np.abs(np.diff(values, axis=0))[down]])
    return float(steps.mean())


def _surface_only(rgb: U8, hole: Bool) -> U8:
    kept, fill.SMOOTH_ENOUGH = fill.SMOOTH_ENOUGH, np.inf
    try:
        return fill.complete(rgb, hole)
    finally:
        fill.SMOOTH_ENOUGH = kept


def _opencv(method: int) -> Callable[[U8, Bool], U8]:
    return lambda rgb, hole: np.asarray(cv2.inpaint(rgb, hole.astype(np.uint8), 5, method), np.uint8)


WAYS: dict[str, Callable[[U8, Bool], U8]] = {
    "layerctl": fill.complete,
    "surface only": _surface_only,
    "Telea": _opencv(cv2.INPAINT_TELEA),
    "Navier-Stokes": _opencv(cv2.INPAINT_NS),
}


def _silhouettes(count: int) -> list[Bool]:
    """Two cut-outs a mask, of a fifth to a half of the picture's side, a little grown as an engine's masks are."""
    rng = np.random.default_rng(0)
    paths = [path for path in files(CUTOUTS, (".png",)) if split_of(path.name, trainable=False) == "tuning"]
    masks = []
    for _ in range(count):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for _ in range(2):
            with Image.open(paths[int(rng.integers(len(paths)))]) as opened:
                stamp = opened.convert("RGBA").getchannel("A")
            enlarge = rng.uniform(0.2, 0.5) * SIZE / max(stamp.size)
            stamp = stamp.resize((max(1, round(stamp.width * enlarge)), max(1, round(stamp.height * enlarge))))
            shape = (np.asarray(stamp) > 20).astype(np.uint8)
            top, left = (int(rng.integers(0, SIZE - side + 1)) for side in shape.shape)
            mask[top : top + shape.shape[0], left : left + shape.shape[1]] |= shape
        masks.append(cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0)
    return masks


def _smooth() -> Plates:
    rng = np.random.default_rng(1)
    down, across = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    plates: Plates = [("solid", np.full((SIZE, SIZE, 3), (230, 120, 60), np.uint8))]
    for index in range(4):
        angle = rng.uniform(0, 2 * np.pi)
        plates.append((f"linear{index}", _blend(across * np.cos(angle) + down * np.sin(angle), rng)))
        plates.append((f"radial{index}", _blend(np.hypot(across - rng.uniform(-0.3, 1.3), down - rng.uniform(-0.3, 1.3)), rng)))
    return plates


def _patterns() -> Plates:
    rng = np.random.default_rng(2)
    down, across = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    period = 41
    dots = (np.hypot(across % period - 20, down % period - 20) < 9).astype(np.float32)
    waves = 0.5 + 0.5 * np.sin((down + 14 * np.sin(across / 37)) / 7)
    soft: Any = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), (0, 0), 3)
    drawn = {
        "checks": (across // 32 + down // 32) % 2,
        "stripes": (across + down * 0.6) // 25 % 2,
        "dots": dots,
        "waves": waves,
        "noise": rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32),
        "cloth": soft,
        "bricks": ((down % 40 < 4) | ((across + 45 * (down // 40 % 2)) % 90 < 4)).astype(np.float32),
    }
    return [(name, _blend(values, rng)) for name, values in drawn.items()]


def _blend(values: npt.NDArray[Any], rng: np.random.Generator) -> U8:
    share = (values - values.min()) / np.ptp(values)
    first, second = rng.uniform(20, 235, (2, 3))
    blended: U8 = np.rint(first + share[..., None] * (second - first)).astype(np.uint8)
    return blended


def _photographs(count: int) -> Plates:
    paths = [path for path in files(PHOTOGRAPHS, (".jpg", ".jpeg", ".png", ".webp")) if split_of(path.name, trainable=False) == "tuning"]
    plates = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        side = min(picture.size)
        if side < SIZE:
            continue
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        plates.append((path.stem[:24], np.asarray(square, np.uint8)))
    return plates


if __name__ == "__main__":
    main()
