"""`layerctl judge`: layers of a picture are scored, one stack or several beside each other."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from layerctl.cli import CommandTable
from layerctl.commands import options
from layerctl.commands.usage import expected, taken
from layerctl.errors import InputError, LayerctlError, MissingDependencyError, SomeInputsFailedError, UsageError
from layerctl.terminal import inert, say

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.registry import Judge
    from layerctl.settings import Settings
    from layerctl.source import SourceImage
    from layerctl.verdict import GroupVerdict, Usage
    from layerctl_train.judge.verdict_files import DrawnGrid, Judged

DEFAULT_JUDGE = "pixels"
SAME_ASPECT = 0.05
"""By how much proportions may differ: models work at sizes that are multiples of 16."""
TABLE_WIDTH = 80
"""From here on the table has place for all of its columns, and for 17 characters of a name."""


class JudgeCommand(options.WithModelOptions, CommandTable):
    """Scores, unless the first word is the name of a command in its table."""

    table: ClassVar = {
        "calibrate": ("layerctl_train.commands.calibrate:calibrate", "Find out how well a judge scores, on faults of known severity.")
    }
    allow_interspersed_args = True
    parse_args = click.Command.parse_args
    invoke = click.Command.invoke
    collect_usage_pieces = click.Command.collect_usage_pieces

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        command = self.get_command(click.Context(self), args[0]) if args else None
        if command is not None:
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        if args and not os.path.lexists(args[0]) and (near := get_close_matches(args[0].lower(), self.table, n=1, cutoff=0.75)):
            raise UsageError(f"there is no file {args[0]}", hint=f"for the command, type: layerctl judge {near[0]}")
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _show_prompt(ctx: click.Context, _: click.Parameter, on: bool) -> None:
    if on:
        try:
            from layerctl_train.judge.prompts import shown_prompt
        except ImportError as error:
            raise _without_extra(error) from error
        click.echo(shown_prompt(), nl=False)
        ctx.exit()


@click.command(cls=JudgeCommand, no_args_is_help=False)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("stacks", metavar="STACK...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the result goes.  [default: beside SOURCE]")
@click.option("--about", metavar="TEXT", help="What the judge is told about the picture; sets --judge-condition prompt.")
@click.option("--evidence", is_flag=True, help="Show what the judge saw, a line a criterion.")
@click.option("--no-pictures", is_flag=True, help="Write no folder with grid pictures and verdict.json; print only.")
@click.option("--show-prompt", is_flag=True, is_eager=True, expose_value=False, callback=_show_prompt, help="Print what a judge is asked.")
@options.judge
@options.trust_project
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as a JSON object.")
@options.quiet_but_for_hosts
@options.debug
def judge(
    source: Path,
    stacks: tuple[Path, ...],
    output: Path | None,
    evidence: bool,
    no_pictures: bool,
    trust_project: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Score layers of a picture, one stack or several beside each other.

    SOURCE is the picture, each STACK layers of it: a PSD or PSB, a result folder of layerctl, or a folder of PNG files, of any size in
    SOURCE's proportions. Of five criteria, 0 to 10, come the points of a stack alone (phase 1); all are then compared in one picture, in
    several row orders (phase 2); both make the reward. The pictures that were compared, and verdict.json, go to a new folder
    (poster-judge/). A result's layers are refined: in training the judge sees them as the model made them.

    The judge pixels, the default, measures on this machine. The judge openai sends pictures to a model, on this machine or another; its
    key comes from the variable LAYERCTL_JUDGE_KEY or from a file. Further settings have variables and lines in layerctl.toml only
    (LAYERCTL_JUDGE_SIDE, judge_side = 512).

    \b
    Examples:
      layerctl judge poster.png poster-layers
      layerctl judge poster.png one.psd two.psd three.psd --evidence
      layerctl judge poster.png *.psd --judge openai --judge-url http://localhost:8000/v1 --judge-orders 4
      layerctl judge poster.png *.psd --judge openai --about "a concert poster with a cat" --dry-run
      layerctl judge poster.png a.psd b.psd --json --no-pictures
      layerctl judge --show-prompt

    Exit code: 0 all are scored, 1 none is or the judge stopped, 2 wrong usage, 3 some have no score, 5 a key or an extra is missing.
    """
    from layerctl import registry
    from layerctl.source import read_source

    settings = _settings(flags, trust_project=trust_project)
    picture = read_source(source, max_pixels=settings.max_pixels)
    layered = [_read(path, picture) for path in stacks]
    judge: Judge = registry.load("judges", settings.judge or DEFAULT_JUDGE)(settings, lambda line: say(inert(line)))
    with closing(judge):
        if dry_run:
            _print_forecast(judge, picture, layered, settings, as_json=as_json)
            return
        if judge.host and not settings.quiet:
            say(inert(f"judge {judge.name}: {expected(_forecast(judge, layered), judge.model, settings.judge_prices)}"))
        judged = _judged(judge, source, picture, stacks, layered, settings, with_grids=not no_pictures)
    _print(judged, as_json=as_json, evidence=evidence)
    if not no_pictures:
        from layerctl_train.judge.verdict_files import write

        folder = write(judged, output or source.parent)
        if not settings.quiet:
            say(inert(f"{folder}: {', '.join([*(_described(grid, stacks) for grid in judged.grids), 'verdict.json'])}"))
    _complain_of_missing(judged)


