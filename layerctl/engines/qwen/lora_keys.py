"""What a LoRA file holds: its keys, in the spellings that are in use, against the linear layers of the base.

PEFT       base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight      lora_A.default.weight; alpha in adapter_config.json
diffusers  transformer.transformer_blocks.0.attn.to_q.lora_A.weight           lora.down.weight; alpha in the file's metadata, or none
ComfyUI    diffusion_model.transformer_blocks.0.attn.to_q.lora_A.weight       lora_down.weight; alpha as a tensor, or none
kohya      lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight          alpha as a tensor

Down (A) is (rank, in), up (B) is (out, rank); the layer's weight W becomes W + weight * scale * B A. Without an alpha the scale is 1.
Only plain LoRA of linear layers is read; what else a file may hold is refused by its name, never left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from layerctl.engines.qwen.adapters import Adapter
from layerctl.errors import InputError, UsageError

_TENSOR = re.compile(r"(.+)\.lora[_.](A|B|down|up)(?:\.[^.]+)?\.weight")
_PEFT_PREFIX = "base_model.model."
_PREFIXES = (_PEFT_PREFIX, "transformer.", "model.", "diffusion_model.")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
_FLOATS = ("F64", "F32", "F16", "BF16")

_OTHER_KINDS = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "lora_mid": "LoCon",
    "lora_embedding_A": "LoRA of embeddings",
    "lora_embedding_B": "LoRA of embeddings",
    "modules_to_save": "modules_to_save",
    "diff_b": "bias",
    "bias": "bias",
    "diff": "whole weights",
}
"""The part of a key, between dots, that stands for something else than plain LoRA; one with an underscore at its end is a beginning."""

_OTHER_OPTIONS = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "alora_invocation_tokens",
)
"""Options of PEFT's LoraConfig that make something else than W + scale * B A of it."""

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""The values of `init_lora_weights`, besides true and false, that leave the base's weights as they are."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One layer's two tensors, by their keys in the file."""

    down: str
    up: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """A LoRA file that fits the base: its pairs by the base's layer names. `parameters`: how many numbers they hold."""

    pairs: dict[str, LoraPair]
    parameters: int


def linear_modules(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """The linear layers of a base without adapters, name -> (out, in); a model on the meta device will do."""
    linears = ((name, module) for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear))
    return {name: (module.out_features, module.in_features) for name, module in linears}


def read_lora(
    adapter: Adapter, modules: Mapping[str, tuple[int, int]], *, base: str | None = None, base_class: str = "QwenImageTransformer2DModel"
) -> LoraPlan:
    """What of the adapter goes where, checked against the base by the file's header alone.

    `modules`: as `linear_modules` gives them. `base`: Hub id or folder of the base in use, None to compare its class only.
    Raises UsageError for an adapter that does not fit, InputError for a file that cannot be read.
    """
    tensors, alphas, config = _read_header(adapter)
    _check_config(adapter, config)
    _check_base(adapter, config, base, base_class)
    _refuse_other_kinds(adapter, tensors)
    found = _sort_keys(adapter, tensors, modules)
    pairs = {}
    for layer in (layer for layer in modules if layer in found):
        keys = found[layer]
        if missing := {"down", "up"} - keys.keys():
            present = next(iter(keys.values()))
            raise UsageError(
                f"{adapter.name} has {present} without its {' and '.join(sorted(missing))} tensor", hint="the file is incomplete"
            )
        rank = _rank(adapter, tensors, keys["down"], keys["up"], modules[layer])
        if "alpha" in keys:
            scale = _number(adapter, keys["alpha"], alphas.get(keys["alpha"])) / rank
        elif config is not None:
            scale = _config_scale(adapter, config, layer, rank)
        elif keys["down"].startswith(_PEFT_PREFIX):
            raise UsageError(f"{adapter.name}: its scale is in adapter_config.json, which is missing", hint=f"put it beside {adapter.file}")
        else:
            scale = 1.0
        pairs[layer] = LoraPair(keys["down"], keys["up"], rank, scale)
    return LoraPlan(pairs, sum(pair.rank * sum(modules[layer]) for layer, pair in pairs.items()))


