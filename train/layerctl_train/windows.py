"""Which steps of a rollout are noisy and learned from: one window a training step, the same for all groups and processes.

A window of steps: MixGRPO (arXiv 2507.21802); where it may begin, and that it is shared by all, is ours: windows of their own for single
rollouts made groups incomparable.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerctl.errors import ConfigError
from layerctl_train.noise import draw
from layerctl_train.training_settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Window:
    first: int
    size: int

    @property
    def steps(self) -> range:
        return range(self.first, self.first + self.size)


def window_at(settings: TrainingSettings, step: int) -> Window:
    """The window of a training step, counted from 0."""
    first, places = settings.window_first, settings.window_last - settings.window_first + 1
    if settings.window_mode == "random":
        first += draw(settings.seed, "window", step).randrange(places)
    elif settings.window_mode == "sliding":
        first += step // settings.window_every % places
    return Window(first, settings.window)


def check_window(settings: TrainingSettings) -> None:
    """Raises ConfigError where a window would reach past the last step, or hold one without noise: no ratio can be had there.

    The last step of CPS, into sigma = 0, has no noise: q = s' sin(eta pi / 2) (Flow-CPS, arXiv 2509.05952). An eta over 1 takes it down
    again, to none at 2.
    """
    first, last = settings.window_first, settings.window_last
    if settings.window_mode == "fixed":
        last = first
    elif first > last:
        raise ConfigError(f"window_first {first} is behind window_last {last}", hint=f"set window_last to {first} or more")
    if settings.kernel == "cps" and settings.eta > 1:
        raise ConfigError(f"eta {settings.eta:g} is too much for the kernel cps", hint="set eta to 1 or less, such as 0.8")
    steps = settings.rollout_steps
    noisy = steps - 1 if settings.kernel == "cps" else steps
    if last + settings.window <= noisy:
        return
    where = "window_first" if settings.window_mode == "fixed" else "window_last"
    reached = f"{where} {last} with window {settings.window}"
    what = (
        f"reaches past the {steps} steps of a rollout" if last + settings.window > steps else "holds the last step, where cps has no noise"
    )
    latest = noisy - settings.window
    change = f"set {where} to {latest} or less, or" if latest >= 0 else "set"
    raise ConfigError(f"{reached} {what}", hint=f"{change} rollout_steps to {last + settings.window + steps - noisy} or more")
