"""One combination of adapter and preset over the pictures, through the engine's own Session, with what passes through the model watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from layerctl.engines.qwen.session import Session
from layerctl.manifest import Value
from layerctl.registry import DecomposeRequest, ModelOptions, Proposal
from layerctl.source import SourceImage

FAR_OUT = 1.5
"""The decoder's values mean colours from -1 to 1; beyond this they are no overshoot any more."""


@dataclass(slots=True, eq=False)
class Watch:
    """What the transformer and the decoder were given and gave for one picture.

    `states`: of the first evaluation. `call`: the arguments of the middle one, to repeat it. `far_out`: the share of decoded values
    beyond FAR_OUT. `seconds`: from the first evaluation to the decoder.
    """

    sigmas: list[float] = field(default_factory=list)
    states: torch.Tensor | None = None
    call: dict[str, Any] = field(default_factory=dict)
    finite: bool = True
    decoded: int = 0
    far_out: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class PictureRun:
    name: str
    source: SourceImage
    proposal: Proposal
    seconds: float
    watch: Watch

    @property
    def pixels(self) -> int:
        """As the model sees it."""
        return self.proposal.stack.width * self.proposal.stack.height

    @property
    def used(self) -> dict[str, Value]:
        return dict(self.proposal.settings)


@dataclass(slots=True, eq=False)
class Run:
    """`first`: the first picture once more, made before the others, loading included. `told`: what the Session said.

    `peak_bytes`: the most that tensors took on the device once everything was loaded, None where that is not CUDA.
    """

    session: Session
    layers: int
    told: list[str]
    first: Proposal
    loading_seconds: float
    pictures: list[PictureRun] = field(default_factory=list)
    peak_bytes: int | None = None


def run_pictures(options: ModelOptions, sources: dict[str, SourceImage], layers: int, say: Callable[[str], None]) -> Run:
    """Raises what the engine raises."""
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        say(line)

    begun = time.perf_counter()
    session = Session(options, tell)
    first = session.decompose(next(iter(sources.values())), DecomposeRequest(layers), _ignore)
    run = Run(session, layers, told, first, time.perf_counter() - begun)
    on_cuda = session.machine.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    for index, (name, source) in enumerate(sources.items()):
        with _watching(session) as watch:
            begun = time.perf_counter()
            proposal = session.decompose(source, DecomposeRequest(layers, index=index), _ignore)
            run.pictures.append(PictureRun(name, source, proposal, time.perf_counter() - begun, watch))
        say(f"{name}: {run.pictures[-1].seconds:.1f} s")
    run.peak_bytes = torch.cuda.max_memory_allocated() if on_cuda else None
    return run


@contextmanager
def _watching(session: Session) -> Iterator[Watch]:
    watch, model = Watch(), session.model
    assert model is not None
    finite = torch.ones((), dtype=torch.bool, device=model.device)
    far_out = torch.zeros((), dtype=torch.long, device=model.device)
    times: list[torch.Tensor] = []
    begun, ended = 0.0, 0.0
    # Both presets evaluate about twice a step.
    middle = session.recipe.steps

    def before_evaluation(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        nonlocal begun
        if not times:
            _wait(model.device)
            begun, watch.states = time.perf_counter(), named["hidden_states"]
        times.append(named["timestep"][0])
        if len(times) == middle:
            watch.call = named

    def after_evaluation(_module: Any, _arguments: Any, named: dict[str, Any], out: Any) -> None:
        nonlocal finite
        finite = finite & named["hidden_states"].isfinite().all() & out[0].isfinite().all()

    def before_decoding(_module: Any, _arguments: Any) -> None:
        nonlocal ended
        if not ended:
            _wait(model.device)
            ended = time.perf_counter()

    def after_decoding(_module: Any, _arguments: Any, out: torch.Tensor) -> None:
        nonlocal finite, far_out
        finite = finite & out.isfinite().all()
        far_out = far_out + (out.abs() > FAR_OUT).sum()
        watch.decoded += out.numel()

    transformer, decoder = model.transformer, model.vae.decoder
    hooks = [
        transformer.register_forward_pre_hook(before_evaluation, with_kwargs=True),
        transformer.register_forward_hook(after_evaluation, with_kwargs=True),
        decoder.register_forward_pre_hook(before_decoding),
        decoder.register_forward_hook(after_decoding),
    ]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
    watch.sigmas = [float(moment) for moment in times]
    watch.finite, watch.far_out = bool(finite), int(far_out) / max(watch.decoded, 1)
    watch.seconds = ended - begun


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def _ignore(_what: str, _share: float) -> None:
    """No bar: each picture is one line."""
