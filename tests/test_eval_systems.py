"""What is compared, and the engines that an evaluation has to tell from good ones."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.evaluate.aggregate import summarize
from layerctl_train.evaluate.baselines import baseline
from layerctl_train.evaluate.data import scenes
from layerctl_train.evaluate.results import Evaluation
from layerctl_train.evaluate.run import Evaluator, Plan
from layerctl_train.evaluate.systems import compared, engine_of, has_model

from layerctl import registry
from layerctl.errors import MissingDependencyError, UsageError
from layerctl.registry import DecomposeRequest
from layerctl.settings import Settings
from layerctl.testing import assert_stacks_equal, scene
from tests.conftest import Halves


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """The embedded engine against both baselines."""
    data = scenes(12, width=96, height=64)
    plan = Plan(data, tuple(data.keys()), None, 0, None, "truth", tmp_path_factory.mktemp("kept"))
    found = Evaluator(plan, compared(Settings(engine="classic"), ("damaged", "trivial"), ()), lambda _: None)
    found.predict(lambda *_: None)
    return found.evaluation(found.score(None, lambda *_: None), None)


def adapter(folder: Path, name: str, preset: str | None = None) -> str:
    place = folder / name
    place.mkdir()
    (place / "adapter_model.safetensors").write_bytes(name.encode())
    if preset:
        (place / "layerctl.json").write_text(json.dumps({"preset": preset}))
    return str(place)


def names(settings: Settings, against: Sequence[str] = (), samplers: Sequence[str] = ()) -> list[str]:
    """With the hashes of what lies on this disk left out."""
    return [re.sub("#[0-9a-f]+", "", system.name) for system in compared(settings, against, samplers)]


def test_the_embedded_engine_is_clearly_better_than_the_deliberately_worse_and_the_trivial_one(evaluation: Evaluation) -> None:
    quality = {each.other: each for each in summarize(evaluation).differences if each.metric == "quality"}
    assert min(quality["damaged"].low, quality["trivial"].low) > 0
    assert max(quality["damaged"].p, quality["trivial"].p) < 0.01


def test_damage_is_seen_on_every_picture(evaluation: Evaluation) -> None:
    for picture in evaluation.pictures:
        classic, damaged, _ = picture.scores
        assert damaged.values["quality"] < classic.values["quality"]


def test_the_trivial_engine_shows_the_picture_and_separates_nothing(evaluation: Evaluation) -> None:
    for picture in evaluation.pictures:
        trivial = picture.scores[2]
        assert picture.true_layers is not None
        assert trivial.layers == max(2, picture.true_layers)
        assert trivial.values["recomposition"] == 0
        assert trivial.values["blank_rate"] == pytest.approx((trivial.layers - 1) / trivial.layers)


@pytest.mark.parametrize("name", ["trivial", "damaged"])
def test_baselines_make_the_same_layers_every_time(name: str) -> None:
    source, _ = scene(3, width=64, height=48)
    first, again = (baseline(name), baseline(name))
    assert first is not None
    assert again is not None
    one, two = (engine.decompose(source, DecomposeRequest(3), lambda *_: None).stack for engine in (first, again))
    assert_stacks_equal(one, two)


def test_the_trivial_engine_makes_two_layers_where_the_number_is_left_open() -> None:
    source, _ = scene(3, width=64, height=48)
    trivial = baseline("trivial")
    assert trivial is not None
    stack = trivial.decompose(source, DecomposeRequest(None), lambda *_: None).stack
    assert [layer.pixels.any() for layer in stack.walk()] == [True, False]


def test_the_deliberately_worse_engine_tells_of_which_it_is() -> None:
    classic = registry.load("engines", "classic")
    damaged = baseline("damaged")
    assert damaged is not None
    assert damaged.version.endswith(f" of classic {classic.version}")
    assert baseline("classic") is None


def test_systems_stand_in_the_order_in_which_they_were_named() -> None:
    assert names(Settings(engine="classic"), ("trivial", "damaged", "base")) == ["classic", "trivial", "damaged", "base"]


def test_an_adapter_is_named_by_its_folder_and_its_content(tmp_path: Path) -> None:
    cats = adapter(tmp_path, "cats")
    (system, _) = compared(Settings(engine="qwen", adapters=(cats,)), ("base",), ())
    assert system.name.startswith("cats#")
    assert names(Settings(engine="qwen"), (cats, "classic")) == ["base", "cats", "classic"]


def test_several_adapters_at_once_are_one_system(tmp_path: Path) -> None:
    both = (adapter(tmp_path, "cats"), f"{adapter(tmp_path, 'dogs')}:0.5")
    (system,) = compared(Settings(engine="qwen", adapters=both), (), ())
    assert system.name.count(" + ") == 1
    assert system.name.endswith(":0.5")


def test_four_ways_go_by_sampler_and_an_adapter_is_compared_with_its_base(tmp_path: Path) -> None:
    tuned = Settings(engine="qwen", adapters=(adapter(tmp_path, "cats"),))
    samplers = ("stable-layers", "qwen")
    found = compared(tuned, (), samplers)
    assert [(system.settings.preset, bool(system.settings.adapters)) for system in found] == [
        ("stable-layers", True), ("stable-layers", False), ("qwen", True), ("qwen", False),
    ]  # fmt: skip
    assert names(tuned, (), samplers) == ["cats, stable-layers", "base, stable-layers", "cats, qwen", "base, qwen"]
    assert len(compared(tuned, ("base", adapter(tmp_path, "dogs")), samplers)) == 6


@pytest.mark.parametrize("named", ["stable-layers", "qwen"])
def test_without_samplers_all_run_with_the_preset_that_the_adapter_names(tmp_path: Path, named: str) -> None:
    cats, plain = adapter(tmp_path, "cats", named), adapter(tmp_path, "plain")
    for settings, against in (
        (Settings(engine="qwen", adapters=(cats,)), ("base", plain)),
        (Settings(engine="qwen"), (cats, plain)),
        (Settings(engine="classic"), (cats, "base")),
    ):
        presets = {system.settings.preset for system in compared(settings, against, ()) if system.settings.engine == "qwen"}
        assert presets == {named}


def test_a_preset_that_was_asked_for_goes_before_what_the_adapter_names(tmp_path: Path) -> None:
    cats = adapter(tmp_path, "cats", "stable-layers")
    found = compared(Settings(engine="qwen", adapters=(cats,), preset="qwen"), ("base",), ())
    assert [system.settings.preset for system in found] == ["qwen", "qwen"]


def test_an_adapter_without_a_preset_runs_with_the_engines_own(tmp_path: Path) -> None:
    found = compared(Settings(engine="qwen", adapters=(adapter(tmp_path, "plain"),)), ("base",), ())
    assert [system.settings.preset for system in found] == ["qwen", "qwen"]


@pytest.mark.parametrize("against", [("classic",), ("trivial", "trivial"), ("base", "qwen")])
def test_a_system_is_not_compared_with_itself(against: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="would be compared with itself"):
        compared(Settings(engine="classic"), against, ())


def test_two_names_of_one_adapter_are_one_system(tmp_path: Path) -> None:
    cats = adapter(tmp_path, "cats")
    (tmp_path / "copy").symlink_to(cats)
    with pytest.raises(UsageError, match="would be compared with itself"):
        compared(Settings(engine="qwen", adapters=(cats,)), (str(tmp_path / "copy"),), ())


@pytest.mark.parametrize(
    ("engine", "against", "message", "hint"),
    [
        ("classic", "dammaged", "there is no system 'dammaged'", "did you mean damaged?"),
        ("classic", "xyzzy", "there is no system 'xyzzy'", "or an adapter"),
        ("classsic", "trivial", "there is no engine 'classsic'", "did you mean classic?"),
        ("classic", "no/such/folder", "neither a file or folder here nor a model on the Hub", "type a path"),
    ],
)
def test_a_name_that_nothing_has_is_told_with_what_there_is(engine: str, against: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        compared(Settings(engine=engine), (against,), ())
    assert message in raised.value.message
    assert hint in str(raised.value.hint)


def test_an_adapter_that_is_not_here_is_told_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="nobody/nothing"):
        compared(Settings(engine="classic"), ("nobody/nothing",), ())


@pytest.mark.parametrize("engine", ["classic", "trivial", "damaged", "halves"])
def test_samplers_are_for_models(halves: Halves, engine: str) -> None:
    with pytest.raises(UsageError, match=f"the engine {engine} has none"):
        compared(Settings(engine=engine), (), ("qwen",))
    with pytest.raises(UsageError, match=f"the engine {engine} has none"):
        compared(Settings(engine="qwen"), (engine,), ("qwen",))


def test_models_are_told_from_engines_without() -> None:
    assert [has_model(name) for name in ("classic", "trivial", "damaged", "qwen", "base", "org/adapter")] == [False] * 3 + [True] * 3


def test_an_engine_is_made_of_each_kind_of_system() -> None:
    found = [engine_of(system, lambda _: None).name for system in compared(Settings(engine="classic"), ("trivial", "damaged"), ())]
    assert found == ["classic", "trivial", "damaged"]


def test_the_picture_in_the_trivial_engines_layer_is_the_one_that_was_given() -> None:
    source, _ = scene(5, width=40, height=30)
    trivial = baseline("trivial")
    assert trivial is not None
    bottom = next(trivial.decompose(source, DecomposeRequest(4), lambda *_: None).stack.walk())
    np.testing.assert_array_equal(bottom.pixels, source.pixels)
