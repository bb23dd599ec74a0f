"""`layerctl train`: from pictures to a better adapter."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerctl.commands import options
from layerctl.commands.usage import expected
from layerctl.errors import InputError, MissingDependencyError, UsageError
from layerctl.terminal import inert, progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.registry import Judge
    from layerctl.settings import Settings
    from layerctl_train.forecast import RunForecast
    from layerctl_train.run_config import RunConfig

RUNS = Path("runs")
OF_TRAINING = ("method", "start", "updates", "layers", "groups", "group", "limit", "track")
"""Flags that are fields of TrainingSettings."""


@click.command(cls=options.WithModelOptions)
@click.option("--data", metavar="DATA", help="Folder of pictures, list (.txt, .jsonl), hub:ORG/NAME, or scenes.")
@click.option("--eval-data", "evaluation_data", metavar="DATA", help="What is evaluated on.  [default: a part of DATA, never trained on]")
@click.option("--recipe", metavar="NAME|FILE", help="paper, fast, lab, a TOML file, or a run's config.toml.  [default: paper]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run.  [default: runs/NAME-1, -2, ...]")
@click.option("--resume", is_flag=True, help="Go on with the run of -o, as it began.")
@click.option("--method", metavar="grpo|sft", help="From scores of a judge, or from layered files.  [default: grpo]")
@click.option("--start", metavar="ID|PATH", help="The adapter to start from, and to be held close to.  [default: none]")
@click.option("--updates", metavar="N", help="Training steps in all.  [default: 200]")
@click.option("-n", "--layers", metavar="N|N-N", help="Layers to ask for; of a range each group draws one.  [default: 4]")
@click.option("--groups", metavar="N", help="Pictures a step.  [default: 8]")
@click.option("--group", metavar="N", help="Candidates a picture.  [default: 8]")
@click.option("--seed", "training_seed", metavar="N", help="Seed of all that is drawn in training.  [default: 0]")
@click.option("--limit", metavar="N", help="At most so many pictures of DATA.")
@click.option("--track", metavar="none|trackio|tensorboard", help="Where metrics go besides the run's folder.  [default: none]")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any line of a recipe: --set kernel=cps. Repeatable.")
@options.model_apart_from("adapters", "fuse", "seed", "offload")
@options.judge
@options.trust_project
@click.option("--dry-run", is_flag=True, help="Show the whole config, memory, time and money, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print one JSON object.")
@options.quiet_but_for_hosts
@options.debug
def train(
    data: str | None,
    evaluation_data: str | None,
    recipe: str | None,
    output: Path | None,
    resume: bool,
    training_seed: str | None,
    assignments: tuple[str, ...],
    trust_project: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train an adapter of the engine qwen by a judge's scores, or on layered files.

    By scores (Flow-GRPO, the method grpo) any pictures will do: each step makes several candidates of several pictures, has the judge score
    them, and learns from how each stands in its group. The run's folder holds the whole config, metrics, checkpoints, pictures and
    report.html; the adapter of its folder adapter/ is for --adapter of the other commands. Ctrl-C saves and leaves. --resume goes on as if
    nothing had been; it refuses other settings and other data, but takes more --updates, or another address of the judge. A recipe sets
    what flags and --set leave open; each of its values is marked as the paper's or ours, and --dry-run shows all of them (with WORLD_SIZE=8
    before the command: for 8 processes). The sampler's options (--preset, --sampler, --steps, --cfg) are those of the evaluations on
    held-out pictures; candidates are made in rollout_steps, without guidance.

    \b
    Examples:
      layerctl train --data photos/ --judge-url http://localhost:8000/v1 --dry-run
      layerctl train --data photos/ --judge-url http://localhost:8000/v1 -o runs/photos
      layerctl train --resume -o runs/photos --updates 400
      layerctl train --data hub:org/pictures --recipe fast --layers 2-6 --set kernel=cps --set eta=0.8
      layerctl train --data house-style/ --method sft -o runs/house
      layerctl train --data photos/ --start runs/house/adapter --eval-data layered:house-style
      layerctl train --data scenes:40 --recipe lab --model tiny/ --updates 2
      torchrun --nproc-per-node 8 -m layerctl train --data photos/ -o runs/photos

    Exit code: 0 done, 1 the run stopped (numbers that say that something is wrong, a judge that is down, data that cannot be read), 2 wrong
    usage, 4 not enough memory, 5 a model, a key or an extra is missing, 130 interrupted: saved, go on with --resume.
    """
    training = {"seed": training_seed} | {name: flags.pop(name) for name in OF_TRAINING}
    flags["judge_prices"] = flags["judge_prices"] or None
    wanted = {"data": data, "evaluation_data": evaluation_data, "training": training, "settings": flags, "assignments": assignments}
    if as_json and not dry_run:
        raise UsageError("--json is for --dry-run", hint="what a run measures is in metrics.jsonl of its folder")
    try:
        config = _config(recipe, output, wanted, resume=resume, trust_project=trust_project)
        if dry_run:
            _print_forecast(config, as_json=as_json)
            return 0
        from layerctl_train.loop import run_training
        from layerctl_train.processes import is_first
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("layerctl"):
            raise
        message = f"training needs the package {error.name}, which is not installed"
        raise MissingDependencyError(message, hint="pip install 'layerctl[train]'") from error
    with progress_bar("training", quiet=config.settings.quiet or not is_first()) as progress:
        return run_training(config, output or next_folder(config.data), resume=resume, tell=_tell, progress=progress)


