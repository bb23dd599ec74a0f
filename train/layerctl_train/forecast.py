"""What a training run takes, told before anything is loaded: memory by part, evaluations of the model, the judge's work, hours.

Weights, activations and arithmetic are those of `layerctl.engines.qwen.sizes`; what is counted here beside them is training's. Pictures
are taken as square, the largest that the recipe allows, and time at the share of the machine's matrix rate that a plan for one picture
assumes. Of time the model's evaluations are counted alone: the VAE, the adapter, the optimizer and waiting for the judge come on top. The
text encoder is not in the memory: it is gone before the transformer comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING

from layerctl.engines.qwen import sizes
from layerctl.engines.qwen.adapters import find_file
from layerctl.engines.qwen.devices import Machine, dtype_for
from layerctl.engines.qwen.memory import FIXED, GB, SHARE, TEXT_TOKENS, Configs, estimate_seconds
from layerctl.engines.qwen.recipe import Recipe, resolve_recipe
from layerctl.engines.qwen.sampler import evaluations
from layerctl.errors import InputError, MissingDependencyError, OutOfMemoryError
from layerctl.hub import local_copy, parse_reference
from layerctl.settings import FEWEST_LAYERS
from layerctl.verdict import Usage
from layerctl_train.run_config import DEFAULT_PRESET
from layerctl_train.training_settings import TrainingSettings

if TYPE_CHECKING:
    from layerctl.registry import Judge
    from layerctl.settings import Settings
    from layerctl_train.run_config import RunConfig

FLOAT = 4
"""Bytes of what training keeps in float32: the adapter, and all states of a rollout."""

KEPT, KEPT_FLOATS, KEPT_RANKS = 18, 8, 6
"""What a block keeps for its backward pass, counted on the real block with an adapter on all of its layers: so many numbers a token and
unit of width in the model's type; where that is not float32, inputs of the adapter's layers once more as float32; and so many float32
numbers a token and unit of rank."""

PASSING = 17
"""Numbers a token and unit of width, in the model's type, that live during a block's backward pass only; an estimate: gradients of the
feed-forward layer's inner state, in float32 too, and of the stream."""

ATTENTION_BACKWARD = 2.5
"""Arithmetic of attention's backward pass by that of its forward pass: five products of matrices for two (FlashAttention, arXiv
2205.14135). A frozen linear layer has one for one: its weights get no gradient."""

BEFORE = 4
"""Weights, average and both moments are kept as they were while several optimizer steps are one step of training."""

WORDS_AROUND = 16
"""At most so many tokens stand around a prompt that is told as it is."""

