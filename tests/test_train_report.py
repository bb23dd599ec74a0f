"""The report of a run: what it says in words, what it draws, and that nothing of it can become markup."""

from __future__ import annotations

import json
import re
import time
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerctl_train.curves import BUCKETS, WIDTH, curves, smoothed
from layerctl_train.metrics import METRICS
from layerctl_train.report import page, write_report
from layerctl_train.run_folder import RunFolder
from layerctl_train.sheets import SheetRow, write_sheet
from layerctl_train.training_data import Entry, Scan
from layerctl_train.trends import amount, duration, evaluation_trend, headlines, read_run, series, trend, warnings

from layerctl.errors import InputError
from layerctl.testing import scene
from tests.test_eval_report import HOSTILE, Markup

CONFIG = '# a "comment" <kept>\nmethod = "{method}"  # paper\nupdates = {updates}\ndata = "photographs"\noptimizer_steps = 2\nholdout = 2\n'


def grpo(step: int, **changed: float) -> dict[str, Any]:
    """A record with every metric of the method, a little noisy and without a trend."""
    wave = 0.1 * ((step * 7) % 5 - 2)
    values = {name: 1 + wave for name, metric in METRICS.items() if "grpo" in metric.methods}
    steady = {"clip": 0.2, "invalid": 0.0, "groups/taught": 7, "groups/skipped": 1, "reward/judge": 5 + wave, "reward/mean": 4 + wave}
    return {"step": step, **values, **steady, **changed}


def evaluated(step: int, quality: float, pictures: int = 6) -> dict[str, Any]:
    found = {f"{place}.png": {"quality": quality + place / 100, "blank_rate": 0.1} for place in range(pictures)}
    return {"step": step, "values": {"quality": quality, "blank_rate": 0.1}, "pictures": found}


def scanned(name: str, count: int) -> dict[str, Any]:
    """What a scan leaves in data.json."""
    return Scan(name, tuple(Entry(f"{at}.png", f"{at:064x}", 8, 8) for at in range(count))).to_json()


def run_of(
    path: Path, metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None, *, method: str = "grpo", updates: int = 40
) -> RunFolder:
    run = RunFolder(path / "run")
    run.path.mkdir()
    run.write("config.toml", CONFIG.format(method=method, updates=updates))
    run.write("data.json", json.dumps(scanned("photographs", 14)))
    for name, records in (("metrics", metrics), ("evaluations", evaluations or [])):
        run.write(f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    return run


def said(run: RunFolder) -> str:
    return "\n".join(headlines(read_run(run)))


def warned(run: RunFolder) -> str:
    return "\n".join(warnings(read_run(run)))


def sample(run: RunFolder, step: int) -> None:
    source, stack = scene(1, width=48, height=32)
    run.sample(step, lambda path: write_sheet(path, [SheetRow(HOSTILE, source, stack)], title=f"Step {step}"))


def test_a_whole_run_is_one_page_without_scripts_that_needs_nothing_else(tmp_path: Path) -> None:
    run = run_of(tmp_path, [grpo(step) for step in range(1, 41)], [evaluated(0, 0.5), evaluated(25, 0.55), evaluated(40, 0.6)])
    for step in (0, 25, 40):
        sample(run, step)
    text = write_report(run).read_text(encoding="utf-8")
    markup = Markup(text)
    assert markup.open == []
    assert not markup.tags & {"script", "link", "iframe", "object"}
    assert all(place.startswith(("#", "data:image/jpeg;base64,")) for place in markup.places)
    assert {place[1:] for place in markup.places if place.startswith("#")} == set(re.findall(r'<section id="(\w+)"', text))
    sections = re.findall(r"<h2>([^<]+)</h2>", text)
    assert sections == ["Held-out pictures", "Evaluation", "Curves", "Cost and time", "Settings", "What the numbers mean"]
    words = " ".join(markup.words)
    assert all(metric.meaning in words for metric in METRICS.values() if "grpo" in metric.methods)
    assert '# a "comment" <kept>\nmethod = "grpo"  # paper' in unescape(text)


def test_every_chart_of_the_metrics_is_drawn_with_its_lines(tmp_path: Path) -> None:
    text = write_report(run_of(tmp_path, [grpo(1), grpo(2)])).read_text(encoding="utf-8")
    titles = {title.lower() for title in re.findall(r"<figcaption>([^<]+)</figcaption>", text)}
    assert {metric.chart.lower() for metric in METRICS.values() if "grpo" in metric.methods and metric.chart not in ("", "KL")} <= titles
    for name, metric in METRICS.items():
        if metric.chart and "grpo" in metric.methods:
            assert f">{name}<" in text or metric.chart.lower() in titles, name


@pytest.mark.parametrize(
    ("metrics", "evaluations", "method"),
    [
        ([], [], "grpo"),
        ([], [evaluated(0, 0.5)], "grpo"),
        ([grpo(1)], [], "grpo"),
        ([grpo(step) for step in (1, 2, 3)], [evaluated(0, 0.5, pictures=1)], "grpo"),
        ([grpo(step) for step in (1, 2, 9, 30)], [], "grpo"),
        ([{"step": step, "loss/flow": 1 / step, "seconds/step": 2.0} for step in range(1, 31)], [], "sft"),
        ([{"step": 1}, {"step": 2, "judge/dollars": 0.0}], [], "grpo"),
    ],
)
def test_runs_that_lack_something_have_a_report_of_what_there_is(
    metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]], method: str, tmp_path: Path
) -> None:
    text = write_report(run_of(tmp_path, metrics, evaluations, method=method)).read_text(encoding="utf-8")
    assert Markup(text).open == []
    assert "nan" not in text.lower().replace("dominan", "")
    assert f"{metrics[-1]['step'] if metrics else 0} of 40 steps are done" in text


