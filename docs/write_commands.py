"""Writes docs/commands.md, the help of every command, or checks that it is current (`--check`)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from layerctl.cli import layerctl

PAGE = Path(__file__).with_name("commands.md")
HEAD = "# Commands\n\nWritten by `docs/write_commands.py` from the help of the program: `make fix` writes it anew.\n"


def command_page() -> str:
    return "\n".join([HEAD, *(section for path, command in _commands("layerctl", layerctl) for section in _section(path, command))])


def _commands(path: str, command: click.Command) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        children = ((name, command.get_command(context, name)) for name in command.list_commands(context))
        found += [entry for name, child in children if child for entry in _commands(f"{path} {name}", child)]
    return found


def _section(path: str, command: click.Command) -> tuple[str, str]:
    text = command.get_help(click.Context(command, info_name=path, terminal_width=100, help_option_names=["-h", "--help"]))
    return f"## {path}\n", f"```text\n{text.rstrip()}\n```\n"


def main() -> int:
    page = command_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    click.echo(f"{PAGE} is not current: make fix", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
