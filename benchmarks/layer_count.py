"""How near the number of layers comes to the true one when the embedded engine is not told it.

    python benchmarks/layer_count.py                                            (100 designs and 40 photographs of the tuning scenes)
    python benchmarks/layer_count.py --join 0.15 0.25 0.3 --drop 0.5            (with other thresholds)
    python benchmarks/layer_count.py --results .cache/usefulness/held-out-classic-auto.jsonl

Prints Markdown: exact, within one (with Wilson's 95 % interval), how many too few and too many by two or more, and the mean error.
The last form counts what `benchmarks/usefulness/run.py --auto` found, whose layers went through cutting out and the exact solve.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.usefulness import surveys, tables
from layerctl.engines.classic import elements
from layerctl.engines.classic.proposals import choose
from layerctl.registry import DecomposeRequest

HEADER = ("scenes", "n", "exact", "within one", "two or more missing", "two or more too many", "mean error")
DESIGNS, PHOTOS = 100, 40


class Count(NamedTuple):
    """Layers of one scene, Background included."""

    kind: str
    true: int
    found: int


def wilson(part: int, whole: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927)."""
    share = part / whole
    middle = share + z**2 / (2 * whole)
    half = z * math.sqrt(share * (1 - share) / whole + z**2 / (4 * whole**2))
    scale = 1 + z**2 / whole
    return (middle - half) / scale, (middle + half) / scale


def row(title: str, counts: Sequence[Count]) -> list[str]:
    errors = [count.found - count.true for count in counts]
    near = sum(abs(error) <= 1 for error in errors)
    low, high = wilson(near, len(errors))
    return [
        title,
        str(len(errors)),
        f"{100 * errors.count(0) / len(errors):.0f} %",
        f"{100 * near / len(errors):.0f} % ({100 * low:.0f}–{100 * high:.0f})",
        str(sum(error < -1 for error in errors)),
        str(sum(error > 1 for error in errors)),
        f"{sum(errors) / len(errors):+.2f}",
    ]


def counted(names: Sequence[str]) -> list[Count]:
    """What the engine would give now for tuning scenes."""
    counts = []
    for name in names:
        survey = surveys.survey(name)
        counts.append(Count(survey.kind, 1 + len(survey.truth), choose(survey.sight, DecomposeRequest()).layers))
    return counts


def read(path: Path) -> list[Count]:
    """The scenes of a results file that were run without a number."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Count(record["kind"], record["layers"], record["found_auto"]) for record in records if record["found_auto"] is not None]


def main() -> None:
    options = _parser().parse_args()
    table = []
    if options.results:
        counts = read(options.results)
        table = [row(kind, chosen) for kind in ("design", "photo") if (chosen := [count for count in counts if count.kind == kind])]
    else:
        names = surveys.names("design", options.designs), surveys.names("photo", options.photos)
        for elements.JOIN_BELOW, elements.DROP_BELOW in product(options.join, options.drop):
            title = f"join {elements.JOIN_BELOW}, drop {elements.DROP_BELOW}"
            table += [row(f"{kind}, {title}", counted(chosen)) for kind, chosen in zip(("design", "photo"), names, strict=True) if chosen]
    print(tables.markdown(HEADER, table))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="lines of JSON that run.py --auto wrote")
    parser.add_argument("--designs", type=int, default=DESIGNS, help="how many tuning scenes of this kind")
    parser.add_argument("--photos", type=int, default=PHOTOS, help="how many tuning scenes of this kind")
    parser.add_argument("--join", type=float, nargs="+", default=[elements.JOIN_BELOW], help="costs below which elements are joined")
    parser.add_argument("--drop", type=float, nargs="+", default=[elements.DROP_BELOW], help="costs below which elements are given up")
    return parser


if __name__ == "__main__":
    main()
