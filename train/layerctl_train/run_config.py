"""What one run is: its training settings, its base model and judge, and its data, resolved, written down, and compared.

Training fields: defaults -> recipe -> `--set` -> flags. The others, which `layerctl.settings` has, as everywhere, with the recipe between
project file and variables. A recipe is a shipped one by its name, or a TOML file, a run's own config.toml too. Names that both have
(layers, seed) are the training's; the seed of evaluations is `noise_seed` here. What the adapter that training starts from asks to be run
with (preset, prompt, captions) goes over a shipped recipe and under everything that a person wrote; its rank, alpha and targets are its
own, and no settings then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from layerctl import registry
from layerctl.engines.qwen.adapters import CAPTION, find_local_adapter
from layerctl.engines.qwen.recipe import PRESETS, PUBLISHED_PRESETS, choose_preset
from layerctl.errors import ConfigError, MissingDependencyError, UsageError
from layerctl.judge_settings import EVALUATION_KEY_VARIABLE, JudgeSettings
from layerctl.settings import DEFAULT_MODEL, PREFIX, VALUES, Settings, checked, read_toml, resolve_settings
from layerctl.values import Value, text
from layerctl_train.training_settings import TRAINING_VALUES, TrainingSettings

DEFAULT_RECIPE = "paper"
DEFAULT_PRESET = "stable-layers"
"""Where neither the settings nor the adapter that training starts from name one."""

NAMED_HERE = {"noise_seed": "seed"}
"""Settings that have another name here."""
MODEL_KEYS = (
    "model", "preset", "prompt", "sampler", "steps", "cfg", "size", "noise_seed", "precision", "offload", "device", "compile", "max_pixels",
)  # fmt: skip
JUDGE_KEYS = ("judge", *(entry.name for entry in fields(JudgeSettings)))
TRAINING_KEYS = tuple(entry.name for entry in fields(TrainingSettings))
RUN_KEYS = ("data", "evaluation_data", "recipe")

RECIPE_VALUES: dict[str, Value] = {
    **{key: VALUES[NAMED_HERE.get(key, key)] for key in (*MODEL_KEYS, *JUDGE_KEYS)},
    **TRAINING_VALUES,
}
"""How each key of a recipe is read, and of `--set`."""
FILE_VALUES: dict[str, Value] = {**RECIPE_VALUES, **dict.fromkeys(RUN_KEYS, Value(text, "give some data, such as photos/"))}

OF_START = ("rank", "alpha", "targets")
"""What an adapter that training starts from decides by itself."""
OF_PRESET = ("sampler", "steps", "cfg", "size", "noise_seed")
"""What a shipped recipe may say once more of the preset that it names; it goes with it."""

SECTIONS = {
    "method": "Length, data", "layers": "What is asked of the model", "groups": "Sampling", "ratio": "Objective", "rank": "Adapter",
    "learning_rate": "Optimizer", "guard_blank": "Guards", "abort_invalid": "When to stop", "sft_batch": "Method sft",
    "evaluate_every": "Evaluation, checkpoints", "model": "Base model; preset to noise_seed are the evaluation's", "judge": "Judge",
}  # fmt: skip
"""The headings of a written config, by the key that they stand before."""

PAPER: dict[str, object] = {
    "method": "grpo", "kernel": "flow", "advantage": "group", "prompt_mode": "fixed", "layers": (4, 4), "model": DEFAULT_MODEL,
    "preset": "stable-layers", "prompt": "a clean, well composed image", "sampler": "heun", "steps": 50, "cfg": 1.0, "size": 640,
    "noise_seed": 42, "judge": "openai",
}  # fmt: skip
"""All that is known of the paper's own values (arXiv 2605.30257 and its release): Flow-GRPO with group-relative advantages on scores of a
vision-language model, and how the release runs the model. LoRA, both phases of the judge and a RatioNorm are the paper's too; their
numbers are not known."""

FREE = frozenset({
    "updates", "evaluate_every", "save_every", "keep", "track", "abort_invalid", "abort_gradient", "abort_quiet", "abort_ratio",
    "evaluation_judge_url", "judge_url", "judge_key_env", "judge_key_file", "judge_concurrency", "judge_requests_per_minute",
    "judge_tokens_per_minute", "judge_timeout", "judge_retries", "judge_cache", "judge_replay", "judge_prices", "max_judge_calls",
    "max_judge_cost", "data", "recipe",
})  # fmt: skip
"""What does not change the result of a step, and may differ when a run goes on; data are known by their content, not by their name."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One run. Of `settings` preset, prompt, sampler, steps, cfg and size are the evaluation's; rollouts take prompt and sizes from them.

    Rollouts have no guidance, whatever `cfg` is. `recipe`: what it began with, a shipped recipe's name or a file.
    """

    training: TrainingSettings
    settings: Settings
    data: str
    evaluation_data: str | None = None
    recipe: str = DEFAULT_RECIPE

    @property
    def evaluation_judge_settings(self) -> Settings:
        """The settings of the judge that evaluates; the key of the other's server never goes to a server of its own."""
        training, settings = self.training, self.settings
        settings = replace(settings, judge_model=training.evaluation_judge_model or settings.judge_model)
        if training.evaluation_judge_url is None:
            return settings
        return replace(settings, judge_url=training.evaluation_judge_url, judge_key_env=EVALUATION_KEY_VARIABLE, judge_key_file=None)


