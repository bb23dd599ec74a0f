"""What a training run is expected to take, held against counts, against a real network, and against times that were measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layerctl_train import forecast
from layerctl_train.forecast import RunForecast, adapter_parameters, evaluation_times, find_configs, forecast_run, in_words, require_memory
from layerctl_train.run_config import RunConfig, resolve_run
from layerctl_train.training_settings import TARGETS, TrainingSettings
from safetensors.numpy import save_file

from layerctl.engines.qwen.checkpoint import read_checkpoint
from layerctl.engines.qwen.devices import Machine
from layerctl.engines.qwen.memory import GB, PUBLISHED, Configs, configs_of
from layerctl.engines.qwen.sizes import PUBLISHED_VAE, transformer_flops
from layerctl.errors import OutOfMemoryError
from layerctl.layers import LayerStack
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict, Usage

H200 = Machine("cuda", "NVIDIA H200", 139 * GB, 138 * GB, 128 * GB, 120 * GB)
CARD = dataclasses.replace(H200, name="NVIDIA RTX 4090", device_total=24 * GB, device_free=23 * GB)
H200_RATE = 790e12


class Counting:
    """A judge that cannot judge, and forecasts a request a candidate."""

    name = model = "counting"
    host = ""

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        raise AssertionError("a forecast asks no judge")

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        return Usage(calls=group, input_tokens=100 * layers * group, output_tokens=10 * group, cost=0.5)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def place(folder: Path) -> Path:
    return folder


def config(*assignments: str, recipe: str = "paper") -> RunConfig:
    return resolve_run(recipe, data="scenes:4", assignments=assignments, environ={})


def told(*assignments: str, machine: Machine = H200, configs: Configs = PUBLISHED, rate: float = H200_RATE, **wanted: Any) -> RunForecast:
    return forecast_run(config(*assignments), configs, machine, rate=rate, **wanted)


def need(found: RunForecast, name: str) -> int:
    (size,) = [each.bytes for each in found.needs if each.name.startswith(name)]
    return size


def test_an_adapter_has_as_many_parameters_as_on_the_real_network(tiny: Path) -> None:
    from layerctl_train.policy import trainable_targets

    from layerctl.engines.qwen.model import empty_part

    checkpoint = read_checkpoint(tiny, "tiny", None)
    modules = dict(empty_part(checkpoint, "transformer").named_modules())
    for targets in (TARGETS, ("to_q", "add_q_proj"), ("txt_mlp.net.2",)):
        layers = [modules[name] for name in trainable_targets(empty_part(checkpoint, "transformer"), targets)]
        counted = sum(3 * (layer.in_features + layer.out_features) for layer in layers)
        assert adapter_parameters(checkpoint.configs["transformer"], TrainingSettings(rank=3, targets=targets)) == counted


@pytest.mark.parametrize(("dtype", "element"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_block_keeps_as_much_for_its_backward_pass_as_a_real_one(dtype: torch.dtype, element: int) -> None:
    width, tokens, rank = 128, 5 * 12**2 + 4, 8
    counted = kept(3, dtype, rank) - kept(2, dtype, rank)
    floats = forecast.KEPT_FLOATS * forecast.FLOAT if element == 2 else 0
    formula = tokens * (width * (forecast.KEPT * element + floats) + rank * forecast.KEPT_RANKS * forecast.FLOAT)
    assert formula == pytest.approx(counted, rel=0.05)


def kept(blocks: int, dtype: torch.dtype, rank: int) -> int:
    """Bytes that a forward pass keeps, parameters apart, at 5 frames of 12 x 12 tokens and 4 of text."""
    from diffusers import QwenImageTransformer2DModel
    from layerctl_train.policy import Policy

    from layerctl.engines.qwen.model import quiet_libraries

    torch.set_num_threads(1)
    with quiet_libraries():
        network = QwenImageTransformer2DModel(
            num_layers=blocks, num_attention_heads=2, attention_head_dim=64, axes_dims_rope=(16, 24, 24), joint_attention_dim=16,
            use_additional_t_cond=True, use_layer3d_rope=True,
        ).to(dtype)  # fmt: skip
    Policy(network, rank=rank, alpha=rank, targets=TARGETS, seed=0)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(
            hidden_states=torch.ones(1, 5 * 12**2, 64, dtype=dtype),
            timestep=torch.tensor([0.5], dtype=dtype),
            encoder_hidden_states=torch.ones(1, 4, 16, dtype=dtype),
            img_shapes=[[(1, 12, 12)] * 5],
            additional_t_cond=torch.zeros(1, dtype=torch.long),
            return_dict=False,
        )[0]
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_memory_on_the_published_model_is_that_of_its_parts() -> None:
    found = told()
    assert need(found, "base weights") == pytest.approx(2 * 20.43e9, rel=0.01)
    parameters = adapter_parameters(PUBLISHED.transformer, TrainingSettings())
    assert need(found, "adapter") == 4 * 5 * parameters
    # 64 candidates: three states and two means of the window, and the end; 5 frames of 1600 tokens with 64 channels.
    assert need(found, "states") == 64 * 6 * 5 * 1600 * 64 * 4
    assert need(found, "inputs of all blocks") == 60 * found.tokens * 3072 * 2
    assert found.fits
    assert sum(each.bytes for each in found.needs if not each.turn) < found.device_bytes < sum(each.bytes for each in found.needs) * 1.1


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (["checkpointing=false"], []), ([], ["micro_batch=1", "rank=8"]), (["micro_batch=2"], []), (["layers=6"], []),
        (["start=runs/a"], []), (["prompt_mode=caption"], []), (["window=4"], []),
    ],
)  # fmt: skip
def test_what_takes_more_memory_is_told_so(more: list[str], less: list[str]) -> None:
    assert told(*more).device_bytes > told(*less).device_bytes


def test_an_adapter_to_start_from_is_counted_by_its_file(place: Path) -> None:
    halves = {"a.lora_A.weight": np.zeros((7, 30), np.float32), "a.lora_B.weight": np.zeros((40, 7), np.float32)}
    save_file({**halves, "a.alpha": np.ones((), np.float32)}, place / "mine.safetensors")
    own, other = told("start=mine.safetensors"), told("start=org/gone")
    assert need(own, "adapter") == 4 * 6 * 7 * (30 + 40)
    assert need(other, "adapter") == 4 * 6 * adapter_parameters(PUBLISHED.transformer, TrainingSettings())
    # What a block keeps for its backward pass goes with the rank, which is 7 instead of 64.
    image = 6 * 1600
    assert need(other, "one block") - need(own, "one block") == image * forecast.KEPT_RANKS * (64 - 7) * 4


def test_what_a_step_goes_back_to_waits_in_main_memory_where_that_is_another(place: Path) -> None:
    copies = 4 * 4 * adapter_parameters(PUBLISHED.transformer, TrainingSettings())
    one, more = told(), told("optimizer_steps=2")
    assert (one.host_bytes, more.host_bytes) == (0, copies)
    assert more.device_bytes == one.device_bytes
    cpu = Machine("cpu", "CPU", 200 * GB, 190 * GB, 200 * GB, 190 * GB)
    one, more = told(machine=cpu), told("optimizer_steps=2", machine=cpu)
    assert (more.host_bytes, more.device_bytes > one.device_bytes) == (0, True)
    assert need(more, "adapter before the step") == copies


def test_a_base_that_is_shared_goes_through_the_main_memory_of_each_process() -> None:
    assert told(world=8).host_bytes == 0
    found = told("shard=true", world=8)
    assert found.host_bytes == need(told(), "base weights")
    words = "\n".join(in_words(found, config("shard=true"), H200))
    assert "main memory: 38.1 GB a process, 120.0 GB are free" in words
    assert "WARNING: 8 processes on this machine need 304.4 GB of main memory" in words
    assert "WARNING" not in "\n".join(in_words(told("shard=true", world=2), config("shard=true"), H200))
    require_memory(config("shard=true"), PUBLISHED, H200, 8)
    small = dataclasses.replace(H200, host_total=32 * GB, host_free=30 * GB)
    assert not told("shard=true", machine=small, world=2).fits
    with pytest.raises(OutOfMemoryError, match=r"each process needs 38\.1 GB of main memory, and 30\.0 GB are free"):
        require_memory(config("shard=true"), PUBLISHED, small, 2)
    unknown = dataclasses.replace(H200, host_total=0, host_free=0)
    require_memory(config("shard=true"), PUBLISHED, unknown, 8)
    assert "WARNING" not in "\n".join(in_words(told("shard=true", machine=unknown, world=8), config("shard=true"), unknown))


def test_a_sharded_base_takes_its_share_and_two_blocks() -> None:
    whole, shared = need(told(world=8), "base weights"), need(told("shard=true", world=8), "base weights")
    assert whole / 8 < shared < whole / 8 + 3 * whole / 60


def test_a_run_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(OutOfMemoryError, match=r"training needs .* on NVIDIA RTX 4090, and 23\.0 GB are free") as caught:
        require_memory(config(), PUBLISHED, CARD, 1)
    assert "--set shard=true" in str(caught.value.hint)
    tight = dataclasses.replace(H200, device_free=100 * GB)
    with pytest.raises(OutOfMemoryError) as caught:
        require_memory(config("checkpointing=false"), PUBLISHED, tight, 1)
    assert "--set checkpointing=true" in str(caught.value.hint)
    require_memory(config(), PUBLISHED, tight, 1)


def test_evaluations_of_a_step_are_counted_by_what_they_are_for() -> None:
    plain = told("kl=0").work
    assert (plain.sampling, plain.replays, plain.reference, plain.recomputed) == (640, 128, 0, 0)
    assert told("kl=0.1").work.reference == 128
    assert told("compile=true").work.recomputed == 128
    # Windows begin at 1 to 3, so that 2 of 10 steps are common to 8 candidates, in the mean.
    assert told("shared_start=true").work.sampling == 8 * (2 + 8 * 8)
    assert told("shared_start=true", "window_mode=fixed").work.sampling == 8 * (1 + 8 * 9)
    supervised = told("method=sft", "sft_batch=5").work
    assert (supervised.sampling, supervised.replays, supervised.reference) == (0, 5, 0)


def test_a_replay_counts_its_forward_pass_twice_and_its_backward_pass() -> None:
    once = told("kl=0", "checkpointing=false")
    twice = told("kl=0")
    assert twice.forwards - once.forwards == pytest.approx(128)
    attention = 60 * 4 * once.tokens**2 * 3072 / transformer_flops(PUBLISHED.transformer, once.tokens - 44, 44)
    assert once.forwards == pytest.approx(640 + 128 * (2 + 1.5 * attention))


def test_a_range_of_layers_takes_the_memory_of_the_most_and_the_time_of_their_mean() -> None:
    two, six, both = told("layers=2"), told("layers=6"), told("layers=2-6")
    assert both.device_bytes == six.device_bytes
    assert two.seconds < both.seconds < six.seconds


@pytest.mark.parametrize(("updates", "every", "times"), [(200, 25, 9), (10, 25, 2), (30, 25, 3), (5, 0, 0), (1, 1, 2)])
def test_a_run_evaluates_before_it_begins_every_so_often_and_at_its_end(updates: int, every: int, times: int) -> None:
    assert evaluation_times(TrainingSettings(updates=updates, evaluate_every=every)) == times


def test_an_evaluation_takes_the_evaluations_samplers_steps_for_each_held_out_picture() -> None:
    assert told().held_out == 8 * 99
    assert told("steps=20", "sampler=euler", "cfg=4", held_out=3).held_out == 3 * 40
    assert told("holdout=0").times == 0


def test_hours_are_those_of_all_steps_and_evaluations_shared_by_the_processes() -> None:
    found = told("updates=100")
    assert found.hours == pytest.approx((100 * found.seconds + 5 * found.seconds_evaluation) / 3600)
    assert told("updates=100", world=8).seconds == pytest.approx(found.seconds / 8)


def test_a_group_takes_the_time_that_was_measured_where_an_evaluation_does() -> None:
    # One evaluation at 640 px with 4 layers takes .34 s on an H200, of .198e15 operations; a group of 8 with 10 steps, a window of 2, a
    # checkpointed replay and the distance is reckoned to take 27 + 17 + 5 s from it.
    rate = 2 * 0.198e15 / 0.34
    assert told("groups=1", rate=rate).seconds == pytest.approx(51, rel=0.05)


def test_from_the_matrix_rate_alone_time_is_overestimated_by_half_on_an_h200() -> None:
    # Half of the rate is assumed, as for one picture, and an H200 reaches three quarters.
    assert 1.4 < told("groups=1").seconds / 51 < 1.6


def test_the_judges_work_is_its_own_forecast_times_groups_steps_and_evaluations() -> None:
    found = told("updates=10", judge=Counting())
    assert found.judged == Usage(calls=64, input_tokens=8 * 3200, output_tokens=640, cost=4.0)
    assert found.judged_in_all == Usage(calls=640, input_tokens=256000, output_tokens=6400, cost=40.0)
    evaluated = told("updates=10", evaluation_judge=Counting(), held_out=3)
    assert evaluated.judged.calls == 0
    assert evaluated.judged_in_all == Usage(calls=6, input_tokens=2400, output_tokens=60, cost=3.0)


def test_the_words_name_every_part_and_whether_it_fits() -> None:
    found = told(machine=CARD)
    words = "\n".join(in_words(found, config(), CARD))
    assert all(each.name in words for each in found.needs)
    assert "DOES NOT FIT: 23.0 GB are free on NVIDIA RTX 4090" in words
    assert "640 of sampling, 128 of replays with gradients, 128 of distance" in words
    assert "hours for 200 steps" in words


def test_configs_are_those_on_this_disk_else_the_published_ones(tiny: Path) -> None:
    small = dataclasses.replace(config(), settings=dataclasses.replace(config().settings, model=str(tiny)))
    configs, name = find_configs(small.settings)
    assert name == str(tiny)
    assert configs.stored == "fp32"
    assert configs.transformer == configs_of(read_checkpoint(tiny, None, None)).transformer
    configs, name = find_configs(dataclasses.replace(small.settings, model="nobody/nothing"))
    assert "as published" in name
    assert configs.vae == PUBLISHED_VAE


def test_a_tiny_model_fits_on_this_machine_in_float32(tiny: Path) -> None:
    configs = configs_of(read_checkpoint(tiny, None, None))
    cpu = Machine("cpu", "CPU", 8 * GB, 2 * GB, 8 * GB, 2 * GB)
    found = forecast_run(config(recipe="lab"), configs, cpu, rate=1e11)
    assert found.precision == "fp32"
    assert found.fits
