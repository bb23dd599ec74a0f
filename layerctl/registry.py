"""What an engine, an exporter and a judge have to look like, and how one is found by its name.

Built-ins are listed as strings, so that listing them imports nothing. Other distributions add theirs by the entry points
`layerctl.engines`, `layerctl.exporters` and `layerctl.judges`; a name that a built-in has is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from layerctl.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from layerctl.judge_settings import JudgeSettings
    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage
    from layerctl.verdict import GroupVerdict, Usage

Seam = Literal["engines", "exporters", "judges"]
PictureKind = Literal["auto", "design", "photo"]
Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0..1."""

BUILT_IN: dict[Seam, dict[str, str]] = {
    "engines": {"classic": "layerctl.engines.classic:ENGINE", "qwen": "layerctl.engines.qwen:ENGINE"},
    "exporters": {"psd": "layerctl_exporters.psd:EXPORTER", "png": "layerctl_exporters.png:EXPORTER"},
    "judges": {
        "openai": "layerctl_train.judge.remote:openai_judge",
        "pixels": "layerctl_train.judge.pixels:pixels_judge",
        "simulated": "layerctl_train.judge.simulated:simulated_judge",
    },
}


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What a person wants as a layer of its own: uint8 H x W at the source's size, 255 inside.

    `is_outline`: the mask is the thing's own outline, soft edges included; else it only says where the thing is (a box).
    """

    mask: npt.NDArray[np.uint8]
    is_outline: bool


@dataclass(frozen=True, slots=True, eq=False)
class DecomposeRequest:
    """What is asked of an engine.

    `layers`: how many visible layers, Background included, None for as many as the picture asks for. `index`: the picture's place in the
    run, from 0, for recipes that count seeds by it; nothing else may depend on it. `candidate`: which of several different proposals, 0
    being the engine's first choice; an engine that has no others gives its first again. `regions`: wanted as layers of their own, by
    engines that can be steered so.
    """

    layers: int | None = None
    kind: PictureKind = "auto"
    index: int = 0
    candidate: int = 0
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How an engine with a model is to run; None is "as its preset has it". `Settings` explains the fields."""

    model: str
    adapters: tuple[str, ...] = ()
    preset: str | None = None
    prompt: str | None = None
    sampler: Literal["euler", "heun"] | None = None
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    seed: int | None = None
    precision: str = "auto"
    offload: str = "auto"
    device: str = "auto"
    compile: bool = False
    fuse: bool = False
    offline: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What an engine gives: the stack, bottom to top, and remarks in words for the person who asked ("few layers found").

    `settings`: what the engine chose by itself (for the manifest), plain strings and numbers.
    """

    stack: LayerStack
    warnings: tuple[str, ...] = ()
    settings: tuple[tuple[str, str | int | float | bool | None], ...] = ()


class Engine(Protocol):
    """Turns a picture into layers at any size; the core makes them full-size and exact."""

    name: str
    version: str

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal: ...


class ModelEngine(Engine, Protocol):
    """An engine with a model to find and load."""

    def configured(self, options: ModelOptions, tell: Callable[[str], None]) -> Engine:
        """The engine as the options want it, everything checked that can be checked before weights are loaded, which is done at first use.

        `tell` takes a line for the person who waits.
        """
        ...

    def forecast(self, width: int, height: int, request: DecomposeRequest) -> tuple[str, ...]:
        """What a configured engine would do with a picture of that size, in lines for people: memory plan and time. Loads nothing."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExportOptions:
    """How the layers are written.

    `masks`: alpha as a layer mask over unclipped colour. `original`: the source as a hidden locked layer. `full_canvas`: layers as large
    as the canvas. `source`: the picture as it was read, whose metadata is carried into what can hold it, which `original` shows and
    `masks` uncover outside of a layer; without it `original` has no effect and masks uncover the colour of the layer's own edge.
    """

    masks: bool = False
    original: bool = False
    full_canvas: bool = False
    source: SourceImage | None = None


class Exporter(Protocol):
    """Writes a stack to `path` (a file, or a folder for `is_folder`), which does not exist yet; moving it in place is the caller's."""

    name: str
    suffix: str
    is_folder: bool

    def suffix_for(self, stack: LayerStack, options: ExportOptions) -> str:
        """The file suffix that this stack needs: `suffix`, or that of the format's large variant; "" for a folder."""
        ...

    def export(self, stack: LayerStack, path: Path, options: ExportOptions) -> tuple[str, ...]:
        """Write, and return remarks in words for the person who asked."""
        ...


class Judge(Protocol):
    """Scores candidate decompositions of one picture: raw engine stacks at the engine's size, never refined ones. Imports no torch.

    `model`: what answers, and `host`: where pictures go, "" if they stay on this machine.
    """

    name: str
    model: str
    host: str

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        """Blocks until all is scored; may be called from several threads at a time.

        `told`: what the judge is told about the picture, where `judge_condition` is "prompt". Raises LayerctlError for what stops the
        whole run (no server, no key, no budget left); a failure of one candidate is NaN with a reason.
        """
        ...

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        """The requests, tokens and money that a group of so many candidates with so many layers takes, at most, retries apart.

        `aspect`: width by height of the picture.
        """
        ...

    def close(self) -> None: ...


JudgeFactory = Callable[["JudgeSettings", Callable[[str], None]], Judge]
"""What a judge's name stands for. The second argument takes a line for the person who waits."""


def names(seam: Seam) -> list[str]:
    """The names of all built-ins and plugins, sorted; imports none of them."""
    return sorted({*BUILT_IN[seam], *(point.name for point in entry_points(group=f"layerctl.{seam}"))})


def load(seam: Seam, name: str) -> Any:
    """The engine, exporter or judge of that name.

    Raises UsageError for an unknown name, ConfigError for a plugin that takes a built-in's.
    """
    plugins = {point.name: point for point in entry_points(group=f"layerctl.{seam}")}
    taken = sorted(plugins.keys() & BUILT_IN[seam].keys())
    if taken:
        owner = plugins[taken[0]].dist
        who = owner.name if owner else plugins[taken[0]].value
        message = f"the package {who} offers {seam[:-1]} {taken[0]!r}, a name that layerctl has itself"
        raise ConfigError(message, hint=f"pip uninstall {who}")
    if name in BUILT_IN[seam]:
        module, _, attribute = BUILT_IN[seam][name].partition(":")
        return getattr(import_module(module), attribute)
    if name in plugins:
        return plugins[name].load()
    raise UsageError(f"there is no {seam[:-1]} {name!r}", hint=f"choose one of: {', '.join(names(seam)) or 'none installed'}")
