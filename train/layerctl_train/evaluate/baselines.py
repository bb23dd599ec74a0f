"""Engines that an evaluation has to tell from good ones; they are known to `layerctl eval` alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from layerctl import registry
from layerctl.layers import Layer, LayerStack
from layerctl.registry import Proposal
from layerctl.testing.faults import plant

if TYPE_CHECKING:
    from layerctl.registry import DecomposeRequest, Engine, Progress
    from layerctl.source import SourceImage

PLANTED = (("swallowed", 0.4), ("halo", 0.8), ("ghost", 0.7), ("bleed", 0.5))
"""What is done to the embedded engine's layers, one after the other, where there is a place for it."""


class Trivial:
    """The picture as it is, in the lowest of as many layers as are asked for (two if it is left open); the others are blank.

    It shows the picture without a fault and separates nothing: what a metric gives it is what that metric gives for nothing.
    """

    name = "trivial"
    version = "1"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        blank = Layer("Blank", np.zeros((1, 1, 4), np.uint8))
        layers = (Layer("Background", source.pixels, kind="background"), *[blank] * ((request.layers or 2) - 1))
        return Proposal(LayerStack(source.width, source.height, layers, icc=source.icc))


class Damaged:
    """The embedded engine's layers with faults planted into them: worse than `classic` wherever that finds more than one layer."""

    name = "damaged"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.version = f"1 of {engine.name} {engine.version}"

    def decompose(self, source: SourceImage, request: DecomposeRequest, progress: Progress) -> Proposal:
        stack = self.engine.decompose(source, request, progress).stack
        stack = stack.with_layers(tuple(stack.walk()))
        seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(source.pixels).data).digest()[:4])
        for place, (fault, severity) in enumerate(PLANTED):
            stack = plant(fault, source, stack, seed + place, severity) or stack
        return Proposal(stack)


def baseline(name: str) -> Engine | None:
    """The engine of that name, None if it is no baseline."""
    if name == Trivial.name:
        return Trivial()
    if name == Damaged.name:
        return Damaged(registry.load("engines", "classic"))
    return None


NAMES = (Trivial.name, Damaged.name)
