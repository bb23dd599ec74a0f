"""Ways to load, on the CPU: each must give what the plain one gives."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layerctl.engines.qwen import loading, memory
from layerctl.engines.qwen.checkpoint import Checkpoint, read_checkpoint
from layerctl.engines.qwen.devices import find_machine
from layerctl.engines.qwen.memory import Offload, Plan
from layerctl.engines.qwen.model import Condition, LayeredModel
from layerctl.engines.qwen.sampler import picture_noise
from layerctl.engines.qwen.sizes import Precision
from layerctl.errors import MissingDependencyError

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tiny: Path) -> Checkpoint:
    return read_checkpoint(tiny)


@pytest.fixture(scope="module")
def plan(checkpoint: Checkpoint) -> Plan:
    job = memory.Job(64, 48, 2, 1, guided=False, needs_text_encoder=False, caption=False)
    return memory.plan_memory(memory.configs_of(checkpoint), job, find_machine("cpu"))


def layers(checkpoint: Checkpoint, plan: Plan, *, compiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A velocity and decoded layers, twice in a row, so that what takes turns has moved to and fro."""
    transformer, vae = loading.load_transformer(checkpoint, plan), loading.load_vae(checkpoint, plan)
    model = LayeredModel(transformer, vae, device=torch.device("cpu"), dtype=loading.compute_dtype(plan))
    loading.finish(model, plan, compiled=compiled)
    for _ in range(2):
        prompt = torch.ones(1, 5, checkpoint.text_width, dtype=model.dtype)
        condition = Condition(model.encode_picture(PIXELS), prompt, 3, 4, 2)
        noise = picture_noise(condition.state_shape, 1, "aa")
        with torch.no_grad():
            v = model.velocity(noise, torch.tensor(0.5), condition)
        decoded = model.decode_layers(noise, condition)
        loading.make_room(model)
    return v, decoded


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_bit(checkpoint: Checkpoint, plan: Plan, offload: Offload) -> None:
    for one, other in zip(layers(checkpoint, plan), layers(checkpoint, replace(plan, offload=offload)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.02), ("int8", 0.05)])
def test_smaller_weights_change_the_velocity_a_little(checkpoint: Checkpoint, plan: Plan, precision: Precision, error: float) -> None:
    v, _ = layers(checkpoint, plan)
    smaller, _ = layers(checkpoint, replace(plan, precision=precision))
    relative = float((smaller.float() - v).norm() / v.norm())
    assert 0 < relative < error


def test_8_bit_weights_without_torchao_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingDependencyError, match="torchao") as caught:
        loading.quantization("int8")
    assert caught.value.hint == "pip install 'layerctl[quant]'"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_compiled_model_agrees(checkpoint: Checkpoint, plan: Plan) -> None:
    for one, other in zip(layers(checkpoint, plan), layers(checkpoint, plan, compiled=True), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
