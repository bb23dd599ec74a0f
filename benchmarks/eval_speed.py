"""Seconds that the measures of `layerctl eval` take for 1 000 pairs of stacks, and peak memory.

Run: python benchmarks/eval_speed.py [--pairs 40] [--size 512] [--layers 5] [--processes 2] [--soundness]

The truth is a scene; predictions are, in turn, the truth with soft noise, two of its layers merged, its layers in another order, and
another scene. Making the pairs is not counted. LayerD's metric and the L1 by index need the true layers; `--soundness` adds the
reference-free measures, which do not, and most of whose time goes to the five criteria. Peak memory is that of the largest process, at the
end and after a quarter of its pairs, which shows whether it grows.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import numpy.typing as npt
from layerctl_train.evaluate.layerd import aggregate, canvases, composite, score
from layerctl_train.evaluate.per_index import by_layer_count, per_index_l1, soundness
from layerctl_train.evaluate.statistics import compare

from layerctl.testing import scene

U8 = npt.NDArray[np.uint8]
PARTS = ("LayerD", "L1 by index", "soundness")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--soundness", action="store_true")
    given = parser.parse_args()
    shares = [list(range(first, given.pairs, given.processes)) for first in range(given.processes)]
    with ProcessPoolExecutor(given.processes) as pool:
        done = list(pool.map(_work, shares, *([value] * given.processes for value in (given.size, given.layers, given.soundness))))
    print("| measure | CPU s per 1000 pairs | wall s per 1000 pairs |\n|---|---|---|")
    scale = 1000 / given.pairs
    for part, name in enumerate(PARTS[: 3 if given.soundness else 2]):
        print(f"| {name} | {scale * sum(share[0][part] for share in done):.0f} | {scale * max(share[1][part] for share in done):.0f} |")
    print(f"peak MB: {max(share[2][1] for share in done):.0f}; after a quarter: {max(share[2][0] for share in done):.0f}")
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    compare(rng.random(1000), rng.random(1000))
    print(f"a comparison of 1000 pairs: {time.perf_counter() - start:.2f} s")


def _work(seeds: list[int], size: int, layers: int, sound: bool) -> tuple[list[float], list[float], tuple[float, float]]:
    """CPU and wall seconds of each part, and peak memory after a quarter and at the end."""
    cpu, wall = [0.0] * 3, [0.0] * 3
    early = 0.0
    scores, indices = [], []
    for number, seed in enumerate(seeds):
        source, stack = scene(seed, width=size, height=size, elements=layers - 1)
        truth = canvases(stack)
        prediction = _predicted(seed, truth)
        marks = [(time.process_time(), time.perf_counter())]
        scores.append(score(prediction, truth))
        marks.append((time.process_time(), time.perf_counter()))
        indices.append(per_index_l1(prediction, truth))
        marks.append((time.process_time(), time.perf_counter()))
        if sound:
            soundness(source, stack)
        marks.append((time.process_time(), time.perf_counter()))
        for part in range(3):
            cpu[part] += marks[part + 1][0] - marks[part][0]
            wall[part] += marks[part + 1][1] - marks[part][1]
        if number == len(seeds) // 4:
            early = _peak_mb()
    aggregate(scores)
    by_layer_count(indices)
    return cpu, wall, (early, _peak_mb())


def _predicted(seed: int, truth: list[U8]) -> list[U8]:
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        return [_noisy(layer, rng) for layer in truth]
    if seed % 4 == 1:
        return [_noisy(layer, rng) for layer in (*truth[:-2], composite(truth[-2], truth[-1]))]
    if seed % 4 == 2:
        return [truth[0], *(_noisy(layer, rng) for layer in reversed(truth[1:]))]
    _, other = scene(seed + 100_000, width=truth[0].shape[1], height=truth[0].shape[0], elements=len(truth) - 1)
    return canvases(other)


def _noisy(layer: U8, rng: np.random.Generator) -> U8:
    """Up to 8 levels off, in alpha too where there is some."""
    noise = rng.integers(-8, 9, layer.shape, np.int16)
    noise[layer[..., 3] == 0] = 0
    noisy: U8 = np.clip(layer + noise, 0, 255).astype(np.uint8)
    return noisy


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