def shipped() -> list[str]:
    return sorted(Path(entry.name).stem for entry in files("layerctl_train").joinpath("recipes").iterdir() if entry.name.endswith(".toml"))


def resolve_run(
    recipe: str = DEFAULT_RECIPE,
    *,
    data: str | None = None,
    evaluation_data: str | None = None,
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    trust_project: bool = False,
) -> RunConfig:
    """The config of a new run, checked.

    `training`, `settings`: flags by field name, None for what was not typed. `assignments`: "key=value", of `--set`. The others as
    `layerctl.settings.resolve_settings` has them. Raises ConfigError for what is wrong in a file, UsageError for what is wrong in flags
    and for settings that do not go together.
    """
    known = _recipe(recipe)
    own = known if recipe.endswith(".toml") else {}
    typed = _assigned(assignments)
    asked, wanted = _settings_part(typed) | _typed(settings), _training_values(typed, training)
    start = wanted.get("start", known.get("start"))
    _refuse_own(start, own, wanted)
    here = os.environ if environ is None else environ
    is_preset_chosen = "preset" in asked or "preset" in own or bool(here.get(f"{PREFIX}PRESET"))
    wishes = _wishes(start, known, is_preset_chosen=is_preset_chosen)
    known = {key: value for key, value in known.items() if start is None or key not in OF_START} | wishes | own
    resolved = resolve_settings(asked, folder=folder, environ=environ, trust_project=trust_project, recipe=_settings_part(known))
    trained = TrainingSettings(**_training_part(known) | wanted)
    if resolved.prompt is not None and "prompt_mode" not in {*own, *wanted}:
        # Only an adapter asked for another one, and a person's prompt goes before it.
        trained = replace(trained, prompt_mode="fixed")
    if trained.prompt_mode != "fixed":
        if "prompt" in asked or ("prompt" in own and "prompt_mode" not in wanted):
            raise UsageError(
                f"nobody would be told the prompt {resolved.prompt!r}: prompt_mode is {trained.prompt_mode}",
                hint="leave one of them out, or --set prompt_mode=fixed",
            )
        resolved = replace(resolved, prompt=None)
    config = RunConfig(
        training=trained,
        settings=_of_training(resolved),
        data=data or known.get("data") or _no_data(),
        evaluation_data=evaluation_data or known.get("evaluation_data"),
        recipe=recipe,
    )
    check_run(config)
    return config


