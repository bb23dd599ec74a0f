"""The formulas of training against closed forms, torch.distributions and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from layerctl_train.flow_grpo import (
    advantages,
    clipped_loss,
    exact_kl,
    grid_hash,
    is_clipped,
    log_ratio,
    transition,
    velocity_kl,
)  # fmt: skip
from layerctl_train.noise import noise
from layerctl_train.training_settings import Kernel, Ratio
from torch.distributions import Normal, kl_divergence

KERNELS: tuple[tuple[Kernel, float], ...] = (("flow", 0.7), ("dance", 0.3), ("cps", 0.8))
FORMS: tuple[Ratio, ...] = ("plain", "norm", "free", "frames")
Q = torch.tensor(0.3)


Moved = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""mean, mean_old, x_next."""


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def step_of_gaussian(
    kernel: Kernel | Literal["ode"], eta: float, mean: float, std: float, sigmas: torch.Tensor, number: int
) -> tuple[float, float, float]:
    """The step a x + b, with noise q, under the exact velocity of data that is normal: v = E[eps - x0 | x], which is affine in x."""
    s = float(sigmas[number])
    variance = (1 - s) ** 2 * std**2 + s**2
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    centred = x - (1 - s) * mean
    v = s / variance * centred - (mean + (1 - s) * std**2 / variance * centred)
    after, q = transition(kernel, x, v, sigmas[number], sigmas[number + 1], eta, sigmas[1])
    return float(after[1] - after[0]), float(after[0]), float(q)


def marginals(kernel: Kernel | Literal["ode"], eta: float, mean: float, std: float, steps: int) -> list[tuple[float, float, float]]:
    """(sigma, mean, std) after each step on an even grid, without sampling."""
    sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    found, now, variance = [], 0.0, 1.0
    for number in range(steps):
        a, b, q = step_of_gaussian(kernel, eta, mean, std, sigmas, number)
        now, variance = a * now + b, a**2 * variance + q**2
        found.append((float(sigmas[number + 1]), now, math.sqrt(variance)))
    return found


def std_error(kernel: Kernel | Literal["ode"], eta: float, steps: int, sigma: float, std: float = 1.0) -> float:
    """How far the std at that sigma is off, as a share of what it should be."""
    found = next(found for s, _, found in marginals(kernel, eta, 0.5, std, steps) if abs(s - sigma) < 1e-9)
    return found / math.hypot((1 - sigma) * std, sigma) - 1


def test_the_ode_reaches_the_data_with_an_error_of_order_one_in_n() -> None:
    coarse, fine = (std_error("ode", 0, steps, 0.0) for steps in (100, 200))
    assert abs(fine) < 0.01
    assert coarse / fine == pytest.approx(2, rel=0.05)


def test_ode_and_cps_are_exact_on_a_single_point_at_any_number_of_steps() -> None:
    for kernel, eta in (("ode", 0.0), ("cps", 0.8), ("cps", 1.0)):
        for sigma, mean, std in marginals(kernel, eta, 0.5, 0.0, 7):  # type: ignore[arg-type]
            assert mean == pytest.approx((1 - sigma) * 0.5, abs=1e-12)
            assert std == pytest.approx(sigma, abs=1e-12)


def test_cps_takes_a_fifth_of_the_spread_of_normal_data_at_any_number_of_steps() -> None:
    errors = [std_error("cps", 0.8, steps, 0.0) for steps in (100, 400, 800)]
    assert errors[-1] == pytest.approx(-0.2, abs=0.03)
    assert abs(errors[-1] - errors[-2]) < 0.01


