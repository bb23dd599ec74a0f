"""Evaluation during training: pictures that are never trained on, by the recipe's own sampler, from the same noise each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from layerctl.engines.qwen.sampler import picture_noise
from layerctl.settings import FEWEST_LAYERS, MOST_LAYERS
from layerctl_train.evaluate.example import Example
from layerctl_train.evaluate.score import score

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
                made[entry.key] = self._evaluated(run, entry)
            # Processes that share the base run it equally often.
            if run.settings.shard and self.entries:
                for _ in range(len(own), -(-len(self.entries) // run.processes.world)):
                    self._stack(run, self.store.picture(self.entries[0]), run.settings.layers[1])
        for other in run.processes.gather(made):
            made |= other
        return tuple(made[entry.key] for entry in self.entries)

    def _evaluated(self, run: TrainingRun, entry: Entry) -> Evaluated:
        picture = self.store.picture(entry)
        example = next(self._examples(entry.key), None) or Example(entry.key, picture.source)
        layers = run.settings.layers[1] if example.truth is None else sum(1 for _ in example.truth.walk())
        stack = self._stack(run, picture, min(max(layers, FEWEST_LAYERS), MOST_LAYERS))
        values = score(example, stack).values
        if self.judge is not None:
            (verdict,) = self.judge.score_group(picture.source, [stack], run.base.prompt_of(picture)).samples
            values = {**values, JUDGED: verdict.phase1}
        return Evaluated(entry.key, dict(values), picture, stack)

    def _stack(self, run: TrainingRun, picture: Picture, layers: int) -> LayerStack:
        base = run.base
        condition = base.condition(picture, layers, guided=True)
        noise = picture_noise(condition.state_shape, base.recipe.seed, picture.sha256)
        with torch.no_grad():
            return base.stack(base.evaluated(condition, noise, run.interrupt.check), condition, picture.source)

    def _examples(self, key: str) -> Iterator[Example]:
        if self.data is not None:
            yield from (each for each in self.data.examples([key]) if isinstance(each, Example))


def record(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """Means over the pictures that have a value, and every picture's own."""
    names = list(dict.fromkeys(name for each in evaluated for name in each.values))
    means = {name: fmean(values) for name in names if (values := [each.values[name] for each in evaluated if name in each.values])}
    return {"values": means, "pictures": {each.key: each.values for each in evaluated}}
