"""Training runs of the tiny checkpoint, small enough for a test, and a judge that is quick, deterministic and says what it was asked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from layerctl_train.loop import run_training
from layerctl_train.run_config import RunConfig, resolve_run
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from layerctl.judge_settings import JudgeSettings
from layerctl.layers import LayerStack, fingerprint
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.verdict import CRITERIA, GroupVerdict, SampleVerdict, Score, Usage

SMALL = (
    "updates=3", "groups=2", "group=4", "micro_batch=2", "rollout_steps=4", "window_last=1", "layers=2", "size=64", "steps=2",
    "sampler=euler", "rank=4", "ema_every=2", "evaluate_every=0", "save_every=1", "holdout=2", "kl=0.01", "device=cpu", "precision=fp32",
)  # fmt: skip
"""Of `--set`: what makes a run last seconds."""


@dataclass
class Quick:
    """A judge whose points are a stack's mean alpha, or what `points` says; NaN is a failure."""

    name = "quick"
    model = "none"
    host = ""
    points: Callable[[LayerStack], float] = lambda stack: 10 * float(np.mean([layer.pixels[..., 3].mean() / 255 for layer in stack.walk()]))
    why_not: str = ""
    asked: list[tuple[str, ...]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    closed: bool = False

    def __call__(self, settings: JudgeSettings, tell: Callable[[str], None]) -> Quick:
        return self

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        assert {(stack.width, stack.height) for stack in stacks} == {(source.width, source.height)}, "raw stacks at the model's size"
        self.asked.append(tuple(fingerprint(stack) for stack in stacks))
        self.told.append(told)
        samples = []
        for stack in stacks:
            points = self.points(stack)
            reason = "" if math.isfinite(points) else "no answer"
            samples.append(SampleVerdict(tuple(Score(points, "") for _ in CRITERIA), points, math.nan, points, reason))
        known = [sample.reward for sample in samples if sample.is_valid]
        spread = max(known) - min(known) if known else math.nan
        return GroupVerdict(tuple(samples), "quick", "none", "1", (), (), spread, math.nan, self.why_not, usage=Usage(calls=len(stacks)))

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage(group)

    def close(self) -> None:
        self.closed = True


QUICK = Quick()
"""What the name "quick" stands for once a test has registered it."""


def points_by_chance(stack: LayerStack) -> float:
    """0 to 10, by the stack's content alone."""
    return int(hashlib.sha256(fingerprint(stack).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF * 10


def draw_photos(folder: Path, count: int = 5) -> Path:
    """Pictures of two shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        source, _ = scene(number + 1, width=64, height=64 if number % 2 else 48, elements=2)
        Image.fromarray(source.pixels[..., :3]).save(folder / f"photo-{number}.png")
    return folder


def small_run(tiny: Path, data: object, *assignments: str, judge: str = "quick", **fields: Any) -> RunConfig:
    """`assignments`: of `--set`, after those of `SMALL`; `fields`: of `resolve_run`."""
    # An adapter to start from has a rank of its own.
    small = [each for each in SMALL if not (each.startswith("rank=") and any(other.startswith("start=") for other in assignments))]
    wanted = (f"model={tiny}", f"judge={judge}", "judge_min_spread=0", *small, *assignments)
    return resolve_run("lab", data=str(data), assignments=wanted, environ={}, **fields)


def train(config: RunConfig, folder: Path, *, resume: bool = False, tell: Callable[[str], None] = lambda _: None) -> int:
    return run_training(config, folder, resume=resume, tell=tell, progress=lambda *_: None)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Without timings."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if not key.startswith("seconds/")} for line in lines]


def kept(folder: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    state = folder / "checkpoints" / f"step-{step:06d}" / "state"
    return {f"{file.name} {name}": tensor for file in sorted(state.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """The same tensors to the bit and the same metrics, timings apart."""
    assert metrics(one) == metrics(other)
    these, those = kept(one, step), kept(other, step)
    assert these.keys() == those.keys()
    assert [name for name, tensor in these.items() if not tensor.equal(those[name])] == []