@pytest.mark.parametrize(("kernel", "eta", "order"), [("flow", 1.2, 1), ("flow", 0.7, 0.49), ("dance", 0.3, 1)])
def test_sde_marginals_equal_the_odes_only_as_steps_grow(kernel: Kernel, eta: float, order: float) -> None:
    """Flow-SDE's error near the first step is forgotten as n^-eta^2 only: below an eta of 1 that is slower than Euler's own."""
    coarse, fine = (std_error(kernel, eta, steps, 0.5) for steps in (400, 800))
    assert abs(fine) > 5e-4
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_flow_sde_stays_wrong_near_the_first_step_however_many_there_are() -> None:
    worst = [max(abs(found / math.hypot(1 - s, s) - 1) for s, _, found in marginals("flow", 0.7, 0.5, 1.0, n)) for n in (400, 800)]
    assert worst[1] == pytest.approx(worst[0], rel=0.02)
    assert worst[1] > 0.03


def test_kernels_without_noise_are_the_ode() -> None:
    x, v = noise((2, 6, 4), 0), noise((2, 6, 4), 1)
    s, s_next, second = torch.tensor(0.8), torch.tensor(0.6), torch.tensor(0.9)
    expected = transition("ode", x, v, s, s_next, 0, second).mean
    assert torch.equal(expected, x + v * (s_next - s))
    for kernel, _ in KERNELS:
        mean, q = transition(kernel, x, v, s, s_next, 0.0, second)
        assert q == 0
        assert torch.allclose(mean, expected, atol=1e-6)


def test_noise_by_hand() -> None:
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    s, s_next, second = f64(0.8), f64(0.5), f64(0.9)
    found = {kernel: float(transition(kernel, x, x, s, s_next, eta, second).q) for kernel, eta in KERNELS}
    assert found["flow"] == pytest.approx(0.7 * math.sqrt(0.8 / 0.2) * math.sqrt(0.3))
    assert found["dance"] == pytest.approx(0.3 * math.sqrt(0.3))
    assert found["cps"] == pytest.approx(0.5 * math.sin(0.4 * math.pi))


def test_means_by_hand() -> None:
    x, v = f64(2.0).view(1, 1, 1), f64(-1.0).view(1, 1, 1)
    s, s_next, second = f64(0.8), f64(0.5), f64(0.9)
    g2 = 0.7**2 * 0.8 / 0.2
    x0hat, x1hat = 2 + 0.8, 2 - 0.2
    expected = {
        "flow": 2 * (1 - g2 * 0.3 / 1.6) + -1 * (1 + g2 * 0.2 / 1.6) * -0.3,
        "dance": 2 + 0.3 + 0.3**2 / 2 * (2 - 0.2 * x0hat) / 0.64 * -0.3,
        "cps": 0.5 * x0hat + math.sqrt(0.25 - (0.5 * math.sin(0.4 * math.pi)) ** 2) * x1hat,
    }
    for kernel, eta in KERNELS:
        assert float(transition(kernel, x, v, s, s_next, eta, second).mean) == pytest.approx(expected[kernel], rel=1e-12)


def test_in_the_first_step_flow_divides_by_the_second_sigmas_distance() -> None:
    x, v = f64(2.0).view(1, 1, 1), f64(-1.0).view(1, 1, 1)
    mean, q = transition("flow", x, v, f64(1), f64(0.9), 0.7, f64(0.9))
    g2 = 0.7**2 * 1 / (1 - 0.9)
    assert float(q) == pytest.approx(math.sqrt(g2 * 0.1))
    assert float(mean) == pytest.approx(2 * (1 - g2 * 0.1 / 2) - 1 * -0.1)


def test_only_the_last_step_of_cps_has_no_noise() -> None:
    x, sigmas = torch.zeros(1, 1, 1), torch.tensor([1.0, 0.9, 0.4, 0.0])
    quiet = {
        (kernel, number)
        for kernel, eta in KERNELS
        for number in range(3)
        if transition(kernel, x, x, sigmas[number], sigmas[number + 1], eta, sigmas[1]).q == 0
    }
    assert quiet == {("cps", 2)}


