"""Candidates for one picture, and the same steps once more with gradients.

A chunk of candidates goes through the model together, in the rollout and in the replay alike, with the same condition and the same shapes:
then the replay gives the rollout's numbers to the bit, as long as the weights are the same. Latents, means and noise are float32 from end
to end; only the model rounds what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from layerctl.engines.qwen.model import Condition
from layerctl_train.flow_grpo import grid_hash, transition
from layerctl_train.training_settings import Kernel, TrainingSettings
from layerctl_train.windows import Window

Velocity = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]
"""v(x, sigma, condition): `LayeredModel.velocity`."""
DrawNoise = Callable[[int, int], torch.Tensor]
"""The noise of a member's step, [1, N, C], float32; step -1 is the state that it starts from."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Members of a group that went through the model together, at the T steps of the window.

    `condition`: of the chunk's batch. `x_T`, `x_next_T`, `mean_old_T`: T of [B, N, C]. `q_T`: T of 0-dimensional. `steps_T`: of the grid.
    """

    members: tuple[int, ...]
    condition: Condition
    x_T: tuple[torch.Tensor, ...]
    x_next_T: tuple[torch.Tensor, ...]
    mean_old_T: tuple[torch.Tensor, ...]
    q_T: tuple[torch.Tensor, ...]
    steps_T: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """A group. `sigmas`: on the device. `grid`: their hash. `final`: [G, N, C] at the last sigma."""

    chunks: tuple[Chunk, ...]
    sigmas: torch.Tensor
    grid: str
    window: Window
    kernel: Kernel
    eta: float
    final: torch.Tensor


@torch.no_grad()
def rollout(
    velocity: Velocity,
    condition: Condition,
    sigmas: torch.Tensor,
    settings: TrainingSettings,
    window: Window,
    draw_noise: DrawNoise,
    *,
    group: int,
    tick: Callable[[], None],
) -> Trajectories:
    """A group of candidates for a condition of batch 1: noisy steps in the window, Euler's elsewhere.

    With `shared_start` all begin from member 0's noise, and the steps before the window are taken once. `tick` is called after each
    evaluation of the model; what it raises ends the rollout.
    """
    device = condition.picture.device
    sigmas = sigmas.to(device)

    def drawn(members: tuple[int, ...], step: int) -> torch.Tensor:
        return torch.cat([draw_noise(member, step) for member in members]).to(device)

    def evaluated(x: torch.Tensor, step: int, given: Condition) -> torch.Tensor:
        v = velocity(x, sigmas[step], given).float()
        tick()
        return v

    def euler(x: torch.Tensor, steps: range, given: Condition) -> torch.Tensor:
        for step in steps:
            v = evaluated(x, step, given)
            x = transition("ode", x, v, sigmas[step], sigmas[step + 1], settings.eta, sigmas[1]).mean
        return x

    before, after = range(window.first), range(window.steps.stop, len(sigmas) - 1)
    common = euler(drawn((0,), -1), before, condition) if settings.shared_start else None
    chunks, finals = [], []
    for first in range(0, group, settings.micro_batch):
        members = tuple(range(first, min(first + settings.micro_batch, group)))
        given = expanded(condition, len(members))
        x = euler(drawn(members, -1), before, given) if common is None else common.repeat(len(members), 1, 1)
        states, means, qs = [x], [], []
        for step in window.steps:
            v = evaluated(x, step, given)
            mean, q = transition(settings.kernel, x, v, sigmas[step], sigmas[step + 1], settings.eta, sigmas[1])
            x = mean + q * drawn(members, step)
            states.append(x)
            means.append(mean)
            qs.append(q)
        chunks.append(Chunk(members, given, tuple(states[:-1]), tuple(states[1:]), tuple(means), tuple(qs), tuple(window.steps)))
        finals.append(euler(x, after, given))
    return Trajectories(tuple(chunks), sigmas, grid_hash(sigmas), window, settings.kernel, settings.eta, torch.cat(finals))


def replay(velocity: Velocity, chunk: Chunk, t: int, sigmas: torch.Tensor, kernel: Kernel, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The velocity (float32) and the mean of step t of a chunk's window, with gradients where the caller has them on."""
    x, step = chunk.x_T[t], chunk.steps_T[t]
    v = velocity(x, sigmas[step], chunk.condition).float()
    return v, transition(kernel, x, v, sigmas[step], sigmas[step + 1], eta, sigmas[1]).mean


def recomputed(velocity: Velocity, trajectories: Trajectories) -> Trajectories:
    """The same trajectories with means as the graph with gradients gives them; a compiled one without may differ in the last bits."""
    chunks = []
    with torch.enable_grad():
        for chunk in trajectories.chunks:
            replays = (
                replay(velocity, chunk, t, trajectories.sigmas, trajectories.kernel, trajectories.eta) for t in range(len(chunk.steps_T))
            )
            chunks.append(replace(chunk, mean_old_T=tuple(mean.detach() for _, mean in replays)))
    return replace(trajectories, chunks=tuple(chunks))


def expanded(condition: Condition, batch: int) -> Condition:
    """A condition of batch 1, for so many samples."""
    if batch == 1:
        return condition
    negative = None if condition.negative is None else condition.negative.repeat(batch, 1, 1)
    return replace(condition, picture=condition.picture.repeat(batch, 1, 1), prompt=condition.prompt.repeat(batch, 1, 1), negative=negative)