def resume_run(
    saved: RunConfig,
    recipe: str | None = None,
    *,
    data: str | None = None,
    evaluation_data: str | None = None,
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    trust_project: bool = False,
) -> RunConfig:
    """The config with which a run goes on: its own, with what was typed of FREE keys. Raises UsageError for any other change.

    With a `recipe` all is resolved as for a new run, so that the command that began the run may be typed again.
    """
    data, evaluation_data = data or saved.data, evaluation_data or saved.evaluation_data
    if recipe is not None:
        config = resolve_run(
            recipe, data=data, evaluation_data=evaluation_data, training=training, settings=settings, assignments=assignments,
            trust_project=trust_project,
        )  # fmt: skip
        if "updates" not in _training_values(_assigned(assignments), training):
            # A run that was made longer stays so.
            config = replace(config, training=replace(config.training, updates=saved.training.updates))
    else:
        typed = _assigned(assignments)
        wanted_here = _training_values(typed, training)
        _refuse_own(saved.training.start, {}, wanted_here)
        here = resolve_settings(_typed(settings), trust_project=trust_project)
        now = {key: getattr(here, key) for key in (*_typed(settings), "quiet", "offline")}
        wanted = checked(_settings_part(typed), lambda key: f"--set {key}", UsageError) | now
        config = replace(
            saved,
            training=replace(saved.training, **wanted_here),
            settings=replace(saved.settings, **wanted),
            data=data,
            evaluation_data=evaluation_data,
        )
        check_run(config)
    if changed := differences(saved, config):
        raise UsageError(
            f"a run goes on as it began, and this would change it: {'; '.join(changed)}",
            hint="leave that out, or begin a new run from this one's adapter: --start RUN/adapter",
        )
    return config


def check_run(config: RunConfig) -> None:
    """Raises UsageError or ConfigError for settings that do not go together."""
    from layerctl_train.windows import check_window

    training, settings = config.training, config.settings
    choose_preset(settings.preset, [])
    if training.method == "grpo":
        if settings.judge is None:
            raise UsageError("nothing judges: method grpo learns from scores", hint="name a judge: --judge openai, or --judge pixels")
        _check_judge("judge", settings.judge)
        check_window(training)
    elif config.data.startswith(("hub:", "pictures:")):
        raise UsageError(
            f"method sft learns from layered files, and {config.data} has none", hint="name a folder of PSD files: --data layered:FOLDER"
        )
    if training.evaluation_judge is not None:
        _check_judge("evaluation_judge", training.evaluation_judge)
    check_processes(config, 1)
    if settings.precision in ("int8", "int4"):
        raise UsageError(
            f"precision {settings.precision} does not train: rounded weights carry no gradient", hint="give --precision bf16, or auto"
        )
    if settings.offload not in ("auto", "none"):
        raise UsageError(
            f"offload {settings.offload} does not train: a gradient needs all weights on the device",
            hint="leave it out; several GPUs share the weights with --set shard=true",
        )


def check_processes(config: RunConfig, world: int) -> None:
    """Raises UsageError where a step cannot be divided evenly among so many processes."""
    training = config.training
    key, what = ("groups", "pictures a step") if training.method == "grpo" else ("sft_batch", "layered pictures a step")
    count: int = getattr(training, key)
    if training.method == "grpo" and training.optimizer_steps > count:
        raise UsageError(
            f"{training.optimizer_steps} optimizer steps cannot share {count} groups: each needs one at least",
            hint=f"--set optimizer_steps={count}, or more --groups",
        )
    # Processes that share the base run it equally often in each optimizer step.
    shares = world * (training.optimizer_steps if training.shard and training.method == "grpo" else 1)
    if count % shares:
        steps = f" in each of {training.optimizer_steps} optimizer steps" if shares > world else ""
        raise UsageError(
            f"{count} {what} cannot be shared evenly by {world} processes{steps}",
            hint=f"a multiple of {shares} can: --set {key}={-(-count // shares) * shares}",
        )


