"""Seconds and memory of Qwen-Image-Layered at full size with random weights, beside diffusers' own loop in the same process.

    python benchmarks/qwen_speed.py --json speed.json                    one GPU, torch >= 2.6, diffusers; no network, no download
    python benchmarks/qwen_speed.py --device cpu --blocks 2 --heads 2 --size 128 --layers 2 --steps 4 --backend eager       a small try

An evaluation is one step of a loop: the transformer once, and the scheduler's step. What is compared takes turns, `--rounds` times after
a warm-up, with a product of matrices in each round, so that a device that slows down does so for all; medians. The floor is the
arithmetic of an evaluation over the rate of those products. Peak memory is a contestant's own weights, the VAE's and the most that was
alive beside them, of tensors and of what the allocator held.

A section that fails is reported and the others go on. fp8 is per-row or per-tensor scales through torch._scaled_mm, weights quantised
once, in the attention and feed-forward layers of the image stream; LoRA is rank 64 in float32 on seven attention projections a block.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layerctl.engines.qwen import memory, sampler, sizes
from layerctl.engines.qwen.devices import find_machine
from layerctl.engines.qwen.loading import free_device_memory
from layerctl.engines.qwen.memory import PIXELS_PER_TOKEN
from layerctl.engines.qwen.model import Condition, LayeredModel
from layerctl.engines.qwen.sizes import PUBLISHED_TRANSFORMER, PUBLISHED_VAE

GB = 1e9
SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
TEXT_TOKENS = 11
"""Of the prompt of Stable-Layers."""

PRODUCTS = 10
"""Products of matrices in each round."""

FP8_LAYERS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "img_mlp.net.0.proj", "img_mlp.net.2")
FP8_LARGEST = 448.0
LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
LORA_RANK = 64
OTHERS = 0.34
"""Seconds of an evaluation on one H200, as others report them."""

Scaling = Literal["rowwise", "tensorwise"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one contestant took. Seconds; bytes, None where the device does not tell; `difference`: of its first step from layerctl's.

    `spread`: the fastest and the slowest round. `first`: the first call, compiling included. `to_floor`: for evaluations.
    """

    seconds: float
    spread: tuple[float, float]
    first: float
    peak: int | None = None
    reserved: int | None = None
    predicted: int | None = None
    to_floor: float | None = None
    difference: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """Something to time. `weights`: bytes of its own. `predicted`: peak, by the memory plan. `evaluates`: it is a step of a loop."""

    call: Callable[[], Any]
    weights: int = 0
    predicted: int | None = None
    evaluates: bool = False


