"""How much noise each kernel and level puts into a rollout's steps, and what is left of it in the decoded candidates.

    python benchmarks/noise_sweep.py --svg noise.svg                     the model's own grid at 640 px, 10 steps: arithmetic alone
    python benchmarks/noise_sweep.py --model FOLDER --judge pixels       and the candidates of a checkpoint; with a GPU: any size
    python benchmarks/noise_sweep.py --random --json noise.json          with random weights of the real size

q is the standard deviation of the noise that a step adds; q / s' its share of the noise that the state has after the step, which is 1 where
all of it is new. With a model, all candidates of a group begin from the same noise, so that they differ by the window's alone. "Spread" is
the standard deviation over a group's candidates of a value of the decoded layers, straight RGBA in 0..1, averaged over values and pictures;
"reward" that of the rewards of `--judge`, averaged over pictures. Eta is to be chosen by the latter before any training: as much as tells
candidates apart, and no more than what leaves them whole. Pictures are synthetic scenes; `--pictures FOLDER` takes others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layerctl_train.curves import curves
from layerctl_train.flow_grpo import transition
from layerctl_train.noise import noise
from layerctl_train.picture_store import Picture
from layerctl_train.rollout import rollout
from layerctl_train.training_settings import Kernel, TrainingSettings
from layerctl_train.windows import Window

from benchmarks.qwen_speed import SCHEDULER
from benchmarks.training_subject import Subject, add_model_options, configured
from layerctl import registry
from layerctl.engines.qwen.memory import PIXELS_PER_TOKEN
from layerctl.engines.qwen.sampler import sigma_grid
from layerctl.engines.qwen.session import stack_of
from layerctl.registry import Judge
from layerctl.source import SourceImage, read_source
from layerctl.testing import scene

Level = tuple[Kernel, float]

LEVELS: tuple[Level, ...] = (
    ("flow", 0.3), ("flow", 0.7), ("flow", 1.2), ("dance", 0.3), ("dance", 0.6), ("dance", 1.0), ("cps", 0.4), ("cps", 0.6), ("cps", 0.8),
)  # fmt: skip
"""Kernel and eta: those of the papers (flow 0.7 and 1.2, dance 0.3, cps 0.8), and others around them."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a window's noise left. `reward`: deviation within groups, None without a judge."""

    kernel: Kernel
    eta: float
    first: int
    spread: float
    reward: float | None


def levels_of_noise(sigmas: torch.Tensor, levels: Sequence[Level] = LEVELS) -> dict[str, list[float]]:
    """q at every step, by kernel and eta."""
    nothing = torch.zeros(1, 1, 1)
    return {
        f"{kernel} {eta:g}": [
            float(transition(kernel, nothing, nothing, sigma, sigma_next, eta, sigmas[1]).q) for sigma, sigma_next in pairwise(sigmas)
        ]
        for kernel, eta in levels
    }


def table(sigmas: Sequence[float], found: Mapping[str, Sequence[float]]) -> list[str]:
    steps = len(sigmas) - 1
    lines = ["| step | " + " | ".join(map(str, range(steps))) + " |", "|---|" + "---:|" * steps]
    lines.append("| sigma | " + " | ".join(f"{sigma:.3f}" for sigma in sigmas[:-1]) + " |")
    for name, qs in found.items():
        lines.append(f"| {name} | " + " | ".join(f"{q:.3f}" for q in qs) + " |")
    for name, qs in found.items():
        shares = (f"{q / sigma:.2f}" if sigma else "" for q, sigma in zip(qs, sigmas[1:], strict=True))
        lines.append(f"| {name}, q / s' | " + " | ".join(shares) + " |")
    return lines


def noise_left(asked: argparse.Namespace) -> Iterator[Left]:
    """By kernel, eta and window, in the candidates of all pictures."""
    config = configured(asked)
    subject = Subject(asked, config)
    judge: Judge | None = registry.load("judges", asked.judge)(config.settings, lambda _: None) if asked.judge else None
    pictures = [picture_of(subject, source, name) for name, source in sources(asked)]
    for kernel, eta in asked.levels:
        for first in asked.windows:
            settings = replace(config.training, kernel=kernel, eta=eta, shared_start=True)
            found = [spread_of(subject, settings, picture, Window(first, asked.window), judge) for picture in pictures]
            rewards = [reward for _, reward in found if reward is not None]
            yield Left(kernel, eta, first, statistics.fmean(s for s, _ in found), statistics.fmean(rewards) if rewards else None)
    if judge is not None:
        judge.close()


