"""The tables of a report, as data: the Markdown file and the page show the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerctl_train.evaluate.aggregate import pairs
from layerctl_train.evaluate.findings import Verdict, is_known, number, p_value, verdict
from layerctl_train.evaluate.published import MARK, PUBLISHED
from layerctl_train.evaluate.results import CRITERIA, EDITS, METRICS, Evaluation, LayerRow, Mean, PictureResult, Summary

ARROWS = {"higher": "↑", "lower": "↓"}
OVERVIEW = ("layerd_rgb_l1_0", "layerd_alpha_iou_0", "l1_premultiplied", "l1_white", "quality", "judge")
FAULTS = ("blank_rate", "duplicate_rate", "copy_rate", "recomposition")


@dataclass(frozen=True, slots=True)
class Cell:
    """`small`: said in lines below the text, or in brackets behind it."""

    text: str
    small: tuple[str, ...] = ()
    mark: Literal["", "best"] | Verdict = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`kind`: "group" begins a group of rows, "published" is a row of others."""

    cells: tuple[Cell, ...]
    kind: Literal["", "group", "published"] = ""


@dataclass(frozen=True, slots=True)
class Table:
    """`words`: so many columns from the left hold words, the others numbers."""

    title: str
    lead: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    words: int = 1


def overview(evaluation: Evaluation, summary: Summary) -> list[Table]:
    lead = "Means over each system's own pictures with 95 % intervals; bold is the best mean, which the differences below tell from chance."
    return _by_metric("Overview", lead, OVERVIEW, evaluation, summary)


def faults(evaluation: Evaluation, summary: Summary) -> list[Table]:
    lead = "Of the raw layers, as the engine gives them. Blank layers cost next to nothing in LayerD's metric: read them together."
    criteria = "The five criteria, measured in the pixels, without known layers."
    return _by_metric("Faults and recomposition", lead, FAULTS, evaluation, summary) + _by_metric(
        "Criteria", criteria, CRITERIA, evaluation, summary
    )


def layerd(evaluation: Evaluation, summary: Summary) -> list[Table]:
    """By allowed merges, with the rows of others."""
    found = []
    for stem, title in (("layerd_rgb_l1", "LayerD's RGB L1"), ("layerd_alpha_iou", "LayerD's alpha soft IoU")):
        metrics = [f"{stem}_{edits}" for edits in range(EDITS)]
        rows = _rows(metrics, evaluation, summary)
        if not any(cell.text != "–" for row in rows for cell in row.cells[1:]):
            continue
        for other in PUBLISHED:
            values = other.rgb_l1 if stem == "layerd_rgb_l1" else other.alpha_iou
            numbers = [Cell(number(metric, value)) for metric, value in zip(metrics, values, strict=True)]
            rows.append(Row((Cell(f"{other.method}, published"), *numbers), "published"))
        lead = f"By the number of merges that are allowed. The last rows are not ranked with ours: {MARK}."
        header = ("System", *(f"{edits} merge{'' if edits == 1 else 's'}" for edits in range(EDITS)))
        found.append(Table(f"{title} {ARROWS[METRICS[metrics[0]].better]}", lead, header, tuple(rows)))
    return found


def per_index(evaluation: Evaluation, summary: Summary) -> list[Table]:
    """A row for each number of true layers and system, a column for each index."""
    premultiplied = _by_index("L1 by index, premultiplied ↓", evaluation, [(row, row.means) for row in summary.rows])
    return premultiplied + _by_index("L1 by index, over white ↓", evaluation, [(row, row.means_white) for row in summary.rows])


def judged(evaluation: Evaluation, summary: Summary) -> list[Table]:
    """How often the first system of each pair is better for the judge."""
    if not summary.win_rates:
        return []
    lead = f"By the judge {evaluation.judge or ''}, with the rows in several orders; a picture on which the orders disagree counts half."
    names = [system.name for system in evaluation.systems]
    first = {names[other]: names[first] for first, other in pairs(evaluation.systems)}
    rows = [
        Row((Cell(first[other]), Cell(other), Cell(f"{rate.value:.0%}", (f"{rate.low:.0%} to {rate.high:.0%}",)), Cell(str(rate.count))))
        for other, rate in summary.win_rates.items()
    ]
    return [Table("Win rate", lead, ("System", "Against", "Wins", "Pictures"), tuple(rows), words=2)]


def differences(evaluation: Evaluation, summary: Summary) -> list[Table]:
    """A table for each pair of systems, LayerD's metric with merges at its end."""
    found = []
    for first, other in dict.fromkeys((each.first, each.other) for each in summary.differences):
        rows = []
        for each in sorted(summary.differences, key=lambda each: each.metric.startswith("layerd_") and not each.metric.endswith("_0")):
            if (each.first, each.other) == (first, other):
                said = verdict(each)
                numbers = [number(each.metric, value, signed=True) for value in (each.value, each.low, each.high)]
                counts = f"{each.wins} / {each.ties} / {each.losses}"
                label = f"{METRICS[each.metric].label} {ARROWS[METRICS[each.metric].better]}"
                cells = Cell(label), Cell(said, mark=said), Cell(numbers[0]), Cell(f"{numbers[1]} to {numbers[2]}")
                rows.append(Row((*cells, Cell(p_value(each.p)), Cell(counts))))
        lead = (
            f"{first} less {other}, on the pictures that both have. Clear is what the 95 % interval and the paired test agree on; "
            "among so many rows a few would be clear by chance."
        )
        header = ("Metric", "Verdict", "Difference", "95 % interval", "p", "better / equal / worse")
        found.append(Table(f"{first} against {other}", lead, header, tuple(rows), words=2))
    return found