def test_a_report_of_5000_steps_is_made_quickly_and_stays_small(tmp_path: Path) -> None:
    run = run_of(tmp_path, [grpo(step) for step in range(1, 5001)], updates=5000)
    begun = time.process_time()
    text = write_report(run).read_text(encoding="utf-8")
    assert time.process_time() - begun < 4
    assert len(text) < 1_500_000
    assert "all 5000 steps are done" in text


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (0.05, "The reward rises: 4.15 in steps 1 to 5, 5.90 in steps 36 to 40, a change of +1.75 (95 % interval 1.7"),
        (-0.05, "The reward falls: 3.85 in steps 1 to 5, 2.10 in steps 36 to 40, a change of −1.75"),
        (0.0, "Whether the reward changes is not clear: 4.00 in steps 1 to 5, 4.00 in steps 36 to 40"),
    ],
)
def test_the_reward_rises_only_where_the_interval_says_so(slope: float, words: str, tmp_path: Path) -> None:
    # The noise of the last five steps is not in the order of the first five's.
    noise = [0.02, -0.01, 0.01, -0.02, 0.0, *[0.0] * 30, 0.0, 0.01, -0.02, 0.02, -0.01]
    metrics = [grpo(step, **{"reward/mean": 4 + slope * step + noise[step - 1]}) for step in range(1, 41)]
    assert words in said(run_of(tmp_path, metrics))


def test_few_steps_are_not_judged(tmp_path: Path) -> None:
    assert "The reward cannot be judged from 9 steps." in said(run_of(tmp_path, [grpo(step) for step in range(1, 10)]))
    assert trend([(step, 1.0) for step in range(9)]) is None


def test_a_loss_that_falls_is_said_of_a_supervised_run(tmp_path: Path) -> None:
    metrics = [{"step": step, "loss/flow": 1 / step, "seconds/step": 90.0, "evaluations": 8} for step in range(1, 41)]
    found = said(run_of(tmp_path, metrics, method="sft"))
    assert "learns from 12 pictures (photographs, 2 held out) by flow matching on layered files: all 40 steps are done." in found
    assert "The loss falls: 0.457 in steps 1 to 5" in found
    assert "That took 1 h 0 min, 320 evaluations of the model." in found


def test_held_out_pictures_are_compared_one_by_one(tmp_path: Path) -> None:
    better = said(run_of(tmp_path, [grpo(1)], [evaluated(0, 0.5), evaluated(25, 0.7)]))
    assert "Held-out pictures become better: quality 0.525 after step 0, 0.725 after step 25, a change of +0.200" in better
    assert "6 pictures" in better
    assert evaluation_trend([evaluated(0, 0.5), evaluated(25, 0.7, pictures=1)], "quality") is None
    assert evaluation_trend([evaluated(0, 0.5)], "quality") is None


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (
            {"reward/judge": 4.0, "guard/points": 0.2},
            {"reward/judge": 6.0, "guard/points": 0.9},
            "so do points off for faults in pixels, from 0.2 to",
        ),
        ({"reward/judge": 4.0, "guard/disagreement": 0.1}, {"reward/judge": 6.0, "guard/disagreement": 0.4}, "so does its disagreement"),
        ({"groups/taught": 3, "groups/skipped": 5}, {"groups/taught": 3, "groups/skipped": 5}, "62% of the groups taught nothing"),
        ({}, {"clip": 0.5}, "50% of the latest ratios are clipped, more than the usual 30%"),
        ({}, {"clip": 0.01}, "1% of the latest ratios are clipped, less than the usual 10%"),
        ({"invalid": 0.05}, {"invalid": 0.05}, "5.0% of the candidates have no score"),
        ({}, {}, ""),
        ({"reward/judge": 6.0, "guard/points": 0.2}, {"reward/judge": 4.0, "guard/points": 0.9}, ""),
    ],
)
def test_what_should_make_one_look_twice_is_said(first: dict[str, float], last: dict[str, float], words: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, [grpo(step, **(first if step <= 20 else last)) for step in range(1, 41)])
    found = warned(run)
    assert (words in found) if words else (found == "")
    assert "remarks" in write_report(run).read_text(encoding="utf-8").partition("</style>")[2] or not words


def test_a_reward_that_rises_while_held_out_pictures_get_worse_is_said(tmp_path: Path) -> None:
    metrics = [grpo(step, **{"reward/mean": step / 10}) for step in range(1, 41)]
    found = warned(run_of(tmp_path, metrics, [evaluated(0, 0.7), evaluated(40, 0.5)]))
    assert "The reward rises, but quality of the held-out pictures falls, from 0.725 to 0.525." in found


