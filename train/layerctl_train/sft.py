"""Supervised training on layered files: flow matching towards their layers, as a warm-up or by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from layerctl_train.noise import noise
from layerctl_train.sft_targets import draw_sigma, flow_loss

if TYPE_CHECKING:
    from layerctl_train.training_run import TrainingRun


def add_gradient(run: TrainingRun, step: int, place: int) -> float:
    """Add the gradient of one layered picture, at a noise level of its own; its loss."""
    settings, device = run.settings, run.base.device
    run.meet()
    target = run.target(step * settings.sft_batch + place)
    condition = run.base.condition(target.condition, target.layers)
    sigma = torch.tensor(draw_sigma(settings.seed, step, place, shift=settings.sft_shift), device=device)
    x0, eps = target.x0.to(device), noise(tuple(target.x0.shape), settings.seed, "target", step, place).to(device)
    loss = flow_loss(run.velocity((1 - sigma) * x0 + sigma * eps, sigma, condition), x0, eps).mean()
    torch.autograd.backward(loss / settings.sft_batch)
    return float(loss.detach())
