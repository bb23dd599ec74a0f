"""How the model is run: two presets that belong to published checkpoints, and what a person changed of them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from layerctl.errors import UsageError
from layerctl.registry import ModelOptions

STEP = 16
"""Sides of the model's picture are multiples of this."""
DEFAULT_LAYERS = 4
PUBLISHED_PRESETS = {"StabilityLabs/Stable-Layers": "stable-layers"}
"""Presets of adapters that are too old to name one themselves."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the model makes of a picture.

    `prompt`: None for a caption of each picture. `cfg` 1 is no guidance: one evaluation instead of two. `sizing`: "longest" scales the
    longest side to `size`, "area" scales to size x size pixels, each side then rounded to `multiple`. `noise`: "release" is the one of
    the Stable-Layers release (bfloat16, seed + index of the picture in the run), "picture" depends on seed and picture alone.
    `reads_alpha`: the picture's transparency reaches the model; the release takes the colours only.
    """

    name: str
    sampler: Literal["euler", "heun"]
    steps: int
    cfg: float
    cfg_normalize: bool
    sizing: Literal["longest", "area"]
    size: int
    multiple: int
    prompt: str | None
    negative_prompt: str
    noise: Literal["release", "picture"]
    seed: int
    reads_alpha: bool

    @property
    def guided(self) -> bool:
        return self.cfg != 1

    def model_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height at which the model sees a picture."""
        if self.sizing == "longest":
            scale = self.size / max(width, height)
            sides = width * scale, height * scale
        else:
            # In this order, as the reference has it: the height comes from the unrounded width.
            across = sqrt(self.size * self.size * (width / height))
            sides = across, across / (width / height)
        # Only pictures hundreds of times longer than wide come to the limit, which keeps them within the plan.
        longest = self.size * self.size // self.multiple // self.multiple * self.multiple
        rounded = (min(max(round(side / self.multiple) * self.multiple, self.multiple), longest) for side in sides)
        return next(rounded), next(rounded)


PRESETS = {
    "stable-layers": Recipe(
        name="stable-layers", sampler="heun", steps=50, cfg=1.0, cfg_normalize=False, sizing="longest", size=640, multiple=16,
        prompt="a clean, well composed image", negative_prompt=" ", noise="release", seed=42, reads_alpha=False,
    ),
    "qwen": Recipe(
        name="qwen", sampler="euler", steps=50, cfg=4.0, cfg_normalize=True, sizing="area", size=640, multiple=32,
        prompt=None, negative_prompt=" ", noise="picture", seed=42, reads_alpha=True,
    ),
}  # fmt: skip
"""`stable-layers`: the recipe of all published results of Stable-Layers (arXiv 2605.30257). `qwen`: the one of Qwen's README."""

PUBLISHED_SIZES = {"stable-layers": (640,), "qwen": (640, 1024)}


def choose_preset(asked: str | None, named: list[tuple[str, str]]) -> str:
    """The preset that was asked for, else the one that the adapters name: (adapter, preset) of each; "qwen" when none does.

    Raises UsageError for an unknown preset, or when two adapters name different ones.
    """
    for source, name in [("--preset", asked)] if asked else [(f"the adapter {adapter}", preset) for adapter, preset in named]:
        if name not in PRESETS:
            raise UsageError(f"{source} names the preset {name!r}, which is unknown", hint=f"give --preset {' or '.join(PRESETS)}")
    if asked:
        return asked
    if len({preset for _, preset in named}) > 1:
        listed = ", ".join(f"{adapter}: {preset}" for adapter, preset in named)
        raise UsageError(f"the adapters name different presets ({listed})", hint=f"choose one: --preset {named[0][1]}")
    return named[0][1] if named else "qwen"


def resolve_recipe(preset: str, options: ModelOptions) -> tuple[Recipe, tuple[str, ...]]:
    """The preset with what was changed of it, and warnings about changes that its makers advise against."""
    base = PRESETS[preset]
    asked = {name: getattr(options, name) for name in ("sampler", "steps", "cfg", "size", "prompt", "seed")}
    recipe = replace(base, **{name: value for name, value in asked.items() if value is not None})
    warnings = []
    if recipe.size % STEP:
        raise UsageError(f"--size is {recipe.size}, not a multiple of {STEP}", hint=f"give --size {round(recipe.size / STEP) * STEP}")
    if recipe.size not in PUBLISHED_SIZES[preset]:
        recipe = replace(recipe, multiple=STEP)
        published = " or ".join(map(str, PUBLISHED_SIZES[preset]))
        warnings.append(f"size {recipe.size} instead of the preset's {published}: the model was not made for it")
    changed = [
        f"{name} {getattr(recipe, name)} instead of {getattr(base, name)}"
        for name in ("sampler", "steps", "cfg")
        if getattr(recipe, name) != getattr(base, name)
    ]
    if changed and preset == "stable-layers":
        warnings.append(f"{', '.join(changed)}: the makers of Stable-Layers say that other settings garble the result")
    return recipe, tuple(warnings)
