"""The adapter in training, and the files that it becomes, on a tiny checkpoint of the real classes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import QwenImageLayeredPipeline, QwenImageTransformer2DModel
from layerctl_train.policy import DISCARDED, Policy, trainable_targets
from layerctl_train.training_settings import TARGETS
from safetensors.torch import load_file, save_file

from layerctl.engines.qwen.adapters import Adapter, attach, find_adapter
from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules, read_lora
from layerctl.engines.qwen.model import Condition, LayeredModel, load_part
from layerctl.engines.qwen.sizes import PUBLISHED_TRANSFORMER
from layerctl.errors import InputError, OutputError, UsageError

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def load(tiny: Path) -> Load:
    """The tiny checkpoint's transformer, a new one each time."""
    transformer = load_part(read_checkpoint(tiny), "transformer", torch.float32)

    def loaded(dtype: torch.dtype = torch.float32) -> Any:
        return copy.deepcopy(transformer).to(dtype)

    return loaded


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    picture, prompt, x = (torch.randn(1, *shape, generator=generator) for shape in ((6, 64), (5, 16), (18, 64)))
    return x, torch.tensor(0.7), Condition(picture.to(dtype), prompt.to(dtype), 2, 3, 2)


def velocity(transformer: Any) -> torch.Tensor:
    dtype = transformer.img_in.weight.dtype
    return LayeredModel(transformer, None, device=torch.device("cpu"), dtype=dtype).velocity(*inputs(dtype))


@torch.no_grad()
def still(transformer: Any) -> torch.Tensor:
    return velocity(transformer)


def begin(
    transformer: Any, *, rank: int = 3, alpha: float = 6, targets: tuple[str, ...] = TARGETS, seed: int = 0, start: Any = None
) -> Policy:
    return Policy(transformer, rank=rank, alpha=alpha, targets=targets, seed=seed, start=start)


