"""A tiny adapter for the tiny checkpoint, laid out as the Stable-Layers release is."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from layerctl.engines.qwen.adapters import PEFT_CONFIG, PEFT_FILE
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.lora_keys import linear_modules
from layerctl.engines.qwen.model import empty_part

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
"""Of the attention in each block; inferred from the size of the release's file."""
RANK = 4


def write_tiny_adapter(folder: Path, model: Path) -> None:
    """Write a PEFT adapter with random halves for the checkpoint in `model` into `folder`/model."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (rows, columns) in linear_modules(empty_part(read_checkpoint(model), "transformer")).items():
        if name.endswith(tuple(f".attn.{projection}" for projection in PROJECTIONS)):
            for half, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                tensors[f"base_model.model.{name}.lora_{half}.weight"] = 0.1 * torch.randn(shape, generator=generator)
    (folder / "model").mkdir(parents=True)
    save_file(tensors, folder / "model" / PEFT_FILE)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(PROJECTIONS)}
    (folder / "model" / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