class Bench:
    """The model, one picture's condition and noise, and what was measured so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.machine = find_machine(arguments.device)
        self.config = dict(PUBLISHED_TRANSFORMER) | {"num_layers": arguments.blocks, "num_attention_heads": arguments.heads}
        self.vae_config = dict(PUBLISHED_VAE) | {"base_dim": arguments.vae_width}
        self.groups: dict[str, dict[str, Cost]] = {}
        self.rates: dict[str, float] = {}
        self.notes: list[str] = []
        rows = arguments.size // PIXELS_PER_TOKEN
        self.evaluations = sampler.evaluations("heun", arguments.steps, guided=False)
        job = memory.Job(arguments.size, arguments.size, arguments.layers, self.evaluations, False, False, False, TEXT_TOKENS)
        self.flops = sizes.transformer_flops(self.config, job.image_tokens, TEXT_TOKENS)
        configs = memory.Configs(self.config, self.vae_config, None)
        self.plan = memory.possible_plans(configs, job, self.machine, precision="bf16", offload="none")[0]

        torch.manual_seed(arguments.seed)
        self.transformer = build_transformer(self.config, self.device, arguments.seed)
        with self.device:
            vae = AutoencoderKLQwenImage(**self.vae_config).to(torch.bfloat16).eval().requires_grad_(False)
            vae.use_slicing = self.device.type != "cpu"
            picture = torch.randn(1, rows * rows, 64, dtype=torch.bfloat16)
            prompt = torch.randn(1, TEXT_TOKENS, int(self.config["joint_attention_dim"]), dtype=torch.bfloat16)
        self.vae = vae
        self.condition = Condition(picture, prompt, rows, rows, arguments.layers)
        self.noise = sampler.release_noise(self.condition.state_shape, arguments.seed, 0, self.device)
        self.sigmas = sampler.sigma_grid(SCHEDULER, arguments.steps, rows * rows).to(self.device)
        self.products = self._products()

    @cached_property
    def compiled(self) -> Any:
        """The transformer once more, with its blocks compiled; the same weights."""
        transformer = twin(self.transformer)
        transformer.compile_repeated_blocks(backend=self.arguments.backend)
        return transformer

    def velocity(self, transformer: Any) -> sampler.Velocity:
        model = LayeredModel(transformer, self.vae, device=self.device, dtype=torch.bfloat16)
        return lambda x, sigma: model.velocity(x, sigma, self.condition)

    def our_steps(self, transformer: Any) -> Iterator[torch.Tensor]:
        """States after one Euler step after another, without end."""
        velocity = self.velocity(transformer)
        while True:
            x = self.noise
            for sigma, sigma_next in pairwise(self.sigmas):
                x = sampler.euler_step(velocity, x, sigma, sigma_next)
                yield x

    def diffusers_steps(self, transformer: Any) -> Iterator[torch.Tensor]:
        """The same as the loop of QwenImageLayeredPipeline (diffusers 0.42) makes them, without guidance."""
        condition, steps = self.condition, self.arguments.steps
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
        shapes = [[(1, condition.rows, condition.columns)] * (condition.frames + 1)]
        is_rgb = torch.zeros(1, device=self.device, dtype=torch.long)
        while True:
            mu = sqrt(condition.rows * condition.columns / sampler.BASE_TOKENS)
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 0, steps + 1)[:-1], device=self.device, mu=mu)
            scheduler.set_begin_index(0)
            latents = self.noise
            for t in scheduler.timesteps:
                timestep = t.expand(len(latents)).to(latents.dtype)
                with transformer.cache_context("cond"):
                    predicted = transformer(
                        hidden_states=torch.cat([latents, condition.picture], dim=1),
                        timestep=timestep / 1000,
                        encoder_hidden_states=condition.prompt,
                        img_shapes=shapes,
                        additional_t_cond=is_rgb,
                        return_dict=False,
                    )[0][:, : latents.shape[1]]
                latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
                yield latents

    def evaluation(self, transformer: Any, *, theirs: bool = False, adapter_bytes: int = 0) -> Contestant:
        steps = self.diffusers_steps(transformer) if theirs else self.our_steps(transformer)
        part, vae = self.plan.parts
        predicted = part.bytes + adapter_bytes + vae.bytes + part.activations
        return Contestant(lambda: next(steps), bytes_of(transformer, self.vae), predicted, evaluates=True)

    @cached_property
    def reference(self) -> torch.Tensor:
        """What the first step changes."""
        return (next(self.our_steps(self.transformer)) - self.noise).float()

    def compete(self, group: str, contestants: dict[str, Contestant]) -> None:
        """Warm up, measure memory, then time all in turns."""
        firsts, changes, peaks = {}, {}, {}
        for name, contestant in contestants.items():
            begun = time.perf_counter()
            result = contestant.call()
            self.wait()
            firsts[name] = time.perf_counter() - begun
            if contestant.evaluates:
                changes[name] = relative((result - self.noise).float(), self.reference)
            del result
            peaks[name] = self._peaks(contestant)
        calls = {"products": self.products} | {name: contestant.call for name, contestant in contestants.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.arguments.rounds):
            for name, call in calls.items():
                self.wait()
                begun = time.perf_counter()
                call()
                self.wait()
                times[name].append(time.perf_counter() - begun)
        rate = 2 * PRODUCTS * self.arguments.side**3 / statistics.median(times.pop("products"))
        self.rates[group], self.groups[group] = rate, {}
        for name, contestant in contestants.items():
            seconds, (peak, reserved) = statistics.median(times[name]), peaks[name]
            to_floor = seconds * rate / self.flops if contestant.evaluates else None
            spread = min(times[name]), max(times[name])
            self.groups[group][name] = Cost(
                seconds, spread, firsts[name], peak, reserved, contestant.predicted, to_floor, changes.get(name)
            )

    def table(self, name: str) -> list[str]:
        lines = [
            f"matrix rate {self.rates[name] / 1e12:.1f} Tflop/s",
            "| | s | fastest to slowest | to the floor | first call s | peak GB | allocator's GB | predicted GB | difference |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for contestant, cost in self.groups[name].items():
            held = " | ".join("" if value is None else f"{value / GB:.2f}" for value in (cost.peak, cost.reserved, cost.predicted))
            if cost.peak and cost.predicted:
                held += f" ({cost.predicted / cost.peak - 1:+.1%})"
            floor = "" if cost.to_floor is None else f"{cost.to_floor:.2f}"
            difference = "" if cost.difference is None else f"{cost.difference:.1e}"
            spread = f"{cost.spread[0]:.4f} to {cost.spread[1]:.4f}"
            lines.append(f"| {contestant} | {cost.seconds:.4f} | {spread} | {floor} | {cost.first:.1f} | {held} | {difference} |")
        return lines

    def wait(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def _peaks(self, contestant: Contestant) -> tuple[int | None, int | None]:
        """Peak bytes of a call with its own weights: of tensors, and of what the allocator held."""
        if self.device.type != "cuda":
            return None, None
        free_device_memory(self.device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contestant.call()
        self.wait()
        other = before - contestant.weights
        return torch.cuda.max_memory_allocated() - other, torch.cuda.max_memory_reserved() - other

    def _products(self) -> Callable[[], None]:
        side = self.arguments.side
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))

        def multiply() -> None:
            for _ in range(PRODUCTS):
                a @ b

        return multiply


class Fp8Linear(torch.nn.Module):
    """A linear layer with both factors in float8: the weight quantised once, the input each time, a scale a row or one for all."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, scaling: Scaling) -> None:
        super().__init__()
        self.axis = -1 if scaling == "rowwise" else None
        quantised, scale = to_fp8(linear.weight, self.axis)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t())
        self.register_buffer("bias", linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = to_fp8(x.flatten(0, -2), self.axis)
        out = torch._scaled_mm(rows, self.weight.T, scale_a=scale, scale_b=self.scale, out_dtype=x.dtype, use_fast_accum=True)
        # Row scales' kernel takes no bias of every type; compiled, the sum is one more pass over the result.
        return (out + self.bias).reshape(*x.shape[:-1], -1)


def to_fp8(matrix: torch.Tensor, axis: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix in float8 and its scales, float32: [rows, 1] for axis -1, a scalar for None."""
    largest = matrix.abs().amax() if axis is None else matrix.abs().amax(axis, keepdim=True)
    scale = largest.float().clamp(min=1e-12) / FP8_LARGEST
    return (matrix.float() / scale).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn), scale


def build_transformer(config: Mapping[str, Any], device: torch.device, seed: int) -> Any:
    """The transformer with random weights in bfloat16, made on the device."""
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(**config).to(torch.bfloat16)
    transformer.to_empty(device=device)
    # The rotary tables are no buffers: on the meta device they got no values.
    old = transformer.pos_embed
    transformer.pos_embed = type(old)(old.theta, old.axes_dim, scale_rope=old.scale_rope)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, 0.02, generator=generator)
    return transformer.eval().requires_grad_(False)


def twin(transformer: Any) -> Any:
    """Another transformer of the same weights, whose layers can be compiled or replaced."""
    with torch.device("meta"):
        other = QwenImageTransformer2DModel(**transformer.config)
    other.load_state_dict(transformer.state_dict(), assign=True)
    other.pos_embed = transformer.pos_embed
    return other.eval().requires_grad_(False)


def bytes_of(*modules: Any) -> int:
    tensors = (tensor for module in modules for source in (module.parameters(), module.buffers()) for tensor in source)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def measure_eager(bench: Bench) -> None:
    transformer = bench.transformer
    bench.compete("eager", {"layerctl": bench.evaluation(transformer), "diffusers": bench.evaluation(transformer, theirs=True)})


def measure_compiled(bench: Bench) -> None:
    ours, theirs = bench.evaluation(bench.compiled), bench.evaluation(bench.compiled, theirs=True)
    bench.compete("compiled", {"layerctl": ours, "diffusers": theirs, "layerctl, eager": bench.evaluation(bench.transformer)})


def measure_fp8(bench: Bench, scaling: Scaling) -> None:
    transformer = twin(bench.transformer)
    for block in transformer.transformer_blocks:
        for name in FP8_LAYERS:
            block.set_submodule(name, Fp8Linear(block.get_submodule(name), scaling))
    transformer.compile_repeated_blocks(backend=bench.arguments.backend)
    fp8 = replace(bench.evaluation(transformer), predicted=None)
    bench.compete(f"fp8-{scaling}", {"fp8, compiled": fp8, "bf16, compiled": bench.evaluation(bench.compiled)})


def measure_lora(bench: Bench) -> None:
    from safetensors.torch import save_file

    from layerctl.engines.qwen.adapters import attach, find_adapter
    from layerctl.engines.qwen.lora_keys import linear_modules, read_lora

    tuned = {"eager": twin(bench.transformer), "compiled": twin(bench.transformer)}
    generator = torch.Generator().manual_seed(bench.arguments.seed)
    tensors = {}
    for number in range(bench.arguments.blocks):
        for name in (f"transformer_blocks.{number}.attn.{layer}" for layer in LORA_LAYERS):
            rows, columns = bench.transformer.get_submodule(name).weight.shape
            for half, shape in (("A", (LORA_RANK, columns)), ("B", (rows, LORA_RANK))):
                tensors[f"transformer.{name}.lora_{half}.weight"] = torch.randn(shape, generator=generator).mul_(0.01).bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / "random.safetensors")
        adapter = find_adapter(Path(folder), name="random")
        plan = read_lora(adapter, linear_modules(bench.transformer))
        for transformer in tuned.values():
            attach(transformer, [adapter], [plan])
    tuned["compiled"].compile_repeated_blocks(backend=bench.arguments.backend)
    with_lora = {f"{way} with LoRA": bench.evaluation(made, adapter_bytes=4 * plan.parameters) for way, made in tuned.items()}
    bench.compete("lora", {**with_lora, "eager": bench.evaluation(bench.transformer), "compiled": bench.evaluation(bench.compiled)})


def measure_vae(bench: Bench) -> None:
    """Both with the transformer's weights beside them, as in a run."""
    side = bench.arguments.size
    model = LayeredModel(bench.transformer, bench.vae, device=bench.device, dtype=torch.bfloat16)
    pixels = np.random.default_rng(bench.arguments.seed).integers(0, 256, (side, side, 4), np.uint8)
    weights = bytes_of(bench.transformer, bench.vae)
    planned = sum(part.bytes for part in bench.plan.parts)
    encoding = planned + sizes.encode_activations(bench.vae_config, side * side, "bf16")
    decoding = planned + bench.plan.parts[1].activations

    def decode_at_once() -> torch.Tensor:
        bench.vae.use_slicing, sliced = False, bench.vae.use_slicing
        try:
            return model.decode_layers(bench.noise, bench.condition)
        finally:
            bench.vae.use_slicing = sliced

    encode = Contestant(lambda: model.encode_picture(pixels), weights, encoding)
    decode = Contestant(lambda: model.decode_layers(bench.noise, bench.condition), weights, decoding)
    bench.compete("vae", {"encode": encode, "decode": decode, "decode, all layers at once": Contestant(decode_at_once, weights)})


def measure_heun(bench: Bench) -> None:
    """A whole picture, in full or told from the evaluations that were measured."""
    which = "compiled" if "compiled" in bench.groups else "eager"
    count = bench.evaluations
    if bench.arguments.full:
        transformer = bench.compiled if which == "compiled" else bench.transformer
        bench.wait()
        begun = time.perf_counter()
        sampler.sample("heun", bench.velocity(transformer), bench.noise, bench.sigmas)
        bench.wait()
        seconds, how = time.perf_counter() - begun, "measured"
    elif which in bench.groups:
        seconds, how = count * bench.groups[which]["layerctl"].seconds, "EXTRAPOLATED from one evaluation; --full measures it"
    else:
        raise ValueError("it needs --full, or one of the sections eager and compiled")
    bench.notes.append(f"Heun-{bench.arguments.steps}, {count} evaluations, {which}: {seconds:.1f} s, {how}")


def bars(groups: Mapping[str, Mapping[str, Cost]]) -> list[str]:
    """The aims, each with what was measured and whether it holds."""

    def seconds(group: str, name: str) -> float | None:
        return groups[group][name].seconds if group in groups else None

    def line(aim: str, value: float | None, most: float) -> str:
        return f"{aim}: " + ("not measured" if value is None else f"{value:.3f}, {'held' if value <= most else 'MISSED'}")

    ours, theirs = seconds("eager", "layerctl"), seconds("eager", "diffusers")
    fp8 = [group["fp8, compiled"].seconds / group["bf16, compiled"].seconds for name, group in groups.items() if name.startswith("fp8")]
    compared = [cost for name in ("eager", "vae") for cost in groups.get(name, {}).values() if cost.peak and cost.predicted]
    largest = max(compared, key=lambda cost: cost.peak or 0, default=None)
    off = None if largest is None else abs((largest.predicted or 0) / (largest.peak or 1) - 1)
    return [
        # Two runs of the same kernels differ by as much.
        line("bf16 eager to diffusers eager, at most 1 (+ 0.01)", ours / theirs if ours and theirs else None, 1.01),
        line("compiled to the floor, at most 1.25", groups["compiled"]["layerctl"].to_floor if "compiled" in groups else None, 1.25),
        line("fp8 compiled to bf16 compiled, at most 0.80", min(fp8, default=None), 0.80),
        line("predicted peak off by at most 0.10", off, 0.10),
        line(f"seconds of an evaluation, others report {OTHERS} on one H200", seconds("compiled", "layerctl") or ours, OTHERS),
    ]


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "eager": measure_eager,
    "vae": measure_vae,
    "compiled": measure_compiled,
    "fp8-rowwise": partial(measure_fp8, scaling="rowwise"),
    "fp8-tensorwise": partial(measure_fp8, scaling="tensorwise"),
    "lora": measure_lora,
    "heun": measure_heun,
}


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse(arguments)
    diffusers.utils.logging.set_verbosity_error()
    begun = time.perf_counter()
    with torch.no_grad():
        bench = Bench(asked)
        device = f"{bench.machine.name}, torch {torch.__version__}, diffusers {diffusers.__version__}"
        print(f"{device}; {asked.size} px, {asked.layers} layers, {bench.flops / 1e15:.3g} PFLOP an evaluation")
        for section, run in SECTIONS.items():
            if section in asked.skip:
                continue
            try:
                run(bench)
            except Exception as error:  # what one section lacks must not stop the others
                bench.notes.append(f"{section}: failed, {type(error).__name__}: {str(error).strip()[:500] or 'no reason given'}")
                print(f"\n{bench.notes[-1]}")
            free_device_memory(bench.device)
            if section in bench.groups:
                print("\n" + "\n".join([f"{section}, {time.perf_counter() - begun:.0f} s so far", *bench.table(section)]), flush=True)
    published = bench.config == PUBLISHED_TRANSFORMER and bench.vae_config == PUBLISHED_VAE and (asked.size, asked.layers) == (640, 4)
    aims = ["the aims are for the full size on a GPU: none was measured"]
    if published and bench.device.type == "cuda":
        aims = bars(bench.groups)
        held = max((cost.reserved or 0 for name in ("eager", "vae") for cost in bench.groups.get(name, {}).values()), default=0)
        bench.notes.append(
            f"the plan asks for {bench.plan.device_bytes / GB:.1f} GB, margins included; the allocator held {held / GB:.1f} GB"
        )
    print()
    print(*bench.notes, *aims, f"all in {time.perf_counter() - begun:.0f} s", sep="\n")
    if asked.json:
        results = {name: {of: asdict(cost) for of, cost in group.items()} for name, group in bench.groups.items()}
        about = {"device": device, "arguments": vars(asked) | {"json": str(asked.json)}, "flops": bench.flops, "rates": bench.rates}
        asked.json.write_text(json.dumps({**about, "groups": results, "notes": bench.notes, "aims": aims}, indent=2) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, default=640, help="side of the picture, a multiple of 16")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50, help="2 or more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=PUBLISHED_TRANSFORMER["num_layers"])
    parser.add_argument("--heads", type=int, default=PUBLISHED_TRANSFORMER["num_attention_heads"])
    parser.add_argument("--vae-width", type=int, default=PUBLISHED_VAE["base_dim"])
    parser.add_argument("--side", type=int, help="of the products of matrices  [default: 8192, on the CPU 512]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--skip", nargs="+", choices=SECTIONS, default=[], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--full", action="store_true", help="measure Heun in full instead of telling it from one evaluation")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    asked = parser.parse_args(arguments)
    if asked.size % PIXELS_PER_TOKEN or asked.steps < 2:
        parser.error("--size must be a multiple of 16, and --steps 2 or more")
    asked.side = asked.side or (512 if asked.device == "cpu" else 8192)
    return asked


if __name__ == "__main__":
    main()
