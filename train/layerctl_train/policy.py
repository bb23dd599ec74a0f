"""What is trained: a LoRA adapter (arXiv 2106.09685) on the frozen transformer, its average over time, and the files that it becomes.

Parameters are float32 whatever the base is in. A (down) begins Gaussian with deviation 1 / rank, B (up) as 0, so that the policy begins as
the base; a policy that goes on from an adapter begins as that adapter, with its layers, ranks and scales.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layerctl.engines.qwen.adapters import EMBEDDING_FILE, PEFT_CONFIG, PEFT_FILE, SETTINGS_FILE, Adapter
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules
from layerctl.errors import InputError, OutputError, UsageError
from layerctl_train.noise import noise

DISCARDED = ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
"""Of the last block: they change its text output alone, which nobody reads, and get no gradient, or one that is 0 throughout."""

_BLOCKS, _SLOT, _AVERAGE = "transformer_blocks.", "default", "ema."
_PEFT_PREFIX = "base_model.model."

T = TypeVar("T", int, float)


class Policy:
    """A LoRA adapter on a transformer that had none.

    `parameters`: by layer with .lora_A or .lora_B behind it, in the transformer's order.
    """

    def __init__(
        self,
        transformer: Any,
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        seed: int,
        start: tuple[Adapter, LoraPlan] | None = None,
    ) -> None:
        """Put the adapter on; all else is frozen.

        `start`: as `find_adapter` and `read_lora` give it; rank, alpha and targets are then its own. Raises UsageError where nothing is
        left that gets a gradient.
        """
        if start is None:
            self._sizes = dict.fromkeys(trainable_targets(transformer, targets), (rank, alpha))
        else:
            self._sizes = _sizes_of(transformer, *start)
        if not self._sizes:
            what = f"the adapter {start[0].name}" if start else f"an adapter on {', '.join(targets)}"
            raise UsageError(f"{what} has no layer that gets a gradient", hint="train on all layers: leave targets out")
        self._config = _peft_config(linear_modules(transformer), self._sizes)
        _inject(transformer, self._config)
        self._modules: dict[str, Any] = {layer: transformer.get_submodule(layer) for layer in self._sizes}
        self.parameters: dict[str, nn.Parameter] = {}
        for layer, halves in _starting_weights(self._modules, seed) if start is None else _stored_weights(*start, self._modules):
            module = self._modules[layer]
            for half, tensor in zip(("lora_A", "lora_B"), halves, strict=True):
                parameter = nn.Parameter(tensor.to(module.base_layer.weight.device, torch.float32))
                getattr(module, half)[_SLOT].weight = self.parameters[f"{layer}.{half}"] = parameter
        self._average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._start = None if start is None else {name: tensor.clone() for name, tensor in self._average.items()}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The model as it was at the start, without gradients: the same numbers to the last bit."""
        with torch.no_grad():
            if self._start is not None:
                with self._holding(self._start):
                    yield
                return
            self._enable(False)
            try:
                yield
            finally:
                self._enable(True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones."""
        with self._holding(self._average):
            yield

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Take the weights as they are into their exponential moving average, which began as the weights."""
        for name, parameter in self.parameters.items():
            self._average[name].mul_(decay).add_(parameter, alpha=1 - decay)

    def to(self, device: torch.device) -> None:
        """Move the adapter alone."""
        for tensors in (self._average, self._start or {}):
            tensors.update({name: tensor.to(device) for name, tensor in tensors.items()})
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(device)

    def state(self) -> dict[str, Tensor]:
        """The weights by name and, behind "ema.", their average: views, which change as training goes on."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return weights | {_AVERAGE + name: tensor for name, tensor in self._average.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. Raises InputError for that of another adapter."""
        own = self.state()
        differing = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
        if differing:
            message = f"the weights belong to another adapter: {differing[0]} and {len(differing) - 1} more tensors differ"
            raise InputError(message, hint="train with the rank, the targets and the start of the run that they come from")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def save(self, folder: Path, *, averaged: bool, base_model: str, wishes: Mapping[str, str], embedding: Path | None) -> None:
        """Write a folder that PEFT, diffusers and the Qwen engine load.

        `wishes`: what it asks to be run with, as `Base.words` has it. `embedding`: a file with its prompt's embedding. For diffusers it is
        `transformer.load_lora_adapter(folder, prefix="base_model.model", weight_name="adapter_model.safetensors")`. Raises OutputError.
        """
        config = self._config | {"base_model_name_or_path": base_model, "inference_mode": True}
        tensors = {f"{_PEFT_PREFIX}{name}.weight": tensor for name, tensor in self._tensors(averaged).items()}
        _write(folder / PEFT_FILE, lambda file: _save_tensors(tensors, file, self._metadata()))
        _write(folder / PEFT_CONFIG, lambda file: _save_json(config, file))
        _write(folder / SETTINGS_FILE, lambda file: _save_json(wishes, file))
        if embedding is None:
            # That of another prompt would be taken for this one's.
            (folder / EMBEDDING_FILE).unlink(missing_ok=True)
        else:
            _write(folder / EMBEDDING_FILE, lambda file: shutil.copyfile(embedding, file))

    def save_comfyui(self, file: Path, *, averaged: bool) -> None:
        """Write one file with ComfyUI's keys and an alpha tensor a layer, which diffusers' pipelines load as well. Raises OutputError."""
        spelled = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"}
        tensors = {}
        for name, tensor in self._tensors(averaged).items():
            layer, _, half = name.rpartition(".")
            tensors[f"diffusion_model.{layer}.{spelled[half]}"] = tensor
            tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(float(self._sizes[layer][1]))
        _write(file, lambda beside: _save_tensors(tensors, beside, {"format": "pt"}))

    def _tensors(self, averaged: bool) -> dict[str, Tensor]:
        return self._average if averaged else {name: parameter.detach() for name, parameter in self.parameters.items()}

    def _metadata(self) -> dict[str, str]:
        """PEFT's config once more, for diffusers, which reads no other file, and for a file that has lost its config.

        Layers are named in full: diffusers takes them from the tensors, and warns of excluded ones.
        """
        config = {key: value for key, value in self._config.items() if key != "exclude_modules"} | {"target_modules": list(self._sizes)}
        spelled = {prefix + key: value for prefix in (_PEFT_PREFIX, "transformer.") for key, value in config.items()}
        return {"format": "pt", "lora_adapter_metadata": json.dumps(spelled)}

    @contextmanager
    def _holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        # Nothing is copied: the parameters, which optimizers and graphs know, look at other memory meanwhile.
        self._point_at(tensors)
        try:
            yield
        finally:
            self._point_at(own)

    def _point_at(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data = tensors[name]

    def _enable(self, enabled: bool) -> None:
        for module in self._modules.values():
            module.enable_adapters(enabled=enabled)


def trainable_targets(transformer: Any, targets: Sequence[str]) -> list[str]:
    """The full names of the linear layers of the blocks whose names end in one of `targets`, but for those that get no gradient."""
    endings = tuple(f".{target}" for target in targets)
    discarded = _discarded(transformer)
    return [name for name in linear_modules(transformer) if name.startswith(_BLOCKS) and name.endswith(endings) and name not in discarded]


def _discarded(transformer: Any) -> set[str]:
    last = len(transformer.transformer_blocks) - 1
    return {f"{_BLOCKS}{last}.{name}" for name in DISCARDED}


def _sizes_of(transformer: Any, adapter: Adapter, plan: LoraPlan) -> dict[str, tuple[int, float]]:
    """Rank and alpha by layer; what the last block throws away has no effect, and is left out."""
    discarded = _discarded(transformer)
    pairs = {layer: pair for layer, pair in plan.pairs.items() if layer not in discarded}
    return {layer: (pair.rank, adapter.weight * pair.scale * pair.rank) for layer, pair in pairs.items()}


def _starting_weights(modules: Mapping[str, Any], seed: int) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    for layer, module in modules.items():
        rank = module.r[_SLOT]
        down = noise((rank, module.in_features), seed, "adapter", layer) / rank
        yield layer, (down, torch.zeros(module.out_features, rank))


def _stored_weights(adapter: Adapter, plan: LoraPlan, modules: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    from safetensors import safe_open

    with safe_open(adapter.file, framework="pt") as file:
        for layer in modules:
            yield layer, (file.get_tensor(plan.pairs[layer].down), file.get_tensor(plan.pairs[layer].up))


def _inject(transformer: Any, config: Mapping[str, Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    transformer.requires_grad_(False)
    lora = LoraConfig(**config)
    # The plain layer serves any weight that a linear layer can multiply with; PEFT's own choice refuses some of torchao's.
    lora._register_custom_module({nn.Linear: Linear})
    # On the meta device nothing is drawn, so that the global generator stays where it was.
    inject_adapter_in_model(lora, transformer, _SLOT, low_cpu_mem_usage=True)
    # Of use to PEFT's own calls only.
    del transformer.peft_config


def _peft_config(linears: Mapping[str, object], sizes: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """What adapter_config.json says of the adapter, which is also what PEFT makes it by: layers by their names within a block."""
    endings = list(dict.fromkeys(map(_in_block, sizes)))
    others = [name for name in linears if name not in sizes and f".{name}".endswith(tuple(f".{ending}" for ending in endings))]
    rank, ranks = _by_pattern({layer: rank for layer, (rank, _) in sizes.items()})
    alpha, alphas = _by_pattern({layer: alpha for layer, (_, alpha) in sizes.items()})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": endings,
        "exclude_modules": others,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    return {key: value for key, value in config.items() if value not in ([], {})}


def _by_pattern(values: Mapping[str, T]) -> tuple[T, dict[str, T]]:
    """The commonest value, and the others by expressions for the layers that have them, one a value: PEFT tries each on each layer."""
    spread: dict[str, set[T]] = {}
    for layer, value in values.items():
        spread.setdefault(_in_block(layer), set()).add(value)
    patterns: dict[T, dict[str, None]] = {}
    for layer, value in values.items():
        ending = _in_block(layer)
        # Dots are not escaped, for people to read; no other layer's name has something else in their place.
        patterns.setdefault(value, {})[ending if len(spread[ending]) == 1 else layer] = None
    usual = Counter(values.values()).most_common(1)[0][0]
    return usual, {"|".join(layers): value for value, layers in patterns.items() if value != usual}


def _in_block(layer: str) -> str:
    return layer.removeprefix(_BLOCKS).partition(".")[2] if layer.startswith(_BLOCKS) else layer


def _save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file, metadata)


def _save_json(content: Mapping[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Have `write` write a file beside, and move it in."""
    from safetensors import SafetensorError

    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(beside)
            os.replace(beside, file)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{file} cannot be written: {error}", hint="choose another folder, or make room") from error