LEARNING = "learning"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on the device. `turn`: the part of a step that they are needed in, "" for what stays."""

    name: str
    bytes: int
    turn: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """Of one step, in evaluations of the model by one candidate. `replays` have a backward pass and, as a rule, a forward pass twice."""

    sampling: float
    replays: float
    reference: float
    recomputed: float


@dataclass(frozen=True, slots=True)
class RunForecast:
    """`tokens`: of a picture with the most layers, `width` x `height` at the model's size. `forwards`: a step's arithmetic, in forward
    passes of one candidate.

    `held_out`: evaluations of the model in one evaluation of the run, of which there are `times`. `seconds`: of a step,
    `seconds_evaluation`: of an evaluation, `hours`: of all. `judged`: of a step, `judged_in_all`: of the run, evaluations included.
    `host_bytes`: at least so many of main memory, a process; 0 where that is the device's. `host_free`: 0 where it is not known.
    """

    precision: str
    processes: int
    width: int
    height: int
    tokens: int
    needs: tuple[Need, ...]
    device_bytes: int
    device_free: int
    host_bytes: int
    host_free: int
    work: Work
    forwards: float
    held_out: int
    times: int
    seconds: float
    seconds_evaluation: float
    hours: float
    judged: Usage
    judged_in_all: Usage

    @property
    def fits(self) -> bool:
        return self.device_bytes <= self.device_free and not 0 < self.host_free < self.host_bytes


def forecast_run(
    config: RunConfig,
    configs: Configs,
    machine: Machine,
    *,
    rate: float,
    held_out: int | None = None,
    world: int = 1,
    judge: Judge | None = None,
    evaluation_judge: Judge | None = None,
) -> RunForecast:
    """The forecast of a whole run in `world` processes, each on a device like this one.

    `rate`: of `devices.matrix_rate`. `held_out`: pictures of an evaluation, those of the holdout by default. Of the judges their own
    forecasts are asked, and nothing else.
    """
    training, settings = config.training, config.settings
    recipe = _recipe(settings)
    width, height = recipe.model_size(recipe.size, recipe.size)
    text = _text_tokens(training, recipe)
    least, most = training.layers
    needs = _needs(config, configs, machine, world)

    forward = fmean(_flops(configs, layers, width * height, text) for layers in range(least, most + 1))
    work = _work(training, compiled=settings.compile)
    backward = fmean(_backward(configs, layers, width * height, text) for layers in range(least, most + 1)) / forward
    passes = (2 if training.checkpointing else 1) + backward
    forwards = work.sampling + work.reference + work.recomputed + passes * work.replays
    pictures = training.holdout if held_out is None else held_out
    evaluated = pictures * evaluations(recipe.sampler, recipe.steps, recipe.guided)
    times = evaluation_times(training) if pictures else 0
    seconds = estimate_seconds(round(forward * forwards / world), 1, rate)
    seconds_evaluation = estimate_seconds(round(_flops(configs, most, width * height, text) / world), evaluated, rate)
    judged = _times(judge.forecast(training.group, most, width / height), training.groups) if judge else Usage()
    in_all = _times(judged, training.updates)
    if evaluation_judge is not None:
        in_all += _times(evaluation_judge.forecast(1, most, width / height), times * pictures)
    return RunForecast(
        precision=_precision(config, configs, machine),
        processes=world,
        width=width,
        height=height,
        tokens=_image_tokens(configs, most, width * height) + text,
        needs=needs,
        device_bytes=_at_once(needs),
        device_free=machine.device_free,
        host_bytes=_host_bytes(config, configs, machine),
        host_free=machine.host_free,
        work=work,
        forwards=forwards,
        held_out=evaluated,
        times=times,
        seconds=seconds,
        seconds_evaluation=seconds_evaluation,
        hours=(training.updates * seconds + times * seconds_evaluation) / 3600,
        judged=judged,
        judged_in_all=in_all,
    )


def require_memory(config: RunConfig, configs: Configs, machine: Machine, world: int) -> None:
    """Raises OutOfMemoryError, with what would fit, for a run whose memory is not there; of main memory, not even for one process."""
    host = _host_bytes(config, configs, machine)
    if 0 < machine.host_free < host:
        raise OutOfMemoryError(
            f"each process needs {_memory(host)} of main memory, and {_memory(machine.host_free)} are free",
            hint="close other programs, or take a machine with more main memory",
        )
    needed = needed_bytes(config, configs, machine, world)
    if needed <= machine.device_free:
        return
    smaller = [words for words, other in _smaller(config) if needed_bytes(other, configs, machine, world) <= machine.device_free]
    hint = (
        f"what would fit: {'   or   '.join(smaller)}"
        if smaller
        else "a larger GPU, or several with --set shard=true (see docs/training.md)"
    )
    raise OutOfMemoryError(
        f"training needs {_memory(needed)} on {machine.name or machine.device}, and {_memory(machine.device_free)} are free", hint=hint
    )


def needed_bytes(config: RunConfig, configs: Configs, machine: Machine, world: int) -> int:
    """The most at once on a device, with what is left free."""
    return _at_once(_needs(config, configs, machine, world))


def find_configs(settings: Settings) -> tuple[Configs, str]:
    """The configs of the base model on this disk, else the published ones, and in words which."""
    from layerctl.engines.qwen.checkpoint import read_checkpoint
    from layerctl.engines.qwen.memory import PUBLISHED, configs_of

    try:
        copy = local_copy(parse_reference(settings.model), offline=True)
    except MissingDependencyError:
        return PUBLISHED, f"{settings.model} (sizes as published; it is not on this disk)"
    return configs_of(read_checkpoint(copy.folder, copy.repo_id, copy.revision)), settings.model


def evaluation_times(training: TrainingSettings) -> int:
    """How often a run evaluates: before the first step, every so many, and at the end."""
    every, updates = training.evaluate_every, training.updates
    return len({0, *range(every, updates + 1, every), updates}) if every else 0


def adapter_parameters(transformer: sizes.Config, training: TrainingSettings) -> int:
    """Of an adapter that training begins by itself. The last block's text part has none: nobody reads it."""
    width = int(transformer.get("num_attention_heads", 24)) * int(transformer.get("attention_head_dim", 128))
    blocks = int(transformer.get("num_layers", 60))
    # Rows and columns of a square layer, and of the feed-forward layers, which are four times as wide inside.
    sides = {target: 5 * width if "mlp" in target else 2 * width for target in training.targets}
    read = {target: side for target, side in sides.items() if not target.startswith(("txt_mlp", "add_q", "to_add_out"))}
    return training.rank * ((blocks - 1) * sum(sides.values()) + sum(read.values()))