def picture(evaluation: Evaluation, result: PictureResult) -> Table:
    """All that is known of one picture: a row for each metric, a column for each system."""
    known = [metric for metric in METRICS if any(metric in score.values for score in result.scores)]
    rows = []
    for metric in known:
        values = [score.values.get(metric, math.nan) for score in result.scores]
        label = f"{METRICS[metric].label} {ARROWS[METRICS[metric].better]}"
        rows.append(Row((Cell(label), *(Cell(number(metric, value)) for value in values))))
    header = ("Metric", *(system.name for system in evaluation.systems))
    return Table(f"Numbers of {result.key}", "", header, tuple(rows))


def facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """How the evaluation was made: what, and its value."""
    pictures = f"{len(evaluation.pictures)}, limit {evaluation.limit or 'none'}, seed {evaluation.seed}"
    shard = f", shard {evaluation.shard}" if evaluation.shard else ""
    systems = []
    for system in evaluation.systems:
        settings = ", ".join(f"{name} {value}" for name, value in sorted(system.settings.items()) if value not in (None, (), [], ""))
        engine = f"engine {system.engine} {system.engine_version}"
        systems.append((system.name, f"{engine}, {settings}" if settings else engine))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(evaluation.versions.items()))
    return [
        ("data", evaluation.data),
        ("pictures", pictures + shard),
        ("layers asked for", evaluation.layers),
        ("judge", evaluation.judge or "none"),
        *systems,
        ("versions", versions),
    ]


def _by_metric(title: str, lead: str, metrics: Sequence[str], evaluation: Evaluation, summary: Summary) -> list[Table]:
    """No table where none of the metrics is known."""
    known = [metric for metric in metrics if any(is_known(means.get(metric)) for means in summary.means.values())]
    if not known:
        return []
    header = ("System", *(f"{METRICS[metric].label} {ARROWS[METRICS[metric].better]}" for metric in known))
    return [Table(title, lead, header, tuple(_rows(known, evaluation, summary)))]


def _rows(metrics: Sequence[str], evaluation: Evaluation, summary: Summary) -> list[Row]:
    """A row for each system; the best mean is marked where several are compared and they differ as printed."""
    columns = []
    for metric in metrics:
        means = [summary.means.get(system.name, {}).get(metric) for system in evaluation.systems]
        values = [mean.value for mean in means if mean is not None and is_known(mean)]
        choose = max if METRICS[metric].better == "higher" else min
        best = number(metric, choose(values)) if len({number(metric, value) for value in values}) > 1 else None
        columns.append([_mean(metric, mean, best, len(evaluation.pictures)) for mean in means])
    return [Row((Cell(system.name), *(column[place] for column in columns))) for place, system in enumerate(evaluation.systems)]


def _mean(metric: str, mean: Mean | None, best: str | None, pictures: int) -> Cell:
    """With its interval, and the number of pictures where it is not of all of them."""
    if mean is None or not is_known(mean):
        return Cell("–")
    text = number(metric, mean.value)
    small = [f"{number(metric, mean.low)} to {number(metric, mean.high)}"] + [f"n = {mean.count}"] * (mean.count != pictures)
    return Cell(text, tuple(small), "best" if text == best else "")


def _by_index(title: str, evaluation: Evaluation, groups: list[tuple[LayerRow, tuple[tuple[float, ...], ...]]]) -> list[Table]:
    longest = max((len(means) for _, systems in groups for means in systems), default=0)
    if not longest:
        return []
    rows = []
    for group, systems in groups:
        for place, system in enumerate(evaluation.systems):
            cells = [_index_cell(systems, place, index) for index in range(longest)]
            head = Cell(str(group.true_layers)), Cell(str(group.pictures)), Cell(system.name)
            rows.append(Row((*head, *cells), "" if place else "group"))
    lead = "Grouped by L, the number of true layers; Pred 0 is the bottom layer. Bold is the best mean, whether or not by chance."
    return [Table(title, lead, ("L", "Pictures", "System", *(f"Pred {index}" for index in range(longest))), tuple(rows), words=3)]


def _index_cell(systems: tuple[tuple[float, ...], ...], place: int, index: int) -> Cell:
    texts = [number("l1_premultiplied", means[index]) if index < len(means) else "–" for means in systems]
    known = [means[index] for means in systems if index < len(means) and math.isfinite(means[index])]
    best = number("l1_premultiplied", min(known)) if len(set(texts) - {"–"}) > 1 else None
    return Cell(texts[place], mark="best" if texts[place] == best else "")
