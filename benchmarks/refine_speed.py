"""Seconds and peak memory of flattening, the exact solve, refining and completion, each in a process of its own.

Run: python benchmarks/refine_speed.py [SIZE ...]      (default 512 1024 2048 4096)

"solve" is a plate, a text line, two soft-edged elements and a shadow; "solve, all mixed" is the worst case, four full-size layers
that are half-transparent everywhere. "refine" brings the first five from 640 px to full size and solves them, "refine, veiled" with a
sixth, a half-transparent layer over all. "complete" fills 30 % of a noisy gradient. Peak memory is beyond what the inputs take (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from layerctl.composite import flatten
from layerctl.engines.classic.fill import complete
from layerctl.exact import solve_exact
from layerctl.layers import Layer, LayerStack
from layerctl.refine import refine
from layerctl.source import SourceImage

ENGINE_SIZE = 640


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in JOBS:
        _measure(sys.argv[1], int(sys.argv[2]))
        return
    sizes = [int(word) for word in sys.argv[1:]] or [512, 1024, 2048, 4096]
    print("| job | size | CPU s | wall s | peak MB |\n|---|---|---|---|---|")
    for job in JOBS:
        for size in sizes:
            print(subprocess.run([sys.executable, __file__, job, str(size)], check=True, capture_output=True, text=True).stdout, end="")


def _measure(job: str, size: int) -> None:
    run = JOBS[job](size)
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, wall = _peak_mb(), time.process_time(), time.perf_counter()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"| {job} | {size} | {cpu:.2f} | {wall:.2f} | {_peak_mb() - before:.0f} |")


def _peak_mb() -> float:
    """The most memory held since the last "5" in clear_refs (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _source(size: int) -> SourceImage:
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    pixels = np.empty((size, size, 4), np.uint8)
    pixels[..., 3] = 255
    rng = np.random.default_rng(0)
    for channel, ramp in enumerate((rows, columns, (rows + columns) / 2)):
        pixels[..., channel] = ramp * 235 + rng.integers(0, 20, (size, size), dtype=np.uint8)
    return SourceImage(pixels)


def _element(name: str, size: int, box: tuple[float, float, float, float], soft: float, strength: int, seed: int) -> Layer:
    left, top, right, bottom = (int(edge * size) for edge in box)
    shape = np.zeros((bottom - top, right - left), np.uint8)
    centre = (shape.shape[1] // 2, shape.shape[0] // 2)
    cv2.ellipse(shape, centre, (int(centre[0] * 0.9), int(centre[1] * 0.9)), 0, 0, 360, strength, -1)
    colour = np.random.default_rng(seed).integers(0, 256, (*shape.shape, 3), dtype=np.uint8)
    return Layer(name, np.dstack([colour, cv2.GaussianBlur(shape, (0, 0), max(0.6, soft * size))]), left, top)


def _stack(size: int, source: SourceImage) -> LayerStack:
    layers = (
        Layer("Background", source.pixels),
        _element("Shadow", size, (0.1, 0.1, 0.6, 0.7), 0.02, 90, 1),
        _element("Subject", size, (0.1, 0.05, 0.6, 0.65), 0.0005, 255, 2),
        _element("Element", size, (0.4, 0.3, 0.9, 0.9), 0.0005, 255, 3),
        _element("Text", size, (0.05, 0.8, 0.95, 0.95), 0.0005, 255, 4),
    )
    return LayerStack(size, size, layers)


def _flatten(size: int) -> Callable[[], object]:
    stack = _stack(size, _source(size))
    return lambda: flatten(stack)


def _solve(size: int) -> Callable[[], object]:
    source = _source(size)
    stack = _stack(size, source)
    return lambda: solve_exact(source, stack)


def _solve_all_mixed(size: int) -> Callable[[], object]:
    source = _source(size)
    rng = np.random.default_rng(1)
    layers = [Layer("Background", source.pixels)]
    for index in range(4):
        pixels = rng.integers(1, 255, (size, size, 4), dtype=np.uint8)
        layers.append(Layer(f"Noise {index}", pixels))
    return lambda: solve_exact(source, LayerStack(size, size, tuple(layers)))


def _refine(size: int, *, veiled: bool = False) -> Callable[[], object]:
    source, small = _source(size), _stack(ENGINE_SIZE, _source(ENGINE_SIZE))
    if veiled:
        veil = np.full((ENGINE_SIZE, ENGINE_SIZE, 4), 128, np.uint8)
        small = small.with_layers((*small.layers, Layer("Veil", veil)))
    return lambda: refine(source, small)


def _refine_veiled(size: int) -> Callable[[], object]:
    return _refine(size, veiled=True)


def _complete(size: int) -> Callable[[], object]:
    rgb = np.ascontiguousarray(_source(size).pixels[..., :3])
    unknown = np.zeros((size, size), np.uint8)
    cv2.circle(unknown, (size // 2, size // 2), int(size * 0.309), 1, -1)
    return lambda: complete(rgb, unknown > 0)


JOBS = {
    "flatten": _flatten, "solve": _solve, "solve, all mixed": _solve_all_mixed, "refine": _refine, "refine, veiled": _refine_veiled,
    "complete": _complete,
}  # fmt: skip

if __name__ == "__main__":
    main()
