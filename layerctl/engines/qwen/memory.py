"""Whether a job fits into a machine's memory and in which way, told from configs and dtype alone, before anything is loaded; no torch.

The ways, from the fastest to the smallest:

- `none`: every part stays on the device.
- `model`: text encoder, transformer and VAE take turns on the device; the others wait in host memory.
- `group`: the blocks of the transformer are streamed from host memory, one group ahead of the one that computes
  (`enable_group_offload(offload_type="block_level", num_blocks_per_group=1, use_stream=True)`); text encoder and VAE take turns.

Each in bf16, then with 8-bit, then with 4-bit matrices in the blocks of the transformer (torchao's Int8WeightOnlyConfig, and
Int4WeightOnlyConfig with `group_size=sizes.INT4_GROUP` in the tile-packed format). The VAE is never quantised and decodes one layer at a
time (`vae.use_slicing`), on the CPU all at once. Nor is the text encoder, so that what it makes, which is kept for other runs, does not
depend on the plan; where its turn on the device does not fit, it runs on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from layerctl.engines.qwen import sizes
from layerctl.engines.qwen.checkpoint import Checkpoint
from layerctl.engines.qwen.devices import INSTALL_OPTIONAL, Device, Machine, dtype_for
from layerctl.engines.qwen.sizes import Precision
from layerctl.errors import OutOfMemoryError, UsageError

Offload = Literal["none", "model", "group"]
Where = Literal["kept", "in turns", "streamed", "on the CPU"]

GB = 2**30
"""As graphics cards are sold."""

TEXT_TOKENS = 1024
"""The longest prompt that the model is given."""

PIXELS_PER_TOKEN = 16
GROUPS_IN_FLIGHT = 2
TRANSFER_RATE = 20e9
"""Bytes a second from pinned host memory to a CUDA device: assumed, a little under what PCI Express 4 with 16 lanes gives."""

RATE_REACHED = 0.5
"""The share of the measured matrix rate that an evaluation is assumed to reach."""

SHARE, FIXED = 0.06, round(0.6 * GB)
"""Left free beside the tensors: blocks that the allocator cannot fill, and the device's context and the libraries' workspaces."""

HOST_FIXED = 6 * GB
"""Python with its libraries, and pages of the weights' files, which are mapped and not copied on their way to the device."""

PRECISIONS: dict[str, tuple[Precision, ...]] = {"cuda": ("bf16", "int8", "int4"), "mps": ("bf16", "int8"), "cpu": ("bf16", "int8")}
"""What is tried on a device; torchao's 4-bit product exists for CUDA only."""

WHERE: dict[Offload, Where] = {"none": "kept", "model": "in turns", "group": "streamed"}
LONGEST_HEADER = 100_000_000
"""Of a file of safetensors, by its specification."""

SMALLER_SIZES = (1024, 768, 640, 512, 384)


@dataclass(frozen=True, slots=True, eq=False)
class Configs:
    """The networks' own config.json, as they are written. `stored`: the type of the weights in the files."""

    transformer: sizes.Config
    vae: sizes.Config
    text_encoder: sizes.Config | None
    stored: Literal["fp32", "bf16"] = "bf16"


PUBLISHED = Configs(sizes.PUBLISHED_TRANSFORMER, sizes.PUBLISHED_VAE, sizes.PUBLISHED_TEXT_ENCODER)
"""The geometry of Qwen/Qwen-Image-Layered, for a plan before the download."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture, in pixels of the model's size. `evaluations`: of the transformer, those for guidance counted.

    `text_tokens`: of the prompt, where it is known. `adapter_bytes`: of adapters that run beside the weights. `pixels_per_token`: the side
    of a token's square.
    """

    width: int
    height: int
    layers: int
    evaluations: int
    guided: bool
    needs_text_encoder: bool
    caption: bool
    text_tokens: int = TEXT_TOKENS
    adapter_bytes: int = 0
    pixels_per_token: int = PIXELS_PER_TOKEN

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def image_tokens(self) -> int:
        """The layers, the whole picture that is generated before them, and the picture that they come from."""
        return (self.layers + 2) * self.pixels // self.pixels_per_token**2


