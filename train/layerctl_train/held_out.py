"""Evaluation during training: pictures that are never trained on, by the recipe's own sampler, from the same noise each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from layerctl.engines.qwen.sampler import picture_noise
from layerctl.errors import InputError
from layerctl.settings import FEWEST_LAYERS, MOST_LAYERS
from layerctl.verdict import Usage
from layerctl_train.evaluate.example import Example
from layerctl_train.evaluate.score import score
from layerctl_train.sample import Sample
from layerctl_train.scoring import usage_metrics
from layerctl_train.training_data import entry_of

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.registry import Judge
    from layerctl_train.evaluate.example import Data
    from layerctl_train.picture_store import Picture, PictureStore
    from layerctl_train.training_data import Entry
    from layerctl_train.training_run import TrainingRun

MAIN = "quality"
"""What the best checkpoint has most of, unless a judge evaluates: then its score."""
JUDGED = "judge"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """One held-out picture. `values`: by the names of `evaluate.results.METRICS`, and the evaluation judge's score."""

    key: str
    values: dict[str, float]
    picture: Picture
    stack: LayerStack
    usage: Usage


class HeldOut:
    """`entries`: kept in the store. `data`: the same pictures with their layers, None where no layers are known."""

    def __init__(self, entries: Sequence[Entry], store: PictureStore, data: Data | None, judge: Judge | None) -> None:
        self.entries, self.store, self.data, self.judge = tuple(entries), store, data, judge

    def evaluate(self, run: TrainingRun) -> tuple[Evaluated, ...]:
        """All pictures, in every process; each process makes its share."""
        own = [entry for place, entry in enumerate(self.entries) if place in run.places(len(self.entries))]
        made = {}
        with run.averaged():
            for entry in own:
                run.progress(f"evaluating {entry.key}", run.step / run.settings.updates)
                run.meet()
                made[entry.key] = self._evaluated(run, entry)
            # Processes that share the base run it equally often.
            if run.settings.shard and self.entries:
                for _ in range(len(own), -(-len(self.entries) // run.processes.world)):
                    run.meet()
                    self._stack(run, self.store.picture(self.entries[0]), run.settings.layers[1])
        for other in run.processes.gather(made):
            made |= other
        return tuple(made[entry.key] for entry in self.entries)

    def _evaluated(self, run: TrainingRun, entry: Entry) -> Evaluated:
        picture = self.store.picture(entry)
        example = self._example(entry, picture)
        layers = run.settings.layers[1] if example.truth is None else sum(1 for _ in example.truth.walk())
        stack = self._stack(run, picture, min(max(layers, FEWEST_LAYERS), MOST_LAYERS))
        values = score(example, stack).values
        usage = Usage()
        if self.judge is not None:
            verdict = self.judge.score_group(picture.source, [stack], run.base.prompt_of(picture))
            points, usage = verdict.samples[0].phase1, verdict.usage
            values = {**values, JUDGED: points} if math.isfinite(points) else values
        return Evaluated(entry.key, dict(values), picture, stack, usage)

    def _stack(self, run: TrainingRun, picture: Picture, layers: int) -> LayerStack:
        base = run.base
        condition = base.condition(picture, layers, guided=True)
        noise = picture_noise(condition.state_shape, base.recipe.seed, picture.sha256)
        with torch.no_grad():
            return base.stack(base.evaluated(condition, noise, run.tick), condition, picture.source)

    def _example(self, entry: Entry, picture: Picture) -> Example:
        """With its layers, at full size, where they are known. Raises InputError when its file is gone or another one now."""
        if self.data is None:
            return Example(entry.key, picture.source)
        found = next(iter(self.data.examples([entry.key])), None)
        if isinstance(found, Example) and entry_of(Sample(found)).sha256 == entry.sha256:
            return found
        raise InputError(f"{entry.key} of {self.data.name} is gone or another picture now", hint="put it back, then go on with --resume")


def note_best(run: TrainingRun, step: int, found: Mapping[str, Any]) -> None:
    """The best step is the one with the most of the evaluation judge's score or, without such a judge, of the measured quality.

    `found`: the step's record. One in which a picture has no value is not compared.
    """
    name = MAIN if run.held_out.judge is None else JUDGED
    value = found["values"].get(name) if all(name in values for values in found["pictures"].values()) else None
    if value is not None and (run.best is None or value > run.best[1]):
        run.best = (step, value)


def record(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """Means over the pictures that have a value, and every picture's own."""
    names = list(dict.fromkeys(name for each in evaluated for name in each.values))
    means = {name: fmean(values) for name in names if (values := [each.values[name] for each in evaluated if name in each.values])}
    return {"values": means, "pictures": {each.key: each.values for each in evaluated}, **usage_metrics([each.usage for each in evaluated])}
