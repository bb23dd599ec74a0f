"""The report as one page: styles and drawings inside of it, pictures beside it, no script.

Names of files and systems come from anywhere: whatever is no markup of ours goes through `_safe`, and the page forbids itself everything
but its own styles and the pictures beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from html import escape

from layerctl.terminal import inert
from layerctl_train.evaluate import tables
from layerctl_train.evaluate.findings import COMPARED, galleries, headlines, is_known, main_metric, name_of, number, paired, remarks
from layerctl_train.evaluate.plots import distribution, scatter
from layerctl_train.evaluate.results import METRICS, Evaluation, PictureResult, Summary
from layerctl_train.evaluate.tables import Cell, Row, Table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:"
STYLE = """
:root { color: #1c1d21; background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 40px 32px 96px; overflow-wrap: anywhere }
header { border-bottom: 1px solid #d9dade; padding-bottom: 24px }
h1 { font-size: 15px; font-weight: 600; color: #55575f; margin: 0 0 12px }
.headline { font-size: 22px; line-height: 1.4; font-weight: 500; margin: 0 0 12px; max-width: 52em; text-wrap: pretty }
.remarks { margin: 16px 0 0; padding: 12px 16px 12px 34px; background: #fff6e0; border-left: 4px solid #c77800; border-radius: 4px }
nav { margin-top: 20px; display: flex; flex-wrap: wrap; gap: 6px 20px; font-size: 15px }
a { color: #00558a }
section { padding-top: 40px }
h2 { font-size: 24px; line-height: 1.25; margin: 0 0 8px }
h3 { font-size: 17px; margin: 28px 0 4px }
p { margin: 0 0 12px; max-width: 76ch }
.lead, figcaption { color: #44464d; font-size: 15px }
.scroll { overflow-x: auto; border: 1px solid #d9dade; border-radius: 8px; overflow-wrap: normal }
.scroll:focus-visible { outline: 3px solid #0072b2 }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums }
th, td { padding: 8px 14px; text-align: right; vertical-align: top; white-space: nowrap }
th { font-weight: 600 }
th.word, td.word { text-align: left }
thead th { vertical-align: bottom; white-space: normal }
th:first-child { position: sticky; left: 0; background: inherit; white-space: normal }
th:first-child div { width: max-content; max-width: 20em }
thead tr { background: #f3f4f6 }
tbody tr { background: #fff; border-top: 1px solid #e6e7ea }
tbody tr.group { border-top: 2px solid #9a9ca4 }
tbody tr.published { background: #f7f7f8; color: #55575f; font-style: italic }
tbody tr.published th { font-weight: 400 }
tr:not(.published) + tr.published { border-top: 2px solid #9a9ca4 }
td small { display: block; color: #55575f; font-size: 12.5px }
td.best { font-weight: 700 }
td.best small { font-weight: 400 }
td.better { color: #005a8c; font-weight: 600 }
td.worse { color: #a33b00; font-weight: 600 }
.plots { margin: 16px 0 28px; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 28px 40px }
figure { margin: 0; min-width: 0 }
svg { display: block; max-width: 100%; height: auto; font-family: inherit }
.plots figcaption { color: #1c1d21; font-weight: 600; margin-bottom: 4px }
.strip { border: 1px solid #d9dade; border-radius: 8px; margin-top: 16px; padding: 14px 16px }
.strip figcaption b { color: #1c1d21; font-size: 16px }
.layers { overflow-x: auto; margin: 8px 0 }
.strip summary { cursor: pointer; font-size: 15px; color: #00558a; margin-bottom: 6px }
.strip img { display: block; height: auto; max-width: 100%; min-width: min(100%, 760px) }
dl { display: grid; grid-template-columns: minmax(8em, 16em) 1fr; gap: 6px 24px; font-size: 15px; margin: 12px 0 }
dt { font-weight: 600 }
dd { margin: 0; max-width: 76ch }
@media (max-width: 640px) {
 body { padding: 24px 16px 64px }
 .headline { font-size: 19px }
 th, td { padding: 7px 9px }
 th:first-child div { max-width: 8.5em; overflow-wrap: anywhere }
 .strip img { min-width: 760px }
 dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: 10px }
}
@media print { section { break-inside: auto } .strip, .plots figure { break-inside: avoid } nav { display: none } }
"""


GALLERIES = "The picture and its true layers, then what each system's layers flatten to and the layers themselves, from the bottom up."


def page(evaluation: Evaluation, summary: Summary, strips: Mapping[str, str]) -> str:
    """The whole page. `strips`: where the picture of a key is, relative to the page."""
    title = f"Evaluation on {evaluation.data}"
    sections = [
        ("numbers", "Numbers", [*tables.overview(evaluation, summary), *tables.differences(evaluation, summary)]),
        ("layerd", "LayerD's metric by allowed merges", tables.layerd(evaluation, summary)),
        ("index", "L1 by number of layers", tables.per_index(evaluation, summary)),
        ("faults", "Faults, recomposition and criteria", tables.faults(evaluation, summary)),
        ("judge", "Judge", tables.judged(evaluation, summary)),
    ]
    built = [(name, heading, "".join(map(_table, found))) for name, heading, found in sections if found]
    built += [("plots", "Distributions", _plots(evaluation, summary)), ("pictures", "Pictures", _galleries(evaluation, summary, strips))]
    built.append(("made", "How it was made", _made(evaluation, summary)))
    built = [entry for entry in built if entry[2]]
    links = "".join(f'<a href="#{name}">{_safe(heading)}</a>' for name, heading, _ in built)
    said = "".join(f"<li>{_safe(remark)}</li>" for remark in remarks(evaluation, summary))
    remarked = f'<ul class="remarks">{said}</ul>' if said else ""
    lines = "".join(
        f'<p class="headline">{_safe(each.sentence)}</p>{f"<p>{_safe(each.besides)}</p>" if each.besides else ""}'
        for each in headlines(evaluation, summary)
    )
    body = "".join(f'<section id="{name}"><h2>{_safe(heading)}</h2>{content}</section>' for name, heading, content in built)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_safe(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><header><h1>{_safe(title)}</h1>{lines}{remarked}<nav>{links}</nav></header>\n"
        f"<main>{body}</main></body></html>\n"
    )


def _table(table: Table) -> str:
    lead = f'<p class="lead">{_safe(table.lead)}</p>' if table.lead else ""
    return f"<h3>{_safe(table.title)}</h3>{lead}{_grid(table)}"


def _grid(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_class("word" if place < table.words else "")}>{_safe(title)}</th>' for place, title in enumerate(table.header)
    )
    rows = "".join(_row(row, table) for row in table.rows)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(table.title)}">{grid}</div>'


def _row(row: Row, table: Table) -> str:
    first, *rest = row.cells
    cells = "".join(_cell(cell, place, table) for place, cell in enumerate(rest, 1))
    return f'<tr{_class(row.kind)}><th scope="row" class="word"><div>{_safe(first.text)}</div></th>{cells}</tr>'


def _cell(cell: Cell, place: int, table: Table) -> str:
    small = "".join(f"<small>{_safe(line)}</small>" for line in cell.small)
    classes = " ".join(filter(None, ("word" if place < table.words else "", cell.mark.replace(" ", "-"))))
    return f"<td{_class(classes)}>{_safe(cell.text)}{small}</td>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _plots(evaluation: Evaluation, summary: Summary) -> str:
    """Pairs of values by the main metric, then every metric by system."""
    main, names, pairs, figures = main_metric(summary), [system.name for system in evaluation.systems], [], []
    for other in names[1:] if main else []:
        points = paired(evaluation, str(main), names[0], other)
        if main and points:
            title = f"{name_of(main)}, {names[0]} against {other}"
            pairs.append(_figure(title, scatter(title, names[0], other, points, METRICS[main].better)))
    for metric in COMPARED:
        if any(is_known(means.get(metric)) for means in summary.means.values()):
            title = f"{name_of(metric)}, {METRICS[metric].better} is better"
            figures.append(_figure(title, distribution(title, _lanes(evaluation, metric), partial(number, metric))))
    lead = '<p class="lead">Boxes reach from the lower to the upper quartile, the line is the median; each dot is a picture.</p>'
    beside = '<p class="lead">Each dot is a picture; on the dashed line both systems are equal.</p>'
    drawn = [f'{words}<div class="plots">{"".join(each)}</div>' for words, each in ((lead, figures), (beside, pairs)) if each]
    return "".join(drawn)


def _lanes(evaluation: Evaluation, metric: str) -> list[tuple[str, list[float]]]:
    lanes = []
    for place, system in enumerate(evaluation.systems):
        values = [picture.scores[place].values.get(metric, math.nan) for picture in evaluation.pictures]
        lanes.append((system.name, [value for value in values if math.isfinite(value)]))
    return lanes


def _figure(title: str, drawing: str) -> str:
    return f"<figure><figcaption>{_safe(title)}</figcaption>{drawing}</figure>"


def _galleries(evaluation: Evaluation, summary: Summary, strips: Mapping[str, str]) -> str:
    pictures, metric = {picture.key: picture for picture in evaluation.pictures}, main_metric(summary)
    found = [f'<p class="lead">{GALLERIES}</p>']
    for gallery in galleries(evaluation, summary):
        shown = "".join(_strip(pictures[key], str(metric), evaluation, strips.get(key)) for key in gallery.keys)
        found.append(f'<h3>{_safe(gallery.title)}</h3><p class="lead">{_safe(gallery.lead)}</p>{shown or "<p>No picture.</p>"}')
    return "".join(found) if len(found) > 1 else ""


def _strip(picture: PictureResult, metric: str, evaluation: Evaluation, place: str | None) -> str:
    values = [(system.name, score.values.get(metric)) for system, score in zip(evaluation.systems, picture.scores, strict=True)]
    numbers = " · ".join(f"{name} {'–' if value is None else number(metric, value)}" for name, value in values)
    true = "" if picture.true_layers is None else f", {picture.true_layers} true layers"
    about = f"{picture.width} × {picture.height}{true} · {METRICS[metric].label}: {numbers}"
    alt = f"{picture.key}: the picture, its layers and each system's"
    image = f'<img src="{_safe(place)}" alt="{_safe(alt)}" loading="lazy">' if place else "The picture is not at hand."
    said = f"<figcaption><b>{_safe(picture.key)}</b><br>{_safe(about)}</figcaption>"
    details = f"<details><summary>All numbers</summary>{_grid(tables.picture(evaluation, picture))}</details>"
    return f'<figure class="strip">{said}<div class="layers">{image}</div>{details}</figure>'


def _made(evaluation: Evaluation, summary: Summary) -> str:
    facts = "".join(f"<dt>{_safe(what)}</dt><dd>{_safe(value)}</dd>" for what, value in tables.facts(evaluation))
    known = [metric for metric in METRICS if any(is_known(means.get(metric)) for means in summary.means.values())]
    meanings = "".join(
        f"<dt>{_safe(METRICS[metric].label)}</dt><dd>{_safe(METRICS[metric].meaning)}; {METRICS[metric].better} is better</dd>"
        for metric in known
    )
    links = '<p>The same as <a href="report.md">Markdown</a> and, with every picture\'s numbers, as <a href="report.json">JSON</a>.</p>'
    return f"<dl>{facts}</dl>{links}<h3>What the numbers mean</h3><dl>{meanings}</dl>"


def _safe(text: str) -> str:
    return escape(inert(text))