def spread_of(
    subject: Subject, settings: TrainingSettings, picture: Picture, window: Window, judge: Judge | None
) -> tuple[float, float | None]:
    """Of one group: the mean deviation of decoded values, and the rewards' deviation."""
    condition = subject.condition(picture, settings.layers[1])
    made = rollout(
        subject.model.velocity,
        condition,
        subject.sigmas(settings.rollout_steps, condition),
        settings,
        window,
        lambda member, step: noise(condition.state_shape, settings.seed, picture.key, member, step),
        group=settings.group,
        tick=lambda: None,
    )
    decoded = torch.stack([subject.model.decode_layers(x[None], condition).cpu() for x in made.final])
    reward = None
    if judge is not None:
        stacks = [stack_of((each.permute(0, 2, 3, 1) * 255).round().byte().numpy(), picture.source) for each in decoded]
        known = [sample.reward for sample in judge.score_group(picture.source, stacks).samples if sample.is_valid]
        reward = statistics.pstdev(known) if known else None
    return float(decoded.std(0, correction=0).mean()), reward


def sources(asked: argparse.Namespace) -> Iterator[tuple[str, SourceImage]]:
    if asked.pictures is None:
        for seed in range(asked.count):
            yield f"scene {seed}", scene(seed, width=asked.size, height=asked.size, elements=3)[0]
        return
    for file in sorted(asked.pictures.iterdir())[: asked.count]:
        yield file.name, read_source(file)


def picture_of(subject: Subject, source: SourceImage, name: str) -> Picture:
    pixels = subject.resized(source)
    rows, columns = (side // PIXELS_PER_TOKEN for side in pixels.shape[:2])
    return Picture(name, name, SourceImage(pixels), subject.encode(pixels), rows, columns)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse(arguments)
    sigmas = sigma_grid(dict(SCHEDULER), asked.steps, (asked.size // PIXELS_PER_TOKEN) ** 2)
    found = levels_of_noise(sigmas, asked.levels)
    print(f"q at {asked.size} px, mu {asked.size / PIXELS_PER_TOKEN / 16:g}, {asked.steps} steps")
    print("\n".join(table(sigmas.tolist(), found)), flush=True)
    if asked.svg is not None:
        lines = {name: list(enumerate(qs)) for name, qs in found.items()}
        asked.svg.write_text(curves("noise added by step", "q", lines) + "\n", encoding="utf-8")
    left: list[Left] = []
    keep(asked, sigmas, found, left)
    if asked.random or asked.model:
        print(f"\n| kernel | eta | window | spread | reward{f' ({asked.judge})' if asked.judge else ''} |\n|---|---:|---:|---:|---:|")
        for each in noise_left(asked):
            left.append(each)
            reward = "" if each.reward is None else f"{each.reward:.3f}"
            print(f"| {each.kernel} | {each.eta:g} | {each.first} | {each.spread:.4f} | {reward} |", flush=True)
            keep(asked, sigmas, found, left)


def keep(asked: argparse.Namespace, sigmas: torch.Tensor, found: Mapping[str, Sequence[float]], left: Sequence[Left]) -> None:
    """Write what is known by now, where a file is asked for."""
    if asked.json is not None:
        about = {name: str(value) for name, value in vars(asked).items()}
        results = {"about": about, "sigmas": sigmas.tolist(), "q": found, "left": [asdict(each) for each in left]}
        asked.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def level(text: str) -> Level:
    kernel, _, eta = text.partition("=")
    kernels: dict[str, Kernel] = {"flow": "flow", "dance": "dance", "cps": "cps"}
    if kernel not in kernels:
        raise ValueError(f"no kernel {kernel}")
    return kernels[kernel], float(eta)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, required=False)
    parser.add_argument("--steps", type=int, default=10, help="of a rollout")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 2, 3], help="the steps at which windows begin")
    parser.add_argument("--levels", type=level, nargs="+", default=LEVELS, metavar="KERNEL=ETA", help="such as flow=0.7 cps=0.8")
    parser.add_argument("--judge", choices=("pixels", "openai"), help="for the deviation of rewards")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures in place of synthetic scenes")
    parser.add_argument("--count", type=int, default=2, help="how many pictures")
    parser.add_argument("--svg", type=Path, help="a file for a drawing of q by step")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    asked = parser.parse_args(arguments)
    asked.rank = 1
    # The last step of cps adds no noise.
    if asked.size % PIXELS_PER_TOKEN or max(asked.windows) + asked.window > asked.steps - 1:
        parser.error(f"--size must be a multiple of {PIXELS_PER_TOKEN}, and windows end before the last step")
    return asked


if __name__ == "__main__":
    main()