@pytest.mark.parametrize(("kernel", "eta"), [*KERNELS, ("ode", 0.0)])
def test_steps_are_computed_in_float32_whatever_the_model_answers_in(kernel: Kernel, eta: float) -> None:
    x, v = noise((1, 6, 4), 0), noise((1, 6, 4), 1).bfloat16()
    given = (torch.tensor(0.8), torch.tensor(0.6), eta, torch.tensor(0.9))
    assert transition(kernel, x, v, *given).mean.dtype == torch.float32
    assert torch.equal(transition(kernel, x, v, *given).mean, transition(kernel, x, v.float(), *given).mean)


def moved(dimensions: int, size: float, *, batch: int = 1, seed: int = 0, q: torch.Tensor = Q) -> Moved:
    """mean, mean_old, x_next, float32, with x_next drawn around mean_old and a change of that size."""
    shape = (batch, dimensions, 1)
    mean_old = noise(shape, seed, "old")
    return mean_old + size * noise(shape, seed, "change"), mean_old, mean_old + q * noise(shape, seed, "drawn")


def doubled(given: Moved) -> Moved:
    mean, mean_old, x_next = (each.double() for each in given)
    return mean, mean_old, x_next


def log_density(mean: torch.Tensor, std: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = Normal(mean, std).log_prob(x)  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_log_ratio_of_an_unchanged_policy_is_exactly_0_and_has_a_gradient(form: Ratio) -> None:
    mean, _, x_next = moved(1000, 0.1, batch=3)
    mean.requires_grad_()
    found = log_ratio(form, mean, mean.detach().clone(), x_next, Q, frames=5)
    assert found.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(found.sum(), mean)
    assert gradient.abs().min() > 0


def test_the_plain_log_ratio_is_that_of_normal_distributions_with_x_next_held() -> None:
    mean, mean_old, x_next = doubled(moved(500, 0.05, batch=4))
    expected = (log_density(mean, Q.double(), x_next) - log_density(mean_old, Q.double(), x_next)).flatten(1).mean(1)
    assert torch.allclose(log_ratio("plain", mean, mean_old, x_next, Q.double(), 5), expected, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_moving_the_mean_towards_what_was_drawn_makes_it_likelier(form: Ratio) -> None:
    _, mean_old, x_next = moved(100, 0.0)
    for share, sign in ((0.01, 1), (-0.01, -1)):
        towards = mean_old + share * (x_next - mean_old)
        assert float(log_ratio(form, towards, mean_old, x_next, Q, 5)) * sign > 0


def test_in_float32_it_is_far_nearer_the_truth_than_a_difference_of_log_probabilities() -> None:
    ours, difference = [], []
    for seed in range(4):
        given = moved(512_000, 1e-4, seed=seed)
        mean, mean_old, x_next = given
        truth = float(log_ratio("plain", *doubled(given), Q.double(), 5))
        ours.append(abs(float(log_ratio("plain", *given, Q, 5)) - truth))
        apart = log_density(mean, Q, x_next).mean() - log_density(mean_old, Q, x_next).mean()
        difference.append(abs(float(apart) - truth))
    assert np.mean(difference) > 20 * np.mean(ours)


def test_ratio_norm_is_q_times_the_log_ratio_without_its_drift() -> None:
    mean, mean_old, x_next = doubled(moved(500, 0.05, batch=4))
    q = Q.double()
    drift = ((mean - mean_old) ** 2).flatten(1).mean(1) / (2 * q**2)
    expected = q * (log_ratio("plain", mean, mean_old, x_next, q, 5) + drift)
    assert torch.allclose(log_ratio("norm", mean, mean_old, x_next, q, 5), expected, rtol=1e-9)


def test_the_plain_ratio_drifts_down_and_ratio_norm_does_not() -> None:
    given = moved(2000, 0.05, batch=400)
    plain, norm = (log_ratio(form, *given, Q, 5) for form in ("plain", "norm"))
    assert float(plain.mean()) == pytest.approx(-(0.05**2) / (2 * 0.3**2), rel=0.05)
    assert abs(float(norm.mean())) < 4 * float(norm.std()) / math.sqrt(400)


def test_the_spread_of_the_free_forms_does_not_depend_on_the_dimensions_as_that_of_the_mean_does() -> None:
    spread = {
        (form, dimensions): float(log_ratio(form, *moved(dimensions, 0.01, batch=500), Q, 5).std())
        for form in FORMS
        for dimensions in (100, 6400)
    }
    for dimensions in (100, 6400):
        assert spread["free", dimensions] == pytest.approx(0.01, rel=0.15)
        assert spread["frames", dimensions] == pytest.approx(0.01 / math.sqrt(5), rel=0.15)
    assert spread["norm", 100] / spread["norm", 6400] == pytest.approx(8, rel=0.2)


def test_the_form_by_frame_is_the_mean_of_the_frames_own_free_forms() -> None:
    given = moved(60, 0.01, batch=2)
    mean, mean_old, x_next = (each.reshape(2, 3, 20, 1) for each in given)
    frames = [log_ratio("free", mean[:, frame], mean_old[:, frame], x_next[:, frame], Q, 1) for frame in range(3)]
    assert torch.allclose(log_ratio("frames", *given, Q, 3), torch.stack(frames).mean(0), rtol=1e-4)


def test_the_constant_of_ratio_norm_is_the_same_clip_in_the_free_form() -> None:
    given = moved(65_536, 0.01)
    assert float(log_ratio("free", *given, Q, 1) / log_ratio("norm", *given, Q, 1)) == pytest.approx(5.12e-4 / 2e-6, rel=1e-5)


def test_rounding_the_next_state_to_bfloat16_makes_it_unlikelier_by_more_than_a_clip() -> None:
    q = torch.tensor(0.1)
    for seed in range(4):
        _, mean_old, x_next = doubled(moved(200_000, 0.0, seed=seed, q=q))
        bias = float((log_density(mean_old, q, x_next.bfloat16().double()) - log_density(mean_old, q, x_next)).mean())
        assert -1e-3 < bias < -1e-5


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.05, 2.0, -2.1, False),
        (1.5, 2.0, -2.2, True),
        (0.5, 2.0, -1.0, False),
        (0.95, -2.0, 1.9, False),
        (0.5, -2.0, 1.8, True),
        (1.5, -2.0, 3.0, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_the_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    log = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found = clipped_loss(log, torch.tensor([advantage], dtype=torch.float64), 0.1)
    assert found.tolist() == pytest.approx([loss])
    assert bool(is_clipped(log, torch.tensor([advantage]), 0.1)) == clipped
    (gradient,) = torch.autograd.grad(found.sum(), log)
    assert float(gradient) == pytest.approx(0 if clipped else -advantage * ratio)


def test_the_first_replay_has_the_whole_gradient_of_the_advantage() -> None:
    log = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(clipped_loss(log, torch.tensor([1.5, -0.5]), 1e-4).sum(), log)
    assert gradient.tolist() == [-1.5, 0.5]


def test_clips_narrower_than_float32_near_1_are_still_told_apart() -> None:
    log = torch.tensor([1.99e-6, 2.01e-6])
    assert is_clipped(log, torch.ones(2), 2e-6).tolist() == [False, True]
    assert is_clipped(-log, -torch.ones(2), 2e-6).tolist() == [False, True]


def test_the_velocity_kl_of_the_same_velocity_is_0_with_a_gradient_that_is_there() -> None:
    v = noise((2, 6, 4), 0).requires_grad_()
    found = velocity_kl(v, v)
    assert found.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(found.sum(), v)
    assert gradient.abs().max() == 0


def test_the_velocity_kl_pulls_towards_the_reference_and_not_the_other_way() -> None:
    v, reference = torch.ones(1, 4, 1, requires_grad=True), torch.zeros(1, 4, 1, requires_grad=True)
    found = velocity_kl(v, reference)
    assert found.tolist() == [1]
    gradient, none = torch.autograd.grad(found.sum(), (v, reference), allow_unused=True)
    assert gradient.flatten().tolist() == [0.5] * 4
    assert none is None


def test_the_exact_kl_is_that_of_normal_distributions_by_dimension() -> None:
    mean, reference, _ = (each.double() for each in moved(300, 0.2, batch=2))
    expected = kl_divergence(Normal(mean, 0.3), Normal(reference, 0.3)).flatten(1).sum(1) / 300
    assert torch.allclose(exact_kl(mean, reference, f64(0.3)), expected, rtol=1e-9)
    assert exact_kl(mean, mean, f64(0.3)).tolist() == [0, 0]


NAN = float("nan")


def taught(
    rewards: list[list[float]], *, kind: Literal["group", "batch", "none"] = "group", floor: float = 0.1, clip: float = 5.0
) -> np.ndarray:
    return advantages(np.array(rewards), np.ones(len(rewards), bool), kind, floor, clip)


@pytest.mark.parametrize("kind", ["group", "batch", "none"])
def test_advantages_of_a_group_add_up_to_0(kind: Literal["group", "batch", "none"]) -> None:
    found = taught([[1, 2, 6, NAN], [5, 5.5, 7, 9]], kind=kind)
    assert np.allclose(found.sum(axis=1), 0, atol=1e-12)
    assert np.abs(found).max() > 0.5


def test_advantages_by_hand() -> None:
    rewards = [[1.0, 2.0, 3.0], [4.0, 4.0, 10.0]]
    assert np.allclose(taught(rewards), [[-math.sqrt(1.5), 0, math.sqrt(1.5)], [-math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2)]])
    assert np.allclose(taught(rewards, kind="batch"), np.array([[-1, 0, 1], [-2, -2, 4]]) / np.std(rewards))
    assert taught(rewards, kind="none").tolist() == [[-1, 0, 1], [-2, -2, 4]]


@pytest.mark.parametrize("kind", ["group", "batch", "none"])
def test_a_candidate_without_a_score_gets_0_and_moves_no_other(kind: Literal["group", "batch", "none"]) -> None:
    found = taught([[1, NAN, 2, 4, NAN], [3, 3, 4, 5, NAN]], kind=kind)
    assert found[0, [1, 4]].tolist() == [0, 0]
    without = np.array([taught([[1, 2, 4, NAN], [3, 3, 4, 5]], kind=kind)[0, :3]])
    assert np.array_equal(found[0, [0, 2, 3]], without[0])


def test_fewer_than_three_scores_teach_nothing() -> None:
    found = taught([[1, 9, NAN, NAN], [1, 9, 5, NAN]])
    assert found[0].tolist() == [0, 0, 0, 0]
    assert found[1, 0] < 0 < found[1, 1]


def test_a_group_that_is_not_taught_gets_0_and_counts_for_no_deviation() -> None:
    rewards = np.array([[1.0, 2, 3], [0, 50, 100]])
    found = advantages(rewards, np.array([True, False]), "batch", 0.1, 5.0)
    assert found.tolist()[1] == [0, 0, 0]
    assert np.array_equal(found[:1], advantages(rewards[:1], np.array([True]), "batch", 0.1, 5.0))


@pytest.mark.parametrize("kind", ["group", "batch", "none"])
def test_a_group_of_equal_rewards_teaches_nothing(kind: Literal["group", "batch", "none"]) -> None:
    assert taught([[0.1] * 7], kind=kind, floor=0).tolist() == [[0] * 7]


def test_small_deviations_are_not_blown_up() -> None:
    found = taught([[5.0, 5.01, 5.02]])
    assert np.allclose(found, [[-0.1, 0, 0.1]])


def test_advantages_stay_within_the_clip() -> None:
    found = taught([[0.0] * 63 + [10.0]])
    assert found.max() == 5
    assert found.min() > -1


def test_a_grid_is_known_by_every_sigma() -> None:
    sigmas = torch.linspace(1, 0, 11)
    other = sigmas.clone()
    other[4] = torch.nextafter(other[4], torch.tensor(1.0))
    assert grid_hash(sigmas) == grid_hash(sigmas.clone())
    assert grid_hash(sigmas) != grid_hash(other)
    assert grid_hash(sigmas) != grid_hash(sigmas[:-1])
