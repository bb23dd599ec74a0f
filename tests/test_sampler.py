from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerctl.engines.qwen import sampler
from layerctl.engines.qwen.recipe import PRESETS
from layerctl.engines.qwen.sampler import Sampler

PUBLISHED_SCHEDULE = {
    "num_train_timesteps": 1000, "use_dynamic_shifting": True, "shift": 1.0, "base_shift": 0.5, "max_shift": 0.9,
    "base_image_seq_len": 256, "max_image_seq_len": 8192, "shift_terminal": 0.02, "time_shift_type": "exponential",
}  # fmt: skip


def test_the_grid_goes_from_one_to_zero_and_ever_down() -> None:
    sigmas = sampler.sigma_grid(PUBLISHED_SCHEDULE, 50, 1600)
    assert len(sigmas) == 51
    assert (float(sigmas[0]), float(sigmas[-1])) == (1, 0)
    assert (sigmas[1:] < sigmas[:-1]).all()


@pytest.mark.parametrize(("tokens", "steps"), [(1600, 50), (256, 8), (64, 3)])
def test_the_grid_is_the_shift_by_mu_that_the_formula_gives(tokens: int, steps: int) -> None:
    schedule = PUBLISHED_SCHEDULE | {"shift_terminal": None}
    mu = math.sqrt(tokens / 256)
    plain = np.linspace(1, 0, steps + 1)[:-1]
    shifted = math.exp(mu) / (math.exp(mu) + (1 / plain - 1))
    assert np.allclose(sampler.sigma_grid(schedule, steps, tokens)[:-1], shifted, atol=1e-6)


def test_the_checkpoints_own_terminal_sigma_is_kept() -> None:
    assert sampler.sigma_grid(PUBLISHED_SCHEDULE, 50, 1600)[-2] == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("stable-layers", 99), ("qwen", 100)],
)
def test_the_presets_take_as_many_evaluations_as_their_makers_say(preset: str, expected: int) -> None:
    recipe = PRESETS[preset]
    assert sampler.evaluations(recipe.sampler, recipe.steps, recipe.guided) == expected


@pytest.mark.parametrize(("name", "steps"), [("euler", 50), ("heun", 50), ("heun", 1), ("euler", 1)])
def test_a_sampler_evaluates_the_velocity_as_often_as_it_says(name: Sampler, steps: int) -> None:
    seen: list[float] = []

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma))
        return torch.zeros_like(x)

    sampler.sample(name, velocity, torch.zeros(1), sampler.sigma_grid(PUBLISHED_SCHEDULE, steps, 1600))
    assert len(seen) == sampler.evaluations(name, steps, guided=False)
    assert 0 not in seen


def _swirl(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.sin(3 * x) * (1 + sigma) - 0.5 * sigma * np.roll(x, 1)


def _plain_heun(x: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Heun as a textbook has it, in float64, independent of the program."""
    for i in range(len(sigmas) - 1):
        h = sigmas[i + 1] - sigmas[i]
        slope = _swirl(x, sigmas[i])
        if sigmas[i + 1] > 0:
            slope = (slope + _swirl(x + h * slope, sigmas[i + 1])) / 2
        x = x + h * slope
    return x


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 30), seed=st.integers(0, 1000), tokens=st.integers(16, 4096))
def test_heun_agrees_with_an_independent_one_in_double_precision(steps: int, seed: int, tokens: int) -> None:
    start = np.random.default_rng(seed).normal(size=7)
    sigmas = sampler.sigma_grid(PUBLISHED_SCHEDULE, steps, tokens).double()

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x) * (1 + sigma) - 0.5 * sigma * torch.roll(x, 1)

    ours = sampler.sample("heun", velocity, torch.from_numpy(start), sigmas)
    assert np.allclose(ours.numpy(), _plain_heun(start, sigmas.numpy()), rtol=1e-12, atol=1e-12)


def test_halving_the_step_quarters_heuns_error_and_halves_eulers() -> None:
    def error(name: Sampler, steps: int) -> float:
        # dx/dsigma = x from 1 to 0.5: exp(-0.5) is the truth.
        sigmas = torch.linspace(1, 0.5, steps + 1, dtype=torch.float64)
        reached = sampler.sample(name, lambda x, _: x, torch.ones(1, dtype=torch.float64), sigmas)
        return abs(float(reached) - math.exp(-0.5))

    assert error("heun", 20) / error("heun", 40) == pytest.approx(4, rel=0.1)
    assert error("euler", 20) / error("euler", 40) == pytest.approx(2, rel=0.1)


def test_the_state_keeps_its_type() -> None:
    x = torch.ones(3, dtype=torch.bfloat16)
    sigmas = sampler.sigma_grid(PUBLISHED_SCHEDULE, 4, 1600)
    assert sampler.sample("heun", lambda x, _: x, x, sigmas).dtype == torch.bfloat16


def test_noise_depends_on_seed_and_picture_alone() -> None:
    shape = (1, 12, 8)
    noise = sampler.picture_noise(shape, 42, "aa")
    torch.randn(5)
    assert torch.equal(noise, sampler.picture_noise(shape, 42, "aa"))
    assert not torch.equal(noise, sampler.picture_noise(shape, 43, "aa"))
    assert not torch.equal(noise, sampler.picture_noise(shape, 42, "ab"))


def test_noise_is_standard_normal() -> None:
    noise = sampler.picture_noise((1, 2000, 64), 42, "aa")
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_the_releases_noise_is_a_generators_own_from_seed_plus_index() -> None:
    shape, cpu = (1, 12, 64), torch.device("cpu")
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(42 + 3), dtype=torch.bfloat16)
    assert torch.equal(sampler.release_noise(shape, 42, 3, cpu), expected)
