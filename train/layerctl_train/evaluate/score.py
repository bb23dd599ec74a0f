"""One system's numbers on one picture, all that need no judge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from layerctl.scale import at_size
from layerctl_train.evaluate import layerd
from layerctl_train.evaluate.per_index import per_index_l1, soundness
from layerctl_train.evaluate.results import CRITERIA, EDITS, Scores

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl_train.evaluate.example import Example

VERSION = 1
"""Raised with every change of a number, so that kept ones are made anew."""


def score(example: Example, stack: LayerStack) -> Scores:
    """Of a raw stack of any size: brought to the truth's size, by plain resampling, where it is compared with the truth."""
    sound = soundness(example.source, stack)
    count = sum(1 for _ in stack.walk())
    values = {
        "blank_rate": sound.blank,
        "duplicate_rate": sound.duplicate,
        "copy_rate": sound.composite_copy,
        "recomposition": sound.recomposition,
        "quality": sound.overall,
        **dict(zip(CRITERIA, sound.criteria, strict=True)),
    }
    if example.truth is None:
        return Scores(values, layers=count)
    truth = layerd.canvases(example.truth)
    prediction = layerd.canvases(at_size(stack, example.truth.width, example.truth.height))
    by_index = per_index_l1(prediction, truth)
    values["l1_premultiplied"] = math.fsum(by_index.premultiplied) / len(by_index.premultiplied)
    values["l1_white"] = math.fsum(by_index.over_white) / len(by_index.over_white)
    aligned = layerd.score(prediction, truth)
    if not aligned.skipped:
        values |= {f"layerd_rgb_l1_{edits}": aligned.rgb_l1[edits] for edits in range(EDITS)}
        values |= {f"layerd_alpha_iou_{edits}": aligned.alpha_iou[edits] for edits in range(EDITS)}
    return Scores(values, by_index.premultiplied, by_index.over_white, count, aligned.skipped)
