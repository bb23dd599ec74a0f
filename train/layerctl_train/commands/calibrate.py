"""`layerctl judge calibrate`: what a judge is worth, on faults of known severity."""

from __future__ import annotations

import json
import math
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerctl.commands import options
from layerctl.commands.usage import expected, taken
from layerctl.errors import LayerctlError, UsageError
from layerctl.terminal import inert, progress_bar, say
from layerctl_train.commands.judge import DEFAULT_JUDGE, refuse_none

if TYPE_CHECKING:
    from layerctl.settings import Settings
    from layerctl_train.judge.calibrate import Calibration, Case


@click.command(cls=options.WithModelOptions)
@click.argument("layered", metavar="[STACK...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--scenes", type=click.IntRange(1, 1000), default=2, help="Drawn pictures, where no STACK is named.  [default: 2]")
@click.option("--faults", metavar="NAMES", help="Planted faults, with commas between them.  [default: nine of all criteria]")
@options.judge
@options.trust_project
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as a JSON object.")
@options.quiet_but_for_hosts
@options.debug
def calibrate(
    layered: tuple[Path, ...], scenes: int, faults: str | None, trust_project: bool, dry_run: bool, as_json: bool, **flags: Any
) -> None:
    """Find out how well a judge scores, on faults of known severity.

    Faults are planted, ever more severe, into layers that are right: into those of each STACK (a PSD, a result folder, a folder of PNG
    files; your own kind of pictures tells most), or into drawn scenes. The judge scores them as it would score candidates, and its scores
    are held against what was planted. Look at this before you train with a judge.

    \b
    Examples:
      layerctl judge calibrate
      layerctl judge calibrate --judge openai --judge-url http://localhost:8000/v1 --dry-run
      layerctl judge calibrate house-style/*.psd --judge openai --judge-orders 4
      layerctl judge calibrate --judge openai --faults halo,ghost,split --scenes 8 --json

    Exit code: 0 done, 1 no candidate has a score or the judge stopped, 2 wrong usage, 5 a key or an extra is missing.
    """
    from layerctl import registry
    from layerctl.settings import resolve_settings
    from layerctl_train.judge.calibrate import calibrate, calls_of

    refuse_none(flags)
    flags["judge_prices"] = flags["judge_prices"] or None
    settings = resolve_settings(flags, trust_project=trust_project)
    make = registry.load("judges", settings.judge or DEFAULT_JUDGE)
    shown = _cases(layered, scenes, _faults(faults), settings)
    # A judge is made for each time that it is asked, and says each time where pictures go.
    tell = cache(lambda line: say(inert(line)))
    with closing(make(settings, tell)) as judge:
        host = judge.host
        work = expected(calls_of(judge, shown), judge.model, settings.judge_prices)
    if dry_run or (host and not settings.quiet):
        where = f"; {f'pictures go to {host}' if host else 'nothing leaves this machine'}" if dry_run else ""
        candidates = sum(len(case.stacks) for case in shown)
        say(inert(f"{len(shown)} groups, {candidates} candidates, judge {judge.name}: {work}{where}"))
    if dry_run:
        return
    with progress_bar("calibrating", quiet=settings.quiet) as progress:
        found = calibrate(make, settings, shown, tell, progress)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _report(found, settings, is_remote=bool(host)))
    if found.failures == 1:
        raise LayerctlError(f"the judge {found.judge} has scored no candidate", hint=found.reasons[0])


def _faults(names: str | None) -> tuple[str, ...]:
    from layerctl_train.judge.calibrate import FAULTS

    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(","))) if names is not None else tuple(FAULTS)
    for name in wanted:
        if name not in FAULTS:
            raise UsageError(f"--faults names {name!r}, which is no fault", hint=f"choose among {', '.join(FAULTS)}")
    return wanted


def _cases(layered: tuple[Path, ...], scenes: int, faults: tuple[str, ...], settings: Settings) -> list[Case]:
    from layerctl_train.judge.calibrate import cases, drawn_pictures, pictures_in

    pictures = pictures_in(layered) if layered else drawn_pictures(scenes)
    found = [case for picture in pictures for case in cases(*picture, faults, settings.judge_seed)]
    if not any(case.fault for case in found):
        raise UsageError(
            f"none of {', '.join(faults)} can be planted into these layers", hint="name stacks with a background and elements above it"
        )
    return found


def _report(found: Calibration, settings: Settings, *, is_remote: bool) -> str:
    """All numbers, in words."""
    lines = [
        f"judge {found.judge}, {found.model}: {found.candidates} candidates in {found.cases} groups",
        "",
        "rank correlation with the truth",
    ]
    lines += [f"    {name:<22}{_number(value)}" for name, value in found.criteria.items()]
    lines += ["  by fault, of the reward"]
    lines += [f"    {name:<22}{_number(value)}" for name, value in found.faults.items()]
    lines += ["", "what it takes to find the order           requests a group   US dollars   correlation"]
    for stage in found.stages:
        lines.append(f"  {stage.name:<40}{stage.calls:>16.1f}{_dollars(stage.cost):>13}{_number(stage.correlation):>14}")
    low, high = found.band
    work = taken(found.usage, found.model, settings.judge_prices)
    lines += [
        "",
        f"compression     phase 1 uses {_number(low)} to {_number(high)} of 0 to 10; within a group {_number(found.spread_alone)} points, "
        f"{_number(found.spread_together)} in phase 2",
        f"position        the uppermost row gets {_number(found.position)} points more than the lowest",
        f"asked again     phase 1 differs by {_number(found.retest_difference)} points, correlation {_number(found.retest_correlation)}",
        f"row orders      agree by {_number(found.agreement)}",
        f"anchoring       phase 2 repeats phase 1's errors by {_number(found.anchoring)} (0: not at all, 1: all)",
        f"signal          {found.taught:.0%} of groups would teach; "
        f"of {found.equals} of equal layers {found.taught_by_equals:.0%} (should be 0%)",
        f"no score        {found.failures:.1%} of candidates" + (f": {'; '.join(found.reasons[:3])}" if found.reasons else ""),
        f"took            {work}, {found.usage.cached} answers from the cache, {found.seconds:.0f} s",
    ]
    if found.agreement > settings.judge_min_agreement and found.taught < 0.5:
        lines += ["", f"It sees differences, but {settings.judge_orders} row orders do not prove it often enough: --judge-orders 4"]
    if is_remote and found.failures < 1 and found.retest_difference == 0 and settings.judge_temperature == 0:
        lines += ["", "The server answers the same every time: set judge_temperature above 0 to learn how sure it is"]
    return "\n".join(map(inert, lines))


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost:.4f}"
