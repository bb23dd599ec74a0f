"""Adapters: finding a LoRA on disk, and putting several at once on the transformer, unfused.

An adapter's parameters are float32 whatever the base is in, and a layer's two terms are added before they are rounded to the base's
dtype: the same numbers as `peft.PeftModel.from_pretrained` gives. A small adapter that is added to bf16 weights instead is mostly
rounded away.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerctl.errors import InputError, UsageError
from layerctl.hub import local_copy, parse_reference
from layerctl.manifest import hash_file

if TYPE_CHECKING:
    from torch import nn

    from layerctl.engines.qwen.lora_keys import LoraPlan

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SETTINGS_FILE = "layerctl.json"
EMBEDDING_FILE = "prompt_embedding.safetensors"
CAPTION = "caption"
"""The one value of `prompt_mode`."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA file on disk and what lies beside it.

    `name`: for messages. `config`: PEFT's adapter_config. `preset`, `prompt`: what the adapter asks to be run with; `prompt_mode`: None,
    or "caption" for a caption of each picture instead of a prompt. `prompt_embedding`: a file with that prompt's embedding. `base_model`:
    Hub id or path of the model that it was trained on.
    """

    name: str
    file: Path
    weight: float
    revision: str | None
    sha256: str
    config: dict[str, Any] | None = None
    preset: str | None = None
    prompt: str | None = None
    prompt_mode: str | None = None
    prompt_embedding: Path | None = None
    base_model: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UsageError(f"the weight of the adapter {self.name} is {self.weight}", hint=f"give a number: --adapter {self.name}:0.5")


def find_local_adapter(text: str, offline: bool) -> Adapter:
    """The adapter that a Hub id, a folder or a file names, also with a weight; raises what `local_copy` and `find_adapter` do."""
    reference = parse_reference(text)
    copy = local_copy(reference, offline=offline)
    name = copy.repo_id or copy.folder.resolve().name
    return find_adapter(copy.folder, name=name, weight=reference.weight, revision=copy.revision)


def find_adapter(path: Path, *, name: str, weight: float = 1.0, revision: str | None = None) -> Adapter:
    """The adapter that is a safetensors file, or the only one in a folder or in one of its subfolders.

    Raises UsageError where there is none, several, or a pickle; InputError for a JSON file beside it that cannot be read.
    """
    file = find_file(path, name)
    config = _read_json(file.parent / PEFT_CONFIG) if file.name == PEFT_FILE else None
    settings = file.parent / SETTINGS_FILE
    wishes = _read_json(settings) or {}
    embedding = file.parent / EMBEDDING_FILE
    return Adapter(
        name,
        file,
        weight,
        revision,
        hash_file(file),
        config=config,
        preset=_text(wishes, "preset", settings),
        prompt=_text(wishes, "prompt", settings),
        prompt_mode=_prompt_mode(wishes, settings),
        prompt_embedding=embedding if embedding.is_file() else None,
        base_model=_text(config or {}, "base_model_name_or_path", file.parent / PEFT_CONFIG),
    )


def find_file(path: Path, name: str) -> Path:
    """The file alone, as `find_adapter` finds it; raises UsageError."""
    file = path if path.is_file() else _only_file(path, name)
    if file.suffix != ".safetensors":
        _refuse_pickle(file, name)
        raise UsageError(f"the adapter {name} is {file.name}, no safetensors file", hint="name a folder or a .safetensors file")
    return file


def attach(transformer: nn.Module, adapters: Sequence[Adapter], plans: Sequence[LoraPlan]) -> None:
    """Put the adapters on, in place of those that were; the base's weights are kept and frozen, quantised ones as well.

    `plans`: what `read_lora` gave for each. Comes before compiling and before hooks that offload.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear
    from safetensors import safe_open

    detach(transformer)
    slots = [f"adapter_{index}" for index in range(len(adapters))]
    for slot, adapter, plan in zip(slots, adapters, plans, strict=True):
        ranks: dict[int, list[str]] = {}
        for layer, pair in plan.pairs.items():
            ranks.setdefault(pair.rank, []).append(layer)
        # One expression a rank: PEFT tries each expression on each layer.
        config = LoraConfig(
            r=max(ranks),
            target_modules=_any_of(plan.pairs),
            rank_pattern={_any_of(layers): rank for rank, layers in ranks.items()},
            inference_mode=True,
        )
        # The plain layer serves any weight that a linear layer can multiply with; PEFT's own choice refuses some of torchao's.
        config._register_custom_module({torch.nn.Linear: Linear})
        # On the meta device nothing is drawn, so that the global generator stays where it was.
        inject_adapter_in_model(config, transformer, slot, low_cpu_mem_usage=True)
        # Of use to PEFT's own calls only, which warn of a second adapter where it is there.
        del transformer.peft_config
        with safe_open(adapter.file, framework="pt") as file:
            for layer, pair in plan.pairs.items():
                module: Any = transformer.get_submodule(layer)
                module.scaling[slot] = adapter.weight * pair.scale
                device = module.base_layer.weight.device
                for half, key in ((module.lora_A[slot], pair.down), (module.lora_B[slot], pair.up)):
                    half.weight = torch.nn.Parameter(file.get_tensor(key).to(device, torch.float32))
    for module in transformer.modules():
        if isinstance(module, Linear):
            module.set_adapter(slots)
            # PEFT takes what is active for what is trained.
            module.requires_grad_(False)