def to_toml(config: RunConfig) -> str:
    """The whole config as a recipe, each line with its mark. Holds no secret."""
    marked = marks(config)
    lines = ["# The resolved config of a training run."]
    for key, value in values(config).items():
        if key in SECTIONS:
            lines += ["", f"# {SECTIONS[key]}"]
        if key in OF_START and config.training.start is not None:
            lines.append(f"# {key} is the adapter's own")
        elif value in (None, ()):
            lines.append(f"# {key} is not set")
        else:
            lines.append(f"{key} = {_written(value)}" + (f"  # {marked[key]}" if key in marked else ""))
    return "\n".join(lines) + "\n"


def values(config: RunConfig) -> dict[str, Any]:
    """Every key of a written config with its value, in the order in which they are written; None for what the start adapter has."""
    run = {key: getattr(config, key) for key in RUN_KEYS}
    training = {key: getattr(config.training, key) for key in TRAINING_KEYS}
    if config.training.start is not None:
        training |= dict.fromkeys(OF_START)
    return run | training | {key: getattr(config.settings, NAMED_HERE.get(key, key)) for key in (*MODEL_KEYS, *JUDGE_KEYS)}


def marks(config: RunConfig) -> dict[str, str]:
    """Whose value each key has, but for the data and what a start adapter has: "paper", "ours" (a default, a recipe's here), "yours"."""
    ours = values(RunConfig(TrainingSettings(), Settings(), data="")) | (_shipped(config.recipe) if config.recipe in shipped() else {})
    others = RUN_KEYS if config.training.start is None else (*RUN_KEYS, *OF_START)
    found = {key: value for key, value in values(config).items() if key not in others}
    return {
        key: "paper" if key in PAPER and PAPER[key] == value else "ours" if ours[key] == value else "yours" for key, value in found.items()
    }


def from_toml(written: str) -> RunConfig:
    """The inverse of `to_toml`. Raises ConfigError."""
    import tomllib

    try:
        given = tomllib.loads(written)
    except ValueError as error:
        raise ConfigError(f"the run's config.toml is not valid TOML: {error}", hint="take it from a copy") from error
    found = checked(given, lambda key: f"{key} in the run's config.toml", ConfigError, FILE_VALUES)
    if "data" not in found:
        raise ConfigError("the run's config.toml does not say what the run learns from", hint="take it from a copy")
    run = {key: found[key] for key in RUN_KEYS if key in found}
    return RunConfig(TrainingSettings(**_training_part(found)), Settings(**_settings_part(found)), **run)


def config_hash(config: RunConfig) -> str:
    """Of all that changes the result of a step."""
    return hashlib.sha256(json.dumps(_binding(config), sort_keys=True).encode()).hexdigest()[:16]


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """What changes the result of a step and is not the same in both: "kernel is flow, not cps"."""
    before, after = _binding(one), _binding(other)
    if before["evaluation_data"] is not None and after["evaluation_data"] is not None:
        # Like the data they are known by their content, wherever they are.
        del before["evaluation_data"], after["evaluation_data"]
    return [f"{key} is {_shown(before[key])}, not {_shown(after[key])}" for key in before if before[key] != after[key]]


def _recipe(name: str) -> dict[str, Any]:
    """The recipe's keys and values, in their final types."""
    if name.endswith(".toml"):
        if not Path(name).exists():
            raise ConfigError(f"there is no recipe {name}", hint=f"give a file that is there, or one of: {', '.join(shipped())}")
        return checked(read_toml(Path(name)), lambda key: f"{key} in {name}", ConfigError, FILE_VALUES)
    if name not in shipped():
        raise UsageError(f"there is no recipe {name!r}", hint=f"give one of {', '.join(shipped())}, or a file that ends in .toml")
    return dict(_shipped(name))


