from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerctl.engines.qwen import sizes
from layerctl.engines.qwen.checkpoint import Checkpoint
from layerctl.engines.qwen.devices import Device, Machine
from layerctl.engines.qwen.memory import (
    GB,
    PUBLISHED,
    Configs,
    Job,
    configs_of,
    estimate_seconds,
    next_smaller,
    plan_memory,
    possible_plans,
)
from layerctl.errors import OutOfMemoryError, UsageError

TRANSFORMER, VAE, TEXT_ENCODER = sizes.PUBLISHED_TRANSFORMER, sizes.PUBLISHED_VAE, sizes.PUBLISHED_TEXT_ENCODER
SMALL_TRANSFORMER = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": [4, 6, 6],
}
SMALL_VAE = {"base_dim": 16, "dim_mult": [1, 2, 3], "num_res_blocks": 1, "temperal_downsample": [True, False], "z_dim": 4}
SMALL_TEXT = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 20, "num_heads": 2, "out_hidden_size": 16}


def transformer(config: sizes.Config) -> Any:
    import diffusers

    build: Any = diffusers.QwenImageTransformer2DModel
    return build(**config)


def vae(config: sizes.Config) -> Any:
    import diffusers

    build: Any = diffusers.AutoencoderKLQwenImage
    return build(**config)


def text_encoder(config: sizes.Config) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))


@pytest.mark.parametrize(
    ("build", "weights", "config"),
    [
        (transformer, sizes.transformer_weights, TRANSFORMER),
        (transformer, sizes.transformer_weights, SMALL_TRANSFORMER),
        (transformer, sizes.transformer_weights, SMALL_TRANSFORMER | {"use_additional_t_cond": True, "out_channels": None}),
        (vae, sizes.vae_weights, VAE),
        (vae, sizes.vae_weights, SMALL_VAE),
        (text_encoder, sizes.text_encoder_weights, TEXT_ENCODER),
        (text_encoder, sizes.text_encoder_weights, SMALL_TEXT | {"num_key_value_heads": 2, "vision_config": SMALL_VISION}),
        (text_encoder, sizes.text_encoder_weights, {"text_config": SMALL_TEXT | {"num_key_value_heads": 4}, "vision_config": SMALL_VISION}),
        (
            text_encoder,
            sizes.text_encoder_weights,
            SMALL_TEXT | {"num_key_value_heads": 1, "tie_word_embeddings": True, "vision_config": SMALL_VISION},
        ),
    ],
)
def test_parameters_by_formula_are_those_of_the_built_network(
    build: Callable[[sizes.Config], Any], weights: Callable[[sizes.Config], sizes.Weights], config: sizes.Config
) -> None:
    with torch.device("meta"):
        network = build(config)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert weights(config).parameters == counted
    assert weights(config).bytes("bf16") == 2 * counted
    assert weights(config).bytes("fp32") == 4 * counted


def test_the_config_that_transformers_writes_is_read_as_the_flat_one() -> None:
    from transformers import Qwen2_5_VLConfig

    nested = json.loads(Qwen2_5_VLConfig(**TEXT_ENCODER).to_json_string())
    assert "text_config" in nested
    assert sizes.text_encoder_weights(nested) == sizes.text_encoder_weights(TEXT_ENCODER)


def test_8_bit_matrices_take_the_bytes_that_torchao_stores() -> None:
    from torchao import quantization as torchao

    rows, columns = 24, 40
    layer: Any = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    stored = layer.weight
    assert sizes.Linear(1, rows, columns).bytes("int8") == stored.qdata.nbytes + stored.scale.nbytes


def test_4_bit_matrices_take_half_a_byte_with_their_scales_and_are_padded_to_1024_columns() -> None:
    assert sizes.Linear(2, 8, 1024).bytes("int4") == 2 * 8 * (512 + 8 * 4)
    assert sizes.Linear(1, 3072, 3584).bytes("int4") == sizes.Linear(1, 3072, 4096).bytes("int4")


