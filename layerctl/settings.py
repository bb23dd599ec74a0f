"""Settings: built-in defaults -> user file -> project file -> LAYERCTL_* -> flags, resolved into one `Settings`.

A training recipe comes between the project file and the variables.

The user file is `$XDG_CONFIG_HOME/layerctl/config.toml` (`~/.config` without the variable). The project file is `layerctl.toml` in the
working folder and nowhere above it: what a command does never depends on a file that its `ls` does not show. Keys are the names of the
fields below in all of them (`max_pixels = 300000000`, `LAYERCTL_MAX_PIXELS=300000000`); an unknown key is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerctl.errors import ConfigError, LayerctlError, UsageError
from layerctl.judge_settings import EVALUATION_KEY_VARIABLE, JUDGE_VALUES, KEY_VARIABLE, JudgeSettings
from layerctl.values import Value, choice, multiple, name, names, number, optional, text, texts, whole, yes_or_no

if TYPE_CHECKING:
    from layerctl.registry import ModelOptions, PictureKind

FEWEST_LAYERS, MOST_LAYERS = 2, 20
MAX_PIXELS = 200_000_000
PROJECT_FILE = "layerctl.toml"
PREFIX = "LAYERCTL_"

DEFAULT_MODEL = "Qwen/Qwen-Image-Layered"

CODE = frozenset({"engine", "model", "adapters", "judge"})
ENDPOINT = frozenset({
    "judge_url", "judge_model", "judge_key_env", "judge_key_file", "judge_extra", "judge_cache", "judge_prices", "max_judge_calls",
    "max_judge_cost",
})  # fmt: skip
PROTECTED = CODE | ENDPOINT
"""What a project file may not set by itself: which plugin and model run, where pictures and keys go, and what may be spent. An exporter of
a plugin counts too."""

FLAGS = {
    "adapters": "adapter", "formats": "format", "targets": "target", "target_masks": "mask", "judge_prices": "judge-price",
    "judge_replay": "replay",
}  # fmt: skip
"""Flags that are not named as their field."""


@dataclass(frozen=True, slots=True)
class Settings(JudgeSettings):
    """What the commands go by, resolved and checked."""

    layers: int | None = None
    """How many visible layers, Background included: 2 to 20, or "auto" (None here) for as many as the picture asks for."""

    kind: PictureKind = "auto"
    """What the picture is: "design", "photo", or "auto" to find out."""

    engine: str = "auto"
    """The engine that proposes the layers, by its name; "auto": qwen where a GPU, its extra and its weights are there, else classic."""

    formats: tuple[str, ...] = ("png",)
    """What is written, by exporter names: a list, or "psd,png"."""

    masks: bool = False
    """Write transparency as layer masks, where the format has them, so that an edge can be painted back."""

    original: bool = False
    """Add the untouched picture as a hidden, locked layer, where the format has such."""

    full_canvas: bool = False
    """Write each layer as large as the picture instead of cropped to its content."""

    max_pixels: int = MAX_PIXELS
    """The largest picture that is read, in pixels."""

    strip_metadata: bool = False
    """Leave out where the picture was taken; rights and author stay."""

    error_map: bool = False
    """Write engine-error.png too: where, and how far, the engine's own layers were off the picture before they were refined."""

    best_of: int = 1
    """How many different proposals the engine makes, 1 to 64; the best is kept."""

    judge: str | None = None
    """The judge that chooses the best of several proposals, by its name; "none" (None here): the measured quality."""

    min_quality: float | None = None
    """The least overall quality, 0 to 1 or "none", of a good result; below it the result is written, and the exit code is 6."""

    keep_faulty: bool = False
    """Keep blank layers and copies, which are left out otherwise."""

    recurse: int = 0
    """How many levels deep layers that seem to hold several things are split again, 0 to 4."""

    targets: tuple[str, ...] = ()
    """Boxes whose content becomes a layer of its own: "left,top,right,bottom" in pixels or percents of the picture."""

    target_masks: tuple[str, ...] = ()
    """Picture files whose white or opaque part becomes a layer of its own."""

    overwrite: bool = False
    """Replace earlier results, never a file that was changed or not written by layerctl."""

    quiet: bool = False
    """Say nothing but errors."""

    model: str = DEFAULT_MODEL
    """The base model of the engine qwen: a Hub id, also with @revision, or a folder in diffusers' format."""

    adapters: tuple[str, ...] = ()
    """LoRA adapters on top of it: Hub ids, folders or files, each also with a weight (org/name@revision:0.5)."""

    preset: str | None = None
    """How the model runs: "stable-layers" or "qwen". Default: what the adapter names, else "qwen"."""

    prompt: str | None = None
    """What the model is told about the picture, instead of the preset's."""

    sampler: Literal["euler", "heun"] | None = None
    """The integrator, instead of the preset's."""

    steps: int | None = None
    """Its steps, 1 to 1000, instead of the preset's 50."""

    cfg: float | None = None
    """Classifier-free guidance, 1 (none, half the time) to 30, instead of the preset's."""

    size: int | None = None
    """Pixels of the side at which the model works, 64 to 2048, a multiple of 16, instead of the preset's 640."""

    seed: int | None = None
    """The seed of the noise, 0 or above, instead of the preset's 42."""

    precision: str = "auto"
    """Of the model's weights: auto, fp32, bf16, int8 or int4."""

    offload: str = "auto"
    """What of the model waits in main memory: auto, none, model (parts take turns) or group (blocks are streamed)."""

    device: str = "auto"
    """Where the model runs: auto, cuda, mps or cpu."""

    compile: bool = False
    """Compile the model's blocks: a minute at the start, faster from then on."""

    fuse: bool = False
    """Merge adapters into the weights, if that loses next to nothing of them."""

    offline: bool = False
    """Never reach for another machine."""

    def model_options(self) -> ModelOptions:
        """What an engine with a model goes by."""
        from layerctl.registry import ModelOptions

        return ModelOptions(**{entry.name: getattr(self, entry.name) for entry in fields(ModelOptions)})


