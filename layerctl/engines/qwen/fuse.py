"""Fusing adapters into the base's weights, where the rounding leaves their effect in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from layerctl.engines.qwen.adapters import Adapter, attach, detach
from layerctl.errors import UsageError

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

    from layerctl.engines.qwen.lora_keys import LoraPlan

LIMIT = 0.02


@dataclass(frozen=True, slots=True)
class FuseReport:
    """`relative_error`: |v_fused - v_unfused| / |v_unfused - v_base|, Frobenius. `fused`: False where the adapters stay unfused."""

    relative_error: float
    fused: bool


def fuse(
    transformer: torch.nn.Module,
    adapters: Sequence[Adapter],
    plans: Sequence[LoraPlan],
    probe: Callable[[], torch.Tensor],
    limit: float = LIMIT,
) -> FuseReport:
    """Merge the adapters into the weights, or attach them where that changes their effect by more than `limit`.

    `probe`: the transformer's velocity for an input that stays the same. Adapters that were on come off; a copy of the weights is held
    in host memory meanwhile. Comes before compiling and before hooks that offload, as `attach` does.
    Raises UsageError for quantised weights.
    """
    from peft.tuners.lora import Linear

    detach(transformer)
    for name in sorted({name for plan in plans for name in plan.pairs}):
        _refuse_quantised(name, transformer.get_parameter(f"{name}.weight"))
    attach(transformer, adapters, plans)
    layers = [module for module in transformer.modules() if isinstance(module, Linear)]
    with torch.no_grad():
        v_unfused = probe().float()
        _switch(layers, on=False)
        v_base = probe().float()
        originals = [_weight(layer).to("cpu", copy=True) for layer in layers]
        for layer in layers:
            _merge(layer)
        error = _relative_error(probe().float(), v_unfused, v_base)
        if error <= limit:
            detach(transformer)
            return FuseReport(error, fused=True)
        for layer, original in zip(layers, originals, strict=True):
            _weight(layer).copy_(original)
        _switch(layers, on=True)
    return FuseReport(error, fused=False)


def _refuse_quantised(name: str, weight: torch.Tensor) -> None:
    if type(weight) is not torch.nn.Parameter or not weight.is_floating_point() or weight.element_size() < 2:
        kind = f"{type(weight).__name__} of {weight.dtype}"
        raise UsageError(f"--fuse: the weight of {name} is quantised ({kind})", hint="leave --fuse out: adapters run unfused on any weight")


def _switch(layers: Sequence[Linear], *, on: bool) -> None:
    for layer in layers:
        layer.enable_adapters(on)
        # Switching on makes PEFT's parameters trainable.
        layer.requires_grad_(False)


def _weight(layer: Linear) -> torch.Tensor:
    return layer.get_parameter("base_layer.weight")


def _merge(layer: Linear) -> None:
    merged = _weight(layer).float()
    for slot in layer.lora_A:
        down, up = layer.get_parameter(f"lora_A.{slot}.weight"), layer.get_parameter(f"lora_B.{slot}.weight")
        merged = merged + layer.scaling[slot] * (up @ down)
    _weight(layer).copy_(merged)


def _relative_error(v_fused: torch.Tensor, v_unfused: torch.Tensor, v_base: torch.Tensor) -> float:
    change = torch.linalg.vector_norm(v_unfused - v_base).item()
    lost = torch.linalg.vector_norm(v_fused - v_unfused).item()
    if change == 0:
        return 0.0 if lost == 0 else float("inf")
    return lost / change
