"""What can be checked of checkpoint and adapter before a picture is run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from math import prod

from safetensors import safe_open

from benchmarks.accept.checks import Checks, Number, Outcome
from benchmarks.accept.tiny import PROJECTIONS
from layerctl.engines.qwen import memory, sizes
from layerctl.engines.qwen.adapters import Adapter, find_adapter
from layerctl.engines.qwen.checkpoint import WEIGHTS, Checkpoint, fingerprint, read_checkpoint, weight_files
from layerctl.engines.qwen.lora_keys import linear_modules, read_lora
from layerctl.engines.qwen.model import empty_part, quiet_libraries
from layerctl.errors import MissingDependencyError
from layerctl.hub import BASE_MODEL, LocalCopy, first_of, local_copy, parse_reference

PLACE = "The files"
CLAIMS = {
    "classes and geometry": "the checkpoint's classes are known and its configs describe a Qwen-Image-Layered",
    "published geometry": "the configs are those that plans assume before the download",
    "weight bytes": "the bytes of each part, predicted from its config, are those in its files",
    "tensors": "from_pretrained reports no tensor as missing, unexpected or of another shape",
    "adapter keys": "every key of the adapter fits a linear layer of the transformer",
}
STORED: dict[str, sizes.Precision] = {"F32": "fp32", "BF16": "bf16", "F16": "bf16"}
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


@dataclass(slots=True)
class Found:
    """Checkpoint and adapter on this disk; `facts` tell exactly which they are."""

    model: LocalCopy
    adapter: LocalCopy
    checkpoint: Checkpoint | None = None
    facts: dict[str, str] = field(default_factory=dict)


def find(model: str, adapter: str) -> Found:
    """Raises MissingDependencyError that says what to type for all that is not here."""
    missing: dict[str, str] = {}
    copies: list[LocalCopy] = []
    for text in (model, adapter):
        try:
            copies.append(local_copy(parse_reference(text)))
        except MissingDependencyError as error:
            missing[f"layerctl pull {text}"] = error.message
    if missing:
        raise MissingDependencyError("; ".join(missing.values()), hint="   and   ".join(missing))
    return Found(copies[0], copies[1])


def check(checks: Checks, found: Found) -> None:
    def geometry() -> Outcome:
        name = found.model.repo_id or found.model.folder.resolve().name
        found.checkpoint = read_checkpoint(found.model.folder, name, found.model.revision)
        found.facts["model"] = f"{found.checkpoint.name}, revision {found.checkpoint.revision or 'none: a folder'}"
        found.facts["model hash"] = fingerprint(found.model.folder / "transformer", WEIGHTS["transformer"])
        return _geometry(found.checkpoint)

    checks.make(PLACE, "classes and geometry", geometry)
    if found.checkpoint is None:
        return
    checkpoint = found.checkpoint
    checks.make(PLACE, "published geometry", lambda: _published(checkpoint))
    checks.make(PLACE, "weight bytes", lambda: _weight_bytes(checkpoint))
    checks.make(PLACE, "tensors", lambda: _tensors(checkpoint))

    def keys() -> Outcome:
        name = found.adapter.repo_id or found.adapter.folder.resolve().name
        adapter = find_adapter(found.adapter.folder, name=name, revision=found.adapter.revision)
        found.facts["adapter"] = f"{name}, revision {adapter.revision or 'none: a folder'}"
        found.facts["adapter sha256"] = adapter.sha256
        return _adapter_keys(checkpoint, adapter)

    checks.make(PLACE, "adapter keys", keys)


def _geometry(checkpoint: Checkpoint) -> Outcome:
    config = checkpoint.configs["transformer"]
    weights = sizes.transformer_weights(config)
    width = int(config.get("num_attention_heads", 24)) * int(config.get("attention_head_dim", 128))
    classes = ", ".join(name.partition(":")[2] for name in checkpoint.classes.values())
    value = (
        f"{classes}; {weights.blocks} blocks of width {width}, {weights.parameters / 1e9:.2f} B parameters,"
        f" {checkpoint.latent_channels} latent channels, text width {checkpoint.text_width}"
    )
    numbers: dict[str, Number] = {"blocks": weights.blocks, "width": width, "parameters": weights.parameters}
    return Outcome(True, value, numbers | {"latent_channels": checkpoint.latent_channels, "text_width": checkpoint.text_width})


def _published(checkpoint: Checkpoint) -> Outcome:
    if checkpoint.name != BASE_MODEL:
        return Outcome(None, f"{checkpoint.name} is not {BASE_MODEL}")
    found, assumed = (_predicted(configs) for configs in (memory.configs_of(checkpoint), memory.PUBLISHED))
    value = "; ".join(f"{part}: {weights.parameters:,} parameters, {assumed[part].parameters:,} assumed" for part, weights in found.items())
    return Outcome(all(weights == assumed[part] for part, weights in found.items()), value)


def _weight_bytes(checkpoint: Checkpoint) -> Outcome:
    lines, right, numbers = [], True, dict[str, Number]()
    for part, weights in _predicted(memory.configs_of(checkpoint)).items():
        counted = _bytes_by_type(checkpoint, part)
        stored = sum(counted.values())
        kind = max(counted, key=lambda dtype: counted[dtype], default="BF16")
        predicted = weights.bytes(STORED.get(kind, "bf16"))
        right &= predicted == stored
        lines.append(f"{part}: {stored:,} bytes of {' and '.join(counted) or 'nothing'}, {predicted:,} predicted")
        numbers |= {f"{part}_bytes": stored, f"{part}_bytes_predicted": predicted}
    return Outcome(right, "; ".join(lines), numbers)


def _tensors(checkpoint: Checkpoint) -> Outcome:
    """Load each part by itself, as the engine does, for what the libraries report of it."""
    lines, wrong = [], 0
    for part in WEIGHTS:
        if not checkpoint.has_weights(part):
            raise checkpoint.missing(part)
        library, _, name = checkpoint.classes[part].partition(":")
        with quiet_libraries():
            _, report = getattr(import_module(library), name).from_pretrained(
                checkpoint.folder / part, use_safetensors=True, local_files_only=True, dtype="auto", output_loading_info=True
            )
        faults = {kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
        wrong += sum(map(len, faults.values()))
        told = [f"{len(names)} {kind} ({first_of(names)})" for kind, names in faults.items() if names]
        lines.append(f"{part}: {', '.join(told) or 'none'}")
    return Outcome(wrong == 0, "; ".join(lines), {"wrong_tensors": wrong})


def _adapter_keys(checkpoint: Checkpoint, adapter: Adapter) -> Outcome:
    modules = linear_modules(empty_part(checkpoint, "transformer"))
    plan = read_lora(adapter, modules, base=checkpoint.name)
    # "transformer_blocks.7.attn.to_q" -> "to_q"
    kinds = Counter(".".join(name.split(".")[3:]) for name in plan.pairs)
    ranks, scales = (sorted({getattr(pair, field) for pair in plan.pairs.values()}) for field in ("rank", "scale"))
    expected = len(PROJECTIONS) * sizes.transformer_weights(checkpoint.configs["transformer"]).blocks
    value = (
        f"{len(plan.pairs)} layers ({', '.join(f'{kind} × {count}' for kind, count in kinds.items())}),"
        f" rank {', '.join(map(str, ranks))}, scale {', '.join(f'{scale:g}' for scale in scales)}, {plan.parameters:,} parameters;"
        f" {expected} layers would be the seven attention projections of all blocks"
    )
    return Outcome(True, value, {"adapter_layers": len(plan.pairs), "rank": max(ranks), "adapter_parameters": plan.parameters})


def _predicted(configs: memory.Configs) -> dict[str, sizes.Weights]:
    predicted = {"transformer": sizes.transformer_weights(configs.transformer), "vae": sizes.vae_weights(configs.vae)}
    if configs.text_encoder is not None:
        predicted["text_encoder"] = sizes.text_encoder_weights(configs.text_encoder)
    return predicted


def _bytes_by_type(checkpoint: Checkpoint, part: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in weight_files(checkpoint.folder / part, WEIGHTS[part]):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                entry = file.get_slice(key)
                found[entry.get_dtype()] += prod(entry.get_shape()) * BYTES[entry.get_dtype()]
    return found
