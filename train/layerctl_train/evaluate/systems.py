"""What is compared: an engine with all that changes its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerctl import registry
from layerctl.errors import UsageError
from layerctl_train.evaluate.baselines import NAMES, baseline

if TYPE_CHECKING:
    from layerctl.registry import Engine
    from layerctl.settings import Settings

BASE = "base"
"""What `--against` calls the model without adapters."""


@dataclass(frozen=True, slots=True)
class System:
    """`name`: what reports call it, unique among those compared."""

    name: str
    settings: Settings


def compared(settings: Settings, against: Sequence[str], samplers: Sequence[str]) -> tuple[System, ...]:
    """The system of the settings first, then those of `against`: names of engines, "base" for the model without adapters, else adapters.

    With `samplers`, names of presets, each of them is run with each: comparing one with one sampler and another with another mixes two
    changes. An adapter is then compared with its base, unless `against` says with what. Raises UsageError.
    """
    engines = {*registry.names("engines"), *NAMES}
    if samplers and not against and settings.adapters:
        against = (BASE,)
    chosen = [settings, *(_other(settings, name, engines) for name in against)]
    if samplers:
        for one in chosen:
            if one.engine in NAMES or one.engine == "classic":
                raise UsageError(
                    f"--samplers is for systems with a model, and the engine {one.engine} has none", hint="compare --adapter with base"
                )
        chosen = [replace(one, preset=sampler) for sampler in samplers for one in chosen]
    systems = tuple(System(_name(one, with_sampler=bool(samplers)), one) for one in chosen)
    names = [system.name for system in systems]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"{repeated} would be compared with itself", hint="name another system with --against")
    return systems


def engine_of(system: System, tell: Callable[[str], None]) -> Engine:
    """The engine, configured. Raises what a model engine raises for options that cannot be met."""
    settings = system.settings
    engine = baseline(settings.engine) or registry.load("engines", settings.engine)
    configured: Engine = engine.configured(settings.model_options(), tell) if hasattr(engine, "configured") else engine
    return configured


def _other(settings: Settings, name: str, engines: set[str]) -> Settings:
    if name == BASE:
        return replace(settings, engine="qwen", adapters=())
    if name in engines:
        return replace(settings, engine=name, adapters=())
    return replace(settings, engine="qwen", adapters=(name,))


def _name(settings: Settings, *, with_sampler: bool) -> str:
    if settings.engine != "qwen":
        return settings.engine
    from layerctl.hub import portable_name

    model = " + ".join(map(portable_name, settings.adapters)) or BASE
    return f"{model}, {settings.preset}" if with_sampler else model
