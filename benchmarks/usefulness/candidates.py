"""How much there is to gain by choosing among the embedded engine's candidates: their true IoU, alone and the best of the first ones.

    python benchmarks/usefulness/candidates.py --scenes 30

Tuning scenes, with the true number of layers; masks as they are chosen, at work size. Prints Markdown: of every candidate the mean IoU
alone, the mean of the best so far (chosen by the truth, so no choice can do better), what that gains on the first candidate (95 %
interval, bootstrap over scenes), and in how many scenes it differs from all before it.

A run that was stopped goes on where it was; lines in `.cache/usefulness/candidates.jsonl` count for the code that made them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.usefulness import run, scenes, surveys, tables
from layerctl.engines.classic.proposals import WAYS, choose
from layerctl.registry import DecomposeRequest

HEADER = ("candidate", "IoU alone", "best so far", "gain", "new")
COUNT = 1 + len(WAYS["design"])
RESULTS = run.FOLDER / "candidates.jsonl"


@dataclass(frozen=True, slots=True)
class SceneCandidates:
    """`ious`: of every candidate, in their order. `is_new`: whether it differs from all before it."""

    scene: str
    kind: scenes.SceneKind
    ious: list[float]
    is_new: list[bool]


def measured(name: str) -> SceneCandidates:
    survey = surveys.survey(name)
    ious, seen = [], set[str]()
    is_new = []
    for candidate in range(COUNT):
        choice = choose(survey.sight, DecomposeRequest(1 + len(survey.truth), candidate=candidate))
        ious.append(surveys.iou(survey, choice))
        shown = hashlib.sha256(choice.elements.labels.tobytes()).hexdigest()
        is_new.append(shown not in seen)
        seen.add(shown)
    return SceneCandidates(name, survey.kind, ious, is_new)


def rows(results: Sequence[SceneCandidates]) -> list[list[str]]:
    ious = np.array([result.ious for result in results])
    best = np.maximum.accumulate(ious, axis=1)
    new = np.array([result.is_new for result in results]).mean(axis=0)
    table = []
    for candidate in range(ious.shape[1]):
        gain = best[:, candidate] - ious[:, 0]
        low, high = tables.interval(gain.tolist())
        means = f"{ious[:, candidate].mean():.3f}", f"{best[:, candidate].mean():.3f}"
        table.append([str(candidate), *means, f"{gain.mean():+.3f} ({low:.3f}–{high:.3f})", f"{100 * new[candidate]:.0f} %"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=30, help="how many of each kind")
    parser.add_argument("--first", type=int, default=0, help="how many to leave out before them")
    options = parser.parse_args()
    code = run.code_of("classic")
    finished = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []:
        record = json.loads(line)
        if record.pop("code") == code:
            finished[record["scene"]] = SceneCandidates(**record)
    results = []
    with RESULTS.open("a", encoding="utf-8") as file:
        for name in scenes.names("tuning")[2 * options.first : 2 * (options.first + options.scenes)]:
            if name not in finished:
                finished[name] = measured(name)
                file.write(json.dumps({"code": code, **asdict(finished[name])}) + "\n")
                file.flush()
                print(name, file=sys.stderr)
            results.append(finished[name])
    for title, kinds in (("design", ("design",)), ("photo", ("photo",)), ("all", scenes.KINDS)):
        chosen = [result for result in results if result.kind in kinds]
        print(f"\n{title}, {len(chosen)} scenes\n\n{tables.markdown(HEADER, rows(chosen))}")


if __name__ == "__main__":
    main()