def learn(policy: Policy, seed: int = 7) -> None:
    """Put weights in that training might have left."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def saved(policy: Policy, folder: Path, *, averaged: bool = False, embedding: Path | None = None) -> Path:
    policy.save(folder, averaged=averaged, base_model="Qwen/Qwen-Image-Layered", wishes={"preset": "stable-layers"}, embedding=embedding)
    return folder


def found(path: Path, transformer: Any, weight: float = 1.0) -> tuple[Adapter, LoraPlan]:
    adapter = find_adapter(path, name="mine", weight=weight)
    return adapter, read_lora(adapter, linear_modules(transformer))


def served(path: Path, transformer: Any, weight: float = 1.0) -> torch.Tensor:
    """The velocity with the adapter as the engine puts it on."""
    adapter, plan = found(path, transformer, weight)
    attach(transformer, [adapter], [plan])
    return still(transformer)


def mixed(folder: Path, transformer: Any) -> Path:
    """An adapter with a rank and a scale that differ by layer, on some layers, one outside of the blocks and one that has no effect."""
    sizes = {
        "img_in": (2, 1.0), "transformer_blocks.0.attn.to_q": (4, 3.0), "transformer_blocks.1.attn.to_q": (4, 2.0),
        "transformer_blocks.0.attn.to_v": (3, 3.0), "transformer_blocks.0.img_mod.1": (5, 2.5),
        "transformer_blocks.1.attn.to_add_out": (4, 2.0),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for layer, (rank, alpha) in sizes.items():
        out, into = linear_modules(transformer)[layer]
        tensors[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(rank, into, generator=generator) * 0.3
        tensors[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * 0.3
        tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(alpha)
    folder.mkdir()
    save_file(tensors, folder / "mixed.safetensors")
    return folder


def fail_within(place: AbstractContextManager[None]) -> None:
    with place:
        raise ZeroDivisionError


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def test_every_parameter_gets_a_gradient_and_no_layer_that_is_left_out_would(load: Load) -> None:
    transformer = load()
    policy = begin(transformer)
    learn(policy)
    torch.autograd.backward(velocity(transformer).square().sum())
    assert [name for name, each in policy.parameters.items() if each.grad is None or not each.grad.any()] == []
    bare = load().requires_grad_(True)
    torch.autograd.backward(velocity(bare).square().sum())
    weights = {name: bare.get_submodule(name).weight for name in linear_modules(bare)}
    without = {name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()}
    assert without == {f"transformer_blocks.1.{name}" for name in DISCARDED}
    assert len(policy.parameters) == 2 * (2 * len(TARGETS) - len(DISCARDED))


def test_the_targets_are_named_within_the_blocks(load: Load) -> None:
    names = trainable_targets(load(), ("to_out.0", "to_add_out"))
    assert names == ["transformer_blocks.0.attn.to_out.0", "transformer_blocks.0.attn.to_add_out", "transformer_blocks.1.attn.to_out.0"]


def test_an_adapter_on_nothing_that_learns_is_refused(load: Load, tmp_path: Path) -> None:
    transformer = load()
    transformer.transformer_blocks = transformer.transformer_blocks[:1]
    with pytest.raises(UsageError, match="an adapter on to_add_out has no layer that gets a gradient"):
        begin(transformer, targets=("to_add_out",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_policy_begins_as_the_base(load: Load, dtype: torch.dtype) -> None:
    transformer = load(dtype)
    base = still(transformer)
    policy = begin(transformer)
    assert torch.equal(still(transformer), base)
    with policy.reference():
        assert torch.equal(velocity(transformer), base)
    learn(policy)
    assert relative(still(transformer), base) > 0.01
    with policy.reference():
        assert torch.equal(velocity(transformer), base)
    assert {parameter.dtype for parameter in policy.parameters.values()} == {torch.float32}
    assert transformer.img_in.weight.dtype == dtype
    trained = {id(parameter) for parameter in transformer.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in policy.parameters.values()}


def test_the_first_weights_are_a_function_of_seed_and_layer_alone(load: Load) -> None:
    before = torch.get_rng_state()
    first, again, other = (begin(load(), seed=seed, rank=8).state() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    fewer = begin(load(), seed=5, rank=8, targets=("to_k",)).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], tensor) for name, tensor in fewer.items())
    downs = [name for name in first if name.endswith("lora_A")]
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    assert float(torch.cat([first[name].flatten() for name in downs]).std()) == pytest.approx(1 / 8, rel=0.02)
    assert not any(first[name].any() for name in first if name.endswith("lora_B"))


@pytest.mark.parametrize(("started", "checkpointing"), [(False, False), (True, False), (True, True)])
def test_gradients_are_the_same_with_a_reference_in_between(load: Load, tmp_path: Path, started: bool, checkpointing: bool) -> None:
    folder = mixed(tmp_path / "start", load())
    grads: list[list[torch.Tensor | None]] = []
    for between in (False, True):
        transformer = load()
        policy = begin(transformer, start=found(folder, transformer) if started else None)
        if checkpointing and between:
            transformer.enable_gradient_checkpointing()
        learn(policy)
        v = velocity(transformer)
        if between:
            with policy.reference():
                assert not velocity(transformer).requires_grad
        torch.autograd.backward((v - 1).square().sum())
        grads.append([parameter.grad for parameter in policy.parameters.values()])
    assert all(one is not None and two is not None and torch.equal(one, two) for one, two in zip(*grads, strict=True))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_policy_that_goes_on_from_an_adapter_begins_as_it(load: Load, tmp_path: Path, weight: float) -> None:
    transformer = load()
    folder = mixed(tmp_path / "start", transformer)
    expected, base = served(folder, load(), weight), still(transformer)
    policy = begin(transformer, start=found(folder, transformer, weight))
    assert torch.equal(still(transformer), expected)
    assert relative(expected, base) > 0.01
    learn(policy)
    with policy.reference():
        assert torch.equal(velocity(transformer), expected)
    assert relative(still(transformer), expected) > 0.01
    assert "transformer_blocks.1.attn.to_add_out.lora_A" not in policy.parameters
    assert [len(each) for name, each in policy.parameters.items() if name.endswith("A")] == [2, 5, 4, 3, 4]


def test_the_average_follows_the_weights_and_gives_them_back(load: Load) -> None:
    transformer = load()
    policy = begin(transformer)
    first = {name: parameter.detach().clone() for name, parameter in policy.parameters.items()}
    learn(policy)
    policy.average(0.9)
    now = still(transformer)
    weights = {name: parameter.detach().clone() for name, parameter in policy.parameters.items()}
    with policy.averaged():
        for name, parameter in policy.parameters.items():
            assert torch.allclose(parameter, 0.9 * first[name] + 0.1 * weights[name])
        assert not torch.equal(still(transformer), now)
    assert torch.equal(still(transformer), now)


def test_an_exception_puts_the_weights_back(load: Load) -> None:
    transformer = load()
    policy = begin(transformer)
    learn(policy)
    now = still(transformer)
    for place in (policy.averaged, policy.reference):
        with pytest.raises(ZeroDivisionError):
            fail_within(place())
        assert torch.equal(still(transformer), now)
    assert all(parameter.requires_grad for parameter in policy.parameters.values())


def test_a_state_is_taken_over_exactly(load: Load) -> None:
    policy, other = begin(load()), begin(load(), seed=1)
    learn(policy)
    policy.average(0.5)
    learn(policy, seed=8)
    assert policy.state().keys() == {name for each in policy.parameters for name in (each, f"ema.{each}")}
    other.load(policy.state())
    assert all(torch.equal(tensor, policy.state()[name]) for name, tensor in other.state().items())
    before = other.state()["transformer_blocks.0.attn.to_q.lora_A"].clone()
    learn(policy)
    assert torch.equal(other.parameters["transformer_blocks.0.attn.to_q.lora_A"], before)


@pytest.mark.parametrize("change", ["rank", "targets"])
def test_the_state_of_another_adapter_is_refused(load: Load, change: str) -> None:
    other = begin(load(), rank=4) if change == "rank" else begin(load(), targets=("to_q",))
    with pytest.raises(InputError, match="the weights belong to another adapter: "):
        begin(load()).load(other.state())


@pytest.fixture(params=["uniform", "mixed", "averaged"])
def trained(request: pytest.FixtureRequest, load: Load, tmp_path: Path) -> Iterator[tuple[Policy, torch.Tensor, bool]]:
    """A policy, its velocity, and whether that is the average's."""
    transformer = load()
    start = found(mixed(tmp_path / "start", transformer), transformer, 0.3) if request.param == "mixed" else None
    policy = begin(transformer, start=start)
    learn(policy)
    if request.param == "averaged":
        policy.average(0.5)
        with policy.averaged():
            yield policy, still(transformer), True
    else:
        yield policy, still(transformer), False