@cache
def _shipped(name: str) -> dict[str, Any]:
    import tomllib

    given = tomllib.loads(files("layerctl_train").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8"))
    return checked(given, lambda key: f"{key} in the recipe {name}", ConfigError, RECIPE_VALUES)


def _wishes(start: str | None, known: Mapping[str, Any], *, is_preset_chosen: bool) -> dict[str, Any]:
    """What of a recipe the adapter that training starts from decides, so that it is run as `layerctl decompose` would run it.

    None where it is not on this disk: no run begins without it. `known`: the recipe. Raises what `find_local_adapter` does for another
    reason, and UsageError for a preset that is unknown.
    """
    if start is None:
        return {}
    try:
        adapter = find_local_adapter(start, offline=False)
    except MissingDependencyError:
        return {}
    preset = None if is_preset_chosen else adapter.preset or PUBLISHED_PRESETS.get(adapter.name)
    found: dict[str, Any] = {}
    if preset is not None:
        found["preset"] = choose_preset(None, [(adapter.name, preset)])
        replaced = PRESETS[known.get("preset", DEFAULT_PRESET)]
        if preset != replaced.name:
            again = {key: getattr(replaced, NAMED_HERE.get(key, key)) for key in OF_PRESET}
            found |= {key: None for key, value in again.items() if known.get(key) == value}
    if adapter.prompt_mode == CAPTION:
        return found | {"prompt": None, "prompt_mode": "caption"}
    prompt = adapter.prompt or (preset and PRESETS[preset].prompt)
    if prompt is None:
        return found | ({"prompt": None, "prompt_mode": "caption"} if preset else {})
    # Words that are none are a mode of their own here.
    return found | ({"prompt": prompt, "prompt_mode": "fixed"} if prompt.strip() else {"prompt": None, "prompt_mode": "empty"})


def _refuse_own(start: str | None, recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UsageError for what a person set, and the adapter that training starts from has by itself."""
    defaults = TrainingSettings()
    changed = {key: recipe[key] for key in OF_START if key in recipe and recipe[key] != getattr(defaults, key)}
    for key, value in (changed | {key: wanted[key] for key in OF_START if key in wanted}).items():
        if start is not None:
            raise UsageError(
                f"{key} is {_shown(value)}, and the adapter {start} has its own", hint=f"leave {key} out, or begin without --start"
            )


def _assigned(assignments: Sequence[str]) -> dict[str, str]:
    """As they were typed, once it is known that they can be read."""
    typed = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment} has no value", hint="give key=value, such as --set kernel=cps")
        typed[key.strip()] = value.strip()
    checked(typed, lambda key: f"--set {key}", UsageError, RECIPE_VALUES)
    return typed


def _training_values(assigned: Mapping[str, str], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    typed = checked(_typed(flags), lambda key: f"--{key.replace('_', '-')}", UsageError, TRAINING_VALUES)
    return checked(_training_part(assigned), lambda key: f"--set {key}", UsageError, TRAINING_VALUES) | typed


def _typed(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (flags or {}).items() if value is not None}


def _training_part(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in TRAINING_VALUES}


def _settings_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """By the names that `Settings` has for them."""
    return {NAMED_HERE.get(key, key): values[key] for key in (*MODEL_KEYS, *JUDGE_KEYS) if key in values}


def _of_training(settings: Settings) -> Settings:
    """Without what only other commands go by: a run is not another one because a person likes PSD files."""
    used = (*(NAMED_HERE.get(key, key) for key in MODEL_KEYS), *JUDGE_KEYS, "quiet", "offline")
    return Settings(**{key: getattr(settings, key) for key in used})


def _no_data() -> str:
    raise UsageError("there is nothing to learn from", hint="name a folder of pictures: --data photos/")


def _check_judge(key: str, name: str) -> None:
    known = registry.names("judges")
    if name not in known:
        raise UsageError(f"{key} is {name!r}, and there is no such judge", hint=f"choose one of: {', '.join(known)}")


def _binding(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in values(config).items() if key not in FREE}


def _written(value: Any) -> str:
    """As TOML; JSON's strings are TOML's but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(value: Any) -> str:
    return "not set" if value is None else "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
