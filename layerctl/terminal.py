"""What reaches the person at the terminal: names made inert, progress on stderr, a result opened in its program."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from layerctl.registry import Progress

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}
"""Format characters that scripts and emoji need and that move nothing."""


def inert(text: object) -> str:
    """The text with control, direction and other unseen characters, and bytes that are no text, written as escapes."""
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in UNSEEN and char not in JOINERS else char for char in str(text))


def say(text: str) -> None:
    """One line on stderr."""
    click.echo(text, err=True)


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Progress]:
    """A function that draws what is being done and how much of it is done; it draws nothing off a terminal or when `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _share: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def draw(what: str, share: float) -> None:
            bar.update(task, description=inert(f"{title}: {what}"), completed=share)

        yield draw


def open_file(path: Path) -> str | None:
    """Open the file in the person's program for it; why not, when that cannot be done."""
    import shutil
    import subprocess

    absolute = str(path.absolute())
    if sys.platform == "win32":
        try:
            os.startfile(absolute)
        except OSError as error:
            return error.strerror
        return None
    name = "open" if sys.platform == "darwin" else "xdg-open"
    opener = shutil.which(name)
    if opener is None:
        return f"{name} is not installed"
    if name == "xdg-open" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no desktop here"
    try:
        done = subprocess.run([opener, absolute], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return f"{name} did not answer"
    return None if done.returncode == 0 else done.stderr.strip() or f"{name} ended with {done.returncode}"