def _read_header(adapter: Adapter) -> tuple[dict[str, tuple[int, ...]], dict[str, float], dict[str, Any] | None]:
    """Shapes by key, the values of the alpha tensors, and the PEFT config, beside the file or in its metadata."""
    shapes, alphas = {}, {}
    try:
        with safe_open(adapter.file, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                entry = file.get_slice(key)
                shapes[key] = tuple(entry.get_shape())
                if key.endswith(".alpha") and math.prod(shapes[key]) == 1:
                    alphas[key] = float(file.get_tensor(key))
                elif entry.get_dtype() not in _FLOATS:
                    raise UsageError(f"{adapter.name}: {key} is {entry.get_dtype()}", hint=f"LoRA is read in {', '.join(_FLOATS)}")
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{adapter.file} cannot be read: {error}", hint="fetch it again") from error
    if adapter.config is not None or "lora_adapter_metadata" not in metadata:
        return shapes, alphas, adapter.config
    # diffusers writes the fields of PEFT's config there, each behind the name of the pipeline's part.
    try:
        written = json.loads(metadata["lora_adapter_metadata"])
        config = {key.removeprefix("transformer."): value for key, value in written.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{adapter.file}: lora_adapter_metadata is damaged: {error}", hint="fetch it again") from error
    return shapes, alphas, config


def _check_config(adapter: Adapter, config: Mapping[str, Any] | None) -> None:
    if config is None:
        return
    start = config.get("init_lora_weights")
    refused = [option for option in _OTHER_OPTIONS if config.get(option)]
    if config.get("peft_type", "LORA") != "LORA":
        refused.append("peft_type")
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if isinstance(start, str) and start not in _PLAIN_STARTS:
        refused.append("init_lora_weights")
    if refused:
        options = ", ".join(f"{option} = {config[option]!r}" for option in refused)
        raise UsageError(f"{adapter.name} is no plain LoRA: {options} in its config", hint="take an adapter that is")


def _check_base(adapter: Adapter, config: Mapping[str, Any] | None, base: str | None, base_class: str) -> None:
    mapping = (config or {}).get("auto_mapping")
    named_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if named_class not in (None, base_class):
        raise UsageError(f"{adapter.name} was made for a {named_class}, the base in use is a {base_class}", hint="take another adapter")
    named = adapter.base_model
    # A folder may hold any checkpoint, so only two names of the Hub can contradict each other.
    if named and base and named != base and _is_hub_id(named) and _is_hub_id(base):
        raise UsageError(f"{adapter.name} was made for {named}, the base in use is {base}", hint=f"type --model {named}")


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def _refuse_other_kinds(adapter: Adapter, keys: Collection[str]) -> None:
    refused: dict[str, str] = {}
    for key in keys:
        for part in key.split("."):
            kind = _OTHER_KINDS.get(part) or _OTHER_KINDS.get(part.partition("_")[0] + "_")
            if kind is not None:
                refused.setdefault(kind, key)
    if refused:
        kinds = ", ".join(f"{kind} ({key})" for kind, key in refused.items())
        raise UsageError(f"{adapter.name} is no plain LoRA, it holds {kinds}", hint="take an adapter that is")


def _sort_keys(adapter: Adapter, keys: Collection[str], modules: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, str]]:
    """The file's keys by layer of the base and by part: down, up, alpha."""
    flat = {name.replace(".", "_"): name for name in modules}
    found: dict[str, dict[str, str]] = {}
    unmatched = []
    for key in keys:
        match = _TENSOR.fullmatch(key)
        written, part = match.groups() if match else (key.removesuffix(".alpha"), "alpha" if key.endswith(".alpha") else "")
        layer = _layer(written, modules, flat)
        part = {"A": "down", "B": "up"}.get(part, part)
        if layer is None or not part:
            unmatched.append(key)
        elif (other := found.setdefault(layer, {}).setdefault(part, key)) != key:
            raise UsageError(f"{adapter.name} has {layer} twice: {other} and {key}", hint="split it into one file an adapter")
    if unmatched:
        listed = ", ".join(unmatched[:8]) + (", ..." if len(unmatched) > 8 else "")
        message = f"{adapter.name}: {len(unmatched)} of {len(keys)} keys fit no linear layer of the base: {listed}"
        raise UsageError(message, hint="take an adapter that was made for this base")
    if not found:
        raise UsageError(f"{adapter.name}: {adapter.file} holds no tensors", hint="take another file")
    return found


def _layer(written: str, modules: Collection[str], flat: Mapping[str, str]) -> str | None:
    for prefix in _FLAT_PREFIXES:
        if written.startswith(prefix):
            return flat.get(written.removeprefix(prefix))
    for prefix in _PREFIXES:
        written = written.removeprefix(prefix)
    return written if written in modules else None


def _rank(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], down: str, up: str, layer: tuple[int, int]) -> int:
    rank = shapes[down][0] if shapes[down] else 0
    if rank < 1:
        raise UsageError(f"{adapter.name}: {down} is {list(shapes[down])}, which is rank 0", hint="the file is damaged")
    expected = {down: (rank, layer[1]), up: (layer[0], rank)}
    for key, shape in expected.items():
        if shapes[key] != shape:
            message = f"{adapter.name}: {key} is {list(shapes[key])}, where the base and the other half of the pair ask for {list(shape)}"
            raise UsageError(message, hint="take an adapter that was made for this base")
    return rank


def _config_scale(adapter: Adapter, config: Mapping[str, Any], layer: str, rank: int) -> float:
    # A pattern is a regular expression; PEFT's own reading of it is the only right one.
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    said = ranks.get(get_pattern_key(list(ranks), layer), config.get("r", rank))
    if said != rank:
        raise UsageError(f"{adapter.name}: {layer} has rank {rank}, its config says {said}", hint="the config belongs to another file")
    alpha = _number(adapter, "lora_alpha", alphas.get(get_pattern_key(list(alphas), layer), config.get("lora_alpha", 8)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _number(adapter: Adapter, name: str, value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    raise UsageError(f"{adapter.name}: {name} is {value!r}, not a number", hint="the file is damaged")
