"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from layerctl.judge_settings import KEY_VARIABLE

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _set_debug(ctx: click.Context, _: click.Parameter, on: bool) -> None:
    if on and ctx.obj is not None:
        ctx.obj.debug = True


debug: Decorator = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show where in the program an error comes from."
)
as_json: Decorator = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture, one a line.")
trust_project: Decorator = click.option(
    "--trust-project", is_flag=True, help="Let layerctl.toml of this folder choose the engine, plugins and the judge's server."
)
quiet: Decorator = click.option("-q", "--quiet", is_flag=True, default=None, help="Say nothing on stderr but errors.")
quiet_but_for_hosts: Decorator = click.option(
    "-q", "--quiet", is_flag=True, default=None, help="Say nothing on stderr but errors, and where a judge sends pictures."
)
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


_JUDGE: dict[str, Decorator] = {
    "judge": click.option("--judge", metavar="NAME", help="Who judges: pixels, openai (a model that sees pictures) or a plugin's."),
    "judge_url": click.option("--judge-url", metavar="URL", help="OpenAI-compatible server.  [default: http://localhost:8000/v1]"),
    "judge_model": click.option("--judge-model", metavar="NAME", help="The model that judges.  [default: the only one that it serves]"),
    "judge_key_file": click.option("--judge-key-file", metavar="FILE", help="Where the server's key is.  [default: in the variable]"),
    "judge_key_env": click.option("--judge-key-env", metavar="NAME", help=f"Variable that holds the key.  [default: {KEY_VARIABLE}]"),
    "judge_condition": click.option(
        "--judge-condition", metavar="nothing|caption|prompt", help="What it is told about the picture.  [default: nothing]"
    ),
    "judge_orders": click.option("--judge-orders", metavar="K", help="Row orders in which all are compared; 0 for none.  [default: 2]"),
    "judge_seed": click.option("--judge-seed", metavar="N", help="Seed of the row orders.  [default: 0]"),
    "judge_blend": click.option("--judge-blend", metavar="X", help="The comparison's share of the reward, 0 to 1.  [default: 0.5]"),
    "judge_cache": click.option("--judge-cache", metavar="FILE", help="Where answers are kept.  [default: ~/.cache/layerctl/judge.sqlite]"),
    "judge_replay": click.option("--replay", "judge_replay", is_flag=True, default=None, help="Use kept answers only; ask no server."),
    "judge_prices": click.option(
        "--judge-price", "judge_prices", metavar="MODEL=IN,OUT", multiple=True, help="US dollars for a million tokens. Repeatable."
    ),
    "max_judge_calls": click.option("--max-judge-calls", metavar="N", help="Send at most so many requests."),
    "max_judge_cost": click.option("--max-judge-cost", metavar="X", help="Spend at most so many US dollars; needs --judge-price."),
    "judge_concurrency": click.option("--judge-concurrency", metavar="N", help="Requests at a time.  [default: 8]"),
    "judge_timeout": click.option("--judge-timeout", metavar="X", help="Seconds that a request may take.  [default: 120]"),
}  # fmt: skip


class WithModelOptions(click.Command):
    """A command whose help shows the options of engines with a model, and those of judges, apart from the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        parameters = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for heading, belongs in (
            ("Options", lambda name: name not in {**_MODEL, **_JUDGE}),
            ("Options of the engine qwen", _MODEL.__contains__),
            ("Options of the judge", _JUDGE.__contains__),
        ):
            records = [option.get_help_record(ctx) for option in parameters if belongs(option.name)]
            if shown := [record for record in records if record is not None]:
                with formatter.section(heading):
                    formatter.write_dl(shown)


def model(command: Callable[..., Any]) -> Callable[..., Any]:
    """All options of engines with a model."""
    return _with(_MODEL, command)


def model_apart_from(*names: str) -> Decorator:
    """All options of engines with a model but these, for a command that has others of their names."""
    return lambda command: _with({name: option for name, option in _MODEL.items() if name not in names}, command)


def judge(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of judges that a person types; the other settings are for files and variables."""
    return _with(_JUDGE, command)


def _with(options: dict[str, Decorator], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options.values()):
        command = option(command)
    return command
