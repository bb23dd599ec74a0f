from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from layerctl.engines.qwen.adapters import Adapter, find_adapter
from layerctl.engines.qwen.lora_keys import LoraPlan, linear_modules, read_lora
from layerctl.errors import InputError, UsageError

Q, OUT, MOD = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0", "transformer_blocks.1.img_mod.1"
MODULES = {Q: (8, 6), OUT: (8, 8), MOD: (48, 8)}
SHAPES = {f"{layer}.{half}": shape for layer, (rows, columns) in MODULES.items() for half, shape in (("A", (2, columns)), ("B", (rows, 2)))}


def key(spelling: str, layer: str, half: str) -> str:
    """The key of one half, "A" or "B", in the spelling with its example at the top of `lora_keys`."""
    return spelling.format(layer=layer, flat=layer.replace(".", "_"), half=half, way="down" if half == "A" else "up")


def write(folder: Path, tensors: Mapping[str, torch.Tensor], *, config: object = None, metadata: dict[str, str] | None = None) -> Adapter:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return find_adapter(folder, name="mine")


def tensors(spelling: str = "transformer.{layer}.lora_{half}.weight") -> dict[str, torch.Tensor]:
    return {key(spelling, *name.rsplit(".", 1)): torch.zeros(shape) for name, shape in SHAPES.items()}


def scales(plan: LoraPlan) -> dict[str, float]:
    return {layer: pair.scale for layer, pair in plan.pairs.items()}


@pytest.mark.parametrize(
    "spelling",
    [
        "base_model.model.{layer}.lora_{half}.weight",
        "base_model.model.{layer}.lora_{half}.default.weight",
        "base_model.model.transformer.{layer}.lora_{half}.weight",
        "{layer}.lora_{half}.weight",
        "transformer.{layer}.lora_{half}.weight",
        "transformer.{layer}.lora.{way}.weight",
        "diffusion_model.{layer}.lora_{half}.weight",
        "diffusion_model.{layer}.lora_{way}.weight",
        "model.diffusion_model.{layer}.lora_{way}.weight",
        "lora_unet_{flat}.lora_{way}.weight",
        "lycoris_{flat}.lora_{way}.weight",
    ],
)
def test_every_spelling_finds_the_same_layers(tmp_path: Path, spelling: str) -> None:
    plan = read_lora(write(tmp_path, tensors(spelling), config={"r": 2, "lora_alpha": 4}), MODULES)
    assert {layer: (pair.down, pair.up, pair.rank, pair.scale) for layer, pair in plan.pairs.items()} == {
        layer: (key(spelling, layer, "A"), key(spelling, layer, "B"), 2, 2.0) for layer in MODULES
    }
    assert plan.parameters == sum(math.prod(shape) for shape in SHAPES.values())


def test_an_alpha_tensor_sets_the_scale_of_its_layer_and_a_file_without_any_has_scale_one(tmp_path: Path) -> None:
    written = tensors("lora_unet_{flat}.lora_{way}.weight")
    assert scales(read_lora(write(tmp_path, written), MODULES)) == {Q: 1.0, OUT: 1.0, MOD: 1.0}
    written["lora_unet_transformer_blocks_0_attn_to_q.alpha"] = torch.tensor(1.0, dtype=torch.bfloat16)
    assert scales(read_lora(write(tmp_path, written), MODULES)) == {Q: 0.5, OUT: 1.0, MOD: 1.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 2, "lora_alpha": 3}, {Q: 1.5, OUT: 1.5, MOD: 1.5}),
        ({"r": 2, "lora_alpha": 3, "use_rslora": True}, dict.fromkeys(MODULES, 3 / math.sqrt(2))),
        ({"r": 2, "lora_alpha": 3, "alpha_pattern": {"to_q": 6}}, {Q: 3.0, OUT: 1.5, MOD: 1.5}),
        ({"r": 9, "lora_alpha": 2, "rank_pattern": {r"transformer_blocks\.[01]\..*": 2}}, {Q: 1.0, OUT: 1.0, MOD: 1.0}),
    ],
)
def test_the_scale_follows_the_config(tmp_path: Path, config: dict[str, Any], expected: dict[str, float]) -> None:
    assert scales(read_lora(write(tmp_path, tensors(), config=config), MODULES)) == expected


def test_the_config_that_diffusers_keeps_in_the_metadata_counts(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 8})}
    assert scales(read_lora(write(tmp_path, tensors(), metadata=metadata), MODULES)) == {Q: 4.0, OUT: 4.0, MOD: 4.0}


def test_peft_keys_without_their_config_are_refused_for_their_scale_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"adapter_config\.json, which is missing"):
        read_lora(write(tmp_path, tensors("base_model.model.{layer}.lora_{half}.weight")), MODULES)