Trained = tuple[Policy, torch.Tensor, bool]


def test_the_engine_puts_on_what_was_saved(load: Load, trained: Trained, tmp_path: Path) -> None:
    policy, expected, averaged = trained
    assert torch.equal(served(saved(policy, tmp_path / "out", averaged=averaged), load()), expected)


def test_peft_loads_what_was_saved(load: Load, trained: Trained, tmp_path: Path) -> None:
    policy, expected, averaged = trained
    tuned: Any = peft.PeftModel.from_pretrained(load(), str(saved(policy, tmp_path / "out", averaged=averaged)))
    assert torch.equal(still(tuned.base_model.model), expected)


def test_diffusers_loads_what_was_saved(load: Load, trained: Trained, tmp_path: Path) -> None:
    policy, expected, averaged = trained
    transformer = load()
    folder = saved(policy, tmp_path / "out", averaged=averaged)
    transformer.load_lora_adapter(folder, prefix="base_model.model", weight_name="adapter_model.safetensors")
    assert torch.equal(still(transformer), expected)


def test_a_file_without_its_config_has_the_same_scale(load: Load, trained: Trained, tmp_path: Path) -> None:
    policy, expected, averaged = trained
    folder = saved(policy, tmp_path / "out", averaged=averaged)
    (folder / "adapter_config.json").unlink()
    assert torch.equal(served(folder / "adapter_model.safetensors", load()), expected)


def test_the_comfyui_file_is_the_same_adapter(load: Load, trained: Trained, tmp_path: Path) -> None:
    policy, expected, averaged = trained
    file = tmp_path / "comfyui" / "adapter.safetensors"
    policy.save_comfyui(file, averaged=averaged)
    assert relative(served(file, load()), expected) < 1e-6
    transformer = load()
    state, metadata = QwenImageLayeredPipeline.lora_state_dict(file.parent, weight_name=file.name, return_lora_metadata=True)
    QwenImageLayeredPipeline.load_lora_into_transformer(state, transformer, metadata=metadata)
    # Its loader multiplies A by the scale.
    assert relative(still(transformer), expected) < 1e-5


