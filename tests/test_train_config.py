"""The config of a training run: recipes, what goes before what, what does not go together, and how a run is held to it."""

from __future__ import annotations

import dataclasses
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerctl_train.run_config import (
    FREE,
    JUDGE_KEYS,
    MODEL_KEYS,
    PAPER,
    RECIPE_VALUES,
    RUN_KEYS,
    SECTIONS,
    TRAINING_KEYS,
    RunConfig,
    check_processes,
    config_hash,
    differences,
    from_toml,
    marks,
    resolve_run,
    resume_run,
    shipped,
    to_toml,
    values,
)
from layerctl_train.training_settings import TRAINING_VALUES, TrainingSettings
from safetensors.numpy import save_file

from layerctl.errors import ConfigError, LayerctlError, UsageError
from layerctl.settings import Settings


@pytest.fixture(autouse=True)
def place(folder: Path) -> Path:
    return folder


def run(recipe: str = "paper", data: str = "photos/", *, environ: dict[str, str] | None = None, **wanted: Any) -> RunConfig:
    return resolve_run(recipe, data=data, environ=environ or {}, **wanted)


def write(place: Path, text: str) -> str:
    (place / "own.toml").write_text(text, encoding="utf-8")
    return "own.toml"


def adapter(place: Path, wishes: dict[str, str]) -> str:
    """An adapter that asks for something, in the working folder."""
    folder = place / "adapter"
    folder.mkdir()
    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "adapter.safetensors")
    (folder / "layerctl.json").write_text(json.dumps(wishes), encoding="utf-8")
    return "adapter"


def words(config: RunConfig) -> tuple[object, ...]:
    settings = config.settings
    return settings.preset, settings.prompt, config.training.prompt_mode, settings.sampler, settings.cfg


def changed(config: RunConfig, **fields: Any) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **fields))


def test_every_field_of_training_has_a_reader_and_no_name_is_read_in_two_ways() -> None:
    assert set(TRAINING_VALUES) == set(TRAINING_KEYS)
    assert not set(TRAINING_KEYS) & {*MODEL_KEYS, *JUDGE_KEYS}
    assert set(SECTIONS) | FREE | set(PAPER) <= {*RECIPE_VALUES, *RUN_KEYS}