def _settings(flags: dict[str, Any], *, trust_project: bool) -> Settings:
    from layerctl.settings import resolve_settings

    refuse_none(flags)
    flags["judge_prices"] = flags["judge_prices"] or None
    flags["prompt"] = (flags.pop("about") or "").strip() or None
    if flags["prompt"] is not None:
        flags["judge_condition"] = flags["judge_condition"] or "prompt"
        if flags["judge_condition"] != "prompt":
            raise UsageError(f"--about is not told with --judge-condition {flags['judge_condition']}", hint="leave one of them out")
    settings = resolve_settings(flags, trust_project=trust_project)
    if settings.judge_condition == "prompt" and settings.prompt is None:
        raise UsageError(
            "--judge-condition prompt tells the judge about the picture, and there is nothing to tell", hint='--about "a poster"'
        )
    return settings


def refuse_none(flags: dict[str, Any]) -> None:
    """Raises UsageError where nobody is asked to judge."""
    if flags["judge"] == "none":
        raise UsageError("--judge none leaves nobody to judge", hint=f"leave it out for {DEFAULT_JUDGE}, or name a judge: --judge openai")


def _read(path: Path, source: SourceImage) -> LayerStack:
    from layerctl.layered_files import read_stack

    stack = read_stack(path)
    if abs(stack.width * source.height / (stack.height * source.width) - 1) > SAME_ASPECT:
        sizes = f"{stack.width} x {stack.height} pixels, {source.path} {source.width} x {source.height}"
        raise InputError(f"{path} is {sizes}: other proportions", hint="name the picture that the layers were made of")
    return stack


def _judged(
    judge: Judge,
    source: Path,
    picture: SourceImage,
    paths: tuple[Path, ...],
    stacks: Sequence[LayerStack],
    settings: Settings,
    *,
    with_grids: bool,
) -> Judged:
    from layerctl_train.judge.verdict_files import Judged, draw_grids

    verdict = judge.score_group(picture, stacks, settings.prompt or "")
    grids = draw_grids(picture, stacks, settings, verdict) if with_grids else ()
    return Judged(source, paths, verdict, settings, grids)


def _print(judged: Judged, *, as_json: bool, evidence: bool) -> None:
    from layerctl.verdict import CRITERIA
    from layerctl_train.judge.verdict_files import to_json

    if as_json:
        click.echo(to_json(judged), nl=False)
        return
    _print_table(judged)
    verdict = judged.verdict
    for path, sample in zip(judged.stacks, verdict.samples, strict=True):
        if not sample.is_valid:
            click.echo(inert(f"{path} has no score: {sample.reason}"))
        if evidence:
            click.echo(f"\n{inert(path)}")
            for name, score in zip(CRITERIA, sample.criteria, strict=True):
                click.echo(inert(f"  {name} {_points(score.points)}: {score.evidence}"))
    if evidence:
        click.echo()
    if len(verdict.samples) > 1:
        orders = len(verdict.orders_KG)
        agreement = f"{orders} row orders agree by {verdict.agreement:.2f}, " if orders > 1 and math.isfinite(verdict.agreement) else ""
        click.echo(f"{agreement}raw scores lie within {_points(verdict.spread)} points")
        click.echo(inert(f"as a group to learn from: {f'no, {verdict.no_signal}' if verdict.no_signal else 'yes'}"))
    usage = verdict.usage
    work = (
        f"{taken(usage, verdict.model, judged.settings.judge_prices)}, {usage.cached} answers from the cache, "
        if usage.calls or usage.cached
        else ""
    )
    click.echo(inert(f"judge {verdict.judge}, {verdict.model}: {work}{verdict.seconds:.1f} s"))


