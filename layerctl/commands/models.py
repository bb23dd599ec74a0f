"""`layerctl models`: the base models and adapters on this disk."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from layerctl.commands import options
from layerctl.terminal import inert, say

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model, one a line.")


@click.group(invoke_without_command=True)
@as_json
@options.debug
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the base models and adapters on this disk, or delete them.

    They are in the cache that all programs of the Hugging Face Hub share; what layerctl cannot use is not listed. A line has name,
    revision, kind and size.

    \b
    Examples:
      layerctl models
      layerctl models --json
      layerctl models rm Qwen/Qwen-Image-Layered
    """
    from layerctl.hub import cached, readable_size

    if ctx.invoked_subcommand is not None:
        return
    found = cached()
    for model in found:
        if as_json:
            click.echo(json.dumps(asdict(model), default=str))
        else:
            size = readable_size(model.size) + (
                "" if model.complete else f"  (only partly; layerctl pull {model.repo_id}@{model.revision})"
            )
            click.echo(inert(f"{model.repo_id:40} {model.revision[:12]}  {model.kind:10}  {size}"))
    if not found:
        say("there are none; layerctl pull fetches one")


@models.command()
@click.argument("model", metavar="ID[@REV]")
@click.option("-y", "--yes", is_flag=True, help="Delete without a question.")
@options.quiet
@options.debug
def rm(model: str, yes: bool, quiet: bool | None) -> None:
    """Delete a model from this disk: one revision, or all of them.

    REV is a branch, or a commit or the beginning of one as the list shows it. Other programs that share the cache lose the model too.

    \b
    Examples:
      layerctl models rm StabilityLabs/Stable-Layers
      layerctl models rm StabilityLabs/Stable-Layers@41b2f7692d2b --yes

    Exit code: 0 done, 1 it could not be deleted, 2 there is no such model here, or nobody to be asked.
    """
    from layerctl.errors import UsageError
    from layerctl.hub import find_cached, parse_reference, readable_size, remove

    found = find_cached(parse_reference(model))
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{model} is not deleted without a question, and nobody is here to be asked", hint="type --yes to delete it")
        sizes = ", ".join(f"{entry.revision[:12]} ({readable_size(entry.size)})" for entry in found)
        click.confirm(f"Delete {inert(model)}: {sizes}?", abort=True, err=True)
    freed = remove(found)
    if not quiet:
        say(f"{readable_size(freed)} freed ({freed} bytes)")