@pytest.mark.parametrize("recipe", ["fast", "lab", "paper"])
def test_a_shipped_recipe_marks_each_line_as_the_papers_or_ours_as_the_dry_run_does(recipe: str) -> None:
    text = files("layerctl_train").joinpath("recipes", f"{recipe}.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    written = [re.fullmatch(r"(\w+) = .*  # (paper|ours)", line) for line in lines]
    assert lines
    assert all(written)
    shown = marks(run(recipe))
    assert {found[1]: found[2] for found in written if found} == {found[1]: shown[found[1]] for found in written if found}
    assert "What was run with it" in text or "The trials were no runs" in text


def test_the_recipes_are_those_that_the_help_names() -> None:
    assert shipped() == ["fast", "lab", "paper"]


@pytest.mark.parametrize("recipe", ["fast", "lab", "paper"])
def test_a_written_config_is_read_back_the_same(recipe: str) -> None:
    config = run(
        recipe,
        data='hub:a/"b"\\ü',
        evaluation_data="scenes:4",
        training={"layers": "2-6"},
        settings={"judge_weights": "2,1,1,1,0", "judge_prices": ("a=1,2",), "judge_extra": '{"top_p": 0.9}', "prompt": "a\n\x7f'\"# b"},
        assignments=["clip=1e-5", "targets=to_q,to_k", "evaluation_judge=pixels", "noise_seed=7"],
    )
    assert from_toml(to_toml(config)) == config


@pytest.mark.parametrize(
    ("wishes", "recipe", "expected"),
    [
        ({"preset": "stable-layers", "prompt": "ours"}, "paper", ("stable-layers", "ours", "fixed", "heun", 1.0)),
        ({"preset": "stable-layers"}, "paper", ("stable-layers", "a clean, well composed image", "fixed", "heun", 1.0)),
        ({"preset": "stable-layers", "prompt_mode": "caption"}, "paper", ("stable-layers", None, "caption", "heun", 1.0)),
        ({"preset": "stable-layers", "prompt": " "}, "paper", ("stable-layers", None, "empty", "heun", 1.0)),
        ({"preset": "qwen"}, "paper", ("qwen", None, "caption", None, None)),
        ({"preset": "qwen", "prompt": "ours"}, "lab", ("qwen", "ours", "fixed", "euler", None)),
        ({}, "paper", ("stable-layers", "a clean, well composed image", "fixed", "heun", 1.0)),
    ],
)
def test_the_adapter_that_training_starts_from_is_run_as_it_asks(
    place: Path, wishes: dict[str, str], recipe: str, expected: tuple[object, ...]
) -> None:
    config = run(recipe, training={"start": adapter(place, wishes)})
    assert words(config) == expected
    assert from_toml(to_toml(config)) == config
    assert resume_run(from_toml(to_toml(config)), recipe, data="photos/", training={"start": "adapter"}) == config


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"settings": {"prompt": "mine"}}, ("stable-layers", "mine", "fixed")),
        ({"assignments": ["prompt=mine"]}, ("stable-layers", "mine", "fixed")),
        ({"environ": {"LAYERCTL_PROMPT": "mine"}}, ("stable-layers", "mine", "fixed")),
        ({"assignments": ["prompt_mode=given"]}, ("stable-layers", None, "given")),
        ({"settings": {"preset": "qwen"}}, ("qwen", None, "caption")),
        ({"environ": {"LAYERCTL_PRESET": "qwen"}}, ("qwen", None, "caption")),
        ({"recipe": "prompt = 'mine'"}, ("stable-layers", "mine", "fixed")),
        ({"recipe": "preset = 'qwen'"}, ("qwen", None, "caption")),
        ({"recipe": "prompt_mode = 'fixed'\nprompt = 'mine'"}, ("stable-layers", "mine", "fixed")),
        ({"recipe": ""}, ("stable-layers", None, "caption")),
    ],
)
def test_what_a_person_asks_for_goes_before_what_the_adapter_asks_for(
    place: Path, wanted: dict[str, Any], expected: tuple[object, ...]
) -> None:
    if "recipe" in wanted:
        wanted = {"recipe": write(place, wanted["recipe"] + "\njudge = 'pixels'")}
    config = run(**wanted, training={"start": adapter(place, {"preset": "stable-layers", "prompt_mode": "caption"})})
    assert words(config)[:3] == expected


def test_an_adapter_that_names_an_unknown_preset_is_refused_unless_another_was_typed(place: Path) -> None:
    start = adapter(place, {"preset": "newer"})
    with pytest.raises(UsageError, match="the adapter adapter names the preset 'newer'"):
        run(training={"start": start})
    assert run(training={"start": start}, settings={"preset": "qwen"}).settings.preset == "qwen"
    with pytest.raises(UsageError, match="--preset names the preset 'newer'"):
        run(settings={"preset": "newer"})


def test_an_adapters_own_rank_and_layers_are_no_settings(place: Path) -> None:
    start = adapter(place, {})
    for recipe in shipped():
        config = run(recipe, training={"start": start})
        assert (values(config)["rank"], values(config)["alpha"], values(config)["targets"]) == (None, None, None)
        assert "# rank is the adapter's own" in to_toml(config)
        assert not {"rank", "alpha", "targets"} & marks(config).keys()
        assert from_toml(to_toml(config)) == config
    for assignment in ("rank=64", "alpha=2", "targets=to_q"):
        with pytest.raises(UsageError, match="and the adapter adapter has its own") as caught:
            run(training={"start": start}, assignments=[assignment])
        assert f"leave {assignment.partition('=')[0]} out" in str(caught.value.hint)
        with pytest.raises(UsageError, match="has its own"):
            resume_run(run(training={"start": start}), assignments=[assignment])
    with pytest.raises(UsageError, match="rank is 8"):
        run(write(place, "start = 'adapter'\nrank = 8\njudge = 'pixels'"))


