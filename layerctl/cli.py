"""The command line: a table of commands, each imported when it is used, and a table of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import ClassVar, NamedTuple

import click

from layerctl import __version__
from layerctl.errors import LayerctlError
from layerctl.terminal import inert, say

COMMANDS = {
    "decompose": ("layerctl.commands.decompose:decompose", "Split pictures into editable layers."),
    "split": ("layerctl.commands.split:split", "Split one layer of a layered file further, into a group."),
    "judge": ("layerctl_train.commands.judge:judge", "Score layers of a picture, one stack or several beside each other."),
    "train": ("layerctl_train.commands.train:train", "Train an adapter of the engine qwen by a judge's scores, or on layered files."),
    "eval": ("layerctl_train.commands.evaluate:evaluate", "Hold a system's layers against known ones, and against other systems."),
    "pull": ("layerctl.commands.pull:pull", "Fetch a base model or an adapter from the Hugging Face Hub."),
    "models": ("layerctl.commands.models:models", "List the base models and adapters on this disk, or delete them."),
    "doctor": ("layerctl.commands.doctor:doctor", "Show what this machine can do, and how the model would fit."),
}
"""Where each command is, and the first sentence of its help."""


class State:
    """What the error table has to know about the command that ran."""

    debug = False


class Report(NamedTuple):
    """What is said about an error, and the exit code that it ends in."""

    message: str
    hint: str | None = None
    exit_code: int = 1


INTERRUPTED = Report("interrupted", "what was finished is kept; the same command goes on from there", 130)
ERRORS: tuple[tuple[type[BaseException], Callable[..., Report]], ...] = (
    (LayerctlError, lambda error: Report(error.message, error.hint, error.exit_code)),
    (click.UsageError, lambda error: Report(error.format_message(), _help_command(error), 2)),
    (click.ClickException, lambda error: Report(error.format_message())),
    (click.Abort, lambda _: INTERRUPTED),
    (KeyboardInterrupt, lambda _: INTERRUPTED),
    (MemoryError, lambda _: Report("not enough memory for this picture", "close other programs, or make the picture smaller", 4)),
    (OSError, lambda error: Report(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))),
    (Exception, lambda error: Report(f"{type(error).__name__}: {error}", "this is a bug in layerctl; --debug shows where it is")),
)


class CommandTable(click.Group):
    """A group that imports a command when it is asked for; `table` says where each is, and the first sentence of its help."""

    table: ClassVar[dict[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])


@click.group(
    cls=CommandTable, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="layerctl %(version)s")
@click.pass_context
def layerctl(ctx: click.Context) -> None:
    """Turn a picture into editable layers.

    \b
    Examples:
      layerctl decompose photo.jpg --layers 4 --psd
      layerctl decompose poster.png --psd --open
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; the only place that catches what the library raises."""
    state = State()
    try:
        code = layerctl.main(args=arguments, prog_name="layerctl", standalone_mode=False, obj=state)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        if state.debug:
            import traceback

            traceback.print_exc()
        report = explain(error)
        complain(report)
        return report.exit_code


def explain(error: BaseException) -> Report:
    """What the table says about an error; one that is not in it is raised again."""
    for kind, describe in ERRORS:
        if isinstance(error, kind):
            return describe(error)
    raise error


def complain(report: Report) -> None:
    say(f"layerctl: {inert(report.message)}")
    if report.hint:
        say(f"  {inert(report.hint)}")


def _help_command(error: click.UsageError) -> str:
    return f"see: {error.ctx.command_path if error.ctx else 'layerctl'} --help"
