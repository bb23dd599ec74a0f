"""Weights into memory, the way the plan says: types, quantisation, offloading, adapters, compiling."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from layerctl.engines.qwen import sizes
from layerctl.engines.qwen.checkpoint import Checkpoint
from layerctl.engines.qwen.devices import dtype_for
from layerctl.engines.qwen.memory import Plan
from layerctl.engines.qwen.model import LayeredModel, load_part, quiet_libraries
from layerctl.errors import MissingDependencyError

WHOLE = ("img_in", "txt_in", "time_text_embed", "norm_out", "proj_out")
"""Layers outside of the blocks keep their precision."""


def compute_dtype(plan: Plan) -> torch.dtype:
    """The type that the network computes in."""
    stored = "fp32" if plan.precision == "fp32" else "bf16"
    dtype: torch.dtype = getattr(torch, dtype_for(plan.device, plan.precision, stored))
    return dtype


def load_transformer(checkpoint: Checkpoint, plan: Plan) -> Any:
    """The transformer in the plan's precision; on the device unless it is offloaded."""
    # 4-bit weights are packed by the device that will multiply with them.
    device = plan.device if plan.precision == "int4" else None
    transformer = load_part(checkpoint, "transformer", compute_dtype(plan), quantization=quantization(plan.precision), device=device)
    return transformer.to(plan.device) if plan.offload == "none" else transformer.to("cpu")


def load_vae(checkpoint: Checkpoint, plan: Plan) -> Any:
    vae = load_part(checkpoint, "vae", compute_dtype(plan))
    vae.use_slicing = plan.device != "cpu"
    return vae.to(plan.device) if plan.offload == "none" else vae


def finish(model: LayeredModel, plan: Plan, *, compiled: bool) -> None:
    """Compile the blocks, then hook in what moves weights to and fro; adapters are on by now."""
    if compiled:
        # The rotary embedding is complex and stays eager, of which each compiled graph would warn.
        warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex operators")
        model.transformer.compile_repeated_blocks()
    if plan.offload == "group":
        with quiet_libraries():
            model.transformer.enable_group_offload(
                onload_device=model.device,
                offload_device=torch.device("cpu"),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=model.device.type == "cuda",
            )
    if plan.offload != "none":
        from accelerate import cpu_offload_with_hook

        turns = [model.vae] if plan.offload == "group" else [model.transformer, model.vae]
        # Each part's hook moves it to the device when it is called, and the one before it away.
        for part in turns:
            model.hooks.append(cpu_offload_with_hook(part, model.device, model.hooks[-1] if model.hooks else None)[1])


def quantization(precision: str) -> Any:
    """diffusers' config for 8-bit or 4-bit weights, None for whole ones. Raises MissingDependencyError without torchao."""
    if precision not in ("int8", "int4"):
        return None
    with quiet_libraries():
        try:
            from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
        except ImportError as error:
            raise MissingDependencyError(f"--precision {precision} needs torchao", hint="pip install 'layerctl[quant]'") from error
        from diffusers import TorchAoConfig

        if precision == "int8":
            kind = Int8WeightOnlyConfig()
        else:
            kind = Int4WeightOnlyConfig(group_size=sizes.INT4_GROUP, int4_packing_format="tile_packed_to_4d")
        return TorchAoConfig(kind, modules_to_not_convert=list(WHOLE))


def make_room(model: LayeredModel) -> None:
    """Move what takes turns off the device."""
    for hook in model.hooks:
        hook.offload()


def free_device_memory(device: torch.device) -> None:
    """Give back what the allocator holds of parts that are gone."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
