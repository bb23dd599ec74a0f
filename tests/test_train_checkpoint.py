"""Checkpoints: what is written comes back bit by bit, and training goes on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layerctl_train.checkpoint import State, Totals, read_state, restore, write
from layerctl_train.run_folder import RunFolder
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from layerctl.engines.qwen.adapters import find_adapter
from layerctl.errors import InputError

STATE = State(
    step=10,
    method="grpo",
    config_hash="c0ffee",
    data_fingerprint="da7a",
    best=(5, 0.1 + 0.2),
    totals=Totals(evaluations=80, judge_calls=16, judge_tokens=12_345, dollars=1 / 3, seconds=1e-17),
    gradient_norms=(0.1, 1e-300, 2 / 3),
    quiet=2,
)


class ToyPolicy:
    """Two small matrices, one of which never gets a gradient, and their average."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.parameters = {name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("a.lora_A", "b.lora_B", "unused")}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}

    def state(self) -> dict[str, Tensor]:
        return {**self.parameters, **{f"ema.{name}": value for name, value in self.average.items()}}

    def load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[name])
                self.average[name].copy_(state[f"ema.{name}"])

    def save(self, folder: Path) -> None:
        save_file(self.average, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen-Image-Layered"}))


def optimizer_of(policy: ToyPolicy) -> AdamW:
    return AdamW(policy.parameters.values(), lr=0.01, weight_decay=1e-4, eps=1e-10)


def learn(policy: ToyPolicy, optimizer: AdamW, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        a, b = policy.parameters["a.lora_A"], policy.parameters["b.lora_B"]
        ((inputs @ a.T) @ b - inputs).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, value in policy.parameters.items():
            policy.average[name].lerp_(value.detach(), 0.1)


def assert_same(one: ToyPolicy, other: ToyPolicy) -> None:
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name


def test_steps_after_a_restore_are_those_of_a_run_that_never_stopped(tmp_path: Path) -> None:
    whole, first, second = ToyPolicy(), ToyPolicy(), ToyPolicy(seed=1)
    learn(whole, optimizer_of(whole), range(9))
    optimizer = optimizer_of(first)
    learn(first, optimizer, range(4))
    write(tmp_path, first, optimizer, STATE)
    restored = optimizer_of(second)
    assert restore(tmp_path, second, restored) == STATE
    assert_same(second, first)
    learn(second, restored, range(4, 9))
    assert_same(second, whole)


def test_a_checkpoint_before_the_first_step_has_no_moments(tmp_path: Path) -> None:
    policy, fresh = ToyPolicy(), ToyPolicy(seed=1)
    write(tmp_path, policy, optimizer_of(policy), STATE)
    optimizer = optimizer_of(fresh)
    restore(tmp_path, fresh, optimizer)
    assert optimizer.state_dict()["state"] == {}
    assert_same(fresh, policy)


def test_rates_are_those_of_the_settings_not_of_the_checkpoint(tmp_path: Path) -> None:
    policy = ToyPolicy()
    optimizer = optimizer_of(policy)
    learn(policy, optimizer, range(1))
    optimizer.param_groups[0]["lr"] = 0.5
    write(tmp_path, policy, optimizer, STATE)
    restored = optimizer_of(policy)
    restore(tmp_path, policy, restored)
    assert restored.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("state", [STATE, replace(STATE, best=None, gradient_norms=(), totals=Totals(dollars=None))])
def test_numbers_of_the_state_come_back_exactly(state: State, tmp_path: Path) -> None:
    policy = ToyPolicy()
    write(tmp_path, policy, optimizer_of(policy), state)
    assert read_state(tmp_path) == state


def test_a_checkpoint_is_an_adapter_as_it_is_and_holds_no_pickle(tmp_path: Path) -> None:
    policy = ToyPolicy()
    optimizer = optimizer_of(policy)
    learn(policy, optimizer, range(1))

    def save(folder: Path) -> None:
        policy.save(folder)
        write(folder, policy, optimizer, STATE)

    checkpoint = RunFolder(tmp_path).save(10, save)
    found = find_adapter(checkpoint, name="mine")
    assert found.file == checkpoint / "adapter_model.safetensors"
    assert found.base_model == "Qwen/Qwen-Image-Layered"
    assert {path.suffix for path in checkpoint.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    policy, other = ToyPolicy(), ToyPolicy()
    optimizer = optimizer_of(policy)
    learn(policy, optimizer, range(1))
    write(tmp_path, policy, optimizer, STATE)
    del other.parameters["b.lora_B"]
    with pytest.raises(InputError, match=r"trains b\.lora_B, which this adapter has not"):
        restore(tmp_path, other, optimizer_of(other))


@pytest.mark.parametrize("file", ["policy.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"null"])
def test_a_damaged_checkpoint_is_told_with_what_to_do(file: str, content: bytes | None, tmp_path: Path) -> None:
    policy = ToyPolicy()
    write(tmp_path, policy, optimizer_of(policy), STATE)
    damaged = tmp_path / "state" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        restore(tmp_path, policy, optimizer_of(policy))
    assert caught.value.hint == f"delete {tmp_path}, and --resume goes on from the checkpoint before it"