def in_words(forecast: RunForecast, config: RunConfig, machine: Machine) -> Iterator[str]:
    """Lines for people."""
    training = config.training
    if training.start is not None and _start_size(training.start) is None:
        yield f"the adapter {training.start} is not on this disk: what it asks for is not known; it is taken to have rank {training.rank}"
    size = f"{forecast.width} × {forecast.height}"
    yield f"{training.layers[1]} layers at {size}: {forecast.tokens:,} tokens, weights in {forecast.precision}"
    for need in forecast.needs:
        yield f"  {need.name:40} {_memory(need.bytes):>9}{f'  while {need.turn}' if need.turn else ''}"
    verdict = "fits" if forecast.device_bytes <= forecast.device_free else "DOES NOT FIT"
    yield f"  {'most at once, with what is left free':40} {_memory(forecast.device_bytes):>9}"
    yield f"{verdict}: {_memory(forecast.device_free)} are free on {machine.name or machine.device}"
    yield from _host_words(forecast)
    work = forecast.work
    parts = {"sampling": work.sampling, "replays with gradients": work.replays, "distance": work.reference, "once more": work.recomputed}
    listed = ", ".join(f"{count:g} of {name}" for name, count in parts.items() if count)
    yield f"a step: {listed}, the arithmetic of {forecast.forwards:.0f} evaluations"
    if forecast.times:
        yield f"{forecast.times} evaluations of the run, each {forecast.held_out} of the model"
    shared = f" in {forecast.processes} processes" if forecast.processes > 1 else ""
    yield (
        f"time: about {_duration(forecast.seconds)} a step, {_duration(3600 * forecast.hours)} for {training.updates} steps{shared};"
        " VAE, optimizer and waiting for the judge not counted"
    )


def _host_words(forecast: RunForecast) -> Iterator[str]:
    if not forecast.host_bytes:
        return
    own, free, world = forecast.host_bytes, forecast.host_free, forecast.processes
    lacks = "DOES NOT FIT: " if 0 < free < own else ""
    yield f"{lacks}main memory: {_memory(own)} a process" + (f", {_memory(free)} are free" if free else "")
    if world > 1 and not lacks and 0 < free < world * own:
        yield f"WARNING: {world} processes on this machine need {_memory(world * own)} of main memory; on several machines each its share"


def _recipe(settings: Settings) -> Recipe:
    recipe, _ = resolve_recipe(settings.preset or DEFAULT_PRESET, settings.model_options())
    return recipe


def _text_tokens(training: TrainingSettings, recipe: Recipe) -> int:
    if training.prompt_mode in ("caption", "given") or (training.prompt_mode == "fixed" and recipe.prompt is None):
        return TEXT_TOKENS
    told = recipe.prompt if training.prompt_mode == "fixed" and recipe.prompt is not None else ""
    # A token is one byte at least.
    return min(len(told.encode()) + WORDS_AROUND, TEXT_TOKENS)


