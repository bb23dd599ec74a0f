"""Means of many scene results as a table: per kind and number of layers, with 95 % bootstrap intervals for the main numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.usefulness.evaluate import SceneResult
from benchmarks.usefulness.scenes import KINDS, LAYER_COUNTS

RESAMPLES = 2000
HEADER = (
    "scenes", "n", "IoU elements", "IoU all", "text IoU", "order", "exact N", "auto exact", "auto ±1", "hide", "move", "residue", "colours",
    "text reads", "plate clean", "flatten", "CPU s",
)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the means of `RESAMPLES` samples drawn with replacement, always the same ones."""
    data = np.asarray(values, np.float64)
    draws = np.random.default_rng(0).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[draws].mean(axis=1), (2.5, 97.5)).tolist()
    return low, high


def rows(results: Sequence[SceneResult]) -> list[list[str]]:
    """One row per kind and L, one per kind, one for everything; rows without scenes are left out."""
    table = []
    for kind in KINDS:
        of_kind = [result for result in results if result.kind == kind]
        for layers in LAYER_COUNTS:
            table.append(_row(f"{kind}, L={layers}", [result for result in of_kind if result.layers == layers]))
        table.append(_row(f"**{kind}**", of_kind))
    table.append(_row("**all**", results))
    return [row for row in table if row[1] != "0"]


def markdown(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(title: str, results: Sequence[SceneResult]) -> list[str]:
    automatic = [r for r in results if r.found_auto is not None]
    texts = sum(r.texts for r in results)
    return [
        title,
        str(len(results)),
        _mean(results, lambda r: r.iou_elements, with_interval=True),
        _mean(results, lambda r: r.iou_all),
        _mean(results, lambda r: r.text_iou, with_interval=title.startswith("**")),
        _share(sum(r.pairs_right for r in results), sum(r.pairs for r in results)),
        _share(sum(r.found == r.layers for r in results), len(results)),
        _share(sum(r.found_auto == r.layers for r in automatic), len(automatic)),
        _share(sum(abs((r.found_auto or 0) - r.layers) <= 1 for r in automatic), len(automatic)),
        _mean(results, lambda r: r.hide, digits=1),
        _mean(results, lambda r: r.move, digits=1),
        _mean(results, lambda r: r.residue, digits=1),
        _mean(results, lambda r: r.colours, digits=1),
        _share(sum(r.text_said for r in results), texts),
        _share(sum(r.text_clean for r in results), texts),
        str(max((r.flatten_error for r in results), default=0)),
        _mean(results, lambda r: r.seconds, digits=1),
    ]


def _mean(
    results: Sequence[SceneResult], value: Callable[[SceneResult], float | None], *, digits: int = 3, with_interval: bool = False
) -> str:
    values = [number for result in results if (number := value(result)) is not None]
    if not values:
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    if not with_interval or len(values) < 2:
        return mean
    low, high = interval(values)
    return f"{mean} ({low:.{digits}f}–{high:.{digits}f})"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"
