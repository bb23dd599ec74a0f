"""The report of a training run: one page that opens from the disk, styles, drawings and pictures inside of it, no script.

It looks like an evaluation's page. Whatever is no markup of ours goes through `_safe`.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

from layerctl.errors import InputError
from layerctl.terminal import inert
from layerctl_train.curves import curves
from layerctl_train.evaluate.findings import name_of, number
from layerctl_train.evaluate.page import POLICY, STYLE
from layerctl_train.evaluate.results import METRICS as EVALUATION_METRICS
from layerctl_train.metrics import METRICS
from layerctl_train.run_folder import REPORT, RunFolder
from layerctl_train.sheets import before_after
from layerctl_train.trends import (
    Record,
    RunRecord,
    Series,
    Trend,
    amount,
    duration,
    evaluation_trend,
    headlines,
    read_run,
    series,
    shows,
    total,
    warnings,
)

PICTURES, JPEG_QUALITY = 8, 88
"""Held-out pictures that are shown."""
COLUMNS = 6
"""Evaluations in the table, at most: the first, the last and some between."""
UNITS = {
    "reward": "points of 10",
    "reward by phase": "points of 10",
    "reward by criterion": "points of 10",
    "spread": "points of 10",
    "agreement": "rank correlation",
    "groups": "groups",
    "invalid": "share of candidates",
    "guards": "points off",
    "disagreement": "share of pairs",
    "ratio": "|log ratio|",
    "clip": "share of ratios",
    "gradient": "norm",
    "cost": "a step",
    "time": "seconds a step",
}
"""Of each chart of METRICS."""
APART = {"judge/dollars": "US dollars a step", "kl/exact": "nats a dimension", "kl/velocity": "squared velocity", "loss/kl": "weighted"}
"""Metrics whose unit is not that of their chart: each in a drawing of its own."""
LOGARITHMIC = ("gradient", "kl/exact", "kl/velocity", "loss/kl")
COSTS = ("evaluations", "judge/calls", "judge/cached", "judge/tokens", "judge/dollars")
TIMES = ("seconds/sample", "seconds/judge", "seconds/learn", "seconds/step")
OUTCOMES = {
    "by the judge": ("judge",),
    "quality and criteria": ("quality", "separation", "alpha", "background", "distribution", "validity"),
    "faults": ("blank_rate", "duplicate_rate", "copy_rate", "recomposition"),
    "against known layers": ("layerd_rgb_l1_0", "layerd_alpha_iou_0"),
}
"""Charts of the evaluation, by names of its own metrics."""
OWN_STYLE = """
pre { font: 13.5px/1.5 ui-monospace, "Noto Sans Mono", monospace; background: #f7f7f8; padding: 14px 16px; overflow-x: auto }
td.better small, td.worse small { font-weight: 400 }
summary { cursor: pointer; color: #00558a }
.sheet { overflow-x: auto; border: 1px solid #d9dade; border-radius: 8px; padding: 4px }
.sheet img { display: block; max-width: 100%; min-width: min(100%, 760px); height: auto }
.headline + .headline { font-size: 18px }
"""


def write_report(folder: RunFolder) -> Path:
    """Write report.html anew, whole. Raises OutputError, and InputError for records that are damaged."""
    run = read_run(folder)
    return folder.write(REPORT, page(run, _pictures(folder, run)))


def page(run: RunRecord, pictures: str) -> str:
    """The whole page. `pictures`: the markup of what was made of held-out pictures, "" for none."""
    sections = [
        ("pictures", "Held-out pictures", pictures),
        ("evaluation", "Evaluation", _evaluations(run)),
        ("curves", "Curves", _curves(run)),
        ("groups", "Groups that taught nothing", _reasons(run)),
        ("cost", "Cost and time", _costs(run)),
        ("settings", "Settings", _settings(run)),
        ("metrics", "What the numbers mean", _glossary(run)),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in shown)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{content}</section>' for name, heading, content in shown)
    said = "".join(f'<p class="headline">{_safe(sentence)}</p>' for sentence in headlines(run))
    warned = "".join(f"<li>{_safe(warning)}</li>" for warning in warnings(run))
    remarks = f'<ul class="remarks">{warned}</ul>' if warned else ""
    title = f"Training run {run.name}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_safe(title)}</title>'
        f"<style>{STYLE}{OWN_STYLE}</style></head>\n"
        f"<body><header><h1>{_safe(title)}</h1>{said}{remarks}<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n"
    )


def _pictures(folder: RunFolder, run: RunRecord) -> str:
    """The first sheet against the last one of a step that was done; samples of steps that are made again are not shown."""
    sheets = [path for step, path in folder.samples().items() if step <= run.last]
    if not sheets:
        return ""
    try:
        drawn = before_after([sheets[0], sheets[-1]] if len(sheets) > 1 else sheets, most=PICTURES)
    except InputError as error:
        return f"<p>{_safe(error.message)}</p>"
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    lead = "From the same noise each time: the picture, its raw layers from the bottom up, and what they flatten to."
    image = f'<img src="data:image/jpeg;base64,{data}" alt="Held-out pictures and their layers, before and now">'
    return f'<p class="lead">{lead}</p><div class="sheet">{image}</div>'


def _evaluations(run: RunRecord) -> str:
    if not run.evaluations:
        return ""
    order = [name for names in OUTCOMES.values() for name in names]
    known = [name for name in dict.fromkeys([*order, *EVALUATION_METRICS]) if any(name in record["values"] for record in run.evaluations)]
    chosen = _spread(run.evaluations)
    head = "".join(f'<th scope="col">step {record["step"]}</th>' for record in chosen)
    rows = []
    for name in known:
        cells = "".join(f"<td>{_value(name, record)}</td>" for record in chosen)
        rows.append(f'<tr><th scope="row" class="word"><div>{_safe(_title(name))}</div></th>{cells}{_change(name, run)}</tr>')
    table = _table(
        f'<th scope="col" class="word">metric</th>{head}<th scope="col">change</th>', rows, "Means over the held-out pictures by step"
    )
    counted = len(run.evaluations[-1]["pictures"])
    pictures = f"{counted} held-out picture{'' if counted == 1 else 's'}"
    lead = f"Means over {pictures}; the change is that since the first evaluation, with its 95 % interval."
    found, figures = series([{"step": each["step"], **each["values"]} for each in run.evaluations]), list[str]()
    for title, names in OUTCOMES.items() if len(run.evaluations) > 1 else ():
        lines = {name_of(name): found.get(name, ()) for name in names}
        figures += _figure(f"Held-out pictures, {title}", "points of 10" if names == ("judge",) else "0 to 1", lines)
    return f'<p class="lead">{lead}</p>{table}<div class="plots">{"".join(figures)}</div>'


def _curves(run: RunRecord) -> str:
    charts: dict[tuple[str, str], dict[str, Series]] = {}
    for name, metric in METRICS.items():
        if metric.chart:
            title, unit = (name, APART[name]) if name in APART else (metric.chart, UNITS.get(metric.chart, ""))
            charts.setdefault((title, unit), {})[name] = run.measured.get(name, ())
    figures = [drawn for (title, unit), lines in charts.items() for drawn in _figure(title, unit, lines)]
    lead = "Pale: each step; strong: the mean over a twentieth of the run around it."
    return f'<p class="lead">{lead}</p><div class="plots">{"".join(figures)}</div>' if figures else ""


def _reasons(run: RunRecord) -> str:
    rows = [
        f'<tr><th scope="row" class="word"><div>{_safe(why)}</div></th><td>{count}</td></tr>'
        for why, count in Counter(run.reasons).most_common()
    ]
    return _table('<th scope="col" class="word">reason</th><th scope="col">groups</th>', rows, "Groups that taught nothing") if rows else ""


def _costs(run: RunRecord) -> str:
    seconds, rows = total(run, "seconds/step") or 0.0, []
    for name in (*COSTS, *TIMES):
        whole = total(run, name)
        if whole is None:
            continue
        each = median(value for _, value in run.measured[name])
        what = METRICS[name].meaning.partition(";")[0].replace("seconds", "time", 1)
        is_time, form = name in TIMES, duration if name in TIMES else amount
        share = f"{whole / seconds:.0%}" if is_time and seconds else ""
        cells = f"<td>{_safe(form(whole))}</td><td>{_safe(form(each))}</td><td>{share}</td>"
        rows.append(f'<tr><th scope="row" class="word"><div>{_safe(what)}</div></th>{cells}</tr>')
    titles = ("", "in all", "a step (median)", "share of the time")
    head = "".join(f'<th scope="col"{"" if title else " class=word"}>{title}</th>' for title in titles)
    return _table(head, rows, "Cost and time") if rows else ""


def _settings(run: RunRecord) -> str:
    return f"<details><summary>config.toml</summary><pre>{_safe(run.config, lines=True)}</pre></details>" if run.config else ""


def _glossary(run: RunRecord) -> str:
    meanings = [(name, metric.meaning) for name, metric in METRICS.items() if name in run.measured]
    judged = {name for record in run.evaluations for name in record["values"]}
    meanings += [(_title(name), metric.meaning) for name, metric in EVALUATION_METRICS.items() if name in judged]
    return "<dl>" + "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(meaning)}</dd>" for name, meaning in meanings) + "</dl>" if meanings else ""


def _figure(title: str, unit: str, lines: Mapping[str, Series]) -> list[str]:
    """None where there is nothing to draw."""
    known = {name: found for name, found in lines.items() if found}
    if not known:
        return []
    drawn = curves(title, unit, known, logarithmic=title in LOGARITHMIC)
    shown = title if "/" in title else title[:1].upper() + title[1:]
    return [f"<figure><figcaption>{_safe(shown)}</figcaption>{drawn}</figure>"]


def _table(head: str, rows: Sequence[str], label: str) -> str:
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(label)}">{grid}</div>'


def _change(name: str, run: RunRecord) -> str:
    found = evaluation_trend(run.evaluations, name)
    if found is None:
        return "<td>–</td>"
    change = found.change
    interval = f"{number(name, change.low, signed=True)} to {number(name, change.high, signed=True)}"
    return f'<td class="{_verdict(name, found)}">{number(name, change.mean, signed=True)}<small>{interval}</small></td>'


def _verdict(name: str, found: Trend) -> str:
    if not shows(name, found) or not (found.rises or found.falls):
        return ""
    return "better" if found.rises == (EVALUATION_METRICS[name].better == "higher") else "worse"


def _value(name: str, record: Record) -> str:
    return number(name, record["values"][name]) if name in record["values"] else "–"


def _title(name: str) -> str:
    return f"{name_of(name)}, {EVALUATION_METRICS[name].better} is better"


def _spread(found: Sequence[Record]) -> list[Record]:
    """At most `COLUMNS`, evenly, with the first and the last."""
    if len(found) <= COLUMNS:
        return list(found)
    return [found[round(place * (len(found) - 1) / (COLUMNS - 1))] for place in range(COLUMNS)]


def _safe(text: str, *, lines: bool = False) -> str:
    """Words and no markup, on one line unless `lines`."""
    return "\n".join(escape(inert(line)) for line in text.splitlines()) if lines else escape(inert(text))
