"""Numbers that training draws are functions of their counters."""

from __future__ import annotations

import torch
from layerctl_train.noise import draw, noise


def test_the_same_counters_give_the_same_noise_whatever_was_drawn_before() -> None:
    first = noise((2, 3), 7, "member", 1, 2)
    torch.manual_seed(123)
    noise((50,), 7, "member", 9)
    assert torch.equal(first, noise((2, 3), 7, "member", 1, 2))
    assert first.dtype == torch.float32


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    noise((4,), 0, "a")
    assert torch.equal(torch.rand(3), expected)


def test_every_counter_and_its_place_and_kind_count() -> None:
    counters: list[tuple[int | str, ...]] = [(1, 2), (2, 1), (12,), ("1", 2), ("1 2",), (1, 2, 0), ("1, 2",), ()]
    drawn = {tuple(noise((4,), 0, *each).tolist()) for each in counters} | {tuple(noise((4,), 1, 1, 2).tolist())}
    assert len(drawn) == len(counters) + 1
    assert len({draw(0, *each).random() for each in counters}) == len(counters)


def test_the_noise_is_normal_over_counters_too() -> None:
    over_counters = torch.cat([noise((1,), 3, number) for number in range(4000)])
    for values in (over_counters, noise((4000,), 3)):
        assert abs(values.mean()) < 0.06
        assert abs(values.std() - 1) < 0.05


def test_small_choices_repeat() -> None:
    assert [draw(1, "layers", 4).randint(2, 6) for _ in range(3)] == [draw(1, "layers", 4).randint(2, 6)] * 3
