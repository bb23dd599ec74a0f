"""`layerctl decompose`: pictures and folders of pictures become layered files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerctl.commands import options
from layerctl.errors import BELOW_QUALITY, JudgeStoppedError, UsageError
from layerctl.terminal import inert, open_file, progress_bar, say

if TYPE_CHECKING:
    from layerctl.decompose import Parts, Result
    from layerctl.plan import Refused, Target
    from layerctl.registry import Engine, Judge
    from layerctl.settings import Settings
    from layerctl.source import SourceImage
    from layerctl.verdict import Usage

MANY_LAYERS = 8
"""What a judge's work is estimated for where no number of layers is asked for."""


@click.command(cls=options.WithModelOptions)
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go.  [default: beside each input]")
@click.option(
    "-n", "--layers", metavar="N|auto", help="Visible layers, Background included: 2 to 20, or as many as it needs.  [default: auto]"
)
@click.option("--format", "formats", metavar="NAMES", help="Formats to write, with commas between them: psd,png.  [default: png]")
@click.option("--psd", is_flag=True, help="Write a layered PSD; the same as --format psd.")
@click.option("--png", is_flag=True, help="Write a PNG file for each layer; the same as --format png.")
@click.option("--kind", metavar="auto|design|photo", help="What the picture is.  [default: auto]")
@click.option("--best-of", metavar="N", help="Make N different proposals and keep the best, by measure or by --judge.  [default: 1]")
@click.option("--min-quality", metavar="X", help="Exit with code 6 when a result measures below X, 0 to 1; it is written all the same.")
@click.option("--keep-faulty/--no-keep-faulty", default=None, help="Keep blank layers and copies, which are left out otherwise.")
@click.option("--recurse", metavar="D", help="Split layers that seem to hold several things again, D levels deep, into groups.")
@click.option("--target", "targets", metavar="X0,Y0,X1,Y1", multiple=True, help="What is in the box becomes its own layer. Repeatable.")
@click.option("--mask", "target_masks", metavar="FILE", multiple=True, help="What is white in the file becomes its own layer. Repeatable.")
@click.option("--engine", metavar="NAME", help="What proposes the layers: classic, qwen, a plugin's, or auto.  [default: auto]")
@click.option("--masks/--no-masks", default=None, help="Write transparency as layer masks that can be painted on.")
@click.option("--original/--no-original", default=None, help="Add the untouched picture as a hidden, locked layer.")
@click.option("--full-canvas/--cropped", default=None, help="Write PNG layers as large as the picture.  [default: cropped]")
@click.option("--strip-metadata/--keep-metadata", default=None, help="Leave out where the picture was taken; rights and author stay.")
@click.option("--error-map/--no-error-map", default=None, help="Write a picture of where the engine's own layers were off.")
@click.option("--max-pixels", metavar="N", help="The largest picture to read.  [default: 200000000]")
@click.option("--overwrite", is_flag=True, default=None, help="Make results anew; those that you edited stay, and a new folder is made.")
@click.option("--open", "open_result", is_flag=True, help="Open the result when it is done.")
@options.model
@options.judge
@options.trust_project
@options.dry_run
@options.as_json
@options.quiet_but_for_hosts
@options.debug
@click.pass_context
def decompose(
    ctx: click.Context,
    /,
    inputs: tuple[Path, ...],
    output: Path | None,
    psd: bool,
    png: bool,
    open_result: bool,
    trust_project: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Split pictures into editable layers.

    INPUTS are pictures and folders of pictures. The layers are full-size and flatten exactly to the picture. The result of photo.jpg is
    the folder photo-layers/ with photo.psd, layers/NN-name.png, preview.png (all layers at a glance) and manifest.json. A result that is
    there already is left, and what you edited is never replaced. Paths of what was written go to stdout, all else to stderr.

    The engine qwen runs Qwen-Image-Layered and adapters of it (layerctl pull fetches both, layerctl doctor tells what this machine can
    run). auto takes it where a GPU and the weights are there, and the embedded engine elsewhere; --model and --adapter ask for it.

    The judge openai shows all proposals to a model on a server, pictures included; the judge pixels measures them on this machine. Without
    a judge, or with --judge none, the measured quality chooses. layerctl judge scores layers that are there already.

    \b
    Examples:
      layerctl decompose photo.jpg --layers 4 --psd
      layerctl decompose poster.png --psd --open
      layerctl decompose pictures/ -o results --format psd,png
      layerctl decompose *.png --dry-run
      layerctl decompose poster.png --psd --best-of 4 --min-quality 0.6
      layerctl decompose poster.png --psd --best-of 6 --judge openai --judge-orders 4 --max-judge-calls 100
      layerctl decompose photo.jpg --psd --target 120,80,420,360 --target 50%,50%,90%,95%
      layerctl decompose photo.jpg --layers 4 --psd --engine qwen --adapter StabilityLabs/Stable-Layers

    Exit code: 0 done, 1 failed, 2 wrong usage, 3 some inputs failed, 4 not enough memory, 5 something is not installed, 6 written, but
    below --min-quality.
    """
    from dataclasses import replace

    from layerctl.decompose import is_judged, load_parts, loaded_judge, recorded_settings
    from layerctl.engines.choice import with_engine
    from layerctl.plan import plan
    from layerctl.settings import resolve_settings

    flags["formats"] = ",".join([*filter(None, [flags["formats"]]), *["psd"] * psd, *["png"] * png]) or None
    for repeatable in ("adapters", "targets", "target_masks", "judge_prices"):
        flags[repeatable] = flags[repeatable] or None
    resolved = resolve_settings(flags, trust_project=trust_project)
    if flags["judge"] and resolved.judge and resolved.best_of == 1:
        raise UsageError("--judge chooses among several proposals, and one is made", hint="add --best-of 4")
    # The prompt may be the judge's, whatever the engine.
    other = {"prompt"} if is_judged(resolved) and resolved.judge_condition == "prompt" else set()
    settings, remark = with_engine(resolved, wanted=[name for name in options.MODEL_FLAGS if flags[name] is not None and name not in other])
    if remark and not settings.quiet:
        say(inert(remark))
    parts = load_parts(settings, lambda line: None if settings.quiet else say(inert(line)))
    entries = plan(inputs, output, overwrite=settings.overwrite, settings=recorded_settings(settings))
    printer = _Printer(len(entries), as_json=as_json, quiet=settings.quiet, debug=ctx.obj is not None and ctx.obj.debug)
    # Where pictures go is said even to who wants to hear nothing else.
    with loaded_judge(settings, lambda line: say(inert(line))) as judge:
        parts = replace(parts, judge=judge)
        if dry_run:
            return printer.print_plan(entries, parts, settings)
        if judge is not None and judge.host and not settings.quiet:
            say(inert(_judging(judge, _judged(entries, judge, settings), settings)))
        results = _run(entries, parts, settings, printer)
    if open_result and results:
        _open(results)
    return printer.exit_code()


def _run(entries: list[Target | Refused], parts: Parts, settings: Settings, printer: _Printer) -> list[Result]:
    """Each picture in turn; the next one is read, and the one before is written, while the engine is at work."""
    from concurrent.futures import Future, ThreadPoolExecutor, wait

    from layerctl.decompose import propose, read_file, write_result
    from layerctl.plan import Target

    results: list[Result] = []
    pictures = [entry for entry in entries if isinstance(entry, Target) and entry.action != "skip"]
    ahead = iter(pictures)
    unfinished: list[tuple[Target, Future[Result]]] = []

    def finish() -> None:
        while unfinished:
            target, written = unfinished.pop()
            try:
                results.append(written.result())
            except Exception as error:
                printer.failed(target.source, error)
            else:
                printer.written(target, results[-1])

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read_next() -> Future[SourceImage] | None:
            target = next(ahead, None)
            return reader.submit(read_file, target.source, settings) if target else None

        reading = read_next()
        try:
            for index, entry in enumerate(entries):
                if not isinstance(entry, Target):
                    finish()
                    printer.failed(entry.source, entry.error)
                elif entry.action == "skip":
                    finish()
                    printer.skipped(entry, settings)
                else:
                    assert reading is not None
                    try:
                        with progress_bar(inert(entry.source.name), quiet=settings.quiet) as progress:
                            progress("reading", 0.0)
                            current, reading = reading, read_next()
                            source = current.result()
                            proposal = propose(entry, source, parts, settings, progress, index)
                            written = writer.submit(write_result, entry, source, proposal, parts, settings)
                            if entry is pictures[-1]:
                                progress("writing", 1.0)
                                wait([written])
                    except JudgeStoppedError as error:
                        finish()
                        printer.failed(entry.source, error)
                        printer.not_done([left.source for left in entries[index + 1 :] if left in pictures])
                        break
                    except Exception as error:
                        finish()
                        printer.failed(entry.source, error)
                    else:
                        finish()
                        unfinished.append((entry, written))
        finally:
            # On Ctrl-C too: what is being written is finished, and told.
            finish()
    return results


def _open(results: list[Result]) -> None:
    """Open the layered file of the first result, or its preview when only a folder was written."""
    first = next((path for path in results[0].exports if path.is_file()), results[0].preview)
    problem = open_file(first)
    if problem:
        say(f"not opened: {problem}; the file is {inert(first)}")
    elif len(results) > 1:
        say(f"opened {inert(first)}, the first of {len(results)} results")


def _forecast(target: Target, engine: Engine, settings: Settings) -> tuple[str, ...]:
    """What a model engine says it would do with the picture; nothing for other engines and for pictures that are skipped.

    Raises UsageError and InputError for wanted regions that cannot be the picture's.
    """
    from layerctl.decompose import wanted_regions
    from layerctl.registry import DecomposeRequest
    from layerctl.source import picture_size

    if target.action == "skip":
        return ()
    width, height = picture_size(target.source)
    wanted_regions(width, height, settings)
    if not hasattr(engine, "forecast"):
        return ()
    lines: tuple[str, ...] = engine.forecast(width, height, DecomposeRequest(settings.layers, settings.kind))
    return lines


def _judged(entries: Iterable[Target | Refused], judge: Judge, settings: Settings) -> Usage:
    """What the judge takes for all pictures that are not skipped, at most."""
    from layerctl.errors import LayerctlError
    from layerctl.plan import Target
    from layerctl.source import picture_size
    from layerctl.verdict import Usage

    usage = Usage()
    for entry in entries:
        if isinstance(entry, Target) and entry.action != "skip":
            try:
                width, height = picture_size(entry.source)
            except (LayerctlError, OSError):
                continue  # it will fail, and be told, in its turn
            usage += judge.forecast(settings.best_of, settings.layers or MANY_LAYERS, width / height)
    return usage


def _judging(judge: Judge, usage: Usage, settings: Settings) -> str:
    from layerctl.commands.usage import expected

    if not judge.host:
        return f"judge {judge.name}: nothing leaves this machine"
    return f"judge {judge.name}: {expected(usage, judge.model, settings.judge_prices)}; pictures go to {judge.host}"


class _Printer:
    """What a run says: paths or JSON on stdout, talk on stderr; it counts what failed."""

    def __init__(self, total: int, *, as_json: bool, quiet: bool, debug: bool) -> None:
        self.total, self.as_json, self.quiet, self.debug = total, as_json, quiet, debug
        self.done = 0
        self.failures: list[int] = []
        self.poor = 0

    def print_plan(self, entries: Sequence[Target | Refused], parts: Parts, settings: Settings) -> int:
        from layerctl.plan import Target

        for entry in entries:
            if not isinstance(entry, Target):
                self.failed(entry.source, entry.error)
                continue
            try:
                forecast = _forecast(entry, parts.engine, settings)
            except Exception as error:
                self.failed(entry.source, error)
                continue
            self.done += 1
            if parts.judge is not None and entry.action != "skip":
                forecast = (*forecast, _judging(parts.judge, _judged([entry], parts.judge, settings), settings))
            if self.as_json:
                self._record(
                    entry.source, "planned", folder=entry.folder, action=entry.action, remark=entry.remark, forecast=list(forecast)
                )
            else:
                remark = f" ({entry.remark})" if entry.remark else ""
                click.echo(inert(f"{entry.action} {entry.source} -> {entry.folder}{remark}"))
                for line in () if self.quiet else forecast:
                    say(f"  {inert(line)}")
        if parts.judge is not None and self.done > 1 and not self.quiet:
            say(f"in all: {inert(_judging(parts.judge, _judged(entries, parts.judge, settings), settings))}")
        return self.exit_code()

    def written(self, target: Target, result: Result) -> None:
        self.done += 1
        self.poor += not result.is_good
        if target.remark and not self.quiet:
            self._tell(target.source, target.remark)
        if not self.quiet:
            self._tell(
                target.source,
                f"{len(result.layers)} layers, quality {result.quality.overall:.2f}, in {result.folder}: {', '.join(result.layers)}",
            )
            for warning in result.warnings:
                say(f"  {inert(warning)}")
        if self.as_json:
            self._record(
                target.source,
                "written",
                folder=result.folder,
                files=[str(path) for path in (*result.exports, result.preview)],
                layers=list(result.layers),
                recomposition_error=result.error,
                quality=round(result.quality.overall, 4),
                is_good=result.is_good,
                warnings=list(result.warnings),
            )
        else:
            for path in (*result.exports, result.preview):
                click.echo(inert(path))

    def skipped(self, target: Target, settings: Settings) -> None:
        from layerctl.results import read_manifest

        self.done += 1
        manifest = read_manifest(target.folder)
        self.poor += manifest is not None and manifest.quality.overall < (settings.min_quality or 0)
        if not self.quiet:
            self._tell(target.source, f"skipped, {target.remark}; --overwrite makes it anew")
        if self.as_json:
            self._record(target.source, "skipped", folder=target.folder, remark=target.remark)

    def failed(self, source: Path, error: Exception) -> None:
        from layerctl.cli import complain, explain

        report = explain(error)
        if str(source) not in report.message:
            report = report._replace(message=f"{source}: {report.message}")
        self.failures.append(report.exit_code)
        if self.debug:
            import traceback

            traceback.print_exception(error)
        complain(report)
        if self.as_json:
            self._record(source, "failed", error=report.message, hint=report.hint)

    def not_done(self, sources: list[Path]) -> None:
        """Pictures that a run never came to, because of the last failure."""
        for source in sources:
            self.failures.append(self.failures[-1])
            if self.as_json:
                self._record(source, "not done")
        if sources:
            say(inert(f"not done: {', '.join(map(str, sources))}"))

    def exit_code(self) -> int:
        """Raises SomeInputsFailedError when others were done."""
        from layerctl.errors import SomeInputsFailedError

        if self.failures and self.done:
            raise SomeInputsFailedError(f"{len(self.failures)} of {self.total} inputs failed, the others are done")
        if not self.failures and self.poor:
            return BELOW_QUALITY
        return self.failures[0] if len(set(self.failures)) == 1 else int(bool(self.failures))

    def _tell(self, source: Path, text: str) -> None:
        place = f"{self.done}/{self.total} " if self.total > 1 else ""
        say(inert(f"{place}{source}: {text}"))

    def _record(self, source: Path, status: str, **fields: Any) -> None:
        click.echo(json.dumps({"input": str(source), "status": status} | fields, default=str))