def resolve_settings(
    flags: Mapping[str, Any],
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    trust_project: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of one command.

    `flags`: what was typed, by field name; None is "not typed". `folder`: where the project file may be (default: the working folder).
    `recipe`: fields of a training recipe, as `checked` gives them.
    Raises ConfigError for an unknown key or a bad value in a file or variable, UsageError for a bad value of a flag.
    """
    environ = os.environ if environ is None else environ
    user_file = _user_file(environ)
    project_file = (folder or Path.cwd()) / PROJECT_FILE
    chosen: dict[str, Any] = {}
    if user_file is not None:
        chosen |= checked(read_toml(user_file), lambda key: f"{key} in {user_file}", ConfigError)
    project = checked(read_toml(project_file), lambda key: f"{key} in {project_file}", ConfigError)
    if not trust_project:
        _refuse_protected(project, project_file)
    chosen |= {**project, **(recipe or {})}
    typed = {key: value for key, value in flags.items() if value is not None}
    # A variable that holds a key is no setting.
    keys = {
        KEY_VARIABLE,
        EVALUATION_KEY_VARIABLE,
        *(place.get("judge_key_env") for place in (chosen, typed)),
        environ.get(f"{PREFIX}JUDGE_KEY_ENV"),
    }
    given = {each: value for each, value in environ.items() if each.startswith(PREFIX) and value and each not in keys}
    variables = {each.removeprefix(PREFIX).lower(): value for each, value in given.items()}
    chosen |= checked(variables, lambda key: f"the variable {PREFIX}{key.upper()}", ConfigError)
    chosen |= checked(typed, lambda key: f"--{FLAGS.get(key, key).replace('_', '-')}", UsageError)
    return Settings(**chosen)


def checked(
    given: Mapping[str, Any], origin: Callable[[str], str], error: type[LayerctlError], values: Mapping[str, Value] | None = None
) -> dict[str, Any]:
    """The values in their final types, read as `values` say (default: VALUES). `origin` names a key in a message."""
    values = VALUES if values is None else values
    found = {}
    for key, value in given.items():
        if key not in values:
            raise error(f"{origin(key)} is no setting", hint=_near(key, values))
        setting = values[key]
        try:
            found[key] = setting.read(value)
        except ValueError as problem:
            wrong = f" is {value!r}" if setting.is_shown else ""
            raise error(f"{origin(key)}{wrong}: {problem}", hint=setting.example) from problem
    return found


def _refuse_protected(project: Mapping[str, Any], file: Path) -> None:
    from layerctl.registry import BUILT_IN

    plugins = [name for name in project.get("formats", ()) if name not in BUILT_IN["exporters"]]
    for key in sorted(PROTECTED & project.keys()) + (["formats"] if plugins else []):
        what = f"the plugin {plugins[0]!r} in {key}" if key == "formats" else f"{key} = {project[key]!r}" if VALUES[key].is_shown else key
        decides = "where pictures and keys go, and what is spent" if key in ENDPOINT else "what code runs"
        raise ConfigError(
            f"{file} sets {what}, which decides {decides}",
            hint="read the file; then type --trust-project, or move the line to your own settings file",
        )


def read_toml(file: Path) -> dict[str, Any]:
    """The file's keys, none for a file that is not there."""
    import tomllib

    try:
        # Some editors on Windows begin a file with a byte-order mark, which TOML does not allow.
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint=f"chmod u+r '{file}', or remove it") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}", hint="a setting is a line like: layers = 4") from error


