"""Flow-GRPO and its relatives as pure functions on tensors: one noisy step, its ratio, the losses, the advantages.

x_s = (1 - s) x0 + s eps, so s = 1 is noise; v = eps - x0; a step goes from s down to s', dt = s' - s < 0; q is the standard deviation of
the noise that it adds. States are [B, N, C], frame after frame. Numbers are at least float32 from end to end: rounding x' to bfloat16
biases the log ratio downwards by more than a clip is wide.

Sources: Flow-GRPO (arXiv 2505.05470), DanceGRPO (2505.07818), Flow-CPS (2509.05952), GRPO-Guard (2510.22319).

Where this differs from them:
- The log ratio is computed from mu - mu_old directly, never as the difference of two log-probabilities: the same number, but exactly 0 for
  equal means and far more accurate in float32. So is the ratio's distance from 1, as expm1 of it: clips are narrower than float32 near 1.
- Log ratios and KLs are means over dimensions, as in Flow-GRPO's code, where its text has sums: sums over so many are unstable.
- RatioNorm has a form that does not depend on the number of dimensions, which here changes with size and layer count, and one by frame.
- The KL that is trained on is the mean squared distance of velocities, weighted alike at every step; the exact one of a step is measured.
- Flow-SDE divides by 1 - s, which is 0 in the first step: the grid's second sigma stands in there, as in Flow-GRPO's code.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from layerctl_train.training_settings import Kernel, Ratio

F64 = npt.NDArray[np.float64]

FEWEST_REWARDS = 3
"""A group with fewer valid rewards teaches nothing (ours)."""


class Transition(NamedTuple):
    """The next state is mean + q * noise. `q`: 0-dimensional."""

    mean: torch.Tensor
    q: torch.Tensor


def transition(
    kernel: Kernel | Literal["ode"],
    x: torch.Tensor,
    v: torch.Tensor,
    sigma: torch.Tensor,
    sigma_next: torch.Tensor,
    eta: float,
    sigma_second: torch.Tensor,
) -> Transition:
    """One step from x at sigma (0-dimensional, on x's device); float32, or float64 where x is. `sigma_second`: the grid's second sigma."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, v, s, s_next, s_second = (each.to(dtype) for each in (x, v, sigma, sigma_next, sigma_second))
    match kernel:
        case "flow":
            return flow_step(x, v, s, s_next, eta, s_second)
        case "dance":
            return dance_step(x, v, s, s_next, eta)
        case "cps":
            return cps_step(x, v, s, s_next, eta)
        case "ode":
            return Transition(x + v * (s_next - s), torch.zeros_like(s))


def flow_step(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, eta: float, s_second: torch.Tensor) -> Transition:
    """Flow-SDE (Flow-GRPO, arXiv 2505.05470, its SDE sampling).

    g = eta sqrt(s / (1 - s)); mean = x (1 + g^2 dt / 2s) + v (1 + g^2 (1 - s) / 2s) dt; q = g sqrt(-dt).
    """
    dt = s_next - s
    g = eta * torch.sqrt(s / (1 - torch.where(s == 1, s_second, s)))
    mean = x * (1 + g**2 * dt / (2 * s)) + v * (1 + g**2 * (1 - s) / (2 * s)) * dt
    return Transition(mean, g * torch.sqrt(-dt))


def dance_step(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, eta: float) -> Transition:
    """The SDE of DanceGRPO (arXiv 2505.07818) for rectified flows, of the same noise at every sigma.

    x0hat = x - s v; mean = x + v dt + eta^2 / 2 (x - (1 - s) x0hat) / s^2 dt; q = eta sqrt(-dt).
    """
    dt = s_next - s
    x0hat = x - s * v
    mean = x + v * dt + eta**2 / 2 * (x - (1 - s) * x0hat) / s**2 * dt
    return Transition(mean, eta * torch.sqrt(-dt))


def cps_step(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, eta: float) -> Transition:
    """Coefficients-preserving sampling (Flow-CPS, arXiv 2509.05952); eta 0 to 1.

    x0hat = x - s v; x1hat = x + (1 - s) v; q = s' sin(eta pi / 2); mean = (1 - s') x0hat + sqrt(s'^2 - q^2) x1hat, whose root is
    s' cos(eta pi / 2).
    """
    x0hat, x1hat = x - s * v, x + (1 - s) * v
    angle = eta * math.pi / 2
    return Transition((1 - s_next) * x0hat + s_next * math.cos(angle) * x1hat, s_next * math.sin(angle))


def log_ratio(form: Ratio, mean: torch.Tensor, mean_old: torch.Tensor, x_next: torch.Tensor, q: torch.Tensor, frames: int) -> torch.Tensor:
    """The log of how much more likely the new policy makes x_next than the old one did, by sample: [B].

    With D = mean - mean_old and e = (x_next - mean_old) / q:
    plain: -mean(D^2) / 2q^2 + mean(e D) / q, both log-probabilities being means over dimensions (Flow-GRPO, arXiv 2505.05470).
    norm: mean(e D), RatioNorm (GRPO-Guard, arXiv 2510.22319): without the drift and the 1 / q, it is q (plain + mean(D^2) / 2q^2).
    free: sum(e D) / sqrt(dimensions), whose spread is rms(D) at any size (ours).
    frames: that by frame, and the mean over frames (ours).
    """
    change = (mean - mean_old).flatten(1)
    drawn = ((x_next - mean_old) / q).flatten(1)
    product = drawn * change
    match form:
        case "plain":
            return -(change**2).mean(1) / (2 * q**2) + product.mean(1) / q
        case "norm":
            return product.mean(1)
        case "free":
            return product.sum(1) / product.shape[1] ** 0.5
        case "frames":
            by_frame = product.reshape(len(product), frames, -1)
            return (by_frame.sum(2) / by_frame.shape[2] ** 0.5).mean(1)


def clipped_loss(log_ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """max(-A r, -A clip(r, 1 - e, 1 + e)), by sample (PPO's clipped objective as in Flow-GRPO, arXiv 2505.05470)."""
    distance = torch.expm1(log_ratio)
    return -advantage + torch.maximum(-advantage * distance, -advantage * distance.clamp(-clip, clip))


def is_clipped(log_ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """Whether `clipped_loss` takes its clipped side, which has no gradient, by sample."""
    distance = torch.expm1(log_ratio)
    return ((advantage > 0) & (distance > clip)) | ((advantage < 0) & (distance < -clip))


def velocity_kl(v: torch.Tensor, v_reference: torch.Tensor) -> torch.Tensor:
    """mean((v - v_reference)^2), by sample (ours): a KL of one step up to a factor that depends on sigma alone; gradient through v only."""
    return ((v.float() - v_reference.detach().float()) ** 2).flatten(1).mean(1)


def exact_kl(mean: torch.Tensor, mean_reference: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of one noisy step, mean((mu - mu_ref)^2) / 2q^2, by sample (Flow-GRPO, arXiv 2505.05470, divided by the dimensions)."""
    return ((mean - mean_reference) ** 2).flatten(1).mean(1) / (2 * q**2)


def advantages(rewards_PG: F64, taught_P: npt.NDArray[np.bool_], kind: Literal["group", "batch", "none"], floor: float, clip: float) -> F64:
    """A = (r - mean of the group) / max(deviation, floor), within -clip..clip (Flow-GRPO, arXiv 2505.05470; floor and clip ours).

    The deviation, of the population, is the group's, that of all taught groups' rewards, or 1. A candidate without a score (NaN) gets 0
    and moves no other; so do all of a group that is not taught, or that has fewer than `FEWEST_REWARDS` scores.
    """
    valid_PG = ~np.isnan(rewards_PG) & taught_P[:, None]
    valid_PG &= (valid_PG.sum(axis=1) >= FEWEST_REWARDS)[:, None]
    deviation = float(rewards_PG[valid_PG].std()) if kind == "batch" and valid_PG.any() else 1.0
    found_PG = np.zeros(rewards_PG.shape)
    for rewards_G, valid_G, found_G in zip(rewards_PG, valid_PG, found_PG, strict=True):
        rewards = rewards_G[valid_G]
        # The mean of equal numbers can be off by a rounding.
        if rewards.size == 0 or np.ptp(rewards) == 0:
            continue
        divisor = float(rewards.std()) if kind == "group" else deviation
        if kind != "none":
            divisor = max(divisor, floor)
        found_G[valid_G] = np.clip((rewards - rewards.mean()) / divisor, -clip, clip)
    return found_PG


def grid_hash(sigmas: torch.Tensor) -> str:
    """What says that two rollouts went over the same sigmas, to the bit."""
    return hashlib.sha256(sigmas.detach().cpu().float().numpy().tobytes()).hexdigest()[:16]
