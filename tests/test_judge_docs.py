"""docs/judge.md against the code: what it names is there, and its formulas give its numbers."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from layerctl_train.commands.calibrate import calibrate
from layerctl_train.commands.judge import judge
from layerctl_train.judge.combine import chance
from layerctl_train.judge.prompts import FOLDER
from layerctl_train.judge.remote import openai_judge

from layerctl.commands.decompose import decompose
from layerctl.judge_settings import KEY_VARIABLE, JudgeSettings
from layerctl.registry import BUILT_IN
from layerctl.settings import PREFIX, VALUES

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")


def test_every_option_is_one_of_a_command() -> None:
    known = {name for command in (judge, calibrate, decompose) for option in command.params for name in option.opts}
    ours = [line for line in DOCS.splitlines() if "vllm" not in line and "sglang" not in line and "--limit-mm" not in line]
    named = set(re.findall(r"(?<![\w|-])--[a-z][a-z-]+", "\n".join(ours)))
    assert len(named) > 10
    assert named <= known


def test_every_setting_is_one_and_every_variable_belongs_to_one() -> None:
    named = set(re.findall(r"`(judge_[a-z_]+)", DOCS))
    assert len(named) > 10
    assert named <= VALUES.keys()
    variables = set(re.findall(rf"{PREFIX}([A-Z_]+)", DOCS))
    assert variables
    assert {name.lower() for name in variables} <= VALUES.keys() | {KEY_VARIABLE.removeprefix(PREFIX).lower()}


def test_all_judges_and_prompts_are_described() -> None:
    for name in BUILT_IN["judges"]:
        assert f"\n| `{name}` |" in DOCS
    for prompt in FOLDER.glob("*.md"):
        assert f"`{prompt.name}`" in DOCS


def test_files_and_pictures_are_where_it_says() -> None:
    places = re.findall(r"\]\((?!http)([^)#]+)", DOCS)
    assert places
    for place in places:
        assert (ROOT / "docs" / place).is_file(), place
    for path in re.findall(r"(?:benchmarks|layerctl|train)/[\w/]+\.(?:py|md)", DOCS):
        assert (ROOT / path).is_file(), path


DEFAULTS = {
    "judge_orders": "(`--judge-orders`, 2)",
    "judge_blend": "b is `--judge-blend`, 0.5",
    "judge_min_spread": "`judge_min_spread` (0.5 points)",
    "judge_min_agreement": "`judge_min_agreement` (0.3,",
    "judge_retries": "`judge_retries` (4)",
    "judge_side": "`judge_side` (512)",
    "judge_grid_side": "`judge_grid_side` (1536)",
    "judge_max_tokens": "answer up to 1,500",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_settings(name: str) -> None:
    assert DEFAULTS[name] in DOCS
    assert float(re.findall(r"\d[\d.,]*\d|\d", DEFAULTS[name])[-1].replace(",", "")) == getattr(JudgeSettings(), name)


def test_the_worked_example_is_the_forecast(tmp_path: Path) -> None:
    settings = JudgeSettings(judge_model="m", judge_orders=4, judge_prices=("m=0.10,0.40",), judge_cache=str(tmp_path / "judge.sqlite"))
    with closing(openai_judge(settings, lambda _: None)) as example:
        usage = example.forecast(8, 4)
    assert f"**{usage.calls} requests, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out**" in DOCS
    assert usage.cost is not None
    assert f"${usage.cost:.4f} a group and ${2000 * usage.cost:.2f} for 2,000 groups" in DOCS


@pytest.mark.parametrize(("row", "orders"), [("K = 2", 2), ("K = 4", 3), ("K = 4, `judge_anchors = false`", 4)])
def test_so_much_the_orders_have_to_agree(row: str, orders: int) -> None:
    """Of four orders two are told phase 1, and count as one."""
    (header,) = re.findall(r"^\| candidates \|(.*)\|$", DOCS, re.MULTILINE)
    (cells,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", DOCS, re.MULTILINE)
    for group, least in zip(map(int, header.split("|")), cells.split("|"), strict=True):
        if least.strip() == "never":
            assert chance(1, orders, group) > JudgeSettings().judge_chance
        else:
            assert chance(float(least), orders, group) <= JudgeSettings().judge_chance < chance(float(least) - 0.02, orders, group)
