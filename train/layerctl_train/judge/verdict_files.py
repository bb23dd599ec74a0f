"""A verdict on disk: `verdict.json`, and the pictures in which the candidates were compared."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layerctl.decompose import JUDGE_SETTINGS
from layerctl.results import shortened, staging
from layerctl.verdict import CRITERIA, GroupVerdict
from layerctl_train.judge.phases import plan_grids
from layerctl_train.judge.pictures import draw_group, most_rows
from layerctl_train.plain import without_nan

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.settings import Settings
    from layerctl.source import SourceImage
    from layerctl_train.judge.question import Picture

FORMAT = "layerctl-verdict"
SCHEMA = 1
VERDICT_NAME = "verdict.json"


@dataclass(frozen=True, slots=True, eq=False)
class DrawnGrid:
    """A picture of candidates, a row each, and its file's name. `rows`: their places, top to bottom."""

    picture: Picture
    rows: tuple[int, ...]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A verdict on the layers in the files `stacks`, and what it was made with."""

    source: Path
    stacks: tuple[Path, ...]
    verdict: GroupVerdict
    settings: Settings
    grids: tuple[DrawnGrid, ...] = ()


def draw_grids(
    source: SourceImage, stacks: Sequence[LayerStack], settings: Settings, verdict: GroupVerdict | None = None
) -> tuple[DrawnGrid, ...]:
    """The pictures in which the judge compared the candidates; none for one candidate.

    Without a verdict, and for a judge who saw none, they are those that a judge who sees pictures would be shown.
    """
    rows = verdict.grids if verdict is not None else ()
    if not rows:
        phase1 = [sample.phase1 for sample in verdict.samples] if verdict else [0.0] * len(stacks)
        rows = tuple(grid.rows for grid in plan_grids(source, np.asarray(phase1), settings, most_rows(stacks, settings)))
    pictures = [draw_group([stacks[row] for row in grid], settings).picture for grid in rows]
    return tuple(
        DrawnGrid(picture, grid, f"grid-{number}.png") for number, (picture, grid) in enumerate(zip(pictures, rows, strict=True), 1)
    )


def ranks(rewards: Sequence[float]) -> tuple[int | None, ...]:
    """1 for the highest; equal rewards share a rank; None for NaN."""
    return tuple(None if math.isnan(reward) else 1 + sum(other > reward for other in rewards) for reward in rewards)


def to_json(judged: Judged) -> str:
    """One object, with null for what has no number; neither host nor key is in it."""
    verdict = judged.verdict
    samples = [
        {
            "stack": str(path),
            "criteria": {name: asdict(score) for name, score in zip(CRITERIA, sample.criteria, strict=True)},
            "phase1": sample.phase1,
            "phase2": sample.phase2,
            "reward": sample.reward,
            "rank": rank,
            "reason": sample.reason,
            "usage": asdict(sample.usage),
            "seconds": sample.seconds,
        }
        for path, sample, rank in zip(judged.stacks, verdict.samples, ranks(verdict.rewards), strict=True)
    ]
    fields = {
        "format": FORMAT,
        "schema": SCHEMA,
        "source": str(judged.source),
        "judge": verdict.judge,
        "model": verdict.model,
        "prompt_version": verdict.prompt_version,
        "settings": {name: getattr(judged.settings, name) for name in JUDGE_SETTINGS},
        "samples": samples,
        "orders": verdict.orders_KG,
        "spread": verdict.spread,
        "agreement": verdict.agreement,
        "teaches": verdict.teaches,
        "no_signal": verdict.no_signal,
        "no_choice": verdict.no_choice,
        "grids": [{"file": grid.name, "rows": grid.rows} for grid in judged.grids],
        "usage": asdict(verdict.usage),
        "seconds": verdict.seconds,
    }
    return json.dumps(without_nan(fields), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def write(judged: Judged, parent: Path) -> Path:
    """A new folder in `parent`, named for the source: poster-judge, poster-judge-2, ... Returns where it is."""
    stem = f"{shortened(judged.source.stem)}-judge"
    with staging(parent, stem) as staged:
        for grid in judged.grids:
            (staged / grid.name).write_bytes(grid.picture.png)
        (staged / VERDICT_NAME).write_text(to_json(judged), encoding="utf-8", errors="backslashreplace")
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            if not os.path.lexists(folder):
                staged.rename(folder)
                return folder
    raise AssertionError("counting ended")
