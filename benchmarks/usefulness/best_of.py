"""What choosing by measured quality gains: the true IoU of the first of N proposals, of the one with the highest score, of the best.

    python benchmarks/usefulness/best_of.py --split tuning
    python benchmarks/usefulness/best_of.py --split held-out --best-of 4

As `layerctl decompose --best-of N` does it: the engine's own layers, scored by `layerctl.quality`, asked for the true number of layers.
IoU as in `metrics`, Background left out. Gains with 95 % intervals, bootstrap over scenes. Lines in `.cache/usefulness/` hold for
one state of the code; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.usefulness import evaluate, metrics, run, scenes  # noqa: E402
from layerctl import choose, registry  # noqa: E402
from layerctl.quality import CRITERIA, assess  # noqa: E402
from layerctl.registry import DecomposeRequest  # noqa: E402


def measure(name: str, engine: str, count: int) -> dict[str, Any]:
    """For each proposal its true IoU and its scores."""
    scene = scenes.scene(name)
    source = evaluate.source_of(scene)
    truth = metrics.alphas(scene.stack)[1:]
    rows = []
    for candidate in range(count):
        request = DecomposeRequest(len(scene.stack.layers), candidate=candidate)
        stack = registry.load("engines", engine).decompose(source, request, lambda _doing, _done: None).stack
        _, ious = metrics.match(truth, metrics.alphas(stack)[1:])
        found = assess(source, stack)
        rows.append({"iou": float(np.mean(ious)), "overall": found.overall} | {each: getattr(found, each) for each in CRITERIA})
    return {"scene": name, "candidates": rows}


def results(names: Sequence[str], engine: str, count: int, path: Path, jobs: int) -> Iterator[dict[str, Any]]:
    code = f"{run.code_of(engine)}-{count}"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    finished = {record["scene"]: record for record in kept if record["code"] == code}
    yield from (finished[name] for name in names if name in finished)
    missing = [name for name in names if name not in finished]
    with path.open("a") as file, multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for record in pool.imap(partial(measure, engine=engine, count=count), missing):
            file.write(json.dumps(record | {"code": code}) + "\n")
            file.flush()
            yield record


def table(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| scenes | n | first | chosen | best | gain of choosing (95 %) | chosen another | of these better, worse |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for kind in ("design", "photo", ""):
        some = [record["candidates"] for record in records if kind in record["scene"]]
        if some:
            yield "| " + " | ".join([kind or "**all**", str(len(some)), *_row(some)]) + " |"


def _row(scenes_rows: Sequence[Sequence[dict[str, float]]]) -> Iterator[str]:
    ious = np.array([[row["iou"] for row in rows] for rows in scenes_rows])
    picked = np.array([choose.best_of_scores([row["overall"] for row in rows]) for rows in scenes_rows])
    chosen = ious[np.arange(len(ious)), picked]
    gain = chosen - ious[:, 0]
    draws = np.random.default_rng(0).integers(0, len(gain), (10_000, len(gain)))
    low, high = np.quantile(gain[draws].mean(axis=1), (0.025, 0.975))
    yield from (f"{value:.3f}" for value in (ious[:, 0].mean(), chosen.mean(), ious.max(axis=1).mean()))
    yield f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
    other = picked > 0
    yield f"{other.mean():.0%}"
    yield f"{(gain > 0.005).sum()}, {(gain < -0.005).sum()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("tuning", "held-out"), default="tuning")
    parser.add_argument("--engine", default="classic")
    parser.add_argument("--best-of", type=int, default=4)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    path = run.FOLDER / f"best-of-{options.split}-{options.engine}.jsonl"
    records = list(results(scenes.names(options.split)[: options.limit], options.engine, options.best_of, path, options.jobs))
    print("\n".join(table(records)))


if __name__ == "__main__":
    main()