def test_unmatched_keys_are_counted_and_the_first_eight_listed(tmp_path: Path) -> None:
    written = tensors() | {f"transformer.transformer_blocks.{block}.attn.to_q.lora_A.weight": torch.zeros(2, 6) for block in range(10, 20)}
    with pytest.raises(UsageError, match=r"10 of 16 keys fit no linear layer of the base: transformer\.tr.*") as caught:
        read_lora(write(tmp_path, written), MODULES)
    assert caught.value.message.count("lora_A") == 8
    assert caught.value.message.endswith(", ...")


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (f"transformer.{Q}.lora_magnitude_vector.weight", "DoRA"),
        ("lora_unet_transformer_blocks_0_attn_to_q.dora_scale", "DoRA"),
        ("lycoris_transformer_blocks_0_attn_to_q.lokr_w1", "LoKr"),
        (f"diffusion_model.{Q}.hada_w1_a", "LoHa"),
        (f"base_model.model.{Q}.oft_R.weight", "OFT"),
        (f"transformer.{Q}.lora_B.bias", "bias"),
        (f"diffusion_model.{Q}.diff_b", "bias"),
        (f"model.diffusion_model.{Q}.diff", "whole weights"),
        ("base_model.model.proj_out.modules_to_save.weight", "modules_to_save"),
        ("lora_unet_transformer_blocks_0_attn_to_q.lora_mid.weight", "LoCon"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_their_name(tmp_path: Path, extra: str, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"holds {kind} \({extra}\)$"):
        read_lora(write(tmp_path, tensors() | {extra: torch.zeros(2)}), MODULES)


@pytest.mark.parametrize(
    "option",
    [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["proj_out"]}, {"peft_type": "LOHA"}, {"init_lora_weights": "pissa_niter_4"}],
)
def test_options_that_are_not_plain_lora_are_refused_by_their_name(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"no plain LoRA: {next(iter(option))} = "):
        read_lora(write(tmp_path, tensors(), config={"r": 2} | option), MODULES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({f"transformer.{Q}.lora_A.weight": torch.zeros(2, 7)}, r"to_q\.lora_A\.weight is \[2, 7\], .* ask for \[2, 6\]"),
        ({f"transformer.{Q}.lora_B.weight": torch.zeros(9, 2)}, r"to_q\.lora_B\.weight is \[9, 2\], .* ask for \[8, 2\]"),
        ({f"transformer.{Q}.lora_B.weight": torch.zeros(8, 3)}, r"to_q\.lora_B\.weight is \[8, 3\], .* ask for \[8, 2\]"),
        ({f"transformer.{Q}.lora_A.weight": torch.zeros(2, 6, 1, 1)}, r"is \[2, 6, 1, 1\]"),
        (
            {f"transformer.{Q}.lora_A.weight": torch.zeros(0, 6), f"transformer.{Q}.lora_B.weight": torch.zeros(8, 0)},
            r"is \[0, 6\], which is rank 0",
        ),
        ({f"transformer.{Q}.lora_A.weight": torch.zeros(2, 6, dtype=torch.int8)}, r"lora_A\.weight is I8"),
        ({f"transformer.{Q}.alpha": torch.tensor(math.nan)}, r"to_q\.alpha is nan, not a number"),
        ({f"transformer.{Q}.alpha": torch.ones(2)}, r"to_q\.alpha is None, not a number"),
        ({f"{Q}.lora_A.weight": torch.zeros(2, 6)}, rf"has {Q} twice"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, changed: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_lora(write(tmp_path, tensors() | changed), MODULES)


@pytest.mark.parametrize(("half", "other"), [("A", "down"), ("B", "up")])
def test_half_a_pair_is_an_error(tmp_path: Path, half: str, other: str) -> None:
    written = tensors()
    del written[f"transformer.{Q}.lora_{half}.weight"]
    with pytest.raises(UsageError, match=f"without its {other} tensor"):
        read_lora(write(tmp_path, written), MODULES)


def test_a_config_of_another_rank_belongs_to_another_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has rank 2, its config says 16"):
        read_lora(write(tmp_path, tensors(), config={"r": 16}), MODULES)


def test_an_adapter_of_another_base_is_refused_and_both_are_said(tmp_path: Path) -> None:
    adapter = write(tmp_path, tensors(), config={"r": 2, "base_model_name_or_path": "Qwen/Qwen-Image"})
    with pytest.raises(UsageError, match=r"made for Qwen/Qwen-Image, the base in use is Qwen/Qwen-Image-Layered"):
        read_lora(adapter, MODULES, base="Qwen/Qwen-Image-Layered")
    for base in ("Qwen/Qwen-Image", "/models/layered", str(tmp_path), None):
        assert read_lora(adapter, MODULES, base=base).pairs


def test_an_adapter_that_was_trained_on_a_folder_needs_the_same_class(tmp_path: Path) -> None:
    def config(name: str) -> dict[str, Any]:
        return {"r": 2, "base_model_name_or_path": "/home/a/base", "auto_mapping": {"base_model_class": name}}

    same = write(tmp_path, tensors(), config=config("QwenImageTransformer2DModel"))
    assert read_lora(same, MODULES, base="Qwen/Qwen-Image-Layered").pairs
    other = write(tmp_path, tensors(), config=config("FluxTransformer2DModel"))
    with pytest.raises(UsageError, match=r"made for a FluxTransformer2DModel, the base in use is a QwenImageTransformer2DModel"):
        read_lora(other, MODULES, base="Qwen/Qwen-Image-Layered")


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    adapter = write(tmp_path, tensors())
    adapter.file.write_bytes(adapter.file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors cannot be read"):
        read_lora(adapter, MODULES)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tensors"):
        read_lora(write(tmp_path, {}), MODULES)


def test_linear_layers_are_listed_by_name_from_a_model_without_memory() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Sequential(torch.nn.Linear(5, 2)))
    assert linear_modules(model) == {"0": (5, 3), "2.0": (2, 5)}