def _print_table(judged: Judged) -> None:
    """A row for each stack, in the order given, the best one bold; a block for each on a terminal that is too narrow for a row."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from layerctl.verdict import CRITERIA

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    rows = _rows(judged.stacks, judged.verdict)
    if console.width < TABLE_WIDTH:
        for name, cells, is_best in rows:
            click.secho(name, bold=is_best)
            for heading, cell in zip((*CRITERIA, "phase 1", "phase 2", "reward", "rank"), cells, strict=True):
                click.echo(f"  {heading:<12}{cell:>6}")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("stack", overflow="fold")
    for heading in ("separ.", "alpha", "backgr.", "distr.", "valid.", "phase 1", "phase 2", "reward", "rank"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cells, is_best in rows:
        table.add_row(Text(name), *cells, style="bold" if is_best else None)
    console.print(table)


def _rows(paths: Sequence[Path], verdict: GroupVerdict) -> list[tuple[str, tuple[str, ...], bool]]:
    """Of each stack its name, its numbers, and whether it is the best."""
    from layerctl_train.judge.verdict_files import ranks

    found = []
    for path, sample, rank in zip(paths, verdict.samples, ranks(verdict.rewards), strict=True):
        numbers = (*(score.points for score in sample.criteria), sample.phase1, sample.phase2, sample.reward)
        found.append((inert(path), (*map(_points, numbers), str(rank or "-")), rank == 1))
    return found


def _print_forecast(judge: Judge, source: SourceImage, stacks: Sequence[LayerStack], settings: Settings, *, as_json: bool) -> None:
    usage = _forecast(judge, stacks)
    size = _upload(source, stacks, settings) if judge.host else 0
    if as_json:
        told = {"judge": judge.name, "model": judge.model, "host": judge.host, "requests": usage.calls, "bytes": size}
        told |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "cost": usage.cost}
        click.echo(json.dumps(told))
        return
    where = f"pictures go to {judge.host}" if judge.host else "nothing leaves this machine"
    click.echo(inert(f"judge {judge.name}, {judge.model or 'the only model that the server lists'}: {where}"))
    if judge.host:
        work = expected(usage, judge.model, settings.judge_prices)
        click.echo(inert(f"{work}, and {size / 1e6:.1f} MB of pictures and words"))


def _forecast(judge: Judge, stacks: Sequence[LayerStack]) -> Usage:
    return judge.forecast(len(stacks), max(sum(1 for _ in stack.walk()) for stack in stacks), stacks[0].width / stacks[0].height)


def _upload(source: SourceImage, stacks: Sequence[LayerStack], settings: Settings) -> int:
    """Bytes of all requests, repetitions apart."""
    try:
        from layerctl_train.judge import prompts
    except ImportError as error:
        raise _without_extra(error) from error
    from layerctl_train.judge.verdict_files import draw_grids

    told = settings.prompt or ""
    asked = [prompts.about_sample(source, stack, told, settings) for stack in stacks]
    if settings.judge_condition == "caption":
        asked.append(prompts.about_picture(source, settings))
    for grid in draw_grids(source, stacks, settings):
        asked.append(prompts.about_group(source, [stacks[row] for row in grid.rows], None, told, settings))
    return sum(question.bytes for question in asked)


def _complain_of_missing(judged: Judged) -> None:
    """Raises where a stack has no score."""
    samples = judged.verdict.samples
    missing = [path for path, sample in zip(judged.stacks, samples, strict=True) if not sample.is_valid]
    if len(missing) == len(samples):
        raise LayerctlError("no stack has a score", hint=samples[0].reason)
    if missing:
        raise SomeInputsFailedError(f"{len(missing)} of {len(samples)} stacks have no score: {', '.join(map(str, missing))}")


def _described(grid: DrawnGrid, stacks: Sequence[Path]) -> str:
    return f"{grid.name} (from the top: {', '.join(str(stacks[row]) for row in grid.rows)})"


def _points(number: float) -> str:
    return f"{number:.1f}" if math.isfinite(number) else "-"


def _without_extra(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(f"what a judge is asked needs {error.name}", hint="pip install 'layerctl[judge]'")
