from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from layerctl.engines.qwen.adapters import Adapter, attach, find_adapter
from layerctl.engines.qwen.fuse import fuse
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules, read_lora
from layerctl.errors import UsageError


def base(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    model: Any = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        use_additional_t_cond=True,
        use_layer3d_rope=True,
    )
    return model.to(dtype).eval()


def probe(model: torch.nn.Module) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    picture, text = (torch.randn(1, tokens, 16, generator=generator).to(dtype) for tokens in (18, 4))

    def velocity() -> torch.Tensor:
        return model(
            hidden_states=picture,
            timestep=torch.tensor([0.7], dtype=dtype),
            encoder_hidden_states=text,
            img_shapes=[[(1, 2, 3)] * 3],
            additional_t_cond=torch.zeros(1, dtype=torch.long),
            return_dict=False,
        )[0].detach()

    return velocity


def adapter(folder: Path, model: torch.nn.Module, share: float, *, weight: float = 1.0, seed: int = 3) -> tuple[Adapter, LoraPlan]:
    """An adapter of rank 4 on every linear layer of the blocks, with |delta| / |W| = `share`."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in linear_modules(model).items():
        if not name.startswith("transformer_blocks"):
            continue
        down, up = torch.randn(4, columns, generator=generator), torch.randn(rows, 4, generator=generator)
        size = torch.linalg.norm(model.get_parameter(f"{name}.weight").float()) / torch.linalg.norm(up @ down)
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up * size * share}
    folder.mkdir()
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    found = find_adapter(folder, name=folder.name, weight=weight)
    return found, read_lora(found, linear_modules(model))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_float32_weights_are_fused_and_no_adapter_is_left(tmp_path: Path) -> None:
    model = base(torch.float32)
    mine, plan = adapter(tmp_path / "mine", model, 0.003)
    layers = set(linear_modules(model))
    report = fuse(model, [mine], [plan], probe(model))
    unfused = base(torch.float32)
    attach(unfused, [mine], [plan])
    assert report.fused
    assert report.relative_error < 1e-3
    assert set(linear_modules(model)) == layers
    torch.testing.assert_close(probe(model)(), probe(unfused)())


def test_a_small_adapter_is_rounded_away_in_bf16_so_that_it_stays_unfused(tmp_path: Path) -> None:
    model = base(torch.bfloat16)
    untouched = weights(model)
    mine, plan = adapter(tmp_path / "mine", model, 0.001)
    report = fuse(model, [mine], [plan], probe(model))
    assert not report.fused
    assert report.relative_error > 0.3
    unfused = base(torch.bfloat16)
    attach(unfused, [mine], [plan])
    assert torch.equal(probe(model)(), probe(unfused)())
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    assert all(torch.equal(kept[name], tensor) for name, tensor in untouched.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_limit_decides(tmp_path: Path) -> None:
    model = base(torch.bfloat16)
    mine, plan = adapter(tmp_path / "mine", model, 0.1)
    error = fuse(model, [mine], [plan], probe(model), limit=0.0).relative_error
    assert 0 < error < 0.5
    assert not fuse(model, [mine], [plan], probe(model), limit=error * 0.99).fused
    again = fuse(model, [mine], [plan], probe(model), limit=error)
    assert (again.relative_error, again.fused) == (error, True)


def test_fusing_replaces_what_was_attached(tmp_path: Path) -> None:
    model, fresh = base(torch.float32), base(torch.float32)
    (mine, plan), (other, other_plan) = adapter(tmp_path / "a", fresh, 0.1), adapter(tmp_path / "b", fresh, 0.1, seed=4)
    attach(model, [other], [other_plan])
    assert fuse(model, [mine], [plan], probe(model)).fused
    assert fuse(fresh, [mine], [plan], probe(fresh)).fused
    assert torch.equal(probe(model)(), probe(fresh)())


def test_several_adapters_are_rounded_once(tmp_path: Path) -> None:
    model = base(torch.bfloat16)
    untouched = weights(model)
    pairs = [adapter(tmp_path / "a", model, 0.01), adapter(tmp_path / "b", model, 0.01, weight=0.5, seed=4)]
    fuse(model, [mine for mine, _ in pairs], [plan for _, plan in pairs], probe(model), limit=float("inf"))
    for layer in pairs[0][1].pairs:
        exact = untouched[f"{layer}.weight"].float()
        for mine, _ in pairs:
            stored = load_file(mine.file)
            delta = stored[f"transformer.{layer}.lora_B.weight"] @ stored[f"transformer.{layer}.lora_A.weight"]
            exact = exact + mine.weight * delta
        assert torch.equal(model.get_submodule(layer).weight, exact.bfloat16()), layer


def test_an_adapter_of_no_effect_is_fused_without_error(tmp_path: Path) -> None:
    model = base(torch.bfloat16)
    mine, plan = adapter(tmp_path / "mine", model, 0.01, weight=0.0)
    report = fuse(model, [mine], [plan], probe(model))
    assert (report.relative_error, report.fused) == (0.0, True)


def test_a_velocity_that_is_no_number_is_not_fused(tmp_path: Path) -> None:
    model = base(torch.float32)
    mine, plan = adapter(tmp_path / "mine", model, 0.01)
    assert not fuse(model, [mine], [plan], lambda: torch.full((2,), float("nan"))).fused


def test_quantised_weights_are_refused_before_anything_is_changed(tmp_path: Path) -> None:
    from torchao import quantization

    model = base(torch.bfloat16)
    mine, plan = adapter(tmp_path / "mine", model, 0.01)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    velocity = probe(model)
    untouched, layers = velocity(), set(linear_modules(model))
    with pytest.raises(UsageError, match=r"--fuse: the weight of transformer_blocks\.\S+ is quantised \(Int8Tensor"):
        fuse(model, [mine], [plan], velocity)
    assert torch.equal(velocity(), untouched)
    assert set(linear_modules(model)) == layers


def test_weights_that_are_only_stored_in_eight_bits_are_refused_too(tmp_path: Path) -> None:
    model = base(torch.float32)
    mine, plan = adapter(tmp_path / "mine", model, 0.01)
    layer = model.get_submodule("transformer_blocks.0.attn.to_q")
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(UsageError, match=r"to_q is quantised \(Parameter of torch\.float8_e4m3fn\)"):
        fuse(model, [mine], [plan], probe(model))
