"""`layerctl eval`: is one system better than another, by the field's own metrics?"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from layerctl.commands import options
from layerctl.errors import BELOW_QUALITY, InputError, OutputError, SomeInputsFailedError, UsageError
from layerctl.terminal import inert, progress_bar, say

if TYPE_CHECKING:
    from layerctl.registry import Judge
    from layerctl.settings import Settings
    from layerctl_train.evaluate.results import Evaluation, Summary
    from layerctl_train.evaluate.run import Evaluator, Layers, Plan
    from layerctl_train.evaluate.systems import System

REPORT = "report.json"
PREDICTIONS = "predictions"
IDENTITY = ("data", "systems", "limit", "seed", "shard", "layers")
"""What a report is about: another evaluation may not take its place unasked."""


@click.command("eval", cls=options.WithModelOptions)
@click.option("--data", required=True, metavar="DATA", help="scenes, scenes:200, crello, crello:FILE.parquet, or a folder.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report"),
    metavar="DIR",
    help="Where the report goes.  [default: report]",
)
@click.option("--engine", metavar="NAME", help="The first system: an engine, trivial, or damaged.  [default: auto]")
@click.option(
    "--against", multiple=True, metavar="NAME", help="Another system: an engine, base, trivial, damaged, or an adapter. Repeatable."
)
@click.option("--samplers", metavar="NAMES", help="Run each system with each of these presets: stable-layers,qwen.")
@click.option("-n", "--layers", default="truth", metavar="truth|auto|N", help="Layers to ask for.  [default: truth]")
@click.option("--kind", metavar="auto|design|photo", help="What the pictures are.  [default: auto]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many pictures, always the same ones.")
@click.option("--seed", "sample", type=click.IntRange(0), default=0, metavar="N", help="Seed of the choice of pictures.  [default: 0]")
@click.option("--shard", metavar="I/N", help="Only part I of N parts.")
@click.option(
    "--predictions", type=click.Path(path_type=Path), metavar="DIR", help="Where layers are kept.  [default: in the report's folder]"
)
@click.option("--fail-if", "gates", multiple=True, metavar="TEXT", help='Exit with code 6 if this is so: "blank_rate > 0.05". Repeatable.')
@click.option("--overwrite", is_flag=True, help="Put the report in the place of another evaluation's.")
@options.model_apart_from("seed")
@click.option("--noise-seed", "seed", metavar="N", help="Seed of a model's noise.  [default: the preset's]")
@options.judge
@options.trust_project
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="Print the report as a JSON object.")
@options.quiet_but_for_hosts
@options.debug
def evaluate(
    data: str,
    output: Path,
    against: tuple[str, ...],
    samplers: str | None,
    layers: str,
    limit: int | None,
    sample: int,
    shard: str | None,
    predictions: Path | None,
    gates: tuple[str, ...],
    overwrite: bool,
    trust_project: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Hold a system's layers against known ones, and against other systems.

    The first system is --engine, or the model with --adapter; --against names others, which run with the same preset. DATA with known
    layers is "scenes", "crello" or a folder of layered files; of a folder of pictures only what needs no truth is measured. The report
    (index.html, report.md, report.json) says what is better, how sure that is, and shows where. Raw layers are measured, as the engine
    makes them. Predictions are kept: the same command goes on where it was stopped.

    \b
    Examples:
      layerctl eval --data scenes:40 --engine classic --against damaged --against trivial
      layerctl eval --data house-style/ --adapter runs/cats --against base --layers 4 -o cats-report
      layerctl eval --data crello --limit 500 --adapter StabilityLabs/Stable-Layers --samplers stable-layers,qwen
      layerctl eval --data photos/ --adapter runs/cats --against base --judge openai --judge-model NAME
      layerctl eval --data scenes --engine classic --fail-if "blank_rate > 0.05" --fail-if "layerd_rgb_l1_0.high > 0.2"

    Exit code: 0 done, 1 no picture could be evaluated, 2 wrong usage, 3 some pictures failed, 4 not enough memory, 5 a model, a key or an
    extra is missing, 6 a --fail-if holds.
    """
    from layerctl_train.evaluate.aggregate import summarize
    from layerctl_train.evaluate.gates import gates as failed_gates
    from layerctl_train.evaluate.gates import read_gates
    from layerctl_train.evaluate.report import write_report
    from layerctl_train.evaluate.run import Evaluator

    settings, systems = _systems(flags, against, samplers, trust_project=trust_project)
    read_gates(gates, [system.name for system in systems])
    plan = _plan(data, layers, limit, sample, shard, predictions or output / PREDICTIONS, offline=settings.offline)
    _check_output(output)
    evaluator = Evaluator(plan, systems, _tell)
    if not overwrite:
        _check_report(output, evaluator)
    if dry_run:
        _print_plan(plan, systems, as_json=as_json)
        return 0
    for folder in (output, plan.kept):
        _make(folder)
    evaluation = _run(evaluator, settings)
    if all(scores.failed for picture in evaluation.pictures for scores in picture.scores):
        raise InputError(f"no picture of {evaluation.data} could be evaluated", hint=_first_reason(evaluator, evaluation))
    summary = summarize(evaluation)
    page = write_report(output, evaluation, summary, evaluator.shown)
    _print(page, evaluation, summary, as_json=as_json)
    failed = failed_gates(gates, summary)
    for gate in failed:
        say(inert(f"--fail-if: {gate.message}"))
    if failed:
        return BELOW_QUALITY
    _complain_of_missing(evaluation)
    return 0


