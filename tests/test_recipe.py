from __future__ import annotations

import pytest

from layerctl.engines.qwen.recipe import PRESETS, choose_preset, resolve_recipe
from layerctl.errors import UsageError
from layerctl.registry import ModelOptions

OPTIONS = ModelOptions("some/model")
RELEASE, QWEN = PRESETS["stable-layers"], PRESETS["qwen"]


def test_the_release_preset_is_the_published_recipe() -> None:
    assert (RELEASE.sampler, RELEASE.steps, RELEASE.cfg, RELEASE.size, RELEASE.seed) == ("heun", 50, 1.0, 640, 42)
    assert RELEASE.prompt == "a clean, well composed image"
    assert not RELEASE.guided


def test_the_qwen_preset_guides_with_a_blank_and_normalises() -> None:
    assert (QWEN.sampler, QWEN.steps, QWEN.cfg, QWEN.cfg_normalize, QWEN.negative_prompt) == ("euler", 50, 4.0, True, " ")
    assert QWEN.prompt is None


# By hand: the longest side becomes 640, the other 640 times the ratio, to the nearest multiple of 16.
@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 640), (640, 640)), ((4000, 3000), (640, 480)), ((3000, 4000), (480, 640)), ((100, 37), (640, 240)), ((5000, 10), (640, 16))],
)
def test_the_release_scales_the_longest_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert RELEASE.model_size(*size) == expected


@pytest.mark.parametrize(("size", "expected"), [((640, 640), (640, 640)), ((720, 1280), (480, 864)), ((1280, 720), (864, 480))])
def test_qwen_keeps_the_area(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert QWEN.model_size(*size) == expected


def test_the_preset_is_the_one_asked_for_else_the_adapters_else_qwen() -> None:
    assert choose_preset("qwen", [("a", "stable-layers")]) == "qwen"
    assert choose_preset(None, [("a", "stable-layers"), ("b", "stable-layers")]) == "stable-layers"
    assert choose_preset(None, []) == "qwen"


def test_adapters_that_disagree_on_the_preset_need_a_choice() -> None:
    with pytest.raises(UsageError, match="a: stable-layers, b: qwen") as caught:
        choose_preset(None, [("a", "stable-layers"), ("b", "qwen")])
    assert caught.value.hint == "choose one: --preset stable-layers"


@pytest.mark.parametrize(("asked", "named"), [("fast", []), (None, [("a", "fast")])])
def test_an_unknown_preset_is_refused(asked: str | None, named: list[tuple[str, str]]) -> None:
    with pytest.raises(UsageError, match="'fast'"):
        choose_preset(asked, named)


def test_what_is_typed_replaces_the_presets_and_warns_where_its_makers_do() -> None:
    options = ModelOptions("some/model", steps=20, cfg=3.0, prompt="a cat", seed=7)
    recipe, warnings = resolve_recipe("stable-layers", options)
    assert (recipe.steps, recipe.cfg, recipe.prompt, recipe.seed, recipe.guided) == (20, 3.0, "a cat", 7, True)
    assert warnings == (
        "steps 20 instead of 50, cfg 3.0 instead of 1.0: the makers of Stable-Layers say that other settings garble the result",
    )


@pytest.mark.parametrize(("preset", "size", "warns"), [("stable-layers", 640, False), ("stable-layers", 1024, True), ("qwen", 1024, False)])
def test_a_size_away_from_the_presets_warns(preset: str, size: int, warns: bool) -> None:
    recipe, warnings = resolve_recipe(preset, ModelOptions("some/model", size=size))
    assert bool(warnings) is warns
    assert max(recipe.model_size(500, 500)) == size


def test_a_preset_as_it_is_warns_of_nothing() -> None:
    for preset in PRESETS:
        assert resolve_recipe(preset, OPTIONS) == (PRESETS[preset], ())