def _image_tokens(configs: Configs, layers: int, pixels: int) -> int:
    """The layers, the whole picture before them, and the picture that they come from."""
    return (layers + 2) * _frame_tokens(configs, pixels)


def _frame_tokens(configs: Configs, pixels: int) -> int:
    return pixels // sizes.pixels_per_token(configs.vae) ** 2


def _flops(configs: Configs, layers: int, pixels: int, text: int) -> int:
    return sizes.transformer_flops(configs.transformer, _image_tokens(configs, layers, pixels), text)


def _backward(configs: Configs, layers: int, pixels: int, text: int) -> float:
    """Arithmetic of a backward pass."""
    forward = _flops(configs, layers, pixels, text)
    blocks, width = _shape(configs)
    attention = blocks * 4 * (_image_tokens(configs, layers, pixels) + text) ** 2 * width
    return forward - attention + ATTENTION_BACKWARD * attention


def _work(training: TrainingSettings, *, compiled: bool) -> Work:
    if training.method == "sft":
        return Work(sampling=0, replays=training.sft_batch, reference=0, recomputed=0)
    candidates = training.groups * training.group
    last = training.window_first if training.window_mode == "fixed" else training.window_last
    # Where a group begins together, the steps before the window are one candidate's.
    spared = (training.group - 1) * training.groups * (training.window_first + last) / 2 if training.shared_start else 0
    replays = candidates * training.window
    return Work(
        sampling=candidates * training.rollout_steps - spared,
        replays=replays,
        reference=replays if training.kl else 0,
        recomputed=replays if compiled else 0,
    )