def _systems(
    flags: dict[str, Any], against: tuple[str, ...], samplers: str | None, *, trust_project: bool
) -> tuple[Settings, tuple[System, ...]]:
    from layerctl.engines.choice import with_engine
    from layerctl.settings import FLAGS, resolve_settings
    from layerctl_train.evaluate.baselines import NAMES
    from layerctl_train.evaluate.systems import compared, has_model

    for repeatable in ("adapters", "judge_prices"):
        flags[repeatable] = flags[repeatable] or None
    resolved = resolve_settings(flags, trust_project=trust_project)
    wanted = [name for name in options.MODEL_FLAGS if flags[name] is not None]
    if wanted and resolved.engine in NAMES and not any(map(has_model, against)):
        raise UsageError(f"--{FLAGS.get(wanted[0], wanted[0])} has no meaning for the engine {resolved.engine}", hint="leave it out")
    # Options of a model are for the others, too, where the first has none.
    is_for_others = resolved.engine != "auto" and any(map(has_model, against))
    settings, remark = with_engine(resolved, wanted=[] if is_for_others else wanted)
    if remark and not settings.quiet:
        say(inert(remark))
    presets = _presets(samplers) if samplers is not None else ()
    if presets and flags["preset"] is not None:
        raise UsageError("--preset and --samplers say the same thing differently", hint="leave --preset out")
    return settings, compared(settings, against, presets)


def _presets(samplers: str) -> tuple[str, ...]:
    from layerctl.engines.qwen.recipe import PRESETS

    presets = tuple(name.strip() for name in samplers.split(","))
    unknown = next((name for name in presets if name not in PRESETS), None)
    if unknown is not None:
        raise UsageError(f"--samplers names the preset {unknown!r}, which is unknown", hint=f"give --samplers {','.join(PRESETS)}")
    return presets


def _plan(data: str, layers: str, limit: int | None, seed: int, shard: str | None, kept: Path, *, offline: bool) -> Plan:
    from layerctl_train.evaluate.data import open_data
    from layerctl_train.evaluate.run import Plan
    from layerctl_train.evaluate.sampling import chosen, parse_shard

    wanted = _layers(layers)
    part = parse_shard(shard) if shard is not None else None
    opened = open_data(data, offline=offline)
    keys = chosen(opened.keys(), limit=limit, seed=seed, shard=part)
    if not keys:
        raise UsageError(f"--shard {shard} of {opened.name} holds no picture", hint="make fewer parts")
    return Plan(opened, tuple(keys), limit, seed, shard, wanted, kept)


def _layers(text: str) -> Layers:
    from layerctl.settings import FEWEST_LAYERS, MOST_LAYERS

    if text == "truth":
        return "truth"
    if text == "auto":
        return "auto"
    if text.isdecimal() and FEWEST_LAYERS <= int(text) <= MOST_LAYERS:
        return int(text)
    raise UsageError(f"--layers is {text!r}", hint=f"give truth, auto, or a number from {FEWEST_LAYERS} to {MOST_LAYERS}")


