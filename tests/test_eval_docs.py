"""docs/evaluation.md against the code: what it names is there, and its numbers come out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.commands.calibrate import calibrate
from layerctl_train.commands.evaluate import evaluate
from layerctl_train.evaluate import crello, findings, statistics
from layerctl_train.evaluate.baselines import NAMES
from layerctl_train.evaluate.crello_design import SHORT_SIDE
from layerctl_train.evaluate.data import SCENES, open_data, scenes
from layerctl_train.evaluate.example import Example
from layerctl_train.evaluate.gates import read_gates
from layerctl_train.evaluate.layerd import MOST_EDITS, canvases, group_indices, score
from layerctl_train.evaluate.per_index import per_index_l1
from layerctl_train.evaluate.report import FORMAT, SCHEMA
from layerctl_train.evaluate.results import METRICS
from layerctl_train.evaluate.systems import BASE

from layerctl.commands.decompose import decompose
from layerctl.view import SIDE

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
WORDS = " ".join(DOCS.split())
"""The same without line ends."""
OTHERS = {"--repo-type", "--revision", "--include", "--local-dir", "--soundness"}
"""Of `hf download` and the benchmark."""


def test_every_option_is_one_of_a_command() -> None:
    known = {name for command in (evaluate, calibrate, decompose) for option in command.params for name in option.opts}
    named = set(re.findall(r"(?<![\w|-])--[a-z][a-z-]+", DOCS))
    assert len(named) > 15
    assert named <= known | OTHERS
    ours = {name for option in evaluate.params for name in option.opts}
    needed = {"--data", "--engine", "--adapter", "--against", "--samplers", "--layers", "--limit", "--seed", "--shard", "--predictions"}
    assert needed | {"--fail-if", "--overwrite", "--noise-seed", "--judge"} <= named & ours


def test_every_metric_stands_in_the_table_with_the_way_that_is_better() -> None:
    found: dict[str, str] = {}
    for names, better in re.findall(r"^\| (`[^|]+`) \| (higher|lower) \|", DOCS, re.MULTILINE):
        first, *others = re.findall(r"`(\w+)`", names)
        if "..." in names:
            others = [f"{first[:-1]}{merges}" for merges in range(1, MOST_EDITS + 1)]
        found |= dict.fromkeys((first, *others), better)
    assert found == {name: metric.better for name, metric in METRICS.items()}


def test_every_gate_can_be_read() -> None:
    (table,) = re.findall(r"^\| form \| is \|\n\|---\|---\|\n((?:\|.*\n)+)", DOCS, re.MULTILINE)
    forms = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(forms) == 6
    assert len(read_gates(forms, ("classic", "damaged"))) == len(forms)
    advice = re.findall(r"`(difference\([^`|]+)`", WORDS.partition("For CI,")[2])
    assert len(read_gates(advice, ("classic", "damaged"))) == 1


def test_files_and_pictures_are_where_it_says() -> None:
    places = re.findall(r"\]\((?!http)([^)#]+)", DOCS)
    assert places
    for place in places:
        assert (ROOT / "docs" / place).is_file(), place
    paths = re.findall(r"(?:benchmarks|layerctl|train)/[\w/]+\.py", DOCS)
    assert len(paths) > 3
    for path in paths:
        assert (ROOT / path).is_file(), path
    for anchor in re.findall(r"\]\(#([\w-]+)\)", DOCS):
        assert re.search(rf"^## {anchor}$", DOCS, re.MULTILINE | re.IGNORECASE), anchor


SAID = {
    f"{SCENES}, or so many, drawn scenes of 192 x 128": "scenes",
    f"`{crello.REPOSITORY}` {crello.REVISION}": "crello",
    f"the shorter side has {SHORT_SIDE} pixels": "size",
    f"at most {SIDE} pixels on the long side": "view",
    f"BCa bootstrap (Efron 1987), {statistics.RESAMPLES:,} resamples": "resamples",
    f"up to {statistics.EXACT_UP_TO} pictures": "exact",
    f"{statistics.LEVEL:.0%} interval".replace("%", " %"): "level",
    f"clear if p is below {findings.SURE:.2f}".replace("0.", "."): "sure",
    f'(`"format": "{FORMAT}"`, `"schema": {SCHEMA}`)': "report",
    "ten best and worst": "gallery",
}


@pytest.mark.parametrize("text", SAID, ids=SAID.values())
def test_numbers_are_those_of_the_code(text: str) -> None:
    assert text in WORDS


def test_what_the_numbers_are_spelt_out_from() -> None:
    assert findings.SHOWN == 10
    assert MOST_EDITS == 5
    assert f"`{findings.MAIN[0]}`" in DOCS
    assert inspect.signature(scenes).parameters["width"].default == 192
    for name in (*NAMES, BASE):
        assert f"\n| `{name}` |" in DOCS


def test_with_fewer_than_six_pictures_nothing_is_clear() -> None:
    assert "With fewer than 6 pictures nothing can be clear" in WORDS
    assert statistics.sign_flip([1.0] * 5)[0] > findings.SURE > statistics.sign_flip([1.0] * 6)[0]


def test_a_thing_at_the_wrong_index_costs_twice_and_a_blank_layer_once() -> None:
    thing, blank = np.full((4, 4, 4), 255, np.uint8), np.zeros((4, 4, 4), np.uint8)
    truth = [thing, blank]
    assert sum(per_index_l1([blank, thing], truth).premultiplied) == 2 * sum(per_index_l1([blank, blank], truth).premultiplied)


def test_the_row_of_trivial_in_the_worked_example_comes_out() -> None:
    """Its layers are one group: the flat picture."""
    data, rows = open_data("scenes:40"), []
    for example in data.examples(data.keys()):
        assert isinstance(example, Example)
        assert example.truth is not None
        truth = canvases(example.truth)
        prediction = [example.source.pixels, *[np.zeros_like(truth[0])] * (len(truth) - 1)]
        assert len(group_indices([layer[..., 3] for layer in prediction])) == 1
        aligned, by_index = score(prediction, truth), per_index_l1(prediction, truth)
        rows.append((aligned.rgb_l1[0], aligned.alpha_iou[0], float(np.mean(by_index.premultiplied)), float(np.mean(by_index.over_white))))
    (row,) = re.findall(r"^\| trivial \|(.*)\|$", DOCS, re.MULTILINE)
    shown = [float(cell.strip(" *").split(" ")[0].strip("*")) for cell in row.split("|")[:4]]
    assert shown == [round(float(mean), 4) for mean in np.mean(rows, axis=0)]
