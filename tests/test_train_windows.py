"""Where the noisy steps of a rollout lie."""

from __future__ import annotations

import pytest
from layerctl_train.training_settings import Kernel, TrainingSettings
from layerctl_train.windows import Window, check_window, window_at

from layerctl.errors import ConfigError


def test_a_fixed_window_stays() -> None:
    settings = TrainingSettings(window_mode="fixed", window_first=2, window=3)
    assert {window_at(settings, step) for step in range(50)} == {Window(2, 3)}
    assert list(window_at(settings, 0).steps) == [2, 3, 4]


def test_a_random_window_begins_everywhere_between_and_is_the_same_for_all_who_ask() -> None:
    settings = TrainingSettings(window_mode="random", window_first=1, window_last=3)
    drawn = [window_at(settings, step) for step in range(60)]
    assert {window.first for window in drawn} == {1, 2, 3}
    assert drawn == [window_at(settings, step) for step in range(60)]
    assert drawn != [window_at(TrainingSettings(seed=1), step) for step in range(60)]


def test_a_sliding_window_moves_on_and_begins_anew() -> None:
    settings = TrainingSettings(window_mode="sliding", window_first=1, window_last=3, window_every=2)
    assert [window_at(settings, step).first for step in range(8)] == [1, 1, 2, 2, 3, 3, 1, 1]


@pytest.mark.parametrize("kernel", ["flow", "dance"])
def test_a_window_may_hold_the_last_step_of_a_kernel_that_is_noisy_there(kernel: Kernel) -> None:
    check_window(TrainingSettings(kernel=kernel, window_last=8, window=2, rollout_steps=10))
    with pytest.raises(ConfigError, match="window_last 9 with window 2 reaches past the 10 steps") as raised:
        check_window(TrainingSettings(kernel=kernel, window_last=9, window=2, rollout_steps=10))
    assert raised.value.hint == "set window_last to 8 or less, or rollout_steps to 11 or more"


def test_no_window_of_cps_holds_the_last_step_which_has_no_noise() -> None:
    check_window(TrainingSettings(kernel="cps", eta=0.8, window_last=7))
    with pytest.raises(ConfigError, match="holds the last step, where cps has no noise") as raised:
        check_window(TrainingSettings(kernel="cps", eta=0.8, window_last=8))
    assert raised.value.hint == "set window_last to 7 or less, or rollout_steps to 11 or more"


def test_what_a_refusal_says_to_type_is_then_taken() -> None:
    with pytest.raises(ConfigError) as raised:
        check_window(TrainingSettings(kernel="cps", eta=0.8, window=5, window_first=1, window_last=1, rollout_steps=4))
    assert raised.value.hint == "set rollout_steps to 7 or more"
    check_window(TrainingSettings(kernel="cps", eta=0.8, window=5, window_first=1, window_last=1, rollout_steps=7))


def test_more_than_a_quarter_turn_of_cps_is_refused() -> None:
    with pytest.raises(ConfigError, match="eta 2 is too much for the kernel cps"):
        check_window(TrainingSettings(kernel="cps", eta=2.0))


def test_a_first_place_behind_the_last_is_refused_where_both_count() -> None:
    with pytest.raises(ConfigError, match="window_first 4 is behind window_last 3") as raised:
        check_window(TrainingSettings(window_first=4))
    assert raised.value.hint == "set window_last to 4 or more"
    check_window(TrainingSettings(window_first=4, window_mode="fixed"))


def test_a_fixed_window_is_measured_from_its_first_place() -> None:
    with pytest.raises(ConfigError, match="window_first 9 with window 2") as raised:
        check_window(TrainingSettings(window_first=9, window_mode="fixed"))
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("set window_first to 8 or less")