def test_one_evaluation_is_0_198_petaflop_at_640_pixels_with_4_layers() -> None:
    assert sizes.transformer_flops(TRANSFORMER, 6 * 1600, 20) == pytest.approx(0.198e15, rel=0.01)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all tensors alive that are no weights of `network`."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.alive or key in self.weights:
            return
        self.alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def in_bf16(network: Any) -> Any:
    """As `.to(torch.bfloat16)`, which fake parameters do not take."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)
    return network


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16)


@pytest.mark.parametrize(("width", "height", "layers", "text_tokens"), [(640, 640, 4, 20), (1024, 768, 6, 1024)])
def test_the_most_memory_of_an_evaluation_is_that_of_the_full_size_network(width: int, height: int, layers: int, text_tokens: int) -> None:
    rows, columns, frames = height // 16, width // 16, layers + 2
    tokens = rows * columns * frames
    with FakeTensorMode(), torch.no_grad():
        network = in_bf16(transformer({**TRANSFORMER, "num_layers": 2}))
        state, prompt = empty(1, tokens, 64), empty(1, text_tokens, 3584)
        with LiveBytes(network) as live:
            network(
                state,
                encoder_hidden_states=prompt,
                timestep=torch.ones(1),
                img_shapes=[[(1, rows, columns)] * frames],
                additional_t_cond=torch.zeros(1, dtype=torch.long),
            )
    assert sizes.transformer_activations(TRANSFORMER, tokens, text_tokens, "bf16") == pytest.approx(live.peak, rel=0.1)


@pytest.mark.parametrize(("width", "height"), [(640, 640), (1024, 768)])
def test_the_most_memory_of_the_vae_is_that_of_the_full_size_network(width: int, height: int) -> None:
    with FakeTensorMode(), torch.no_grad():
        network = in_bf16(vae(VAE))
        with LiveBytes(network) as encoding:
            network.encode(empty(1, 4, 1, height, width))
        with LiveBytes(network) as decoding:
            network.decode(empty(1, 16, 1, height // 8, width // 8))
    assert sizes.encode_activations(VAE, width * height, "bf16") == pytest.approx(encoding.peak, rel=0.1)
    assert sizes.decode_activations(VAE, width * height, "bf16") == pytest.approx(decoding.peak, rel=0.1)


def test_the_most_memory_of_reading_a_prompt_is_that_of_the_full_size_text_encoder() -> None:
    text_tokens = 1024
    config = {**TEXT_ENCODER, "num_hidden_layers": 4, "vision_config": {**TEXT_ENCODER["vision_config"], "depth": 1}}
    with FakeTensorMode(), torch.no_grad():
        network = in_bf16(text_encoder(config))
        tokens = torch.ones(1, text_tokens, dtype=torch.long)
        with LiveBytes(network) as live:
            network(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
    assert sizes.text_encoder_activations(config, text_tokens, 0, "bf16") == pytest.approx(live.peak, rel=0.1)


def test_the_most_memory_of_looking_at_a_picture_is_that_of_the_full_size_vision_blocks() -> None:
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

    vision = {**TEXT_ENCODER["vision_config"], "depth": 2, "fullatt_block_indexes": [1]}
    build: Any = modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel._from_config
    network = build(Qwen2_5_VLConfig(vision_config=vision).vision_config).to(torch.bfloat16)
    side = 24
    patches = torch.zeros(side * side, 3 * 2 * 14 * 14, dtype=torch.bfloat16)
    with torch.no_grad(), LiveBytes(network) as live:
        network(patches, grid_thw=torch.tensor([[1, side, side]]))
    config = {**TEXT_ENCODER, "num_hidden_layers": 1, "vision_config": vision}
    assert sizes.text_encoder_activations(config, 0, (14 * side) ** 2, "bf16") == pytest.approx(live.peak, rel=0.1)


RELEASE = Job(640, 640, 4, evaluations=99, guided=False, needs_text_encoder=False, caption=False, text_tokens=20)
CAPTIONED = Job(640, 640, 4, evaluations=100, guided=True, needs_text_encoder=True, caption=True)


def machine(device: Device, free: float, host: float) -> Machine:
    """`free`, `host`: gigabytes that are free; for CUDA what the driver leaves of a card sold with a little more."""
    return Machine(device, "a test's machine", round(free * GB), round(free * GB), round(host * GB), round(host * GB))


CARD_16, CARD_24, CARD_48, CARD_80, CARD_141 = (machine("cuda", free, 60) for free in (15.5, 23.4, 44.2, 79, 139))
SMALL_HOST_24 = machine("cuda", 23.4, 30)
MAC_64, MAC_32, CPU_16 = machine("mps", 48, 48), machine("mps", 24, 24), machine("cpu", 15, 15)


@pytest.mark.parametrize(
    ("computer", "job", "flags"),
    [
        (CARD_141, CAPTIONED, "--precision bf16 --offload none"),
        (CARD_80, CAPTIONED, "--precision bf16 --offload none"),
        (CARD_80, RELEASE, "--precision bf16 --offload none"),
        (CARD_48, RELEASE, "--precision bf16 --offload none"),
        (CARD_48, CAPTIONED, "--precision bf16 --offload model"),
        (CARD_24, RELEASE, "--precision bf16 --offload group"),
        (SMALL_HOST_24, RELEASE, "--precision int8 --offload none"),
        (MAC_64, RELEASE, "--precision bf16"),
        (MAC_64, CAPTIONED, "--precision int8"),
        (MAC_32, RELEASE, "--precision int8"),
    ],
)
def test_every_machine_gets_the_first_plan_that_fits(computer: Machine, job: Job, flags: str) -> None:
    plan = plan_memory(PUBLISHED, job, computer)
    assert plan.fits
    assert plan.flags == flags
    assert plan.device_bytes <= computer.device_free


def test_all_parts_in_bf16_are_too_much_for_48_gigabytes_and_the_error_says_what_would_fit() -> None:
    with pytest.raises(OutOfMemoryError, match=r"--precision bf16 --offload none needs 59\.0 GB .* 44\.2 GB are free") as caught:
        plan_memory(PUBLISHED, CAPTIONED, CARD_48, precision="bf16", offload="none")
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("what would fit: --precision bf16 --offload model   or   ")


@pytest.mark.parametrize("computer", [machine("cuda", 15.5, 40), machine("cuda", 23.4, 40)])
def test_4_bit_weights_in_turns_run_on_16_to_24_gigabytes(computer: Machine) -> None:
    for job in (RELEASE, CAPTIONED):
        assert plan_memory(PUBLISHED, job, computer, precision="int4", offload="model").fits


def test_a_text_encoder_that_no_turn_on_the_device_is_large_enough_for_runs_on_the_cpu() -> None:
    for computer, where in ((CARD_16, "on the CPU"), (CARD_24, "in turns")):
        plan = plan_memory(PUBLISHED, CAPTIONED, computer, precision="int4", offload="model")
        assert [part.where for part in plan.parts] == ["in turns", "in turns", where]


def test_where_captions_are_what_does_not_fit_a_prompt_is_advised() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        plan_memory(PUBLISHED, CAPTIONED, SMALL_HOST_24)
    assert "--prompt TEXT" in str(caught.value.hint)
    plan_memory(PUBLISHED, replace(CAPTIONED, needs_text_encoder=False, caption=False), SMALL_HOST_24)


def test_the_text_encoder_counts_only_where_it_is_needed() -> None:
    without = plan_memory(PUBLISHED, RELEASE, CARD_141)
    assert [part.name for part in without.parts] == ["transformer", "VAE"]
    assert plan_memory(PUBLISHED, CAPTIONED, CARD_141).device_bytes - without.device_bytes > 15 * GB


def test_offloading_moves_bytes_from_the_card_to_main_memory() -> None:
    kept, turns, streamed = possible_plans(PUBLISHED, RELEASE, CARD_141, precision="bf16")
    assert kept.device_bytes > turns.device_bytes > streamed.device_bytes
    assert streamed.device_bytes < 4 * GB
    assert kept.host_bytes < turns.host_bytes == streamed.host_bytes


def test_too_little_main_memory_is_what_an_offloading_plan_can_lack() -> None:
    with pytest.raises(OutOfMemoryError, match=r"of main memory, and 30\.0 GB are free"):
        plan_memory(PUBLISHED, RELEASE, SMALL_HOST_24, precision="bf16", offload="group")


def test_a_picture_too_large_for_the_wishes_is_told_which_size_and_how_many_layers_fit() -> None:
    large = replace(RELEASE, width=1024, height=1024, layers=20)
    with pytest.raises(OutOfMemoryError, match="1024 × 1024 pixels in 20 layers") as caught:
        plan_memory(PUBLISHED, large, CARD_16, precision="int4", offload="none")
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("--size 640   or   --layers 5")
    for smaller in (replace(large, width=640, height=640), replace(large, layers=5)):
        assert plan_memory(PUBLISHED, smaller, CARD_16, precision="int4", offload="none").fits


def test_where_nothing_fits_the_embedded_engine_is_named() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        plan_memory(PUBLISHED, RELEASE, CPU_16)
    assert caught.value.hint is not None
    assert "--engine classic" in caught.value.hint


@pytest.mark.parametrize(("precision", "offload"), [("int4", "auto"), ("auto", "group"), ("fp8", "auto"), ("auto", "disk")])
def test_a_wish_that_the_device_cannot_have_is_a_usage_error(precision: str, offload: str) -> None:
    with pytest.raises(UsageError, match="does not work on mps"):
        plan_memory(PUBLISHED, RELEASE, MAC_64, precision=precision, offload=offload)


def test_after_a_true_out_of_memory_error_the_next_smaller_plan_is_named() -> None:
    plan = plan_memory(PUBLISHED, RELEASE, CARD_80)
    assert next_smaller(plan, PUBLISHED, RELEASE, CARD_80) == "--precision bf16 --offload group"
    least = plan_memory(PUBLISHED, RELEASE, CARD_80, precision="int4", offload="group")
    assert next_smaller(least, PUBLISHED, RELEASE, CARD_80) == "--size 512"
    tiny = replace(RELEASE, width=16, height=16, layers=2)
    assert next_smaller(least, PUBLISHED, tiny, replace(CARD_80, device_free=GB)) is None


def test_time_is_that_of_half_the_matrix_rate_or_of_streaming_where_that_is_slower() -> None:
    assert estimate_seconds(100, 99, 200.0) == pytest.approx(99)
    assert estimate_seconds(100, 10, 200.0, streamed=40_000_000_000) == pytest.approx(20)
    assert estimate_seconds(100, 10, 200.0, moved=40_000_000_000) == pytest.approx(12)
    plan = plan_memory(PUBLISHED, RELEASE, CARD_141, rate=700e12)
    assert plan.seconds == pytest.approx(99 * 0.199e15 / 350e12, rel=0.01)


def test_weights_stored_in_fp32_are_computed_in_fp32_on_the_cpu_alone() -> None:
    configs = Configs(SMALL_TRANSFORMER, SMALL_VAE, None, stored="fp32")
    assert plan_memory(configs, RELEASE, CPU_16).precision == "fp32"
    assert plan_memory(configs, RELEASE, CARD_16).precision == "bf16"


def test_the_configs_of_a_checkpoint_come_with_the_type_of_its_weights(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "tiny", None, {}, {"transformer": SMALL_TRANSFORMER, "vae": SMALL_VAE})
    read = configs_of(checkpoint)
    assert (read.transformer, read.text_encoder, read.stored) == (SMALL_TRANSFORMER, None, "bf16")
    (tmp_path / "transformer").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    assert configs_of(checkpoint).stored == "fp32"
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 40)
    assert configs_of(checkpoint).stored == "bf16"
