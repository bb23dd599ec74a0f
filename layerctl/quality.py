"""How good layers are, from their pixels alone: five criteria, one score, and faults by name.

Two kinds of stack are looked at, and never mixed. The self-check of a result looks at the refined layers, which always flatten to the
source; how far the engine's own were off stands beside it as `fidelity`. Training, judges and guards look at the engine's raw stack at its
own size, because refining hides the faults that they are to find.

The five criteria are those of the Stable-Layers judge (arXiv 2605.30257) as measures of pixels; the formulas and weights are ours.
Every term is one of `layerctl.measures`; each factor 1 - w x is 1 without the fault, and a criterion is the product of its factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from layerctl import measures
from layerctl.verdict import CRITERIA as CRITERIA
from layerctl.view import View, view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.layers import LayerStack
    from layerctl.source import SourceImage

FaultKind = Literal[
    "blank", "composite copy", "duplicate", "recomposition", "halo", "dust", "bleed", "hole", "ghost", "split", "merged", "order", "ragged",
    "text",
]  # fmt: skip
WEIGHTS = {"separation": 0.4, "alpha": 0.15, "background": 0.2, "validity": 0.25}
"""Exponents of the criteria in the overall score, which distribution multiplies; their sum is 1. Set on tuning scenes."""
LEAST = 0.02
"""A criterion below this counts as this in the overall score, so that of two bad stacks one is still worse."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`layers`: the names of those concerned; `severity` 0..1; `message` for a person."""

    kind: FaultKind
    layers: tuple[str, ...]
    severity: float
    message: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Five criteria, 0..1, higher is better, and `overall`: distribution times the weighted geometric mean of the others.

    separation: 1 where every layer is one thing. Falls when a thing is cut into two that meet edge to edge (`abutment`), when a layer holds
    things that lie apart (`scatter`) or shows a layer that it covers (`repeats_above`), when outlines run where the source has no edge
    (`unsupported`), when edges of the source lie on no outline (`unexplained`), and where the embedded engine's network takes parts for
    one thing or for two that the layers do not (`disagreement`).
    alpha: 1 for clean masks. Falls with rims that took colour along (`contamination`), specks (`dust`), the picture shimmering through
    transparent parts (`bleed`) and frayed outlines (`raggedness`).
    background: 1 where what is covered was completed. Falls with what covers it still showing (`repeats_below`, `seam`), and with `holes`.
    distribution: 0 where one layer holds all, near 1 as soon as others hold something: 1 - exp(-16 (e - 1)), e `effective_layers`.
    validity: 1 without blank layers, copies of the picture or of another layer, and differences from the source (`recomposition`).
    """

    separation: float
    alpha: float
    background: float
    distribution: float
    validity: float
    faults: tuple[Fault, ...]

    @property
    def overall(self) -> float:
        return self.distribution * math.prod(max(getattr(self, name), LEAST) ** weight for name, weight in WEIGHTS.items())


@dataclass(frozen=True, slots=True)
class _Findings:
    """Every measure of a view, once. Lists go by layer, bottom to top; the bottom layer's entry is 0 where it is about elements."""

    blank: list[bool]
    copy: list[float]
    duplicate: dict[tuple[int, int], float]
    recomposition: float
    halo: list[float]
    dust: list[float]
    bleed: list[float]
    ragged: list[float]
    hole: float
    ghost: list[float]
    seam: float
    scatter: list[float]
    order: dict[tuple[int, int], float]
    abutment: float
    unsupported: float
    unexplained: float
    disagreement: float
    spread: float
    outlines: list[float]


def assess(source: SourceImage, stack: LayerStack) -> Quality:
    """The quality of a stack of any size against its source, without reading text (`wording.altered_text` does that).

    Looks at a copy of at most `view.SIDE` pixels. Groups count as their layers.
    """
    names = [layer.name for layer in stack.walk()]
    seen = view(source, stack)
    if not names:
        return Quality(0, 0, 0, 0, 0, (Fault("blank", (), 1.0, "there is no layer"),))
    found = _look(seen)
    return Quality(*_criteria(found), faults=_faults(found, names))


