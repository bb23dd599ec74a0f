"""Measure an engine on the scenes of a split and print the table; a run that was stopped goes on where it was.

    python benchmarks/usefulness/run.py --split tuning --engine classic --limit 20
    python benchmarks/usefulness/run.py --split held-out --engine classic --auto --jobs 2

Results are lines of JSON, by default in `.cache/usefulness/`. A line counts only for the scenes, the code and the model that
made it; others are measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, get_args

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.usefulness import evaluate, scenes, tables  # noqa: E402
from benchmarks.usefulness.evaluate import SceneResult  # noqa: E402
from layerctl import registry  # noqa: E402
from layerctl.registry import PictureKind  # noqa: E402

ReportSplit = Literal["tuning", "held-out"]
FOLDER = ROOT / ".cache" / "usefulness"


def code_of(engine: str) -> str:
    """A hash of all that decides a result: the scenes, and for an engine the files of its package and of the loaded core."""
    files: set[Path] = set()
    if engine not in evaluate.STAND_INS:
        place = sys.modules[type(registry.load("engines", engine)).__module__].__file__
        files.update(path for path in Path(str(place)).parent.rglob("*") if path.suffix in (".py", ".onnx"))
    core = (module for name, module in sys.modules.items() if name.startswith("layerctl.") and not name.startswith("layerctl.commands"))
    files.update(Path(module.__file__) for module in core if module.__file__)
    digest = hashlib.sha256(scenes.drawn_by().encode())
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_results(path: Path, code: str) -> dict[str, SceneResult]:
    """The finished scenes by name; a last line that was cut off counts for nothing."""
    finished = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.pop("code") == code:
            finished[record["scene"]] = SceneResult(**record)
    return finished


def measure(names: Iterable[str], engine: str, kind: PictureKind, *, auto: bool, jobs: int) -> Iterator[SceneResult]:
    work = partial(_measure_one, engine=engine, kind=kind, auto=auto)
    if jobs == 1:
        yield from map(work, names)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(work, names)


def main() -> None:
    options = _parser().parse_args()
    code = code_of(options.engine)
    marks = "-auto" * options.auto + (f"-{options.kind}" if options.kind != "auto" else "")
    path = options.output or FOLDER / f"{options.split}-{options.engine}{marks}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = options.scenes or scenes.names(options.split, options.only)[: options.limit]
    finished = read_results(path, code)
    waiting = [name for name in names if name not in finished]
    with path.open("a", encoding="utf-8") as file:
        for number, result in enumerate(measure(waiting, options.engine, options.kind, auto=options.auto, jobs=options.jobs), 1):
            finished[result.scene] = result
            file.write(json.dumps({"code": code, **asdict(result)}) + "\n")
            file.flush()
            print(f"{number}/{len(waiting)} {result.scene} IoU {result.iou_elements:.3f} in {result.seconds:.1f} s", file=sys.stderr)
    print(tables.markdown(tables.HEADER, tables.rows([finished[name] for name in names])))


def _measure_one(name: str, engine: str, kind: PictureKind, auto: bool) -> SceneResult:
    return evaluate.evaluate(scenes.scene(name), engine, kind, auto=auto)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=get_args(ReportSplit), default="tuning", help="held-out is for the report alone")
    parser.add_argument("--engine", default="classic", help=f"an engine of layerctl, or {' or '.join(evaluate.STAND_INS)}")
    parser.add_argument("--kind", choices=get_args(PictureKind), default="auto", help="what the engine is told that the pictures are")
    parser.add_argument("--only", choices=scenes.KINDS, help="scenes of this kind alone")
    parser.add_argument("--scenes", nargs="*", metavar="NAME", help="these scenes alone")
    parser.add_argument("--limit", type=int, help="the first scenes alone")
    parser.add_argument("--auto", action="store_true", help="run every scene a second time without a number of layers")
    parser.add_argument("--jobs", type=int, choices=range(1, (os.cpu_count() or 1) + 1), default=1, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="where the lines of JSON go")
    return parser


if __name__ == "__main__":
    main()
