"""How much of a run with the engine qwen is not the model's evaluations: pictures through `layerctl decompose`, in this process.

    python benchmarks/qwen_overhead.py --pictures 3 --size 256 --steps 50

A checkpoint of the real classes with random weights, large enough that an evaluation takes a good part of a second on a CPU. Pictures go
one by one, a command each (`--singles` of them), and then all through one command, which reads the next and writes the one before while
the model works. Time outside of the evaluations is a command's wall time less its evaluations and its start (checks, loading, the
machine's rate).

On a CPU the threads that read and write take time from the evaluations, which hides in their sum; "steady" counts every evaluation at the
mean of the first way, in which nothing runs beside them. With `--elsewhere SECONDS` an evaluation waits that long and computes nothing,
as if a GPU did: reading, writing and the VAE still compute here. Random layers are noise all over, the worst case for what is written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

import layerctl.decompose
from layerctl.cli import main as layerctl_main
from layerctl.engines.qwen import loading, session
from layerctl.engines.qwen.engine import QwenEngine
from layerctl.engines.qwen.model import LayeredModel
from layerctl.testing.checkpoint import write_tiny_checkpoint

START = ("checks", "rate", "transformer", "VAE")
TIMED: dict[str, tuple[Any, str]] = {
    "checks": (QwenEngine, "configured"),
    "rate": (session, "matrix_rate"),
    "transformer": (loading, "load_transformer"),
    "VAE": (loading, "load_vae"),
    "evaluations": (LayeredModel, "velocity"),
    "encoding": (LayeredModel, "encode_picture"),
    "decoding": (LayeredModel, "decode_layers"),
    "reading": (layerctl.decompose, "read_file"),
    "writing": (layerctl.decompose, "write_result"),
}
"""Reading and writing have threads of their own, so that their times may overlap with the others'."""

Times = dict[str, list[float]]
"""Seconds of each call."""


@contextmanager
def timed(times: Times) -> Iterator[None]:
    with ExitStack() as stack:
        for name, (owner, attribute) in TIMED.items():
            stack.enter_context(patch.object(owner, attribute, _timed(getattr(owner, attribute), times.setdefault(name, []))))
        yield


def _timed(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed_call(*positional: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        result = call(*positional, **named)
        seconds.append(time.perf_counter() - begun)
        return result

    return timed_call


def decompose(pictures: Sequence[Path], out: Path, asked: argparse.Namespace, model: Path, steps: int) -> float:
    """Wall seconds of one command."""
    words = ["decompose", *pictures, "-o", out, "--psd", "--quiet", "--engine", "qwen", "--model", model, "--preset", "stable-layers"]
    words += ["--size", asked.size, "--steps", steps, "--layers", asked.layers, "--device", "cpu"]
    begun = time.perf_counter()
    with redirect_stdout(StringIO()):
        code = layerctl_main([str(word) for word in words])
    if code:
        raise SystemExit(f"layerctl ended with {code}")
    return time.perf_counter() - begun


def report(way: str, pictures: int, wall: float, times: Times, steady: float) -> None:
    """`steady`: seconds of an evaluation beside which nothing else runs."""
    start, evaluations = sum(sum(times[name]) for name in START), times["evaluations"]
    rest = wall - start
    outside, outside_steady = rest - sum(evaluations), rest - steady * len(evaluations)
    print(
        f"{way}, {pictures} pictures: {wall:.1f} s, start {start:.1f} s; {len(evaluations)} evaluations of"
        f" {statistics.fmean(evaluations):.3f} s;"
        f" outside of them {outside / pictures:.2f} s a picture, {outside / rest:.1%}; steady {outside_steady / rest:.1%}"
    )
    parts = (f"{name} {sum(times[name]) / pictures:.2f}" for name in TIMED if name not in (*START, "evaluations"))
    print(f"  seconds a picture: {', '.join(parts)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--singles", type=int, default=1, help="how many of them go one by one as well")
    parser.add_argument("--width", type=int, default=1224, help="of a picture, whose height is two thirds")
    parser.add_argument("--size", type=int, default=256, help="side at which the model works")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-width", type=int, default=64)
    parser.add_argument("--elsewhere", type=float, metavar="SECONDS", help="of an evaluation that only waits")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config")}))
        if asked.elsewhere is not None:
            stack.enter_context(patch.object(LayeredModel, "velocity", _waiting(asked.elsewhere)))
        model = folder / "model"
        write_tiny_checkpoint(model, blocks=asked.blocks, heads=asked.heads, head_width=asked.head_width)
        pictures = [_draw(folder / f"{number}.png", asked.width, number) for number in range(asked.pictures)]
        # Imports, and the prompt's embedding, which is kept.
        decompose(pictures[:1], folder / "warm", asked, model, steps=1)
        walls = []
        one_by_one: Times = {}
        with timed(one_by_one):
            for picture in pictures[: asked.singles]:
                walls.append(decompose([picture], folder / "single", asked, model, asked.steps))
        steady = statistics.fmean(one_by_one["evaluations"])
        report("one by one", asked.singles, sum(walls), one_by_one, steady)
        together: Times = {}
        with timed(together):
            wall = decompose(pictures, folder / "together", asked, model, asked.steps)
        report("together", len(pictures), wall, together, steady)


def _waiting(seconds: float) -> Callable[..., torch.Tensor]:
    def wait(_model: LayeredModel, x: torch.Tensor, _sigma: torch.Tensor, _condition: object) -> torch.Tensor:
        time.sleep(seconds)
        return torch.zeros_like(x)

    return wait


def _draw(path: Path, width: int, seed: int) -> Path:
    """A smooth gradient with grain and discs."""
    rng = np.random.default_rng(seed)
    height = width * 2 // 3
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 200 // width, rows * 200 // height, (rows + columns) * 200 // (width + height)], -1)
    for _ in range(4):
        y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(height // 10, height // 4)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(0, 200, 3)
    Image.fromarray((pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8)).save(path)
    return path


if __name__ == "__main__":
    main()