def _look(seen: View) -> _Findings:
    count = len(seen.alphas)
    elements = range(1, count)
    blank = [measures.is_blank(alpha) for alpha in seen.alphas]
    shown = [k for k in elements if not blank[k]]

    def each(measure: Sequence[float]) -> list[float]:
        by_layer = dict(zip(shown, measure, strict=True))
        return [by_layer.get(k, 0.0) for k in range(count)]

    return _Findings(
        blank=blank,
        copy=[0.0, *(measures.composite_copy(seen, k) for k in elements)],
        duplicate={(j, k): measures.likeness(seen, j, k) for j, k in combinations(range(count), 2) if not (blank[j] or blank[k])},
        recomposition=measures.recomposition(seen),
        halo=each([measures.contamination(seen, k) for k in shown]),
        dust=each([measures.dust(seen.alphas[k]) for k in shown]),
        bleed=each([measures.bleed(seen, k) for k in shown]),
        ragged=each([measures.raggedness(seen.alphas[k]) for k in shown]),
        hole=measures.holes(seen),
        ghost=[measures.repeats_below(seen, k) for k in range(count)],
        seam=measures.seam(seen, 0),
        scatter=each([measures.scatter(seen.alphas[k]) for k in shown]),
        order={(j, k): measures.repeats_above(seen, j, k) for k, j in combinations(shown, 2)},
        abutment=measures.abutment(seen),
        unsupported=measures.unsupported(seen),
        unexplained=measures.unexplained(seen),
        disagreement=measures.disagreement(seen),
        spread=measures.effective_layers(seen),
        outlines=[measures.outline(alpha) for alpha in seen.alphas],
    )


def _criteria(found: _Findings) -> tuple[float, float, float, float, float]:
    order = max(found.order.values(), default=0.0)
    repeated = max(found.ghost[1:], default=0.0)
    separation = (
        (1 - min(1.0, 3 * _beyond(found.abutment, 0.012)))
        * (1 - found.disagreement) ** 1.5
        * math.prod(1 - 0.8 * value for value in found.scatter)
        * (1 - 0.8 * _beyond(max(order, repeated), 0.3))
        * (1 - 0.5 * found.unsupported)
        * (1 - 0.5 * found.unexplained)
    )
    weights = found.outlines[1:]
    alpha = (
        (1 - measures.mean_by([_beyond(value, 0.3) for value in found.halo[1:]], weights))
        * (1 - 0.7 * max(found.dust))
        * (1 - max(found.bleed))
        * (1 - measures.mean_by(found.ragged[1:], weights))
    )
    background = (1 - found.ghost[0]) * (1 - 0.5 * found.seam) * (1 - min(1.0, 20 * found.hole))
    distribution = 1 - math.exp(-16 * (found.spread - 1))
    blanks = sum(found.blank) / len(found.blank)
    validity = (
        (1 - blanks)
        * (1 - max(found.copy))
        * (1 - _beyond(max(found.duplicate.values(), default=0.0), 0.2))
        * math.exp(-found.recomposition / 0.05)
    )
    return separation, alpha, background, distribution, validity


def _beyond(value: float, allowed: float) -> float:
    """0 up to what is allowed, then straight to 1."""
    return max(0.0, value - allowed) / (1 - allowed)


def _faults(found: _Findings, names: list[str]) -> tuple[Fault, ...]:
    """What is bad enough to be told, layer by layer."""
    faults: list[Fault] = []

    def add(kind: FaultKind, layers: tuple[int, ...], severity: float, message: str) -> None:
        faults.append(Fault(kind, tuple(names[k] for k in layers), round(min(severity, 1.0), 3), message))

    for k, name in enumerate(names):
        if found.blank[k]:
            add("blank", (k,), 1.0, f"{name!r} is blank")
        if found.copy[k] > 0.5:
            add("composite copy", (k,), found.copy[k], f"{name!r} shows the whole picture again")
        if found.halo[k] > 0.5:
            add("halo", (k,), found.halo[k], f"{name!r} has a rim of what was around it")
        if found.dust[k] > 0.4:
            add("dust", (k,), found.dust[k], f"{name!r} has specks away from it")
        if found.bleed[k] > 0.1:
            add("bleed", (k,), found.bleed[k], f"the picture shimmers through transparent parts of {name!r}")
        if found.ragged[k] > 0.2:
            add("ragged", (k,), found.ragged[k], f"the outline of {name!r} is frayed")
        if found.scatter[k] > 0.3:
            add("merged", (k,), found.scatter[k], f"{name!r} seems to hold several things")
        if found.ghost[k] > (0.15 if k == 0 else 0.4):
            add("ghost", (k,), found.ghost[k], f"what lies above {name!r} still shows in it")
    for (j, k), value in found.duplicate.items():
        if value > 0.5:
            add("duplicate", (j, k), value, f"{names[j]!r} and {names[k]!r} are copies")
    for (j, k), value in found.order.items():
        if value > 0.4:
            add("order", (j, k), value, f"{names[j]!r} lies above {names[k]!r} but shows it: their order seems wrong")
    if found.abutment > 0.05:
        add("split", (), 3 * found.abutment, "layers meet edge to edge: a thing may have been cut into two")
    if found.hole > 0.001:
        add("hole", (0,), 20 * found.hole, f"{names[0]!r} has holes over {found.hole:.1%} of the picture")
    if found.recomposition > 0.01:
        shown = found.recomposition * 255
        add("recomposition", (), found.recomposition / 0.05, f"together the layers are {shown:.1f} levels off the picture on average")
    return tuple(faults)
