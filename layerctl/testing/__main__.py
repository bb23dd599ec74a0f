"""`python -m layerctl.testing tiny-checkpoint DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from layerctl.testing.checkpoint import write_tiny_checkpoint


@click.group()
def testing() -> None:
    """What tests of layerctl and of its plugins need."""


@testing.command("tiny-checkpoint")
@click.argument("folder", type=click.Path(path_type=Path))
def tiny_checkpoint(folder: Path) -> None:
    """Write a tiny Qwen-Image-Layered with random weights into FOLDER, which must not exist yet.

    \b
    Example:
      python -m layerctl.testing tiny-checkpoint tiny
      layerctl decompose photo.jpg --engine qwen --model tiny
    """
    if folder.exists():
        raise click.UsageError(f"{folder} is there already; name a new folder")
    write_tiny_checkpoint(folder)
    click.echo(folder)


if __name__ == "__main__":
    testing()