def _smaller(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """Runs that take less, each with what to type."""
    training, size = config.training, _recipe(config.settings).size
    if not training.checkpointing:
        yield "--set checkpointing=true", replace(config, training=replace(training, checkpointing=True))
    if training.micro_batch > 1:
        yield "--set micro_batch=1", replace(config, training=replace(training, micro_batch=1))
    for smaller in (512, 384, 256):
        if smaller < size:
            yield f"--size {smaller}", replace(config, settings=replace(config.settings, size=smaller))
    if training.layers[1] > FEWEST_LAYERS:
        yield f"--layers {FEWEST_LAYERS}", replace(config, training=replace(training, layers=(FEWEST_LAYERS, FEWEST_LAYERS)))


def _precision(config: RunConfig, configs: Configs, machine: Machine) -> sizes.Precision:
    return "fp32" if dtype_for(machine.device, config.settings.precision, configs.stored) == "float32" else "bf16"


def _needs(config: RunConfig, configs: Configs, machine: Machine, world: int) -> tuple[Need, ...]:
    """Of one process."""
    training, recipe, precision = config.training, _recipe(config.settings), _precision(config, configs, machine)
    width, height = recipe.model_size(recipe.size, recipe.size)
    pixels, text = width * height, _text_tokens(training, recipe)
    blocks, inner = _shape(configs)
    parameters, rank = _adapter_size(configs, training)
    element = 4 if precision == "fp32" else 2
    weights = sizes.transformer_weights(configs.transformer)
    base = weights.bytes(precision)
    if training.shard:
        # Two blocks are whole at a time: the one that computes, and the next.
        base = base // world + min(2, weights.blocks) * weights.block_bytes(precision)
    image = _image_tokens(configs, training.layers[1], pixels)
    batch = training.micro_batch if training.method == "grpo" else 1
    stream = batch * (image + text) * inner
    once_more = KEPT_FLOATS * FLOAT if precision != "fp32" else 0
    kept = stream * (KEPT * element + once_more) + batch * image * KEPT_RANKS * rank * FLOAT
    passing = PASSING * stream * element
    adapter = FLOAT * parameters
    needs = [
        Need("base weights", base),
        Need("VAE", sizes.vae_weights(configs.vae).bytes(precision)),
        Need("adapter, gradient, Adam, average", _adapter_copies(training, world) * adapter),
    ]
    if training.method == "grpo":
        needs.append(Need("states of a step's rollouts", _states(configs, training, image, pixels, world)))
    if training.optimizer_steps > 1 and machine.device != "cuda":
        # On CUDA they wait in main memory.
        needs.append(Need("adapter before the step, to go back to", BEFORE * adapter, LEARNING))
    if training.checkpointing:
        needs.append(Need("inputs of all blocks", blocks * stream * element, LEARNING))
        needs.append(Need("one block, forward and backward", kept + passing, LEARNING))
    else:
        needs.append(Need("all blocks, forward and backward", blocks * kept + passing, LEARNING))
    needs.append(Need("decoding", _decoding(configs, machine, training.layers[1], pixels, precision), "decoding"))
    return tuple(needs)


def _host_bytes(config: RunConfig, configs: Configs, machine: Machine) -> int:
    """Of main memory, for one process, beside Python and its libraries; elsewhere than on CUDA it is counted with the device's."""
    if machine.device != "cuda":
        return 0
    training = config.training
    base = sizes.transformer_weights(configs.transformer).bytes(_precision(config, configs, machine)) if training.shard else 0
    parameters, _ = _adapter_size(configs, training)
    return max(base, BEFORE * FLOAT * parameters if training.optimizer_steps > 1 else 0)


def _adapter_size(configs: Configs, training: TrainingSettings) -> tuple[int, int]:
    """Parameters and the highest rank."""
    found = None if training.start is None else _start_size(training.start)
    return found or (adapter_parameters(configs.transformer, training), training.rank)


def _start_size(start: str) -> tuple[int, int] | None:
    """The same of an adapter file, by its header; None where it is not on this disk. Raises InputError, and what `find_file` does."""
    from safetensors import SafetensorError, safe_open

    try:
        file = find_file(local_copy(parse_reference(start)).folder, start)
    except MissingDependencyError:
        return None
    try:
        with safe_open(file, framework="np") as read:
            shapes = [tuple(read.get_slice(key).get_shape()) for key in read.keys()]  # noqa: SIM118  # it cannot be iterated
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read: {error}", hint="fetch the adapter again") from error
    halves = [shape for shape in shapes if len(shape) == 2]
    return sum(map(prod, halves)), max(map(min, halves), default=0)


def _adapter_copies(training: TrainingSettings, world: int) -> int:
    """Weights, gradient, two moments of Adam, the average, the start to hold against, and what processes exchange."""
    return 5 + (training.start is not None) + (world > 1)


def _states(configs: Configs, training: TrainingSettings, image: int, pixels: int, world: int) -> int:
    """Of each candidate the window's states and means, and the end; the frame of the condition is none of them."""
    frames = image - _frame_tokens(configs, pixels)
    numbers = frames * int(configs.transformer.get("in_channels", 64))
    kept = (training.window + 1) + training.window + 1
    return -(-training.groups // world) * training.group * kept * numbers * FLOAT


def _decoding(configs: Configs, machine: Machine, layers: int, pixels: int, precision: sizes.Precision) -> int:
    at_once = layers if machine.device == "cpu" else 1
    # As the engine's plan has it: scaled, and as float32, with their copies.
    decoded = layers * pixels * int(configs.vae.get("input_channels", 3)) * 14
    return at_once * sizes.decode_activations(configs.vae, pixels, precision) + decoded


def _at_once(needs: tuple[Need, ...]) -> int:
    """The most, with what is left free."""
    turns = [sum(need.bytes for need in needs if need.turn == turn) for turn in {need.turn for need in needs if need.turn}]
    most = sum(need.bytes for need in needs if not need.turn) + max(turns)
    return round(most * (1 + SHARE)) + FIXED


def _shape(configs: Configs) -> tuple[int, int]:
    """Blocks, and their width."""
    config = configs.transformer
    return int(config.get("num_layers", 60)), int(config.get("num_attention_heads", 24)) * int(config.get("attention_head_dim", 128))


def _times(usage: Usage, count: int) -> Usage:
    return replace(
        usage,
        calls=usage.calls * count,
        cached=usage.cached * count,
        input_tokens=usage.input_tokens * count,
        output_tokens=usage.output_tokens * count,
        cost=None if usage.cost is None else usage.cost * count,
    )


def _memory(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= 2**27 else f"{size / 2**20:.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"
