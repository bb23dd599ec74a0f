from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from layerctl.engines.qwen.adapters import Adapter, attach, detach, find_adapter
from layerctl.engines.qwen.lora_keys import linear_modules, read_lora
from layerctl.errors import InputError, UsageError
from layerctl.manifest import hash_file

TARGETS = ["to_q", "to_v", "add_k_proj", "to_out.0", "img_mlp.net.0.proj"]


def base(dtype: torch.dtype = torch.float32) -> Any:
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


@torch.no_grad()
def velocity(model: torch.nn.Module) -> torch.Tensor:
    """One evaluation, one visible layer at 2 x 3 tokens, an input that stays the same."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    return model(
        hidden_states=torch.randn(1, 18, 16, generator=generator).to(dtype),
        timestep=torch.tensor([0.7], dtype=dtype),
        encoder_hidden_states=torch.randn(1, 4, 16, generator=generator).to(dtype),
        img_shapes=[[(1, 2, 3)] * 3],
        additional_t_cond=torch.zeros(1, dtype=torch.long),
        return_dict=False,
    )[0]


def train(
    folder: Path,
    *,
    seed: int = 5,
    rank: int = 3,
    alpha: int = 6,
    rank_pattern: dict[str, int] | None = None,
    targets: Sequence[str] = TARGETS,
) -> Path:
    """A folder as PEFT writes it, with random values in both halves of every pair."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), rank_pattern=rank_pattern or {})
    tuned = peft.get_peft_model(base(), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    with warnings.catch_warnings():
        # PEFT asks the Hub for the base's vocabulary here, in vain.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        tuned.save_pretrained(str(folder))
    return folder


def put_on(model: torch.nn.Module, *adapters: Adapter) -> torch.Tensor:
    attach(model, adapters, [read_lora(adapter, linear_modules(model)) for adapter in adapters])
    return velocity(model)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (torch.linalg.norm(found.double() - expected.double()) / torch.linalg.norm(expected.double())).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_attached_adapter_gives_the_very_numbers_of_peft(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = train(tmp_path, rank_pattern={"to_q": 5})
    expected = velocity(peft.PeftModel.from_pretrained(base(dtype), str(folder)))
    model = base(dtype)
    untuned = velocity(model)
    found = put_on(model, find_adapter(folder, name="mine"))
    assert torch.equal(found, expected)
    assert relative(found, untuned) > 0.01


SPELLINGS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "diffusers": (lambda layer: f"transformer.{layer}.lora_A.weight", lambda layer: f"transformer.{layer}.lora_B.weight"),
    "diffusers of old": (lambda layer: f"transformer.{layer}.lora.down.weight", lambda layer: f"transformer.{layer}.lora.up.weight"),
    "ComfyUI": (lambda layer: f"diffusion_model.{layer}.lora_down.weight", lambda layer: f"diffusion_model.{layer}.lora_up.weight"),
    "kohya": (
        lambda layer: f"lora_unet_{layer.replace('.', '_')}.lora_down.weight",
        lambda layer: f"lora_unet_{layer.replace('.', '_')}.lora_up.weight",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_adapter_in_every_spelling_gives_the_same_velocity(tmp_path: Path, spelling: str) -> None:
    folder = train(tmp_path / "peft")
    down, up = SPELLINGS[spelling]
    written = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        layer, _, half = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        written[down(layer) if half == "lora_A" else up(layer)] = tensor
        written[down(layer).removesuffix(".weight").rpartition(".lora")[0] + ".alpha"] = torch.tensor(6.0)
    (tmp_path / "other").mkdir()
    save_file(written, tmp_path / "other" / "any_name.safetensors")
    expected = put_on(base(), find_adapter(folder, name="peft"))
    assert torch.equal(put_on(base(), find_adapter(tmp_path / "other", name="other")), expected)


def test_what_diffusers_saves_is_read_with_its_scale(tmp_path: Path) -> None:
    folder = train(tmp_path / "peft")
    theirs = base()
    theirs.load_lora_adapter(
        {key.removeprefix("base_model.model."): value for key, value in load_file(folder / "adapter_model.safetensors").items()},
        prefix=None,
        adapter_name="default",
        metadata={"r": 3, "lora_alpha": 6, "target_modules": TARGETS},
    )
    theirs.save_lora_adapter(tmp_path / "diffusers", adapter_name="default")
    expected = put_on(base(), find_adapter(folder, name="peft"))
    assert torch.equal(put_on(base(), find_adapter(tmp_path / "diffusers", name="theirs")), expected)


def test_several_adapters_add_up_by_their_weights(tmp_path: Path) -> None:
    a = find_adapter(train(tmp_path / "a", alpha=2), name="a")
    b = find_adapter(train(tmp_path / "b", seed=6, rank=2, alpha=3, rank_pattern={"to_v": 4}), name="b", weight=0.5)
    exact = base(torch.float64)
    for adapter in (a, b):
        stored = load_file(adapter.file)
        for layer, pair in read_lora(adapter, linear_modules(exact)).pairs.items():
            delta = stored[pair.up].double() @ stored[pair.down].double()
            exact.get_submodule(layer).weight.data += adapter.weight * pair.scale * delta
    found = put_on(base(), a, b)
    assert relative(found, velocity(exact)) < 1e-5
    assert relative(put_on(base(), a), velocity(exact)) > 0.01


def test_what_is_taken_off_leaves_the_base_exactly(tmp_path: Path) -> None:
    adapter = find_adapter(train(tmp_path), name="mine")
    model = base(torch.bfloat16)
    untuned, modules, weights = velocity(model), [str(type(module)) for module in model.modules()], model.state_dict()
    put_on(model, adapter)
    detach(model)
    assert torch.equal(velocity(model), untuned)
    assert [str(type(module)) for module in model.modules()] == modules
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in weights.items()
    }
    assert not hasattr(model, "peft_config")


def test_attaching_again_replaces_what_was_on(tmp_path: Path) -> None:
    a = find_adapter(train(tmp_path / "a"), name="a")
    b = find_adapter(train(tmp_path / "b", targets=["to_q"]), name="b")
    model = base()
    plans = [read_lora(adapter, linear_modules(model)) for adapter in (a, b)]
    attach(model, [a, b], plans)
    attach(model, [b], plans[1:])
    assert torch.equal(velocity(model), put_on(base(), b))


def test_attaching_draws_no_random_numbers_and_leaves_nothing_to_train(tmp_path: Path) -> None:
    adapter = find_adapter(train(tmp_path), name="mine")
    model = base()
    before = torch.get_rng_state()
    put_on(model, adapter)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_runs_on_weights_of_eight_bits(tmp_path: Path) -> None:
    from torchao import quantization

    adapter = find_adapter(train(tmp_path), name="mine")
    model, plain = base(torch.bfloat16), base(torch.bfloat16)
    plan = read_lora(adapter, linear_modules(model))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    untuned, plain_untuned = velocity(model), velocity(plain)
    attach(model, [adapter], [plan])
    attach(plain, [adapter], [plan])
    assert type(model.get_submodule("transformer_blocks.0.attn.to_q").base_layer.weight) is not torch.nn.Parameter
    assert relative(velocity(model) - untuned, velocity(plain) - plain_untuned) < 0.1
    detach(model)
    assert torch.equal(velocity(model), untuned)


def write(file: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors or {"a": torch.zeros(1)}, file)
    return file


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "model/adapter_model.safetensors", "adapter_model.safetensors"])
def test_the_only_file_is_found_in_the_folder_or_one_below(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    (tmp_path / "README.md").touch()
    found = find_adapter(tmp_path, name="mine", weight=0.5, revision="abc")
    assert (found.file, found.weight, found.revision, found.sha256) == (file, 0.5, "abc", hash_file(file))
    assert find_adapter(file, name="mine", weight=0.5, revision="abc") == found


def test_a_peft_folder_brings_its_config_preset_and_embedding(tmp_path: Path) -> None:
    write(tmp_path / "model" / "adapter_model.safetensors")
    embedding = write(tmp_path / "model" / "prompt_embedding.safetensors")
    (tmp_path / "model" / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "Qwen/Qwen-Image-Layered"}')
    (tmp_path / "model" / "layerctl.json").write_text('{"preset": "stable-layers", "prompt": "a clean, well composed image"}')
    write(tmp_path / "checkpoint.safetensors").rename(tmp_path / "model" / "checkpoint.safetensors")
    found = find_adapter(tmp_path, name="mine")
    assert found.config == {"r": 4, "base_model_name_or_path": "Qwen/Qwen-Image-Layered"}
    assert (found.preset, found.prompt) == ("stable-layers", "a clean, well composed image")
    assert (found.base_model, found.prompt_embedding) == ("Qwen/Qwen-Image-Layered", embedding)


def test_several_files_are_listed_and_one_has_to_be_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.safetensors")
    write(tmp_path / "b" / "two.safetensors")
    with pytest.raises(UsageError, match=r"several files: a/one\.safetensors, b/two\.safetensors") as caught:
        find_adapter(tmp_path, name="mine")
    assert "one.safetensors" in str(caught.value.hint)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_refused_for_they_run_code(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "model" / f"adapter_model{suffix}"
    file.parent.mkdir()
    file.touch()
    for place in (tmp_path, file):
        with pytest.raises(UsageError, match=f"adapter_model{suffix}, a pickle, which runs code"):
            find_adapter(place, name="mine")


@pytest.mark.parametrize(
    ("place", "message"), [(".", "no .safetensors file in"), ("absent", "is not at"), ("a.gguf", "no safetensors file")]
)
def test_where_no_adapter_is_the_error_says_so(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(UsageError, match=message):
        find_adapter(tmp_path / place, name="mine")


def test_an_adapter_may_ask_for_captions(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors")
    assert find_adapter(tmp_path, name="mine").prompt_mode is None
    (tmp_path / "layerctl.json").write_text('{"prompt_mode": "caption"}')
    assert find_adapter(tmp_path, name="mine").prompt_mode == "caption"


@pytest.mark.parametrize(
    "text", ["{", "[]", json.dumps({"preset": 4}), json.dumps({"prompt_mode": "aloud"}), json.dumps({"prompt_mode": 1})]
)
def test_a_damaged_json_file_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.safetensors")
    (tmp_path / "layerctl.json").write_text(text)
    with pytest.raises(InputError, match=r"layerctl\.json"):
        find_adapter(tmp_path, name="mine")


def test_a_weight_is_a_finite_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weight of the adapter mine is nan"):
        find_adapter(write(tmp_path / "a.safetensors"), name="mine", weight=float("nan"))