@pytest.mark.parametrize("mode", ["empty", "given", "caption"])
def test_a_prompt_that_nobody_would_be_told_is_refused(place: Path, mode: str) -> None:
    typed: tuple[tuple[dict[str, str], list[str]], ...] = (({"prompt": "mine"}, []), ({}, ["prompt=mine"]))
    for settings, assignments in typed:
        with pytest.raises(UsageError, match=f"told the prompt 'mine': prompt_mode is {mode}"):
            run(settings=settings, assignments=[*assignments, f"prompt_mode={mode}"])
    with pytest.raises(UsageError, match="told the prompt 'mine'"):
        run(write(place, f"prompt = 'mine'\nprompt_mode = '{mode}'\njudge = 'pixels'"))
    config = run(assignments=[f"prompt_mode={mode}"])
    assert config.settings.prompt is None
    assert from_toml(to_toml(config)) == config


def test_the_judge_that_evaluates_may_be_another_model_elsewhere() -> None:
    config = run(settings={"judge_url": "http://a/v1", "judge_model": "a"})
    assert config.evaluation_judge_settings == config.settings
    other = run(
        settings={"judge_url": "http://a/v1", "judge_model": "a"},
        assignments=["evaluation_judge_url=http://b/v1", "evaluation_judge_model=b"],
    )
    assert (other.evaluation_judge_settings.judge_url, other.evaluation_judge_settings.judge_model) == ("http://b/v1", "b")
    assert (other.settings.judge_url, other.settings.judge_model) == ("http://a/v1", "a")


def test_a_written_config_is_a_recipe_for_the_same_run(place: Path) -> None:
    config = run("lab", training={"seed": "5"}, assignments=["kl=0.5"])
    (place / "config.toml").write_text(to_toml(config), encoding="utf-8")
    again = resolve_run("config.toml", environ={})
    assert dataclasses.replace(again, recipe="lab") == config


def test_a_config_names_where_a_key_is_and_never_holds_one() -> None:
    written = to_toml(run(environ={"LAYERCTL_JUDGE_KEY": "sk-secret"}))
    assert "sk-secret" not in written
    assert 'judge_key_env = "LAYERCTL_JUDGE_KEY"' in written


def test_what_a_person_chose_is_marked_as_such() -> None:
    shown = marks(run(assignments=["kl=0.5"], settings={"judge": "pixels"}))
    assert (shown["kl"], shown["judge"], shown["eta"], shown["kernel"]) == ("yours", "yours", "ours", "paper")
    assert "kl = 0.5  # yours" in to_toml(run(assignments=["kl=0.5"]))


def test_flags_go_over_assignments_which_go_over_the_recipe(place: Path) -> None:
    recipe = write(place, "groups = 2\nupdates = 3\nseed = 4\njudge = 'pixels'")
    config = run(recipe, assignments=["updates=5", "seed=6"], training={"seed": "7", "group": None})
    assert (config.training.groups, config.training.updates, config.training.seed, config.training.group) == (2, 5, 7, 8)
    assert config.settings.seed is None


def test_a_recipe_goes_over_setting_files_and_under_variables_and_flags(place: Path) -> None:
    (place / "layerctl.toml").write_text("steps = 10\ncfg = 2\nsize = 320\nprompt = 'a'", encoding="utf-8")
    recipe = write(place, "steps = 20\ncfg = 3\nsize = 480\njudge = 'pixels'\njudge_url = 'http://recipe/v1'")
    config = run(recipe, environ={"LAYERCTL_CFG": "4", "LAYERCTL_SIZE": "512"}, settings={"size": "640"}, folder=place)
    settings = config.settings
    assert (settings.prompt, settings.steps, settings.cfg, settings.size, settings.judge_url) == ("a", 20, 4.0, 640, "http://recipe/v1")


