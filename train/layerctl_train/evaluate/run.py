"""The evaluation from data to results: predict with every system in turn, then score every picture, whatever was done before.

One picture is in memory at a time, and one engine with its model. Predictions and scores are kept on disk as they come; a run that was
killed goes on from there, and so does one that was made in shards.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from layerctl import __version__
from layerctl.decompose import MODEL_SETTINGS, MODEL_VERSIONS, RECORDED_VERSIONS
from layerctl.errors import LayerctlError, MissingDependencyError
from layerctl.hub import portable_name
from layerctl.layers import effective
from layerctl.registry import DecomposeRequest
from layerctl.settings import FEWEST_LAYERS, MOST_LAYERS
from layerctl_train.evaluate.aggregate import pairs
from layerctl_train.evaluate.example import Example
from layerctl_train.evaluate.predictions import Predictions, key_of, mark_of, write_whole
from layerctl_train.evaluate.results import Evaluation, PictureResult, Scores, SystemRecord
from layerctl_train.evaluate.score import VERSION, score
from layerctl_train.evaluate.strips import Shown
from layerctl_train.evaluate.systems import System, engine_of

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.registry import Engine, Judge, Progress
    from layerctl.settings import Settings
    from layerctl.verdict import GroupVerdict
    from layerctl_train.evaluate.example import Data

Layers = int | Literal["truth", "auto"]
"""How many layers are asked for: as many as there truly are (where that is unknown, auto), as the engine finds, or a number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated on. `keys`: those of this run, chosen among all of `data.keys()`. `kept`: the folder of predictions and scores."""

    data: Data
    keys: tuple[str, ...]
    limit: int | None
    seed: int
    shard: str | None
    layers: Layers
    kept: Path


class Evaluator:
    """Systems, loaded one after the other, and what they made of the pictures of a plan."""

    def __init__(self, plan: Plan, systems: Sequence[System], tell: Callable[[str], None]) -> None:
        self.plan, self.systems, self.tell = plan, tuple(systems), tell
        self.predictions = Predictions(plan.kept)
        self.faults: list[tuple[str, str]] = []
        """Keys of pictures that could not be read, and why; those that the data's own rules leave out are in `left_out`."""
        self.left_out: list[tuple[str, str]] = []
        self._places = {key: place for place, key in enumerate(plan.data.keys())}
        # All of them, so that what cannot be met is known before anything is computed; a model is loaded at its first picture.
        self._engines = {at: engine_of(system, tell) for at, system in enumerate(systems)}
        self._marks = [mark_of(engine, systems[at].settings) for at, engine in self._engines.items()]
        self._records = tuple(
            SystemRecord(system.name, self._engines[at].name, self._engines[at].version, _settings(system.settings, self._engines[at]))
            for at, system in enumerate(systems)
        )
        self._compared = {other: first for first, other in pairs(self._records)}
        self._failed: dict[tuple[int, str], str] = {}

    def predict(self, progress: Progress) -> None:
        """Ask every system for the layers that are not kept yet; a picture that fails is told, and does not end the run.

        Raises MissingDependencyError for what an engine finds to be missing, which would fail every picture.
        """
        total = max(1, len(self.systems) * len(self.plan.keys))
        for at, system in enumerate(self.systems):
            engine = self._engines.pop(at, None) or engine_of(system, self.tell)
            for done, example in enumerate(self._examples()):
                share = (at * len(self.plan.keys) + done) / total
                progress(f"{system.name}: {example.key}", share)
                request = self._request(example)
                key = key_of(example.source, self._marks[at], request)
                if self.predictions.get(key) is not None:
                    continue
                try:
                    proposal = engine.decompose(example.source, request, lambda *_: None)
                except MissingDependencyError:
                    raise
                except LayerctlError as error:
                    self._failed[at, example.key] = error.message
                    self.tell(f"{system.name} fails on {example.key}: {error.message}")
                else:
                    self.predictions.put(key, proposal.stack)
            # The next system's model may not fit beside this one's.
            del engine
            gc.collect()

    def score(self, judge: Judge | None, progress: Progress) -> tuple[PictureResult, ...]:
        """Every picture's numbers. Raises what the judge raises for what stops a run."""
        self.faults, self.left_out = [], []
        results = []
        for done, example in enumerate(self._examples(noted=True)):
            progress(f"scoring {example.key}", done / max(1, len(self.plan.keys)))
            results.append(self._result(example, judge))
        return tuple(results)

    def evaluation(self, pictures: tuple[PictureResult, ...], judge: Judge | None) -> Evaluation:
        """The record of the whole, also of what no picture was scored of yet."""
        plan = self.plan
        names = RECORDED_VERSIONS + (MODEL_VERSIONS if any(mark.has_model for mark in self._marks) else ())
        return Evaluation(
            data=plan.data.name,
            pictures=pictures,
            systems=self._records,
            unreadable=tuple(self.faults),
            limit=plan.limit,
            seed=plan.seed,
            shard=plan.shard,
            layers=in_words(plan.layers),
            judge=None if judge is None else f"{judge.name}, {judge.model}",
            versions={"layerctl": __version__} | {name: version(name) for name in names},
        )

    def shown(self, key: str) -> Shown | None:
        """One picture again, with its predictions; None if it cannot be read."""
        for example in self.plan.data.examples([key]):
            if isinstance(example, Example):
                return Shown(example.source, example.truth, tuple(self._stack(at, example) for at in range(len(self.systems))))
        return None

    def _examples(self, *, noted: bool = False) -> Iterator[Example]:
        for example in self.plan.data.examples(self.plan.keys):
            if isinstance(example, Example):
                yield example
            elif noted:
                (self.faults if example.is_fault else self.left_out).append((example.key, example.reason))
                if example.is_fault:
                    self.tell(f"{example.key} is left out: {example.reason}")

    def _request(self, example: Example) -> DecomposeRequest:
        layers = _true_layers(example) if self.plan.layers == "truth" else self.plan.layers
        wanted = min(max(layers, FEWEST_LAYERS), MOST_LAYERS) if isinstance(layers, int) else None
        return DecomposeRequest(wanted, self.systems[0].settings.kind, self._places[example.key])

    def _stack(self, at: int, example: Example) -> LayerStack | None:
        return self.predictions.get(key_of(example.source, self._marks[at], self._request(example)))

    def _result(self, example: Example, judge: Judge | None) -> PictureResult:
        stacks = [self._stack(at, example) for at in range(len(self.systems))]
        scores = [self._scored(at, example, stack) for at, stack in enumerate(stacks)]
        won: tuple[float | None, ...] = ()
        shown = [stack for stack in stacks if stack is not None]
        if judge is not None and len(shown) == len(stacks):
            verdict = judge.score_group(example.source, shown)
            scores = [
                replace(one, values={**one.values, "judge": reward}) if np.isfinite(reward) else one
                for one, reward in zip(scores, verdict.rewards, strict=True)
            ]
            won = tuple(won_against(verdict, self._compared.get(at, at), at) for at in range(1, len(stacks)))
        return PictureResult(example.key, example.source.width, example.source.height, _true_layers(example), tuple(scores), won)

    def _scored(self, at: int, example: Example, stack: LayerStack | None) -> Scores:
        """From disk, where the same prediction was held against the same truth before."""
        if stack is None:
            return Scores({}, failed=self._failed.get((at, example.key), "there is no prediction"))
        kept = self.predictions.path(key_of(example.source, self._marks[at], self._request(example)))
        path = kept.with_suffix(f".{_fingerprint(example.truth)}.{VERSION}.json")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return Scores(**fields | {name: tuple(fields[name]) for name in ("per_index", "per_index_white")})
        except (OSError, ValueError, TypeError, KeyError):
            found = score(example, stack)
        write_whole(path, json.dumps(asdict(found)).encode())
        return found