def _user_file(environ: Mapping[str, str]) -> Path | None:
    """None for a person without a home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    if os.path.isabs(base):
        return Path(base) / "layerctl" / "config.toml"
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home) / ".config" / "layerctl" / "config.toml" if os.path.isabs(home) else None


def _near(key: str, values: Mapping[str, Value]) -> str:
    from difflib import get_close_matches

    words = key.lower().replace("-", "_")
    if words.endswith(("key", "token", "secret", "password")):
        return f"keys are no settings: put it into the variable {KEY_VARIABLE}, or into a file that judge_key_file names"
    near = get_close_matches(words, values, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"the settings are: {', '.join(values)}"


VALUES: dict[str, Value] = {
    "layers": optional(whole(FEWEST_LAYERS, MOST_LAYERS, such_as=4), "auto"),
    "kind": choice("auto", "design", "photo"),
    "engine": Value(name, "give the name of an engine, such as classic"),
    "formats": Value(names, "give names of formats, such as psd,png"),
    "max_pixels": whole(1, such_as=MAX_PIXELS),
    "best_of": whole(1, 64, such_as=4),
    "judge": Value(lambda value: None if value == "none" else name(value), "give the name of a judge, such as pixels, or none"),
    "min_quality": optional(number(0, 1, such_as=0.6)),
    "recurse": whole(0, 4, such_as=1),
    "targets": Value(texts, "give left,top,right,bottom in pixels, such as 120,80,420,360"),
    "target_masks": Value(names, "give a picture file, such as mask.png"),
    "model": Value(name, f"give a Hub id or a folder, such as {DEFAULT_MODEL}"),
    "adapters": Value(names, "give Hub ids, folders or files, such as StabilityLabs/Stable-Layers"),
    "preset": Value(name, "give stable-layers or qwen"),
    "prompt": Value(text, "give some words"),
    "sampler": choice("euler", "heun"),
    "steps": whole(1, 1000, such_as=50),
    "cfg": number(1, 30, such_as=4),
    "size": multiple(whole(64, 2048, such_as=640), 16, "give a multiple of 16 from 64 to 2048, such as 640"),
    "seed": whole(0, 2**53, such_as=42),
    "precision": choice("auto", "fp32", "bf16", "int8", "int4"),
    "offload": choice("auto", "none", "model", "group"),
    "device": choice("auto", "cuda", "mps", "cpu"),
    **JUDGE_VALUES,
    **{entry.name: Value(yes_or_no, "give true or false") for entry in fields(Settings) if entry.type == "bool"},
}
"""How each setting is read."""
