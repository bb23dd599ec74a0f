"""What is compared: an engine with all that changes its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from layerctl import registry
from layerctl.engines.qwen.adapters import find_adapter
from layerctl.engines.qwen.recipe import PUBLISHED_PRESETS, choose_preset
from layerctl.errors import UsageError
from layerctl.hub import local_copy, parse_reference, portable_name
from layerctl_train.evaluate.baselines import NAMES, baseline

if TYPE_CHECKING:
    from layerctl.registry import Engine
    from layerctl.settings import Settings

QWEN = "qwen"
BASE = "base"
"""What `--against` calls the model without adapters."""


@dataclass(frozen=True, slots=True)
class System:
    """`name`: what reports call it, unique among those compared."""

    name: str
    settings: Settings


def compared(settings: Settings, against: Sequence[str], samplers: Sequence[str]) -> tuple[System, ...]:
    """The system of the settings first, then those of `against`: names of engines, "base" for the model without adapters, else adapters.

    Comparing one with one sampler and another with another mixes two changes. So all of them are run with one preset, the asked one or
    what the first adapter names; with `samplers`, names of presets, each of them is run with each, and an adapter is compared with its base
    unless `against` says with what. Raises UsageError, and what finding an adapter raises.
    """
    if samplers and not against and settings.adapters:
        against = (BASE,)
    chosen = [settings, *(_other(settings, name) for name in against)]
    for one in chosen:
        if one.engine not in _engines():
            raise _unknown(one.engine, "engine")
        if samplers and not has_model(one.engine):
            raise UsageError(
                f"--samplers is for systems with a model, and the engine {one.engine} has none", hint="compare --adapter with base"
            )
    if samplers:
        chosen = [replace(one, preset=sampler) for sampler in samplers for one in chosen]
    else:
        preset = _preset(chosen)
        chosen = [replace(one, preset=preset) if one.engine == QWEN else one for one in chosen]
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


def has_model(engine: str) -> bool:
    """Whether an engine of that name, or what else `--against` takes, goes by the options of a model."""
    if engine in NAMES:
        return False
    return engine not in registry.names("engines") or hasattr(registry.load("engines", engine), "configured")


def _engines() -> list[str]:
    return [*registry.names("engines"), *NAMES]


def _other(settings: Settings, name: str) -> Settings:
    if name == BASE:
        return replace(settings, engine=QWEN, adapters=())
    if name in _engines():
        return replace(settings, engine=name, adapters=())
    try:
        parse_reference(name)
    except UsageError as error:
        if "/" in name:
            raise
        raise _unknown(name, "system") from error
    return replace(settings, engine=QWEN, adapters=(name,))


def _unknown(name: str, what: str) -> UsageError:
    known = _engines() if what == "engine" else [*_engines(), BASE]
    near = get_close_matches(name, known, n=1)
    return UsageError(
        f"there is no {what} {name!r}", hint=f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(known)}, or an adapter"
    )


def _preset(chosen: Sequence[Settings]) -> str | None:
    """The preset that was asked for, else what the first adapters name, else the engine's own default."""
    first = next((one for one in chosen if one.adapters), None)
    if first is None or first.preset is not None:
        return chosen[0].preset
    named = []
    for adapter in first.adapters:
        reference = parse_reference(adapter)
        found = local_copy(reference, offline=first.offline)
        name = found.repo_id or found.folder.name
        preset = find_adapter(found.folder, name=name).preset or PUBLISHED_PRESETS.get(name)
        named += [(name, preset)] if preset else []
    return choose_preset(None, named)


def _name(settings: Settings, *, with_sampler: bool) -> str:
    if settings.engine != QWEN:
        return settings.engine
    model = " + ".join(map(portable_name, settings.adapters)) or BASE
    return f"{model}, {settings.preset}" if with_sampler else model