def won_against(verdict: GroupVerdict, first: int, other: int) -> float | None:
    """1 if candidate `first` has the higher score in all row orders, 0 if `other` has, 0.5 otherwise; None where one has no score."""
    gains = [order[first] - order[other] for order in verdict.orders_KG]
    if first == other or not gains or not np.isfinite(gains).all():
        return None
    return 1.0 if min(gains) > 0 else 0.0 if max(gains) < 0 else 0.5


def in_words(layers: Layers) -> str:
    return {"truth": "as many as there truly are", "auto": "as many as the engine finds"}.get(str(layers), str(layers))


def _true_layers(example: Example) -> int | None:
    return None if example.truth is None else sum(1 for _ in example.truth.walk())


def _fingerprint(truth: LayerStack | None) -> str:
    """Sixteen hexadecimal digits of the true layers."""
    digest = hashlib.sha256()
    for layer, opacity in () if truth is None else effective(truth.layers):
        digest.update(f"{layer.box} {opacity} {layer.pixels.dtype}".encode())
        digest.update(np.ascontiguousarray(layer.pixels).data)
    return digest.hexdigest()[:16]


def _settings(settings: Settings, engine: Engine) -> dict[str, object]:
    """What changes an engine's layers, as another machine would understand it."""
    chosen: dict[str, object] = {"kind": settings.kind}
    if hasattr(engine, "forecast"):
        chosen |= {name: getattr(settings, name) for name in MODEL_SETTINGS}
        chosen |= {"model": portable_name(settings.model), "adapters": [portable_name(adapter) for adapter in settings.adapters]}
    return chosen