def test_a_project_file_still_chooses_no_judge_by_itself(place: Path) -> None:
    (place / "layerctl.toml").write_text("judge_url = 'http://elsewhere/v1'", encoding="utf-8")
    with pytest.raises(ConfigError, match="where pictures and keys go"):
        run(folder=place)
    assert run(folder=place, trust_project=True).settings.judge_url == "http://elsewhere/v1"


def test_what_other_commands_go_by_is_no_part_of_a_run() -> None:
    environ = {"LAYERCTL_ENGINE": "classic", "LAYERCTL_ADAPTERS": "a/b", "LAYERCTL_FORMATS": "psd", "LAYERCTL_LAYERS": "9"}
    assert run(environ=environ) == run()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("kernal = 'cps'", "kernal in own.toml is no setting", "did you mean kernel?"),
        ("formats = ['psd']", "formats in own.toml is no setting", ""),
        ("judge_key = 'sk-1'", "judge_key in own.toml is no setting", "keys are no settings"),
        ("group = 2", "group in own.toml is 2: not within 3 to 64", "such as 8"),
        ("judge_url = 'http://name:hush@host'", "judge_url in own.toml: ", "without credentials"),
        ("group = ", "own.toml is not valid TOML", ""),
        ("layers = [6, 2]", "layers in own.toml is [6, 2]", "2-6"),
    ],
)
def test_a_recipe_that_cannot_be_right_says_what_in_which_file(place: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(write(place, text))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "sk-1" not in caught.value.message
    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    ("recipe", "message"),
    [("papr", "there is no recipe 'papr'"), ("gone.toml", "there is no recipe gone.toml"), ("d.toml", "cannot be read")],
)
def test_a_recipe_that_is_not_there_is_told_with_those_that_are(place: Path, recipe: str, message: str) -> None:
    (place / "d.toml").mkdir()
    with pytest.raises(LayerctlError, match=message) as caught:
        run(recipe)
    assert caught.value.exit_code == 2
    assert "cannot" in message or "fast, lab, paper" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("kernal=cps", "--set kernal is no setting"),
        ("kernel", "--set kernel has no value"),
        ("group=1", "--set group is '1'"),
        ("data=x", "no setting"),
    ],
)
def test_an_assignment_that_cannot_be_right_is_told(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(assignments=[assignment])


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ({"assignments": ["optimizer_steps=9"]}, "9 optimizer steps cannot share 8 groups", "--groups"),
        ({"assignments": ["window_last=9"]}, "window_last 9", "window_last to 8 or less"),
        ({"assignments": ["kernel=cps", "window_last=8"]}, "cps has no noise", "window_last to 7"),
        ({"assignments": ["evaluation_judge=nobody"]}, "evaluation_judge is 'nobody'", "openai, pixels"),
        ({"settings": {"judge": "nobody"}}, "judge is 'nobody'", "openai, pixels"),
        ({"assignments": ["judge=none"], "recipe": "own.toml"}, "nothing judges", "--judge pixels"),
        ({"settings": {"precision": "int8"}}, "int8 does not train", "bf16"),
        ({"settings": {"offload": "group"}}, "offload group does not train", "shard=true"),
        ({"training": {"method": "sft"}, "data": "hub:org/pictures"}, "has none", "layered:FOLDER"),
        ({"data": ""}, "nothing to learn from", "--data photos/"),
    ],
)
def test_what_does_not_go_together_is_told_with_what_to_type(place: Path, wanted: dict[str, Any], message: str, hint: str) -> None:
    write(place, "")
    with pytest.raises(LayerctlError) as caught:
        run(**wanted)
    assert caught.value.exit_code == 2
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_supervised_run_needs_no_judge_and_no_window(place: Path) -> None:
    config = run(write(place, "method = 'sft'\nwindow_last = 99"))
    assert config.settings.judge is None


