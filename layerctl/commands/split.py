"""`layerctl split`: one layer of a layered file becomes a group of layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerctl.commands import options
from layerctl.terminal import inert, progress_bar, say

if TYPE_CHECKING:
    from layerctl.layers import Group
    from layerctl.registry import DecomposeRequest, Engine, Progress
    from layerctl.split_files import Found


@click.command(cls=options.WithModelOptions)
@click.argument("path", metavar="FILE.psd|DIR", type=click.Path(path_type=Path))
@click.option("--layer", "name", metavar="NAME", required=True, help="The layer, as its program shows it; with its groups if need be.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR|FILE.psd", help="Where it goes.  [default: beside the input]")
@click.option("-n", "--layers", metavar="N|auto", help="Layers of the group: 2 to 20, or as many as it needs.  [default: auto]")
@click.option("--kind", metavar="auto|design|photo", help="What the layer shows.  [default: auto]")
@click.option("--engine", metavar="NAME", help="What proposes the layers: classic, qwen, a plugin's, or auto.  [default: auto]")
@options.model
@click.option("--trust-project", is_flag=True, help="Let layerctl.toml of this folder choose the engine and plugins.")
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@options.quiet
@options.debug
def split(path: Path, name: str, output: Path | None, trust_project: bool, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Split one layer of a layered file further, into a group.

    Of a PSD or PSB, a copy is written beside it (poster-split.psd): the layer is a group of its name, opacity and blend mode, and nothing
    else is touched. Of a result folder or a folder of PNG layers, a new result is made (poster-split-layers/), in the formats that it had.
    The picture stays the same within 1/255, and layers inside of groups can be split again. NAME is a layer's name, whatever its case, or
    "Group / Name" where several have it. Paths of what was written go to stdout, all else to stderr.

    \b
    Examples:
      layerctl split poster.psd --layer "Subject"
      layerctl split photo-layers --layer "Element 2 (red, top left)" --layers 3
      layerctl split poster-split.psd --layer "Subject / Subject base" -o again.psd
      layerctl split photo-layers --layer Background --dry-run

    Exit code: 0 done, 1 it cannot be read or holds nothing more, 2 wrong usage or no such layer, 4 not enough memory, 5 something is not
    installed.
    """
    from layerctl.decompose import load_parts
    from layerctl.engines.choice import with_engine
    from layerctl.registry import DecomposeRequest
    from layerctl.settings import resolve_settings
    from layerctl.split_files import open_layered

    flags["adapters"] = flags["adapters"] or None
    resolved = resolve_settings(flags, trust_project=trust_project)
    settings, remark = with_engine(resolved, wanted=[flag for flag in options.MODEL_FLAGS if flags[flag] is not None])
    document = open_layered(path)
    found = document.find(name)
    target = document.target(output)
    told: dict[str, Any] = {"input": str(path), "layer": found.shown}
    if dry_run:
        click.echo(json.dumps(told | {"status": "planned", "target": str(target)}) if as_json else inert(f"{found.shown} -> {target}"))
        return

    def tell(line: str) -> None:
        if not settings.quiet:
            say(inert(line))

    if remark:
        tell(remark)
    engine = load_parts(settings, tell).engine
    warnings: list[str] = []
    with progress_bar(inert(found.layer.name), quiet=settings.quiet) as progress:
        group = _split(found, engine, DecomposeRequest(settings.layers, settings.kind), progress, warnings.append)
    names = [child.name for child in group.children]
    notes = (f"{found.shown!r} was split into {len(names)} by {engine.name} {engine.version}", *warnings)
    files = [str(file) for file in document.write(found, group, target, notes)]
    tell(f"{found.shown}: {len(names)} layers: {', '.join(names)}")
    for warning in warnings:
        tell(f"  {warning}")
    told |= {"status": "written", "layers": names, "files": files, "warnings": warnings}
    for line in [json.dumps(told)] if as_json else map(inert, files):
        click.echo(line)


def _split(found: Found, engine: Engine, request: DecomposeRequest, progress: Progress, tell: Callable[[str], None]) -> Group:
    """Raises LayerctlError where the engine finds nothing more."""
    from layerctl.errors import LayerctlError
    from layerctl.layers import Group
    from layerctl.split import split_layer

    node = split_layer(found.layer, found.stack, engine, request, progress, tell)
    if isinstance(node, Group):
        return node
    message = f"{engine.name} finds nothing more in {found.shown!r}; nothing is written"
    hint = (
        "try another layer, or another engine with --engine"
        if request.layers
        else "--layers 3 asks for a number, --engine for another view"
    )
    raise LayerctlError(message, hint=hint)
