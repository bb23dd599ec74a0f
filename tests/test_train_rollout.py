"""Rollout and replay: of a velocity in closed form, and of the tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from layerctl_train.flow_grpo import grid_hash, log_ratio
from layerctl_train.noise import noise
from layerctl_train.rollout import Trajectories, expanded, recomputed, replay, rollout
from layerctl_train.training_settings import Kernel, Ratio, TrainingSettings
from layerctl_train.windows import Window

from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part
from layerctl.engines.qwen.sampler import sample, sigma_grid

SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.2, 0.0])
WINDOW = Window(1, 2)
CONDITION = Condition(noise((1, 4, 8), 0, "picture"), noise((1, 3, 5), 0, "prompt"), rows=2, columns=2, layers=2)
FORMS: tuple[Ratio, ...] = ("plain", "norm", "free", "frames")


@dataclass
class Pull:
    """A velocity away from the condition's picture, in bfloat16 as a model's is, that remembers what it was asked."""

    batches: list[int] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        self.batches.append(len(x))
        self.dtypes.add(x.dtype)
        assert len(condition.picture) == len(condition.prompt) == len(x)
        return (torch.tanh(x) * (1 + sigma) - condition.picture.repeat(1, condition.frames, 1)).bfloat16()


def settings(kernel: Kernel = "flow", *, micro_batch: int = 1, shared_start: bool = False) -> TrainingSettings:
    return TrainingSettings(kernel=kernel, eta=0.5, micro_batch=micro_batch, shared_start=shared_start, rollout_steps=5)


def noise_of(condition: Condition, picture: int = 0) -> Callable[[int, int], torch.Tensor]:
    return lambda member, step: noise(condition.state_shape, 3, "rollout", picture, member, step)


def rolled(velocity: Callable[..., torch.Tensor], given: TrainingSettings, *, condition: Condition = CONDITION, group: int = 3,
           window: Window = WINDOW, sigmas: torch.Tensor = SIGMAS, picture: int = 0) -> Trajectories:  # fmt: skip
    noises = noise_of(condition, picture)
    return rollout(velocity, condition, sigmas, given, window, noises, group=group, tick=lambda: None)


def assert_replay_is_exact(velocity: Callable[..., torch.Tensor], trajectories: Trajectories) -> None:
    for chunk in trajectories.chunks:
        for t, (mean_old, x_next, q) in enumerate(zip(chunk.mean_old_T, chunk.x_next_T, chunk.q_T, strict=True)):
            v, mean = replay(velocity, chunk, t, trajectories.sigmas, trajectories.kernel, trajectories.eta)
            assert torch.equal(mean, mean_old)
            assert v.dtype == mean.dtype == x_next.dtype == torch.float32
            for form in FORMS:
                assert log_ratio(form, mean, mean_old, x_next, q, chunk.condition.frames).tolist() == [0] * len(chunk.members)


@pytest.mark.parametrize("kernel", ["flow", "dance", "cps"])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_replay_gives_the_rollouts_means_to_the_bit(kernel: Kernel, micro_batch: int) -> None:
    velocity = Pull()
    assert_replay_is_exact(velocity, rolled(velocity, settings(kernel, micro_batch=micro_batch)))
    assert velocity.dtypes == {torch.float32}


def test_only_the_steps_of_the_window_are_kept_and_noisy() -> None:
    def pulled(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return Pull()(x, sigma, CONDITION).float()

    found = rolled(Pull(), settings())
    assert [chunk.members for chunk in found.chunks] == [(0,), (1,), (2,)]
    for chunk in found.chunks:
        (member,) = chunk.members
        assert chunk.steps_T == (1, 2)
        assert len(chunk.x_T) == len(chunk.x_next_T) == len(chunk.mean_old_T) == len(chunk.q_T) == 2
        assert torch.equal(chunk.x_T[1], chunk.x_next_T[0])
        # Before and after it is Euler, to the bit.
        start = noise_of(CONDITION)(member, -1)
        assert torch.equal(chunk.x_T[0], sample("euler", pulled, start, SIGMAS[:2]))
        last = sample("euler", pulled, chunk.x_next_T[1], SIGMAS[3:])
        assert torch.allclose(found.final[member], last[0], atol=1e-6)
        for t in range(2):
            drawn = (chunk.x_next_T[t] - chunk.mean_old_T[t]) / chunk.q_T[t]
            assert torch.allclose(drawn, noise_of(CONDITION)(member, chunk.steps_T[t]), atol=1e-5)
            assert chunk.q_T[t] > 0


def test_states_are_float32_from_end_to_end_and_hold_no_gradient() -> None:
    found = rolled(Pull(), settings(micro_batch=2))
    assert found.final.shape == (3, *CONDITION.state_shape[1:])
    kept = [found.final, *(each for chunk in found.chunks for each in (*chunk.x_T, *chunk.x_next_T, *chunk.mean_old_T, *chunk.q_T))]
    assert {each.dtype for each in kept} == {torch.float32}
    assert not any(each.requires_grad for each in kept)


def test_a_rollout_names_its_grid_kernel_and_window() -> None:
    found = rolled(Pull(), settings("dance"))
    assert (found.grid, found.kernel, found.eta, found.window) == (grid_hash(SIGMAS), "dance", 0.5, WINDOW)
    assert torch.equal(found.sigmas, SIGMAS)


def test_members_that_do_not_fill_a_chunk_make_a_smaller_one() -> None:
    velocity = Pull()
    found = rolled(velocity, settings(micro_batch=2))
    assert [chunk.members for chunk in found.chunks] == [(0, 1), (2,)]
    assert velocity.batches == [2] * 5 + [1] * 5


def test_a_shared_start_takes_the_steps_before_the_window_once() -> None:
    velocity = Pull()
    found = rolled(velocity, settings(micro_batch=2, shared_start=True), window=Window(2, 2))
    assert velocity.batches == [1] * 2 + [2] * 3 + [1] * 3
    starts = torch.cat([chunk.x_T[0] for chunk in found.chunks])
    assert torch.equal(starts, starts[:1].repeat(3, 1, 1))
    assert not torch.equal(found.final[0], found.final[1])
    alone = rolled(Pull(), settings(), window=Window(2, 2))
    assert torch.equal(starts[0], alone.chunks[0].x_T[0][0])
    assert_replay_is_exact(velocity, found)


def test_a_shared_start_of_a_window_at_the_first_step_is_the_noise_itself() -> None:
    found = rolled(Pull(), settings(shared_start=True), window=Window(0, 1))
    assert all(torch.equal(chunk.x_T[0], noise_of(CONDITION)(0, -1)) for chunk in found.chunks)


def test_trajectories_depend_on_nothing_but_the_counters() -> None:
    torch.manual_seed(1)
    first, second = (rolled(Pull(), settings(), picture=picture) for picture in (0, 1))
    torch.manual_seed(2)
    torch.rand(7)
    again_second, again_first = (rolled(Pull(), settings(), picture=picture) for picture in (1, 0))
    assert torch.equal(first.final, again_first.final)
    assert torch.equal(second.final, again_second.final)
    assert not torch.equal(first.final, second.final)


def test_a_window_may_reach_the_last_step_or_be_all_steps() -> None:
    for window in (Window(3, 2), Window(0, 5)):
        found = rolled(Pull(), settings(), window=window)
        assert found.chunks[0].steps_T == tuple(window.steps)
        assert torch.equal(found.final, torch.cat([chunk.x_next_T[-1] for chunk in found.chunks])) == (window.steps.stop == 5)
        assert_replay_is_exact(Pull(), found)


class StopError(Exception):
    pass


def test_every_evaluation_ticks_and_a_tick_can_end_the_rollout() -> None:
    velocity, ticks = Pull(), []

    def tick() -> None:
        ticks.append(len(velocity.batches))
        if len(ticks) == 7:
            raise StopError

    with pytest.raises(StopError):
        rollout(velocity, CONDITION, SIGMAS, settings(), WINDOW, noise_of(CONDITION), group=3, tick=tick)
    assert ticks == [1, 2, 3, 4, 5, 6, 7]


def test_a_condition_is_expanded_whole() -> None:
    guided = Condition(CONDITION.picture, CONDITION.prompt, 2, 2, 2, negative=CONDITION.prompt + 1, cfg=2.0)
    found = expanded(guided, 3)
    assert found.negative is not None
    assert guided.negative is not None
    for one, three in ((guided.picture, found.picture), (guided.prompt, found.prompt), (guided.negative, found.negative)):
        assert torch.equal(three, torch.cat([one] * 3))
    assert found.state_shape == guided.state_shape
    assert expanded(guided, 1) is guided


@pytest.fixture(scope="module")
def model(tiny: Path) -> LayeredModel:
    checkpoint = read_checkpoint(tiny)
    transformer, vae = (load_part(checkpoint, part, torch.bfloat16) for part in ("transformer", "vae"))
    return LayeredModel(transformer, vae, device=torch.device("cpu"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def tiny_condition(model: LayeredModel) -> Condition:
    channels, width = model.transformer.config.in_channels, model.transformer.config.joint_attention_dim
    picture, prompt = noise((1, 6, channels), 0, "picture"), noise((1, 5, width), 0, "prompt")
    return Condition(picture.bfloat16(), prompt.bfloat16(), rows=3, columns=2, layers=2)


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shared_start", [False, True])
def test_a_replay_of_the_model_is_the_rollout_to_the_bit_with_a_gradient(
    model: LayeredModel, tiny_condition: Condition, tiny: Path, micro_batch: int, checkpointing: bool, shared_start: bool
) -> None:
    sigmas = sigma_grid(read_checkpoint(tiny).configs["scheduler"], 4, tiny_condition.picture.shape[1])
    weight = model.transformer.transformer_blocks[0].attn.to_q.weight
    weight.requires_grad_()
    if checkpointing:
        model.transformer.enable_gradient_checkpointing()
    try:
        given = settings(micro_batch=micro_batch, shared_start=shared_start)
        found = rolled(model.velocity, given, condition=tiny_condition, group=3, sigmas=sigmas)
        assert_replay_is_exact(model.velocity, found)
        again = recomputed(model.velocity, found)
        for chunk, twice in zip(found.chunks, again.chunks, strict=True):
            assert all(torch.equal(*pair) for pair in zip(chunk.mean_old_T, twice.mean_old_T, strict=True))
            assert not any(mean.requires_grad for mean in twice.mean_old_T)
        _, mean = replay(model.velocity, found.chunks[0], 0, found.sigmas, found.kernel, found.eta)
        (gradient,) = torch.autograd.grad(mean.square().sum(), weight)
        assert gradient.abs().max() > 0
    finally:
        model.transformer.disable_gradient_checkpointing()
        weight.requires_grad_(False)


def test_recomputed_means_are_those_of_the_velocity_that_is_given() -> None:
    found = rolled(Pull(), settings())
    other = recomputed(lambda x, sigma, condition: 0 * x, found)
    assert not torch.equal(found.chunks[0].mean_old_T[0], other.chunks[0].mean_old_T[0])
    assert torch.equal(found.chunks[0].x_next_T[0], other.chunks[0].x_next_T[0])
    assert torch.equal(found.final, other.final)