@pytest.mark.parametrize(("world", "fields"), [(8, {}), (2, {"optimizer_steps": 8}), (2, {"optimizer_steps": 4, "shard": True})])
def test_groups_are_shared_evenly(world: int, fields: dict[str, Any]) -> None:
    check_processes(changed(run(), **fields), world)


@pytest.mark.parametrize(
    ("world", "fields", "hint"),
    [
        (3, {}, "--set groups=9"),
        (16, {}, "--set groups=16"),
        (2, {"optimizer_steps": 8, "shard": True}, "--set groups=16"),
        (3, {"method": "sft"}, "--set sft_batch=9"),
    ],
)
def test_groups_that_cannot_be_shared_evenly_are_told(world: int, fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match="cannot be shared evenly") as caught:
        check_processes(changed(run(), **fields), world)
    assert hint in str(caught.value.hint)


def test_only_what_changes_the_result_changes_the_hash() -> None:
    config = run()
    same = run(
        data="elsewhere/photos",
        training={"updates": "9", "track": "tensorboard"},
        settings={"judge_url": "http://other/v1", "judge_concurrency": "2"},
        assignments=["keep=1", "abort_quiet=99"],
    )
    assert config_hash(same) == config_hash(config)
    assert differences(config, same) == []
    other = run(training={"layers": "2-6"}, assignments=["judge_blend=1"])
    assert config_hash(other) != config_hash(config)
    assert differences(config, other) == ["layers is 4-4, not 2-6", "judge_blend is 0.5, not 1.0"]


def test_each_key_is_either_free_or_in_the_hash() -> None:
    config = run()
    for key in TRAINING_KEYS:
        value = getattr(config.training, key)
        other = changed(config, **{key: "other" if value != "other" else "another"})
        assert (config_hash(other) == config_hash(config)) == (key in FREE), key


def test_a_run_goes_on_with_its_own_config_and_what_may_change(place: Path) -> None:
    saved = from_toml(to_toml(run("lab", data="scenes:4", assignments=["kl=0.5"])))
    config = resume_run(saved, training={"updates": "400"}, settings={"judge_concurrency": "2", "quiet": True})
    assert config.training == dataclasses.replace(saved.training, updates=400)
    assert (config.settings.judge_concurrency, config.settings.quiet, config.data) == (2, True, "scenes:4")


def test_a_run_does_not_go_on_as_another_one(place: Path) -> None:
    saved = run("lab", data="scenes:4")
    with pytest.raises(UsageError, match=r"kernel is flow, not cps; size is 64, not 320") as caught:
        resume_run(saved, settings={"size": "320"}, assignments=["kernel=cps"])
    assert "--start RUN/adapter" in str(caught.value.hint)


def test_the_command_that_began_a_run_may_be_typed_again(place: Path) -> None:
    wanted: dict[str, Any] = {"assignments": ["kl=0.5"], "training": {"updates": "9"}}
    saved = resolve_run("lab", data="scenes:4", **wanted)
    assert resume_run(saved, "lab", data="scenes:4", **wanted) == saved
    with pytest.raises(UsageError, match=r"kl is 0\.5, not 0\.0"):
        resume_run(saved, "lab", data="scenes:4")


def test_a_damaged_config_of_a_run_is_told() -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        from_toml("kl = ")
    with pytest.raises(ConfigError, match="does not say what the run learns from"):
        from_toml("kl = 0.1")


def test_the_config_holds_every_setting_that_training_has() -> None:
    shown = values(RunConfig(TrainingSettings(), Settings(), data="x"))
    assert list(shown) == [*RUN_KEYS, *TRAINING_KEYS, *MODEL_KEYS, *JUDGE_KEYS]
