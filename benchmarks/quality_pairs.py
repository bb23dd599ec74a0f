"""Whether quality tells true layers from faulty ones: every planted fault against the truth, scene by scene.

    python benchmarks/quality_pairs.py --split tuning --limit 40
    python benchmarks/quality_pairs.py --split held-out

For each fault: in how many pairs the true layers score higher, overall and in the criterion that the fault is about; how often it is
named; and the mean fall of the overall score. The source is what the true layers flatten to. Severities .25, .5 and 1 take turns. Results
are kept line by line in `.cache/quality/` and hold for one state of the code; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.usefulness import scenes  # noqa: E402
from layerctl import engines, measures, quality, view  # noqa: E402
from layerctl.composite import flatten  # noqa: E402
from layerctl.source import SourceImage  # noqa: E402
from layerctl.testing import faults  # noqa: E402
from layerctl.wording import altered_text  # noqa: E402

FOLDER = ROOT / ".cache" / "quality"
SEVERITIES = (0.25, 0.5, 1.0)
CRITERION = {
    "blank": "validity", "composite_copy": "validity", "duplicate": "validity", "drift": "validity", "halo": "alpha", "dust": "alpha",
    "bleed": "alpha", "ragged": "alpha", "hole": "background", "ghost": "background", "split": "separation", "merge": "separation",
    "wrong_order": "separation", "bitten": "separation", "text_altered": "separation",
}  # fmt: skip
NAMED = {
    "composite_copy": "composite copy", "drift": "recomposition", "merge": "merged", "wrong_order": "order", "bitten": "split",
    "text_altered": "text",
}  # fmt: skip


def code() -> str:
    digest = hashlib.sha256(scenes.drawn_by().encode())
    network = Path(engines.__file__).parent / "classic" / "segmenter.onnx"
    for path in (measures.__file__, quality.__file__, view.__file__, faults.__file__, str(network)):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def measure(name: str) -> dict[str, Any]:
    """Scores of the truth and of each fault, and the names given to each."""
    stack = scenes.scene(name).stack
    source = SourceImage(flatten(stack))
    record: dict[str, Any] = {"scene": name, "true": _scores(quality.assess(source, stack)), "faults": {}}
    for place, fault in enumerate(faults.PLANTERS):
        seed = zlib.crc32(name.encode())
        severity = SEVERITIES[(seed + place) % 3]
        faulty = faults.plant(fault, source, stack, seed, severity)
        if faulty is None:
            continue
        scores = _scores(quality.assess(source, faulty))
        if fault == "text_altered":
            scores["faults"] += [found.kind for found in altered_text(source, faulty)]
        record["faults"][fault] = scores | {"severity": severity, "exact": fault in faults.EXACT}
    return record


def _scores(found: quality.Quality) -> dict[str, Any]:
    names = ("overall", *quality.CRITERIA)
    return {name: getattr(found, name) for name in names} | {"faults": [fault.kind for fault in found.faults]}


def results(names: list[str], path: Path) -> Iterator[dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = code()
    lines = path.read_text().splitlines() if path.exists() else []
    finished = {record["scene"]: record for record in map(json.loads, lines) if record["code"] == state}
    with path.open("a") as file:
        for name in names:
            if name not in finished:
                finished[name] = measure(name) | {"code": state}
                file.write(json.dumps(finished[name]) + "\n")
                file.flush()
            yield finished[name]


def table(records: list[dict[str, Any]]) -> Iterator[str]:
    yield "| fault | pairs | truth higher | in its criterion | named | mean fall | exact |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for fault in faults.PLANTERS:
        pairs = [(record["true"], record["faults"][fault]) for record in records if fault in record["faults"]]
        if not pairs:
            continue
        criterion, kind = CRITERION[fault], NAMED.get(fault, fault)
        higher = sum(true["overall"] > faulty["overall"] for true, faulty in pairs) / len(pairs)
        own = sum(true[criterion] > faulty[criterion] for true, faulty in pairs) / len(pairs)
        named = sum(kind in faulty["faults"] for _, faulty in pairs) / len(pairs)
        fall = sum(true["overall"] - faulty["overall"] for true, faulty in pairs) / len(pairs)
        exact = "yes" if fault in faults.EXACT else ""
        yield f"| {fault.replace('_', ' ')} | {len(pairs)} | {higher:.0%} | {own:.0%} {criterion} | {named:.0%} | {fall:.3f} | {exact} |"
    for kind in ("design", "photo"):
        some = [record["true"] for record in records if kind in record["scene"]]
        if some:
            means = ", ".join(f"{name} {sum(true[name] for true in some) / len(some):.2f}" for name in ("overall", *quality.CRITERIA))
            told = [name for true in some for name in true["faults"]]
            counts = ", ".join(f"{name} {told.count(name)}" for name in dict.fromkeys(told)) or "none"
            yield f"\nTrue {kind}s ({len(some)}): {means}; faults named though there are none: {counts}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("tuning", "held-out"), default="tuning")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    records = list(results(scenes.names(options.split)[: options.limit], FOLDER / f"{options.split}.jsonl"))
    print("\n".join(table(records)))


if __name__ == "__main__":
    main()
