"""What the benchmarks of training share: a model to train, real or with random weights, and a clock for parts of a step."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLQwenImage
from layerctl_train.base import Base
from layerctl_train.noise import noise
from layerctl_train.run_config import DEFAULT_PRESET, RunConfig, resolve_run
from PIL import Image

from benchmarks.qwen_speed import SCHEDULER, TEXT_TOKENS, build_transformer
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.devices import dtype_for, find_machine
from layerctl.engines.qwen.memory import Configs, configs_of
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part
from layerctl.engines.qwen.recipe import resolve_recipe
from layerctl.engines.qwen.sampler import sigma_grid
from layerctl.engines.qwen.sizes import PUBLISHED_TRANSFORMER, PUBLISHED_VAE
from layerctl.layers import LayerStack
from layerctl.source import SourceImage


class Clock:
    """Seconds and peak memory by part; what a part spends in others that begin within it is theirs alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._note()
        self.open.append(name)
        try:
            yield
        finally:
            self._note()
            self.open.pop()

    def _note(self) -> None:
        wait(self.device)
        now = time.perf_counter()
        if self.open:
            name = self.open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self.peaks[name] = max(self.peaks.get(name, 0), peak_bytes(self.device))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._since = now


class Subject(Base):
    """A base whose weights come from anywhere, and whose prompt is an embedding of noise: without a session and a text encoder.

    `is_decoding`: else stacks are empty.
    """

    is_decoding = True

    def __init__(self, asked: argparse.Namespace, config: RunConfig) -> None:
        self.training, self.machine, self.prompt = config.training, find_machine(config.settings.device), "noise"
        self.recipe, _ = resolve_recipe(config.settings.preset or DEFAULT_PRESET, config.settings.model_options())
        self.device = torch.device(self.machine.device)
        transformer, vae = self._weights(asked)
        self.dtype = transformer.dtype
        vae.use_slicing = self.device.type != "cpu"
        self.model = LayeredModel(transformer, vae, device=self.device, dtype=self.dtype)
        self.words_of_all = noise((TEXT_TOKENS, int(self.configs.transformer["joint_attention_dim"])), 0, "prompt")
        self.clock = Clock(self.device)

    def _weights(self, asked: argparse.Namespace) -> tuple[Any, Any]:
        if asked.random:
            config = dict(PUBLISHED_TRANSFORMER) | {"num_layers": asked.blocks, "num_attention_heads": asked.heads}
            vae_config = dict(PUBLISHED_VAE) | {"base_dim": asked.vae_width}
            self.configs, self.scheduler = Configs(config, vae_config, None), dict[str, Any](SCHEDULER)
            with torch.no_grad():
                transformer = build_transformer(config, self.device, asked.seed)
            with torch.random.fork_rng(devices=[]), self.device:
                torch.manual_seed(asked.seed)
                vae = AutoencoderKLQwenImage(**vae_config).to(torch.bfloat16).eval().requires_grad_(False)
            return transformer, vae
        found = read_checkpoint(asked.model)
        self.configs, self.scheduler = configs_of(found), found.configs["scheduler"]
        dtype = getattr(torch, dtype_for(self.machine.device, "auto", self.configs.stored))
        transformer, vae = (load_part(found, part, dtype).to(self.device) for part in ("transformer", "vae"))
        return transformer, vae

    def resized(self, source: SourceImage) -> npt.NDArray[np.uint8]:
        pixels = source.srgb()
        picture = Image.fromarray(np.ascontiguousarray(pixels if self.recipe.reads_alpha else pixels[..., :3]))
        return np.asarray(picture.resize(self.recipe.model_size(*picture.size), Image.Resampling.LANCZOS).convert("RGBA"))

    def embedding(self, prompt: str) -> torch.Tensor:
        return self.words_of_all

    def sigmas(self, steps: int, condition: Condition) -> torch.Tensor:
        return sigma_grid(self.scheduler, steps, condition.rows * condition.columns)

    def stack(self, x: torch.Tensor, condition: Condition, source: SourceImage) -> LayerStack:
        if not self.is_decoding:
            return LayerStack(source.width, source.height, ())
        with self.clock.part("decode"):
            return super().stack(x, condition, source)


def configured(asked: argparse.Namespace) -> RunConfig:
    """The recipe "paper" with one group a step, its window fixed where it first may be."""
    chosen = {
        "groups": 1, "group": asked.group, "layers": asked.layers, "rollout_steps": asked.steps, "window": asked.window,
        "window_mode": "fixed", "window_first": 1, "rank": asked.rank, "seed": asked.seed, "abort_ratio": 1e9,
        "model": asked.model or "Qwen/Qwen-Image-Layered", "device": asked.device, "size": asked.size,
        "precision": "bf16" if asked.random else "auto",
    }  # fmt: skip
    return resolve_run("paper", data="scenes", assignments=[f"{name}={value}" for name, value in chosen.items()], environ={})


def add_model_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    which = parser.add_mutually_exclusive_group(required=required)
    which.add_argument("--random", action="store_true", help="networks of the published sizes with random weights, bfloat16")
    which.add_argument("--model", type=Path, help="a checkpoint's folder, in its own precision")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--size", type=int, default=640, help="side of the picture, a multiple of 16")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=PUBLISHED_TRANSFORMER["num_layers"], help="of random networks")
    parser.add_argument("--heads", type=int, default=PUBLISHED_TRANSFORMER["num_attention_heads"])
    parser.add_argument("--vae-width", type=int, default=PUBLISHED_VAE["base_dim"])
    parser.add_argument("--seed", type=int, default=0)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device: torch.device) -> int:
    """Since the peak was last reset on a GPU, since the process began on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
