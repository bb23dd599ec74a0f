"""docs/training.md against the code: what it names is there, and its numbers come out."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
from layerctl_train.commands.calibrate import calibrate
from layerctl_train.commands.evaluate import evaluate
from layerctl_train.commands.train import train
from layerctl_train.forecast import adapter_parameters, forecast_run
from layerctl_train.metrics import GUARDS, METRICS
from layerctl_train.run_config import PAPER, RECIPE_VALUES, RunConfig, resolve_run, shipped
from layerctl_train.training_settings import CLIPS, TrainingSettings

from layerctl import registry
from layerctl.commands.decompose import decompose
from layerctl.engines.qwen.devices import Machine
from layerctl.engines.qwen.memory import GB, PUBLISHED
from layerctl.judge_settings import EVALUATION_KEY_VARIABLE, KEY_VARIABLE, JudgeSettings
from layerctl.settings import PREFIX, VALUES

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
WORDS = " ".join(DOCS.split())
"""The same without line ends."""
OTHERS = ("torchrun", "accelerate launch", "vllm serve", "    -m layerctl", "    --mixed_precision", "CUDA_VISIBLE_DEVICES")
"""Lines that begin so hold options of launchers and servers before `layerctl`."""
H200 = Machine("cuda", "a GPU", 141 * GB, 139 * GB, 0, 0)


def rows(heading: str) -> list[list[str]]:
    """The cells of the one table whose heading row is given."""
    (body,) = re.findall(rf"^\s*{re.escape(heading)}\n\s*\|[-:|]+\|\n((?:\s*\|.*\|\n)+)", DOCS, re.MULTILINE)
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in body.strip().splitlines()]


def paper(*assignments: str) -> RunConfig:
    return resolve_run("paper", data="photos/", assignments=("judge_model=m", *assignments), environ={})


def test_every_option_is_one_of_a_command() -> None:
    known = {name for command in (train, evaluate, calibrate, decompose) for option in command.params for name in option.opts}
    ours = [line.partition("layerctl train")[2] if line.startswith(OTHERS) else line for line in DOCS.splitlines()]
    named = set(re.findall(r"(?<![\w|-])--[a-z][a-z-]+", "\n".join(ours)))
    assert len(named) > 20
    assert named <= known


def test_every_setting_stands_in_the_table_with_its_default_and_whose_it_is() -> None:
    def shown(value: object) -> str:
        match value:
            case None:
                return "not set"
            case bool():
                return str(value).lower()
            case (int(), int()):
                return "-".join(dict.fromkeys(map(str, value)))
            case tuple():
                return f"all {len(value)}"
            case float():
                return f"{value:g}"
        return str(value)

    settings = TrainingSettings()
    expected = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        expected[f"`{field.name}`"] = (shown(value), "paper" if value is not None and PAPER.get(field.name) == value else "ours")
    assert {key: (default, whose) for key, default, whose, _ in rows("| setting | default | whose | what |")} == expected


def test_what_is_set_in_an_example_can_be_set() -> None:
    named = set(re.findall(r"--set (\w+)=", DOCS))
    assert len(named) > 3
    assert named <= RECIPE_VALUES.keys()


def test_every_metric_is_explained() -> None:
    found = {name.strip("`"): what for name, what, *_ in rows("| metric | what | good | bad, and what to do |")}
    assert list(found) == list(METRICS)
    assert all(found.values())
    assert {name for name, what in found.items() if "`sft`" in what} == {
        name for name, metric in METRICS.items() if "sft" in metric.methods
    }


def test_every_other_name_in_code_is_a_setting_or_a_metric() -> None:
    keys = set(re.findall(r"`((?:abort|guard|judge|window|sft|ema)_[a-z_]+)`", DOCS))
    assert len(keys) > 10
    assert keys - {"abort_"} <= RECIPE_VALUES.keys()
    metrics = set(re.findall(r"`((?:reward|criterion|groups|guard|ratio|loss|kl|seconds|judge)/[a-z0-9_]+)`", DOCS))
    assert metrics <= METRICS.keys()
    variables = {PREFIX + name for name in re.findall(rf"{PREFIX}([A-Z_]+)", DOCS)} - {KEY_VARIABLE, EVALUATION_KEY_VARIABLE}
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= VALUES.keys()
    for guard in GUARDS:
        assert f"`guard_{guard}`" in DOCS


def test_files_and_sections_are_where_it_says() -> None:
    places = re.findall(r"\]\((?!http)([^)#]+)", DOCS)
    assert places
    for place in places:
        assert (ROOT / "docs" / place).is_file(), place
    for place, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", DOCS):
        text = (ROOT / "docs" / place).read_text(encoding="utf-8") if place else DOCS
        headings = {
            re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert anchor in headings, anchor


def test_all_recipes_are_named() -> None:
    for name in shipped():
        assert f"`{name}`" in DOCS


@pytest.mark.parametrize("form", CLIPS)
def test_clips_are_those_of_the_code(form: str) -> None:
    (clip,) = [clip for name, _, clip in rows("| `ratio` | log r | `clip`, if not set |") if name.startswith(f"`{form}`")]
    assert float(clip) == CLIPS[form]  # type: ignore[index]


PLANS = {
    "1 GPU": (1, ()),
    "8 GPUs": (8, ()),
    "16 GPUs, `--groups 16`": (16, ("groups=16",)),
    "2 GPUs, `--set shard=true`": (2, ("shard=true",)),
    "8 GPUs, `--set shard=true`": (8, ("shard=true",)),
}


def test_memory_and_hours_are_the_forecast() -> None:
    found = {name: cells for name, *cells in rows("| recipe paper, 4 layers at 640 x 640 | GB a GPU | a step | 200 steps |")}
    assert found.keys() == PLANS.keys()
    for name, (world, assignments) in PLANS.items():
        plan = forecast_run(paper(*assignments), PUBLISHED, H200, rate=790e12, world=world)
        assert found[name] == [f"{plan.device_bytes / GB:.1f}", f"{plan.seconds:.0f} s", f"{plan.hours:.1f} h"], name
    without = forecast_run(paper("kl=0"), PUBLISHED, H200, rate=790e12)
    assert f"a step of {without.seconds:.0f} s instead of {found['1 GPU'][1].removesuffix(' s')}" in WORDS
    assert f"each is {without.held_out} runs of the model" in WORDS


def test_the_adapters_size_is_that_of_the_published_network() -> None:
    count = adapter_parameters(PUBLISHED.transformer, TrainingSettings())
    assert f"{count:,} parameters, {4 * count / 1e9:.2f} GB in float32" in WORDS
    # The product's average; for going on weights, average and two moments of Adam.
    assert f"Disk: {5 * 4 * count / 1e9:.1f} GB a checkpoint" in WORDS


def test_what_the_judge_costs_is_its_forecast(tmp_path: Path) -> None:
    config = paper()
    settings = replace(
        JudgeSettings(),
        judge_model="m",
        judge_orders=config.settings.judge_orders,
        judge_prices=("m=0.10,0.40",),
        judge_cache=str(tmp_path / "c"),
    )
    with closing(registry.load("judges", "openai")(settings, lambda _: None)) as judge:
        plan = forecast_run(config, PUBLISHED, H200, rate=790e12, judge=judge)
    step, run = plan.judged, plan.judged_in_all
    assert step.cost is not None
    assert run.cost is not None
    assert f"takes {step.calls} requests" in WORDS
    assert f"{step.input_tokens:,} tokens in and at most {step.output_tokens:,} out; 200 steps {run.calls:,} requests" in WORDS
    assert f"${step.cost:.2f} a step and ${run.cost:.2f} in all" in WORDS


def test_launchers_are_told_a_number_of_groups_that_they_can_share() -> None:
    commands = re.findall(r"^.*(?:torchrun|accelerate launch)(?:.*\\\n)?.*-m layerctl train.*$", DOCS, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        machines = int((re.findall(r"--nnodes (\d+)", command) or [1])[0])
        each = re.findall(r"--nproc-per-node (\d+)", command)
        world = machines * int(each[0]) if each else int(re.findall(r"--num_processes (\d+)", command)[0])
        groups = int((re.findall(r"--groups (\d+)", command) or [TrainingSettings().groups])[0])
        assert groups % world == 0, command
        assert " -o " in command


def test_the_readme_names_the_document_and_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/training.md)" in readme
    for module in (ROOT / "train" / "layerctl_train").glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in readme or f"/{module.name}`" in readme, module.name