def next_folder(data: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that is not there, NAME being what the data are called."""
    kind, _, rest = data.partition(":")
    place = {"scenes": kind, "hub": re.split("[@:]", rest)[0], "layered": rest, "pictures": rest}.get(kind, data)
    path = Path(place).resolve()
    name = re.sub(r"[^\w.-]+", "-", path.stem if path.suffix in (".txt", ".jsonl") else path.name).strip("-.") or "run"
    number = 1
    while (folder := RUNS / f"{name}-{number}").exists():
        number += 1
    return folder


def _config(recipe: str | None, output: Path | None, wanted: dict[str, Any], *, resume: bool, trust_project: bool) -> RunConfig:
    from layerctl_train.run_config import DEFAULT_RECIPE, from_toml, resolve_run, resume_run

    if not resume:
        return resolve_run(recipe or DEFAULT_RECIPE, **wanted, trust_project=trust_project)
    if output is None:
        raise UsageError("--resume does not say which run goes on", hint="name its folder: --resume -o runs/NAME-1")
    from layerctl_train.run_folder import CONFIG

    file = output / CONFIG
    if not file.is_file():
        raise InputError(f"there is no run in {output}: it holds no {CONFIG}", hint="begin one: the same command without --resume")
    return resume_run(from_toml(file.read_text(encoding="utf-8")), recipe, **wanted, trust_project=trust_project)


def _print_forecast(config: RunConfig, *, as_json: bool) -> None:
    """The whole config, which is a recipe as it is printed, and what the run takes; asks no judge and reads no picture."""
    from layerctl.engines.qwen.devices import find_machine, matrix_rate
    from layerctl_train.forecast import find_configs, forecast_run, in_words, require_memory
    from layerctl_train.run_config import check_processes, marks, to_toml, values

    settings, training = config.settings, config.training
    world = _world()
    check_processes(config, world)
    pictures, held_out = _count(config, config.data), _count(config, config.evaluation_data)
    machine = find_machine(settings.device)
    configs, model = find_configs(settings)
    with ExitStack() as stack:
        judge = _judge(stack, settings, settings.judge if training.method == "grpo" else None)
        second = _judge(stack, config.evaluation_judge_settings, training.evaluation_judge)
        forecast = forecast_run(
            config, configs, machine, rate=matrix_rate(machine), held_out=held_out, world=world, judge=judge, evaluation_judge=second
        )
        words = _judging(forecast, config, [each for each in (judge, second) if each is not None])
    if as_json:
        told = {"config": values(config), "marks": marks(config), "model": model, "pictures": pictures, "forecast": asdict(forecast)}
        click.echo(json.dumps(told | {"fits": forecast.fits}))
    else:
        counted = "" if pictures is None else f", {pictures} files"
        # The run itself refuses, but only when it has read them all.
        is_short = config.evaluation_data is None and pictures is not None and pictures <= training.holdout
        short = f"NOTHING IS LEFT TO TRAIN ON: {training.holdout} pictures are held out; give more, or --set holdout=0"
        lines = (f"{config.data}{counted}; {model}", *([short] if is_short else []), *in_words(forecast, config, machine), words)
        click.echo(to_toml(config))
        click.echo("\n".join(inert(f"# {line}") for line in lines))
    require_memory(config, configs, machine, world)


def _world() -> int:
    """The processes that the forecast is for."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"WORLD_SIZE is {text!r}, no number of processes", hint="give 1 or more, such as WORLD_SIZE=8, or unset it")
    return int(text)


def _judge(stack: ExitStack, settings: Settings, name: str | None) -> Judge | None:
    from layerctl import registry

    return None if name is None else stack.enter_context(closing(registry.load("judges", name)(settings, _tell)))


def _judging(forecast: RunForecast, config: RunConfig, judges: Sequence[Judge]) -> str:
    names = " and ".join(f"judge {judge.name}, {judge.model or 'the only model that the server lists'}" for judge in judges) or "no judge"
    hosts = " and ".join(dict.fromkeys(judge.host for judge in judges if judge.host))
    if not hosts:
        return f"{names}: nothing leaves this machine"
    model, prices = next(judge.model for judge in judges if judge.host), config.settings.judge_prices
    return (
        f"{names}: pictures go to {hosts}; a step takes {expected(forecast.judged, model, prices)};"
        f" the run {expected(forecast.judged_in_all, model, prices)}"
    )


def _count(config: RunConfig, data: str | None) -> int | None:
    """Pictures that there seem to be; None where only another machine knows."""
    from layerctl_train.training_data import open_training_data

    if data is None or data.startswith("hub:"):
        return None
    return open_training_data(data, offline=True, with_layers=config.training.method == "sft").count


def _tell(line: str) -> None:
    say(inert(line))