@dataclass(frozen=True, slots=True)
class Part:
    """A network and its weights; while it works, `resident` of them are on the device, and beside them `activations` at most."""

    name: str
    bytes: int
    resident: int
    activations: int
    where: Where


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run a job, in bytes. On MPS and the CPU all memory is the device's, and `host_bytes` is 0.

    `device_bytes`, `host_bytes`: peaks, margins included. `seconds`: of the evaluations and of moving weights, None where the machine's
    rate was not given.
    """

    device: Device
    precision: Precision
    offload: Offload
    parts: tuple[Part, ...]
    device_bytes: int
    device_free: int
    host_bytes: int
    host_free: int
    seconds: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def activation_bytes(self) -> int:
        return max(part.activations for part in self.parts)

    @property
    def fits(self) -> bool:
        return not self.lacking

    @property
    def lacking(self) -> str:
        """What there is too little of, in words; "" when it fits."""
        here = "of memory" if self.device == "cpu" else "on the graphics card" if self.device == "cuda" else "of graphics memory"
        if self.device_bytes > self.device_free:
            return f"{self.device_bytes / GB:.1f} GB {here}, and {self.device_free / GB:.1f} GB are free"
        if self.host_bytes > self.host_free:
            return f"{self.host_bytes / GB:.1f} GB of main memory, and {self.host_free / GB:.1f} GB are free"
        return ""

    @property
    def flags(self) -> str:
        return f"--precision {self.precision}" + (f" --offload {self.offload}" if self.device == "cuda" else "")


def configs_of(checkpoint: Checkpoint) -> Configs:
    read = checkpoint.configs
    return Configs(read["transformer"], read["vae"], read.get("text_encoder"), _stored(checkpoint.folder / "transformer"))


def possible_plans(
    configs: Configs, job: Job, machine: Machine, *, precision: str = "auto", offload: str = "auto", rate: float | None = None
) -> list[Plan]:
    """Every way that the wishes leave, fitting or not, in the order in which they are tried; UsageError where they leave none."""
    precisions, offloads = _precisions(configs, machine, precision), _offloads(machine, offload)
    return [_plan(configs, job, machine, bits, moved, rate) for bits in precisions for moved in offloads]


def plan_memory(
    configs: Configs, job: Job, machine: Machine, *, precision: str = "auto", offload: str = "auto", rate: float | None = None
) -> Plan:
    """The first way that fits. `rate`: of `devices.matrix_rate`, for an estimate of the time.

    Raises OutOfMemoryError, with the flags that would fit, when none does, and UsageError for a wish that the device cannot have.
    """
    plans = possible_plans(configs, job, machine, precision=precision, offload=offload, rate=rate)
    for plan in plans:
        if plan.fits:
            return plan
    least = min(plans, key=lambda plan: plan.device_bytes)
    options = list(_fitting(configs, job, machine, precision, offload))
    picture = f"{job.width} × {job.height} pixels in {job.layers} layers"
    hint = f"what would fit: {'   or   '.join(options)}" if options else "nothing smaller fits here: --engine classic needs no such memory"
    raise OutOfMemoryError(f"{picture} with {least.flags} needs {least.lacking}", hint=hint)


def next_smaller(plan: Plan, configs: Configs, job: Job, machine: Machine) -> str | None:
    """The flags to type after the device ran out of memory in spite of the plan: a way that takes a tenth less, or a smaller picture."""
    for other in possible_plans(configs, job, machine):
        if other.fits and other.device_bytes <= 0.9 * plan.device_bytes:
            return other.flags
    return next(_smaller_jobs(configs, job, machine, plan.precision, plan.offload), None)


def estimate_seconds(flops: int, evaluations: int, rate: float, *, streamed: int = 0, moved: int = 0) -> float:
    """Evaluations at half of the measured rate; bytes `streamed` in each overlap with it, bytes `moved` once do not."""
    return evaluations * max(flops / (rate * RATE_REACHED), streamed / TRANSFER_RATE) + moved / TRANSFER_RATE


def _plan(configs: Configs, job: Job, machine: Machine, precision: Precision, offload: Offload, rate: float | None) -> Plan:
    parts = _parts(configs, job, machine, precision, offload)
    weights = sum(part.bytes for part in parts)
    if offload == "none":
        peak = weights + max(part.activations for part in parts)
    else:
        peak = max(part.resident + part.activations for part in parts)
    host_bytes = 0 if machine.device != "cuda" else HOST_FIXED + (0 if offload == "none" else weights)
    seconds = None
    if rate is not None:
        flops = sizes.transformer_flops(configs.transformer, job.image_tokens, job.text_tokens)
        streamed, moved = (parts[0].bytes if offload == "group" else 0), (weights if offload == "model" else 0)
        seconds = estimate_seconds(flops, job.evaluations, rate, streamed=streamed, moved=moved)
    return Plan(
        device=machine.device,
        precision=precision,
        offload=offload,
        parts=parts,
        device_bytes=_with_margin(peak),
        device_free=machine.device_free,
        host_bytes=host_bytes,
        host_free=machine.host_free,
        seconds=seconds,
        remarks=_remarks(machine, precision),
    )


def _parts(configs: Configs, job: Job, machine: Machine, precision: Precision, offload: Offload) -> tuple[Part, ...]:
    """The transformer, the VAE and, where it is needed, the text encoder."""
    where = WHERE[offload]
    plain: Precision = "fp32" if precision == "fp32" else "bf16"

    transformer = sizes.transformer_weights(configs.transformer)
    stored = transformer.bytes(precision) + job.adapter_bytes
    around = transformer.rest_bytes(precision) + job.adapter_bytes
    resident = GROUPS_IN_FLIGHT * transformer.block_bytes(precision) + around if where == "streamed" else stored
    evaluation = sizes.transformer_activations(configs.transformer, job.image_tokens, job.text_tokens, precision)
    parts = [Part("transformer", stored, resident, evaluation, where)]

    vae = sizes.vae_weights(configs.vae).bytes(plain)
    at_once = job.layers if machine.device == "cpu" else 1
    # In bf16, scaled in bf16 and as float32, with their copies: 14 bytes a number.
    decoded = job.layers * job.pixels * int(configs.vae.get("input_channels", 3)) * 14
    decoding = at_once * sizes.decode_activations(configs.vae, job.pixels, plain) + decoded
    coding = max(sizes.encode_activations(configs.vae, job.pixels, plain), decoding)
    parts.append(Part("VAE", vae, vae, coding, "kept" if where == "kept" else "in turns"))

    if job.needs_text_encoder and configs.text_encoder is not None:
        parts.append(encoder_part(configs, job, machine, offload))
    return tuple(parts)


def encoder_part(configs: Configs, job: Job, machine: Machine, offload: Offload) -> Part:
    """The text encoder: beside the other parts, in its turn, or on the CPU where the device alone is too small for it."""
    assert configs.text_encoder is not None
    stored = sizes.text_encoder_weights(configs.text_encoder).bytes(configs.stored)
    reading = sizes.text_encoder_activations(configs.text_encoder, job.text_tokens, job.pixels if job.caption else 0, configs.stored)
    if offload == "none":
        return Part("text encoder", stored, stored, reading, "kept")
    if _with_margin(stored + reading) > machine.device_free:
        return Part("text encoder", stored, 0, 0, "on the CPU")
    return Part("text encoder", stored, stored, reading, "in turns")


def _with_margin(tensors: int) -> int:
    return round(tensors * (1 + SHARE)) + FIXED


def _remarks(machine: Machine, precision: Precision) -> tuple[str, ...]:
    remarks = []
    if precision in ("int8", "int4"):
        remarks.append(f"{precision[3:]}-bit weights do not give quite the result of bf16")
        if dict(machine.libraries).get("torchao", "unknown") is None:
            remarks.append(f"8-bit and 4-bit weights need torchao: {INSTALL_OPTIONAL}")
    return tuple(remarks)


def _precisions(configs: Configs, machine: Machine, wish: str) -> tuple[Precision, ...]:
    possible = PRECISIONS[machine.device]
    if wish == "auto":
        plain: Precision = "fp32" if dtype_for(machine.device, wish, configs.stored) == "float32" else "bf16"
        return (plain, *possible[1:])
    for precision in (*possible, "fp32"):
        if wish == precision:
            return (precision,)
    raise UsageError(f"--precision {wish} does not work on {machine.device}", hint=f"choose one of: auto, {', '.join(possible)}")


def _offloads(machine: Machine, wish: str) -> tuple[Offload, ...]:
    possible: tuple[Offload, ...] = get_args(Offload) if machine.device == "cuda" else ("none",)
    if wish == "auto":
        return possible
    for offload in possible:
        if wish == offload:
            return (offload,)
    raise UsageError(
        f"--offload {wish} does not work on {machine.device}: it moves weights between a CUDA card and main memory",
        hint=f"choose one of: auto, {', '.join(possible)}",
    )


def _fitting(configs: Configs, job: Job, machine: Machine, precision: str, offload: str) -> Iterator[str]:
    """Flags that would fit: other ways for the same picture, those that keep a wish first, then less of a picture with the same wishes."""
    fitting = [plan for plan in possible_plans(configs, job, machine) if plan.fits]
    fitting.sort(key=lambda plan: plan.precision != precision and plan.offload != offload)
    yield from (plan.flags for plan in fitting[:2])
    told = replace(job, needs_text_encoder=False, caption=False)
    if job.caption and any(plan.fits for plan in possible_plans(configs, told, machine, precision=precision, offload=offload)):
        yield "--prompt TEXT, which spares the text encoder that captions need"
    yield from _smaller_jobs(configs, job, machine, precision, offload)


def _smaller_jobs(configs: Configs, job: Job, machine: Machine, precision: str, offload: str) -> Iterator[str]:
    """A smaller size, and fewer layers: for each the largest that fits."""
    longest = max(job.width, job.height)
    sized = ((f"--size {size}", _resized(job, size / longest)) for size in SMALLER_SIZES if size < longest)
    fewer = ((f"--layers {layers}", replace(job, layers=layers)) for layers in range(job.layers - 1, 1, -1))
    for ladder in (sized, fewer):
        for flags, smaller in ladder:
            if any(plan.fits for plan in possible_plans(configs, smaller, machine, precision=precision, offload=offload)):
                yield flags
                break


def _resized(job: Job, factor: float) -> Job:
    width, height = (max(16, round(side * factor / 16) * 16) for side in (job.width, job.height))
    return replace(job, width=width, height=height)


def _stored(folder: Path) -> Literal["fp32", "bf16"]:
    """The type of the first weight of the first file, from its header; bf16, as published, where there is none that can be read."""
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with file.open("rb") as stream:
            header = stream.read(min(int.from_bytes(stream.read(8), "little"), LONGEST_HEADER))
        try:
            types = [entry["dtype"] for name, entry in json.loads(header).items() if name != "__metadata__"]
        except ValueError:
            return "bf16"
        return "fp32" if types[:1] == ["F32"] else "bf16"
    return "bf16"