def test_over_bfloat16_the_engine_and_peft_have_the_same_velocity_and_diffusers_rounds(load: Load, tmp_path: Path) -> None:
    transformer = load(torch.bfloat16)
    policy = begin(transformer)
    learn(policy)
    expected, folder = still(transformer), saved(policy, tmp_path)
    assert torch.equal(served(folder, load(torch.bfloat16)), expected)
    tuned: Any = peft.PeftModel.from_pretrained(load(torch.bfloat16), str(folder))
    assert torch.equal(still(tuned.base_model.model), expected)
    theirs = load(torch.bfloat16)
    theirs.load_lora_adapter(folder, prefix="base_model.model", weight_name="adapter_model.safetensors")
    # It keeps the adapter in the base's own dtype.
    assert theirs.get_submodule("transformer_blocks.0.attn.to_q.lora_A.default_0").weight.dtype == torch.bfloat16
    assert relative(still(theirs), expected) < 0.03


def test_the_config_is_written_for_people_to_read(load: Load, tmp_path: Path) -> None:
    embedding = tmp_path / "kept.safetensors"
    save_file({"embedding": torch.ones(2)}, embedding)
    folder = saved(begin(load(), targets=("to_q", "to_add_out")), tmp_path / "out", embedding=embedding)
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["attn.to_q", "attn.to_add_out"],
        "exclude_modules": ["transformer_blocks.1.attn.to_add_out"],
        "lora_dropout": 0.0,
        "bias": "none",
        "base_model_name_or_path": "Qwen/Qwen-Image-Layered",
        "inference_mode": True,
    }
    adapter = find_adapter(folder, name="mine")
    assert (adapter.preset, adapter.base_model) == ("stable-layers", "Qwen/Qwen-Image-Layered")
    assert adapter.prompt_embedding is not None
    assert torch.equal(load_file(adapter.prompt_embedding)["embedding"], torch.ones(2))
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "layerctl.json", "prompt_embedding.safetensors",
    ]  # fmt: skip


def test_an_embedding_of_another_prompt_does_not_stay(load: Load, tmp_path: Path) -> None:
    folder, policy = tmp_path / "out", begin(load(), targets=("to_q",))
    save_file({"embedding": torch.ones(2)}, tmp_path / "kept.safetensors")
    saved(policy, folder, embedding=tmp_path / "kept.safetensors")
    assert find_adapter(saved(policy, folder), name="mine").prompt_embedding is None


def test_ranks_that_differ_are_named(load: Load, tmp_path: Path) -> None:
    transformer = load()
    policy = begin(transformer, start=found(mixed(tmp_path / "start", transformer), transformer))
    config = json.loads((saved(policy, tmp_path / "out") / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (4, {"img_in": 2, "img_mod.1": 5, "attn.to_v": 3})
    assert config["lora_alpha"] == 3
    assert config["alpha_pattern"] == {"img_in": 1.0, "img_mod.1": 2.5, "transformer_blocks.1.attn.to_q": 2.0}
    assert config["exclude_modules"] == ["transformer_blocks.1.img_mod.1", "transformer_blocks.1.attn.to_v"]


def test_what_cannot_be_written_is_said_and_leaves_nothing(load: Load, tmp_path: Path) -> None:
    blocked = tmp_path / "adapter_model.safetensors"
    blocked.mkdir()
    with pytest.raises(OutputError, match=r"adapter_model\.safetensors cannot be written"):
        saved(begin(load()), tmp_path)
    assert list(tmp_path.iterdir()) == [blocked]


def test_the_published_model_has_so_many_parameters() -> None:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(dict(PUBLISHED_TRANSFORMER))
    linears = linear_modules(transformer)
    layers = trainable_targets(transformer, TARGETS)
    assert len(layers) == 716
    assert sum(64 * sum(linears[layer]) for layer in layers) == 421_920_768