def detach(transformer: nn.Module) -> None:
    """Take all adapters off; the base is what it was before."""
    from peft.tuners.lora import Linear

    for name, module in list(transformer.named_modules()):
        if isinstance(module, Linear):
            transformer.set_submodule(name, module.base_layer)


def _any_of(layers: Sequence[str] | dict[str, Any]) -> str:
    return f"(?:{'|'.join(map(re.escape, layers))})"


def _only_file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UsageError(f"the adapter {name} is not at {folder}", hint="give a folder, a .safetensors file or the id of a Hub repository")
    subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    candidates = _candidates(folder) or [file for subfolder in subfolders for file in _candidates(subfolder)]
    if len(candidates) > 1:
        listed = ", ".join(str(file.relative_to(folder)) for file in candidates)
        raise UsageError(f"the adapter {name} has several files: {listed}", hint=f"name one, such as --adapter {candidates[0]}")
    if candidates:
        return candidates[0]
    for file in (file for place in (folder, *subfolders) for file in sorted(place.iterdir())):
        _refuse_pickle(file, name)
    raise UsageError(f"the adapter {name}: no .safetensors file in {folder}", hint=f"a PEFT folder holds {PEFT_CONFIG} and {PEFT_FILE}")


def _candidates(folder: Path) -> list[Path]:
    # A PEFT folder says itself which file is the adapter.
    if (folder / PEFT_CONFIG).is_file() and (folder / PEFT_FILE).is_file():
        return [folder / PEFT_FILE]
    return sorted(file for file in folder.glob("*.safetensors") if file.name != EMBEDDING_FILE)


def _refuse_pickle(file: Path, name: str) -> None:
    if file.suffix in PICKLES:
        message = f"the adapter {name} is {file.name}, a pickle, which runs code of its author when it is loaded"
        raise UsageError(message, hint="take the .safetensors file of the same adapter")


def _read_json(file: Path) -> dict[str, Any] | None:
    """None for a file that is not there."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}", hint="fetch the adapter again") from error
    if not isinstance(read, dict):
        raise InputError(f"{file} holds no JSON object", hint="fetch the adapter again")
    return read


def _text(read: dict[str, Any], key: str, file: Path) -> str | None:
    value = read.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise InputError(f"{key} in {file} is {value!r}, no text", hint="fetch the adapter again")


def _prompt_mode(read: dict[str, Any], file: Path) -> str | None:
    mode = _text(read, "prompt_mode", file)
    if mode in (None, CAPTION):
        return mode
    raise InputError(f"prompt_mode in {file} is {mode!r}, not {CAPTION!r}", hint="fetch the adapter again, or a newer layerctl")
