"""`layerctl doctor`: the machine, what is installed, and how the model would fit."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from layerctl import __version__
from layerctl.commands import options
from layerctl.terminal import inert

if TYPE_CHECKING:
    from layerctl.engines.qwen.devices import Machine
    from layerctl.engines.qwen.memory import Configs, Job, Plan
    from layerctl.engines.qwen.recipe import Recipe
    from layerctl.errors import OutOfMemoryError
    from layerctl.hub import CachedModel
    from layerctl.settings import Settings


@click.command()
@click.option(
    "--model", metavar="ID|DIR", help="Base model: a Hub id, also with @revision, or a folder.  [default: Qwen/Qwen-Image-Layered]"
)
@click.option("--preset", metavar="NAME", help="stable-layers or qwen.  [default: qwen]")
@click.option("--size", metavar="N", help="Pixels of the side at which the model works.  [default: 640]")
@click.option("-n", "--layers", metavar="N", help="Layers of the picture.  [default: 4]")
@click.option("--precision", metavar="NAME", help="Of the model's weights: auto, fp32, bf16, int8, int4.  [default: auto]")
@click.option("--offload", metavar="NAME", help="What waits in main memory: auto, none, model, group.  [default: auto]")
@click.option("--device", metavar="NAME", help="Where the model runs: auto, cuda, mps, cpu.  [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.debug
def doctor(as_json: bool, **flags: str | None) -> None:
    """Show what this machine can do, and how the model would fit.

    Nothing is loaded or downloaded. The plan is that of one square picture; it is computed from the sizes of the model's parts, for the
    published model where none is on this disk. GB of memory are counted as graphics cards are sold.

    \b
    Examples:
      layerctl doctor
      layerctl doctor --size 1024 --layers 6
      layerctl doctor --precision int4 --json
    """
    from layerctl.settings import resolve_settings

    diagnosis = diagnose(resolve_settings(flags))
    if as_json:
        click.echo(json.dumps(diagnosis.record(), default=str))
    else:
        click.echo("\n".join(inert(line) for line in diagnosis.lines()))


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """What `doctor` says. `plan`: the one that would be used, or the smallest where `refusal` says that none fits."""

    machine: Machine
    models: list[CachedModel]
    classic_version: str
    obstacle: str | None
    engine: str
    because: str
    recipe: Recipe
    job: Job
    model: str
    plan: Plan
    refusal: OutOfMemoryError | None
    rate: float | None

    def record(self) -> dict[str, Any]:
        plan = asdict(self.plan) | {"fits": self.plan.fits, "flags": self.plan.flags, "activation_bytes": self.plan.activation_bytes}
        refusal = None if self.refusal is None else {"message": self.refusal.message, "hint": self.refusal.hint}
        return {
            "layerctl": __version__,
            "python": platform.python_version(),
            "machine": asdict(self.machine) | {"libraries": dict(self.machine.libraries)},
            "models": [asdict(model) for model in self.models],
            "engines": {"classic": {"version": self.classic_version}, "qwen": {"ready": self.obstacle is None, "obstacle": self.obstacle}},
            "job": asdict(self.job),
            "plan": plan | {"refusal": refusal, "model": self.model, "matrix_rate": self.rate},
            "decompose": {"engine": self.engine, "because": self.because},
        }

    def lines(self) -> Iterator[str]:
        yield from self._machine()
        yield from self._models()
        yield from self._plan()
        yield ""
        yield f"layerctl decompose would use now: {self.engine}, because {self.because}"

    def _machine(self) -> Iterator[str]:
        from layerctl.engines.qwen.devices import INSTALL, INSTALL_OPTIONAL, REQUIRED

        machine = self.machine
        yield "Machine"
        if machine.device == "cpu":
            yield "  graphics card   none that the model could use"
        else:
            kept = "usable by graphics" if machine.device == "mps" else "on the card"
            yield f"  graphics card   {machine.name}: {_memory(machine.device_total)} {kept}, {_memory(machine.device_free)} free"
        yield f"  main memory     {_memory(machine.host_total)}, {_memory(machine.host_free)} free"
        yield from (f"  note            {remark}" for remark in machine.remarks)
        yield ""
        yield "Software"
        yield f"  {'layerctl':15} {__version__}, on Python {platform.python_version()}"
        for name, found in machine.libraries:
            install = INSTALL if name in REQUIRED else f"{INSTALL_OPTIONAL} (for 8-bit and 4-bit weights only)"
            yield f"  {name:15} {found or f'missing: {install}'}"
        yield ""
        yield "Engines"
        yield f"  {'classic':15} ready, version {self.classic_version}"
        yield f"  {'qwen':15} {f'not ready: {self.obstacle}' if self.obstacle else 'ready'}"

    def _models(self) -> Iterator[str]:
        from layerctl.hub import readable_size

        yield ""
        yield "Models on this disk"
        for model in self.models:
            yield f"  {model.repo_id} at {model.revision[:12]}, {readable_size(model.size)}{'' if model.complete else ', not complete'}"
        if not self.models:
            yield "  none"

    def _plan(self) -> Iterator[str]:
        from layerctl.engines.qwen.memory import FIXED, RATE_REACHED, SHARE

        job, plan, recipe = self.job, self.plan, self.recipe
        guidance, caption = "with" if job.guided else "without", ", and a caption first" if job.caption else ""
        yield ""
        yield f"Plan for a picture of {job.width} × {job.height} pixels in {job.layers} layers"
        yield f"  {'model':15} {self.model}, weights in {plan.precision}"
        yield f"  {'recipe':15} {recipe.name}: {recipe.steps} {recipe.sampler.title()} steps {guidance} guidance{caption}"
        yield f"  {'part':15} {'weights':>9} {'at work':>9}   where"
        where = {
            "kept": "stays on the device",
            "in turns": "on the device in its turn",
            "streamed": "streamed from main memory",
            "on the CPU": "on the CPU",
        }
        for part in plan.parts:
            yield f"  {part.name:15} {_memory(part.bytes):>9} {'+' + _memory(part.activations):>9}   {where[part.where]}"
        spare = f"{SHARE:.0%} and {_memory(FIXED)} of that are spare"
        yield f"  {'most at once':15} {_memory(plan.device_bytes):>9} of {_memory(plan.device_free)} that are free ({spare})"
        if plan.host_bytes:
            yield f"  {'main memory':15} {_memory(plan.host_bytes):>9} of {_memory(plan.host_free)} that are free"
        yield from (f"  {'note':15} {remark}" for remark in plan.remarks)
        if self.refusal is not None:
            yield f"  {'DOES NOT FIT':15} {self.refusal.message}"
            yield f"  {'':15} {self.refusal.hint}"
            return
        yield f"  {'fits':15} {plan.flags}"
        if plan.seconds is None or self.rate is None:
            yield f"  {'time':15} unknown without torch"
        else:
            measured = f"at {RATE_REACHED:.0%} of the {self.rate / 1e12:.3g} TFLOP/s measured here"
            yield f"  {'time':15} about {_duration(plan.seconds)} a picture: {job.evaluations} evaluations {measured}"


def diagnose(settings: Settings) -> Diagnosis:
    """All that `doctor` shows; raises UsageError for wishes that make no sense here."""
    from layerctl.engines.choice import why_not_qwen
    from layerctl.engines.qwen.devices import find_machine, matrix_rate
    from layerctl.engines.qwen.memory import plan_memory, possible_plans
    from layerctl.engines.qwen.recipe import choose_preset, resolve_recipe
    from layerctl.errors import OutOfMemoryError
    from layerctl.hub import cached
    from layerctl.registry import load

    machine = find_machine(settings.device)
    obstacle = why_not_qwen(settings)
    recipe, _ = resolve_recipe(choose_preset(settings.preset, []), settings.model_options())
    job = _job(recipe, settings)
    configs, model = _configs(settings)
    rate = None if dict(machine.libraries)["torch"] is None else matrix_rate(machine)
    refusal = None
    try:
        plan = plan_memory(configs, job, machine, precision=settings.precision, offload=settings.offload, rate=rate)
    except OutOfMemoryError as error:
        refusal = error
        plans = possible_plans(configs, job, machine, precision=settings.precision, offload=settings.offload, rate=rate)
        plan = min(plans, key=lambda plan: plan.device_bytes)
    if settings.engine != "auto":
        engine, because = settings.engine, "your settings name it"
    elif obstacle is None:
        engine, because = "qwen", "a graphics card, the libraries and the model are there"
    else:
        engine, because = "classic", obstacle
    version = load("engines", "classic").version
    return Diagnosis(machine, cached(), version, obstacle, engine, because, recipe, job, model, plan, refusal, rate)


def _job(recipe: Recipe, settings: Settings) -> Job:
    from layerctl.engines.qwen.memory import Job
    from layerctl.engines.qwen.recipe import DEFAULT_LAYERS

    steps = 2 * recipe.steps - 1 if recipe.sampler == "heun" else recipe.steps
    width, height = recipe.model_size(recipe.size, recipe.size)
    caption = recipe.prompt is None
    return Job(width, height, settings.layers or DEFAULT_LAYERS, steps * (1 + recipe.guided), recipe.guided, caption, caption)


def _configs(settings: Settings) -> tuple[Configs, str]:
    """The configs of the model on this disk, or the published ones, and in words which."""
    from layerctl.engines.qwen.checkpoint import read_checkpoint
    from layerctl.engines.qwen.memory import PUBLISHED, configs_of
    from layerctl.errors import MissingDependencyError
    from layerctl.hub import local_copy, parse_reference

    try:
        copy = local_copy(parse_reference(settings.model))
        return configs_of(read_checkpoint(copy.folder, copy.repo_id, copy.revision)), settings.model
    except MissingDependencyError:
        return PUBLISHED, f"{settings.model} (sizes as published; it is not on this disk)"


def _memory(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**27 else f"{size / 2**20:.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"
