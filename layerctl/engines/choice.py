"""Which engine runs when a person leaves it open: the strong one where it can, the embedded one elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from layerctl.errors import LayerctlError, UsageError
from layerctl.settings import FLAGS, Settings

EXTRA = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
"""What the extra `qwen` brings."""

NO_ACCELERATOR = "no GPU is here, which the engine qwen needs to be of use; --engine qwen takes the CPU, in hours"


def with_engine(settings: Settings, wanted: Sequence[str]) -> tuple[Settings, str | None]:
    """The settings with a real engine in the place of "auto", and one line that says why it is not the strong one.

    `wanted`: model settings that were typed. A model or an adapter asks for the engine qwen; the embedded engine refuses them all.
    """
    if settings.engine == "auto":
        if {"model", "adapters"} & set(wanted):
            return replace(settings, engine="qwen"), None
        obstacle = why_not_qwen(settings)
        if obstacle is None:
            return replace(settings, engine="qwen"), None
        settings = replace(settings, engine="classic")
        if not wanted:
            return settings, f"engine classic: {obstacle}"
        raise UsageError(f"--{FLAGS.get(wanted[0], wanted[0])} is for the engine qwen, and {obstacle}", hint="add --engine qwen to insist")
    if settings.engine == "classic" and wanted:
        typed = f"--{FLAGS.get(wanted[0], wanted[0])}"
        raise UsageError(f"{typed} has no meaning for the engine classic", hint=f"add --engine qwen, or leave {typed} out")
    return settings, None


def why_not_qwen(settings: Settings) -> str | None:
    """What the engine qwen lacks here and what to type, None when it lacks nothing.

    The cheapest questions come first: torch is imported only when all else is there.
    """
    from layerctl.engines.qwen.devices import find_machine, may_have_accelerator

    if not may_have_accelerator():
        return NO_ACCELERATOR
    missing = missing_packages()
    if missing:
        return f"the engine qwen needs {missing[0]}; pip install 'layerctl[qwen]'"
    from layerctl.hub import local_copy, parse_reference

    try:
        local_copy(parse_reference(settings.model), offline=settings.offline)
    except LayerctlError as error:
        return f"{error.message}; {error.hint}"
    if find_machine(settings.device).device == "cpu":
        return NO_ACCELERATOR
    return None


def missing_packages() -> list[str]:
    """What of the extra `qwen` is not installed."""
    return [name for name in EXTRA if find_spec(name) is None]
