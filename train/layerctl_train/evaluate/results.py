"""What an evaluation found: every picture's numbers by system, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

EDITS = 6
"""LayerD's levels: 0 to 5 merges are allowed."""
CRITERIA = ("separation", "alpha", "background", "distribution", "validity")


@dataclass(frozen=True, slots=True)
class Metric:
    """`better`: which way is good. `meaning`: one sentence with unit and source, for the report and docs/evaluation.md."""

    label: str
    better: Literal["higher", "lower"]
    meaning: str


def _merges(count: int) -> str:
    return {0: "no merge", 1: "up to 1 merge"}.get(count, f"up to {count} merges")


def _layerd() -> dict[str, Metric]:
    source = "LayerD (arXiv 2509.25134), as its published code computes it, with {}"
    metrics = {}
    for edits in range(EDITS):
        where = source.format(_merges(edits))
        metrics[f"layerd_rgb_l1_{edits}"] = Metric(f"RGB L1, {_merges(edits)}", "lower", f"0..1; {where}")
    for edits in range(EDITS):
        where = source.format(_merges(edits))
        metrics[f"layerd_alpha_iou_{edits}"] = Metric(f"alpha soft IoU, {_merges(edits)}", "higher", f"0..1; {where}")
    return metrics


METRICS: Mapping[str, Metric] = {
    **_layerd(),
    "l1_premultiplied": Metric("L1 per index", "lower", "0..1; mean over Pred 0, 1, ... of the mean |difference| of premultiplied RGBA"),
    "l1_white": Metric("L1 per index, over white", "lower", "0..1; mean over Pred 0, 1, ... of the mean |difference| of RGB over white"),
    "blank_rate": Metric("blank layers", "lower", "0..1; share of the predicted layers of which next to nothing shows"),
    "duplicate_rate": Metric("duplicates", "lower", "0..1; share of the predicted layers that repeat one below"),
    "copy_rate": Metric("copies of the picture", "lower", "0..1; share of the predicted layers that show the whole picture again"),
    "recomposition": Metric(
        "recomposition error",
        "lower",
        "0..1; mean |difference| of the flattened raw stack from the picture, the larger of colour and alpha",
    ),
    "quality": Metric("quality", "higher", "0..1; overall measured quality, see docs/quality.md"),
    **{name: Metric(name, "higher", f"0..1; the measured criterion {name}, see docs/quality.md") for name in CRITERIA},
    "judge": Metric("judge", "higher", "0..10; reward of the judge that was named, all systems compared"),
}


@dataclass(frozen=True, slots=True)
class Scores:
    """One system's numbers on one picture.

    `values`: by the names of `METRICS`; what cannot be known is not in it. `per_index`, `per_index_white`: L1 of Pred 0, Pred 1, ... up to
    the number of true layers. `layers`: how many were predicted. `no_layerd`: why LayerD's metric says nothing, "" if it does. `failed`:
    why there is no prediction at all, "" if there is one.
    """

    values: Mapping[str, float]
    per_index: tuple[float, ...] = ()
    per_index_white: tuple[float, ...] = ()
    layers: int = 0
    no_layerd: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class PictureResult:
    """`true_layers`: None where they are unknown. `scores`: in the order of the systems. `won`: by the judge's row orders, for each
    further system: 1 if the one it is compared with is better in all of them, 0 if it is, 0.5 if they disagree, None if nobody knows."""

    key: str
    width: int
    height: int
    true_layers: int | None
    scores: tuple[Scores, ...]
    won: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """`settings`: all that changes its layers, for the record."""

    name: str
    engine: str
    engine_version: str
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`unreadable`: keys and reasons. `judge`: its name and model, None without. `layers`: how many were asked for, in words."""

    data: str
    pictures: tuple[PictureResult, ...]
    systems: tuple[SystemRecord, ...]
    unreadable: tuple[tuple[str, str], ...]
    limit: int | None
    seed: int
    shard: str | None
    layers: str
    judge: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mean:
    """With its 95 % interval; `count`: of the pictures that have the number."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first system's metric less the other's, on the same pictures, with its 95 % interval and the p of the paired test.

    `wins`, `ties`, `losses`: pictures on which the first is better, equal, worse.
    """

    metric: str
    first: str
    other: str
    value: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One row of the table by number of true layers: `means` by system, then by index 0, 1, ..."""

    true_layers: int
    pictures: int
    means: tuple[tuple[float, ...], ...]
    means_white: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """`means`: by system's name, then metric. `skipped`: pictures without LayerD's metric, by system, with the commonest reason.

    `win_rates`: by the judge, against each other system, by its name, of the one it is compared with; ties count half.
    """

    means: Mapping[str, Mapping[str, Mean]]
    differences: tuple[Difference, ...]
    rows: tuple[LayerRow, ...]
    skipped: Mapping[str, tuple[int, str]]
    failed: Mapping[str, int]
    win_rates: Mapping[str, Mean]
