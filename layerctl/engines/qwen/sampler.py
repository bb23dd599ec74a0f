"""From noise to latents along the flow: the sigma grid, Euler, Heun, the noise itself; pure functions.

dx/dsigma = v(x, sigma), from sigma = 1 (noise) to 0. Euler is diffusers' FlowMatchEulerDiscreteScheduler.step; Heun is the recipe of
the Stable-Layers release (arXiv 2605.30257), whose last step, to sigma = 0, is a plain Euler step. The state keeps the dtype that it
came in, as the release has it (bfloat16); diffusers rounds it to the model's dtype after each step, which is the same in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import numpy as np
import torch

Sampler = Literal["euler", "heun"]
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""v(x, sigma): sigma is a 0-dimensional float32 tensor on x's device, 0..1."""
Advance = Callable[[int], None]
"""Called after each step with how many are done."""

BASE_TOKENS = 256
"""mu is 1 at this many condition tokens."""


def sigma_grid(scheduler_config: dict[str, Any], steps: int, condition_tokens: int) -> torch.Tensor:
    """Sigmas, float32, steps + 1 of them, from 1 to 0, through the checkpoint's own scheduler with mu = sqrt(condition_tokens / 256)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if steps == 1:
        # Stretching a single sigma to the terminal one divides by zero in the scheduler.
        return torch.tensor([1.0, 0.0])
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler_config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0, steps + 1)[:-1], mu=sqrt(condition_tokens / BASE_TOKENS))
    return scheduler.sigmas


def evaluations(sampler: Sampler, steps: int, guided: bool) -> int:
    """How often the model runs for one picture."""
    return (2 * steps - 1 if sampler == "heun" else steps) * (2 if guided else 1)


def sample(sampler: Sampler, velocity: Velocity, x: torch.Tensor, sigmas: torch.Tensor, advance: Advance = lambda _: None) -> torch.Tensor:
    """x at sigma = sigmas[-1], from x at sigmas[0]."""
    step = {"euler": euler_step, "heun": heun_step}[sampler]
    sigmas = sigmas.to(x.device)
    for number, (sigma, sigma_next) in enumerate(pairwise(sigmas), 1):
        x = step(velocity, x, sigma, sigma_next)
        advance(number)
    return x


def euler_step(velocity: Velocity, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    return x + (sigma_next - sigma) * velocity(x, sigma)


def heun_step(velocity: Velocity, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """The trapezoid rule with an Euler predictor; Euler alone into sigma = 0."""
    dt = sigma_next - sigma
    v1 = velocity(x, sigma)
    predicted = x + dt * v1
    if sigma_next == 0:
        return predicted
    v2 = velocity(predicted, sigma_next)
    return x + dt * 0.5 * (v1 + v2)


def picture_noise(shape: tuple[int, ...], seed: int, picture: str) -> torch.Tensor:
    """Standard normal noise, float32, made on the CPU from the seed and the picture's hash alone."""
    digest = hashlib.sha256(f"{seed} {picture}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(shape, generator=generator)


def release_noise(shape: tuple[int, ...], seed: int, index: int, device: torch.device) -> torch.Tensor:
    """The Stable-Layers release's noise: bfloat16, seed + index of the picture in the run, CUDA's own generator there, else the CPU's."""
    where = device if device.type == "cuda" else torch.device("cpu")
    generator = torch.Generator(where).manual_seed(seed + index)
    return torch.randn(shape, generator=generator, device=where, dtype=torch.bfloat16).to(device)
