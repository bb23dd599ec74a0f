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