def _check_output(output: Path) -> None:
    """Raises UsageError for a folder with something else in it."""
    from layerctl_train.evaluate.report import PICTURES

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file", hint="name a folder with -o")
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")} if output.is_dir() else set()
    if not (names <= {PREDICTIONS, PICTURES} or _is_report(_read(output / REPORT))):
        raise UsageError(f"{output} holds something else than an evaluation", hint="name a new folder with -o")


def _make(folder: Path) -> None:
    """Raises OutputError for a folder that cannot be written to, before anything is computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror}", hint="name another folder") from error


def _read(path: Path) -> Any:
    """What a JSON file holds, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_report(found: Any) -> bool:
    from layerctl_train.evaluate.report import FORMAT

    return isinstance(found, dict) and found.get("format") == FORMAT


def _print_plan(plan: Plan, systems: tuple[System, ...], *, as_json: bool) -> None:
    from layerctl_train.evaluate.run import in_words

    if as_json:
        names = [system.name for system in systems]
        about = {"data": plan.data.name, "pictures": len(plan.keys), "layers": in_words(plan.layers), "systems": names}
        click.echo(json.dumps(about | {"predictions": str(plan.kept)}))
        return
    click.echo(inert(f"{plan.data.name}: {len(plan.keys)} pictures, layers: {in_words(plan.layers)}"))
    for system in systems:
        click.echo(inert(f"  {system.name}"))
    click.echo(inert(f"predictions are kept in {plan.kept}"))


def _check_report(output: Path, evaluator: Evaluator) -> None:
    """Raises UsageError where another evaluation's report would be replaced."""
    from layerctl_train.evaluate.aggregate import summarize
    from layerctl_train.evaluate.report import to_json

    old = _read(output / REPORT)
    if old is None:
        return
    empty = evaluator.evaluation((), None)
    new = json.loads(to_json(empty, summarize(empty)))
    other = next((name for name in IDENTITY if old.get(name) != new.get(name)), None)
    if other is not None:
        raise UsageError(
            f"{output} holds the report of another evaluation, with other {other}",
            hint="name another folder with -o, or add --overwrite; what was predicted is kept",
        )


def _run(evaluator: Evaluator, settings: Settings) -> Evaluation:
    from layerctl import registry

    with ExitStack() as stack:
        judge: Judge | None = None
        if settings.judge is not None:
            judge = stack.enter_context(closing(registry.load("judges", settings.judge)(settings, _tell)))
        with progress_bar("evaluating", quiet=settings.quiet) as progress:
            evaluator.predict(lambda what, share: progress(what, 0.7 * share))
            pictures = evaluator.score(judge, lambda what, share: progress(what, 0.7 + 0.3 * share))
            return evaluator.evaluation(pictures, judge)


def _print(page: Path, evaluation: Evaluation, summary: Summary, *, as_json: bool) -> None:
    from layerctl_train.evaluate.findings import headlines
    from layerctl_train.evaluate.report import to_json

    if as_json:
        click.echo(to_json(evaluation, summary), nl=False)
        return
    for headline in headlines(evaluation, summary):
        click.echo(inert(f"{headline.sentence} {headline.besides}".strip()))
    click.echo(inert(str(page)))


def _complain_of_missing(evaluation: Evaluation) -> None:
    failed = sum(1 for picture in evaluation.pictures if any(scores.failed for scores in picture.scores))
    if failed or evaluation.unreadable:
        raise SomeInputsFailedError(
            f"{failed} pictures have no prediction of some system, {len(evaluation.unreadable)} could not be read; the others are evaluated"
        )


def _first_reason(evaluator: Evaluator, evaluation: Evaluation) -> str:
    failed = [(picture.key, scores.failed) for picture in evaluation.pictures for scores in picture.scores]
    reasons = [*failed, *evaluator.faults, *evaluator.left_out]
    return f"{reasons[0][0]}: {reasons[0][1]}" if reasons else "name other data"


def _tell(line: str) -> None:
    say(inert(line))
