"""Making the groups of a step, and learning from their scores (Flow-GRPO, arXiv 2505.05470)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from layerctl_train import flow_grpo
from layerctl_train.noise import draw, noise
from layerctl_train.rollout import Trajectories, recomputed, replay, rollout
from layerctl_train.training_settings import CLIPS

if TYPE_CHECKING:
    from layerctl_train.scoring import GroupScore
    from layerctl_train.training_run import TrainingRun
    from layerctl_train.windows import Window

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The candidates of one picture, which are being scored. `place`: in the step, over all processes."""

    place: int
    trajectories: Trajectories
    score: Future[GroupScore]


@dataclass(slots=True)
class Replays:
    """Sums over replays of single candidates at single steps.

    `first`: the largest |log ratio| before anything was learned. `norms`: of the gradients, by optimizer step.
    """

    count: int = 0
    policy: float = 0.0
    kl_velocity: float = 0.0
    kl_exact: float = 0.0
    ratio: float = 0.0
    clipped: int = 0
    first: float = 0.0
    norms: tuple[float, ...] = ()

    def __add__(self, other: Replays) -> Replays:
        both = Replays(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Replays)))
        both.first = _larger(self.first, other.first)
        return both


def sample_group(run: TrainingRun, step: int, place: int, window: Window) -> Group:
    """Candidates of the picture at this place of the step; their scoring goes on while other groups are made."""
    settings, base = run.settings, run.base
    run.meet()
    picture = run.picture(step * settings.groups + place)
    layers = draw(settings.seed, "layers", step, place).randint(*settings.layers)
    condition = base.condition(picture, layers)
    trajectories = rollout(
        run.velocity,
        condition,
        base.sigmas(settings.rollout_steps, condition),
        settings,
        window,
        lambda member, at: noise(condition.state_shape, settings.seed, "candidate", step, place, member, at).to(base.device),
        group=settings.group,
        tick=run.tick,
    )
    stacks = [base.stack(x[None], condition, picture.source) for x in trajectories.final]
    assert run.scoring is not None
    return Group(place, trajectories, run.scoring.begin(place, picture.key, picture.source, stacks, base.prompt_of(picture)))


def learn(run: TrainingRun, groups: Sequence[Group], scores: Sequence[GroupScore], advantages_PG: F64) -> Replays:
    """Optimizer steps on a batch of rollouts; `scores` and `advantages_PG` are of all processes, by place.

    Raises TrainingStoppedError for a first ratio or a gradient that must not be.
    """
    settings = run.settings
    if run.config.settings.compile:
        # Compiled graphs with and without gradients need not agree to the last bit.
        groups = [replace(group, trajectories=recomputed(run.velocity, group.trajectories)) for group in groups]
    done = Replays()
    for places in _parts(settings.groups, settings.optimizer_steps):
        weights_PG = _weights(scores, places)
        if not weights_PG.any():
            continue
        # Processes that share the base have to run it equally often, so there the groups that teach nothing are replayed too.
        replayed = [group for group in groups if group.place in places and (settings.shard or weights_PG[group.place].any())]
        own = sum((_replay_group(run, group, advantages_PG[group.place], weights_PG[group.place]) for group in replayed), Replays())
        total = sum(run.processes.gather(own), Replays())
        if not done.count:
            run.watch.check_first_ratio(total.first)
            done.first = total.first
        run.processes.sum_gradients(run.policy.parameters.values())
        done = replace(done + total, first=done.first, norms=(*done.norms, run.optimize()))
    return done


def replay_metrics(done: Replays, run: TrainingRun) -> dict[str, float]:
    """The sums as means, by the names of `METRICS`."""
    if not done.count:
        return {}
    found = {
        "ratio/first": done.first,
        "ratio/abs": done.ratio / done.count,
        "clip": done.clipped / done.count,
        "loss/policy": done.policy / done.count,
        "gradient/norm": fmean(done.norms),
    }
    if run.settings.kl:
        found |= {
            "loss/kl": run.settings.kl * done.kl_velocity / done.count,
            "kl/velocity": done.kl_velocity / done.count,
            "kl/exact": done.kl_exact / done.count,
        }
    return found


def _replay_group(run: TrainingRun, group: Group, advantages_G: F64, weights_G: F64) -> Replays:
    """Add the gradient of one group: of the clipped objective and of the distance from the start, weighted."""
    settings, trajectories = run.settings, group.trajectories
    assert flow_grpo.grid_hash(trajectories.sigmas) == trajectories.grid, "the replay goes over other sigmas than the rollout"
    clip = CLIPS[settings.ratio] if settings.clip is None else settings.clip
    run.meet()
    found = Replays()
    for chunk in trajectories.chunks:
        members = list(chunk.members)
        advantage_B, weight_B = (
            torch.as_tensor(values[members], dtype=torch.float32, device=run.base.device) for values in (advantages_G, weights_G)
        )
        valid_B = weight_B > 0
        for at, step in enumerate(chunk.steps_T):
            run.tick()
            sigma, sigma_next = trajectories.sigmas[step], trajectories.sigmas[step + 1]
            v, mean = replay(run.velocity, chunk, at, trajectories.sigmas, settings.kernel, settings.eta)
            ratio_B = flow_grpo.log_ratio(
                settings.ratio, mean, chunk.mean_old_T[at], chunk.x_next_T[at], chunk.q_T[at], chunk.condition.frames
            )
            policy_B = flow_grpo.clipped_loss(ratio_B, advantage_B, clip)
            if settings.reweight_dt:
                policy_B = policy_B / (sigma - sigma_next).to(policy_B)
            loss_B = policy_B
            if settings.kl:
                with run.policy.reference(), torch.no_grad():
                    v_reference, mean_reference = replay(run.velocity, chunk, at, trajectories.sigmas, settings.kernel, settings.eta)
                kl_B = flow_grpo.velocity_kl(v, v_reference)
                loss_B = loss_B + settings.kl * kl_B
                found.kl_velocity += float(kl_B.detach()[valid_B].sum())
                found.kl_exact += float(flow_grpo.exact_kl(mean.detach(), mean_reference, chunk.q_T[at])[valid_B].sum())
            torch.autograd.backward((loss_B * weight_B / len(chunk.steps_T)).sum())
            ratio_B = ratio_B.detach()
            found.first = _larger(found.first, float(ratio_B.abs().max()))
            found.policy += float(policy_B.detach()[valid_B].sum())
            found.ratio += float(ratio_B[valid_B].abs().sum())
            found.clipped += int(flow_grpo.is_clipped(ratio_B, advantage_B, clip)[valid_B].sum())
            found.count += int(valid_B.sum())
    return found


def _larger(one: float, other: float) -> float:
    """What is no number counts as the largest."""
    return one if math.isnan(one) or one > other else other


def _parts(groups: int, steps: int) -> list[range]:
    """The places of each optimizer step's groups."""
    bounds = [groups * at // steps for at in range(steps + 1)]
    return [range(first, last) for first, last in pairwise(bounds)]


def _weights(scores: Sequence[GroupScore], places: range) -> F64:
    """Equal for all candidates with a score in groups that teach, of all processes, and 0 for the others; their sum is 1 or 0."""
    taught_PG = np.array(
        [[score.place in places and not score.why_not and math.isfinite(reward) for reward in score.rewards_G] for score in scores]
    )
    return taught_PG / max(1, np.count_nonzero(taught_PG))