def test_steps_that_are_not_in_the_records_are_told(tmp_path: Path) -> None:
    assert "2 steps are not in the records" in warned(run_of(tmp_path, [grpo(step) for step in (1, 2, 5)]))


def test_pictures_of_other_data_for_evaluation_are_not_counted_as_trained_on(tmp_path: Path) -> None:
    run = run_of(tmp_path, [])
    run.write("data.json", json.dumps(scanned("photographs", 14) | {"evaluation": scanned("others", 3)}))
    assert "learns from 11 pictures (photographs, 3 held out) by Flow-GRPO" in said(run)


def test_why_groups_taught_nothing_is_counted(tmp_path: Path) -> None:
    metrics = [{**grpo(1), "reasons": {HOSTILE: 2}}, {**grpo(2), "reasons": {HOSTILE: 1, "too few scores": 1}}]
    run = run_of(tmp_path, metrics)
    assert read_run(run).reasons == {HOSTILE: 3, "too few scores": 1}
    assert "too few scores</div></th><td>1</td>" in write_report(run).read_text(encoding="utf-8")


def test_words_from_anywhere_stay_words(tmp_path: Path) -> None:
    run = run_of(tmp_path, [{**grpo(1), "reasons": {HOSTILE: 2}}])
    run.write("data.json", json.dumps(scanned(HOSTILE, 3)))
    run.write("config.toml", f"# {'</pre><script>'}\ndata = {json.dumps('<b>')}\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert Markup(text).open == []
    assert "<img src=x" not in text
    assert "<script" not in text
    assert "\x1b" not in text


def test_samples_of_steps_that_are_made_again_are_not_shown(tmp_path: Path) -> None:
    run = run_of(tmp_path, [grpo(1), grpo(2)], [evaluated(0, 0.5)])
    for step, is_shown in ((9, False), (0, True)):
        sample(run, step)
        assert ("Held-out pictures</h2>" in write_report(run).read_text(encoding="utf-8")) == is_shown


def test_a_damaged_sheet_is_named_and_damaged_records_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, [grpo(1)])
    (run.path / "samples").mkdir()
    (run.path / "samples" / "step-000000.png").write_bytes(b"cut")
    assert "step-000000.png is no contact sheet" in write_report(run).read_text(encoding="utf-8")
    (run.path / "metrics.jsonl").write_text("x\n")
    with pytest.raises(InputError, match="line 1 of"):
        write_report(run)
    (run.path / "data.json").write_text("{")
    with pytest.raises(InputError, match=r"data\.json of .* is damaged"):
        write_report(run)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12345, "0.123"), (-2.5, "−2.5"), (1234567, "1 234 567"), (3e-7, "3e−07")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90061, "25 h 1 min")]
)
def test_durations_are_in_units_that_fit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def points(drawn: str) -> list[tuple[float, float]]:
    paths = re.findall(r'<path d="([^"]+)" stroke="#(?!d9dade|55575f)', drawn)
    return [(float(x), float(y)) for path in paths for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path)]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 240, 241, 5000])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_stay_within_their_frame_however_many_steps_there_are(count: int, logarithmic: bool) -> None:
    line = [(step, 10.0 ** (step % 7 - 3)) for step in range(1, count + 1)]
    drawn = curves("title <1>", "points", {"a<b": line, "second": line[:1]}, logarithmic=logarithmic)
    Markup(drawn)
    found, height = points(drawn), float(re.findall(r'height="(\d+)"', drawn)[0])
    assert found
    assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in found)
    assert len(found) <= 3 * BUCKETS + 3
    assert "a&lt;b" in drawn


def test_a_line_is_broken_where_steps_are_missing() -> None:
    whole = [(step, float(step)) for step in range(1, 11)]
    assert curves("t", "", {"a": whole}).count("M64.0") == curves("t", "", {"a": whole[:3] + whole[7:]}).count("M64.0")
    lines = [re.findall(r'<path d="(M[^"]+L[^"]*)" stroke', curves("t", "", {"a": each}))[0] for each in (whole, whole[:3] + whole[7:])]
    assert [line.count("M") for line in lines] == [1, 2]


def test_the_smoothed_course_is_a_moving_mean_that_keeps_constants() -> None:
    assert smoothed(np.full(100, 3.0)).tolist() == pytest.approx([3.0] * 100)
    middle = smoothed(np.arange(100.0))
    assert middle[50] == pytest.approx(50)
    assert middle[0] == pytest.approx(1.0)


def test_only_numbers_are_series() -> None:
    assert series([{"step": 1, "a": 0.5, "reasons": {"x": 1}}, {"step": 3, "a": 1}]) == {"step": [(1, 1), (3, 3)], "a": [(1, 0.5), (3, 1)]}


def test_a_page_without_pictures_has_no_place_for_them(tmp_path: Path) -> None:
    assert "#pictures" not in page(read_run(run_of(tmp_path, [grpo(1)])), "")
