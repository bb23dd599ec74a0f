from __future__ import annotations

import math

import pytest
from layerctl_train.evaluate.gates import gates, read_gates
from layerctl_train.evaluate.results import Difference, Mean, Summary

from layerctl.errors import UsageError

A, B, C = "studio/posters@1f2e, stable-layers", "base, stable-layers", "classic"


def summary(systems: tuple[str, ...] = (A, B)) -> Summary:
    """Of A the blank rate is 0.04 (0.02 to 0.07), of the others twice that; A's L1 is less than theirs by 0.03 (0.01 to 0.05)."""
    means = {A: {"blank_rate": Mean(0.04, 0.02, 0.07, 50), "judge": Mean(math.nan, math.nan, math.nan, 0)}}
    means |= {name: {"blank_rate": Mean(0.08, 0.06, 0.1, 50)} for name in systems[1:]}
    differences = tuple(Difference("layerd_rgb_l1_0", A, name, -0.03, -0.05, -0.01, 0.001, 40, 2, 8) for name in systems[1:])
    return Summary(means, differences, (), {}, {B: 3}, {B: Mean(0.7, 0.55, 0.82, 50)})


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("blank_rate > 0.05", False),
        ("blank_rate > 0.03", True),
        ("blank_rate>0.03", True),
        ("  blank_rate  >=  4e-2 ", True),
        ("blank_rate > 0.04", False),
        ("blank_rate <= .04", True),
        ("blank_rate < 0.04", False),
        ("blank_rate.high > 0.05", True),
        ("blank_rate.low > 0.05", False),
        (f"blank_rate of {B} > 0.05", True),
        (f"blank_rate.low of {B} > 0.07", False),
        ("difference(layerd_rgb_l1_0) > -0.04", True),
        ("difference(layerd_rgb_l1_0) > 0", False),
        ("difference(layerd_rgb_l1_0).high > -0.02", True),
        (f"difference(layerd_rgb_l1_0).low against {B} > -0.02", False),
        ("difference( layerd_rgb_l1_0 ) < 0", True),
        ("win_rate < 0.75", True),
        ("win_rate.low < 0.5", False),
        (f"win_rate against {B} < 0.75", True),
        ("failed > 0", False),
        (f"failed of {B} > 0", True),
    ],
)
def test_a_gate_fails_when_its_condition_holds(text: str, fails: bool) -> None:
    assert bool(gates([text], summary())) == fails


@pytest.mark.parametrize("text", ["judge < 6", "judge > 6", "quality > 2", "difference(quality) > 2", f"judge.low of {B} > 20"])
def test_a_number_that_is_not_there_fails_its_gate_whatever_the_condition(text: str) -> None:
    (failed,) = gates([text], summary())
    assert failed.message.startswith(f"{text}: there is no ")


def test_failed_gates_keep_their_order_and_say_what_was_found() -> None:
    failed = gates(["blank_rate.high > 0.05", "blank_rate > 0.05", "difference(layerd_rgb_l1_0) < 0"], summary())
    assert [each.message for each in failed] == [
        f"blank_rate.high > 0.05: the high end of blank_rate of {A} is 0.07",
        f"difference(layerd_rgb_l1_0) < 0: layerd_rgb_l1_0 of {A} against {B} is -0.03",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no condition"),
        ("blank_rate", "is no condition"),
        ("blank_rate == 0.05", "is no condition"),
        ("blank_rate > nan", "is no condition"),
        ("blank_rate > 5%", "is no condition"),
        ("blank_rate > 0.05 or quality < 1", "is no condition"),
        ("__import__('os').getcwd() > 0", "is no condition"),
        ("difference(blank_rate > 0", "is no condition"),
        ("blank_rat > 0.05", "did you mean blank_rate"),
        ("difference(win_rate) > 0", "is no metric"),
        ("blank_rate.median > 0", "ends of the interval"),
        ("failed.low > 0", "has no interval"),
        ("blank_rate of damaged > 0", f"there is: {A}; {B}"),
        (f"difference(blank_rate) against {A} > 0", f"there is: {B}"),
        (f"blank_rate against {B} > 0", f"write: blank_rate of {B}"),
        (f"difference(blank_rate) of {B} > 0", f"write: difference(blank_rate) against {B}"),
    ],
)
def test_what_is_no_gate_is_refused_with_what_to_type(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_gates([text], (A, B))
    assert says in f"{refused.value.message} {refused.value.hint}"


def test_a_comparison_with_several_systems_has_to_say_which() -> None:
    with pytest.raises(UsageError, match="does not say against which"):
        gates(["difference(layerd_rgb_l1_0) > 0"], summary((A, B, C)))
    assert gates([f"difference(layerd_rgb_l1_0) against {C} > -1"], summary((A, B, C)))
    with pytest.raises(UsageError) as refused:
        read_gates(["win_rate < 0.5"], (A,))
    assert refused.value.hint == "name another system with --against"
