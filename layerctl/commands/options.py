"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _set_debug(ctx: click.Context, _: click.Parameter, on: bool) -> None:
    if on and ctx.obj is not None:
        ctx.obj.debug = True


debug: Decorator = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show where in the program an error comes from."
)
as_json: Decorator = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture, one a line.")
quiet: Decorator = click.option("-q", "--quiet", is_flag=True, default=None, help="Say nothing on stderr but errors.")
dry_run: Decorator = click.option("--dry-run", is_flag=True, help="Show what would be done, and write nothing.")


_MODEL: dict[str, Decorator] = {
    "model": click.option("--model", metavar="ID|DIR", help="Base model: a Hub id, also with @revision, or a folder."),
    "adapters": click.option(
        "--adapter", "adapters", metavar="ID|PATH", multiple=True,
        help="LoRA adapter: a Hub id, also with @revision, a folder or a file, and a weight if need be (name:0.5). Repeatable.",
    ),
    "preset": click.option("--preset", metavar="NAME", help="stable-layers or qwen.  [default: the adapter's, else qwen]"),
    "prompt": click.option("--prompt", metavar="TEXT", help="What the model is told.  [default: the preset's; qwen: a caption]"),
    "sampler": click.option("--sampler", metavar="euler|heun", help="[default: the preset's]"),
    "steps": click.option("--steps", metavar="N", help="Sampling steps.  [default: 50]"),
    "cfg": click.option("--cfg", metavar="X", help="Guidance; 1 is none and takes half the time.  [default: the preset's]"),
    "size": click.option("--size", metavar="N", help="Side at which the model works, a multiple of 16.  [default: 640]"),
    "seed": click.option("--seed", metavar="N", help="Seed of the noise.  [default: 42]"),
    "precision": click.option("--precision", metavar="NAME", help="Of the weights: auto, fp32, bf16, int8, int4.  [default: auto]"),
    "offload": click.option("--offload", metavar="NAME", help="What waits in main memory: auto, none, model, group.  [default: auto]"),
    "device": click.option("--device", metavar="NAME", help="Where the model runs: auto, cuda, mps, cpu.  [default: auto]"),
    "compile": click.option("--compile/--no-compile", default=None, help="Compile the model: slower to start, then faster."),
    "fuse": click.option("--fuse/--no-fuse", default=None, help="Merge adapters into the weights if that loses next to nothing."),
    "offline": click.option("--offline", is_flag=True, default=None, help="Never reach for another machine."),
}  # fmt: skip
MODEL_FLAGS = tuple(name for name in _MODEL if name != "offline")
"""The settings that only an engine with a model has a use for."""


class WithModelOptions(click.Command):
    """A command whose help shows the options of engines with a model apart from the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        shown = {option.name: option.get_help_record(ctx) for option in options}
        apart = {name: record for name, record in shown.items() if name in _MODEL}
        for heading, names in (("Options", shown.keys() - apart.keys()), ("Options of the engine qwen", apart.keys())):
            with formatter.section(heading):
                formatter.write_dl([record for name, record in shown.items() if name in names and record is not None])


def model(command: Callable[..., Any]) -> Callable[..., Any]:
    """All options of engines with a model."""
    for option in reversed(_MODEL.values()):
        command = option(command)
    return command
