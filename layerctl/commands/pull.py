"""`layerctl pull`: a base model or adapter comes from the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from layerctl.commands import options
from layerctl.terminal import inert, progress_bar, say

if TYPE_CHECKING:
    from layerctl.fetch import RemoteModel
    from layerctl.hub import LocalCopy

SMALL = 1_000_000_000
"""Bytes that are fetched without a question."""


@click.command()
@click.argument("model", metavar="ID[@REV]")
@click.option("--without-text-encoder", is_flag=True, help="Leave out the text encoder: not needed where an adapter brings its prompt.")
@click.option("-y", "--yes", is_flag=True, help="Fetch large models without a question.")
@click.option("--offline", is_flag=True, help="Fetch nothing; say where the model is on this disk.")
@options.dry_run
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@options.quiet
@options.debug
def pull(model: str, without_text_encoder: bool, yes: bool, offline: bool, dry_run: bool, as_json: bool, quiet: bool | None) -> None:
    """Fetch a base model or an adapter from the Hugging Face Hub.

    ID is the name of a repository; REV a branch, a tag or a commit of it. Only safetensors and small text files are fetched, into the cache
    that all programs of the Hub share, and checked. What is there already is not fetched again. The folder goes to stdout, all else to
    stderr. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.

    \b
    Examples:
      layerctl pull StabilityLabs/Stable-Layers
      layerctl pull Qwen/Qwen-Image-Layered --dry-run
      layerctl pull Qwen/Qwen-Image-Layered --without-text-encoder --yes
      layerctl pull StabilityLabs/Stable-Layers@main

    Exit code: 0 done, 1 it does not fit on the disk, 2 wrong usage, 5 it could not be fetched (no such model, no access, no connection).
    """
    import logging

    from huggingface_hub.utils.logging import set_verbosity

    from layerctl import fetch, hub

    # The library speaks of each attempt; what counts comes as an error.
    set_verbosity(logging.ERROR)
    reference = hub.parse_reference(model)
    if offline or hub.offline():
        _print(hub.local_copy(reference, offline=True), as_json=as_json)
        return
    remote = fetch.describe(reference, text_encoder=not without_text_encoder)
    if not quiet:
        _introduce(remote)
    fetch.require_space(remote, fetch.free_space())
    if dry_run:
        _print_plan(remote, as_json=as_json)
        return
    if not yes:
        _ask(remote)
    with progress_bar(inert(remote.repo_id), quiet=bool(quiet)) as progress:
        copy = fetch.download(remote, progress)
    _print(copy, as_json=as_json)


def _introduce(remote: RemoteModel) -> None:
    from layerctl.fetch import free_space
    from layerctl.hub import readable_size

    say(inert(f"{remote.repo_id} at {remote.revision[:12]}: {remote.kind}, {readable_size(remote.size)} in {len(remote.files)} files"))
    say(inert(f"  licence: {remote.licence}"))
    if remote.missing_size:
        say(f"  to fetch: {readable_size(remote.missing_size)}; free on the disk: {readable_size(free_space())}")
    else:
        say("  everything is here already")


def _ask(remote: RemoteModel) -> None:
    """Ends the command where a large model is not wanted, or nobody can be asked."""
    from layerctl.errors import UsageError
    from layerctl.hub import readable_size

    if remote.missing_size < SMALL:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{remote.repo_id} is {readable_size(remote.missing_size)} to fetch, and nobody is here to be asked",
            hint="type --yes to fetch it",
        )
    click.confirm("Fetch it?", abort=True, err=True)


def _print_plan(remote: RemoteModel, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(remote) | {"size": remote.size, "missing_size": remote.missing_size}))
        return
    for file in remote.files:
        click.echo(inert(f"{'keep ' if file.here else 'fetch'} {file.size:>14,} {file.name}"))


def _print(copy: LocalCopy, *, as_json: bool) -> None:
    click.echo(json.dumps(asdict(copy), default=str) if as_json else inert(copy.folder))
