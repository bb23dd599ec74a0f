"""The best of several proposals of an engine for one picture, by the quality of its own layers at its own size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from layerctl.quality import Quality, assess
from layerctl.regions import coverage
from layerctl.repair import Repair, repaired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.layers import LayerStack
    from layerctl.registry import DecomposeRequest, Engine, Progress, Proposal
    from layerctl.source import SourceImage


MOST_REPEATED = 3
CLEARLY = 1.04
"""Times the first one's score: what another proposal has to reach to be chosen instead of it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One proposal's score. `coverage`: how well the wanted regions became layers of their own, 0..1; 1 where none was wanted."""

    number: int
    quality: Quality
    coverage: float

    @property
    def score(self) -> float:
        return self.quality.overall * self.coverage


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The proposal that `best_of_scores` chose. `candidates`: all that were scored, none where there was no choice."""

    proposal: Proposal
    candidates: tuple[Candidate, ...]
    chosen: int
    repairs: tuple[Repair, ...]


def choose(
    source: SourceImage, engine: Engine, request: DecomposeRequest, progress: Progress, *, best_of: int = 1, keep_faulty: bool = False
) -> Choice:
    """Ask for `best_of` proposals, keep the best, and take blank layers and copies out of it unless `keep_faulty`.

    Proposals that repeat an earlier one are not scored; after `MOST_REPEATED` of them in a row no more are asked for.
    """
    candidates: list[Candidate] = []
    chosen = repeated = 0
    seen: set[bytes] = set()
    for number in range(best_of):
        proposal = engine.decompose(source, replace(request, candidate=number), _part(progress, number, best_of))
        if best_of > 1:
            key = _fingerprint(proposal.stack)
            repeated = repeated + 1 if key in seen else 0
            if repeated == MOST_REPEATED:
                break
            if repeated:
                continue
            seen.add(key)
            stack = proposal.stack
            candidates.append(Candidate(number, assess(source, stack), coverage(stack, request.regions) if request.regions else 1.0))
        if number == 0 or best_of_scores([candidate.score for candidate in candidates]) == len(candidates) - 1:
            best, chosen = proposal, number
    if len(candidates) < best_of > 1:
        few = f"{len(candidates)} of {best_of} proposals are different ones"
        best = replace(best, warnings=(*best.warnings, few))
    if keep_faulty:
        return Choice(best, tuple(candidates), chosen, ())
    mended = repaired(source, best.stack)
    return Choice(replace(best, stack=mended.stack), tuple(candidates), chosen, mended.repairs)


def best_of_scores(scores: Sequence[float]) -> int:
    """The place of the highest score, the first of equals; 0 unless that is clearly higher than the first, the engine's own choice.

    A first score of 0 is that of a picture left whole, which no score can argue with.
    """
    best = max(range(len(scores)), key=lambda place: scores[place])
    return best if scores[best] > CLEARLY * scores[0] > 0 else 0


def _fingerprint(stack: LayerStack) -> bytes:
    """The same for stacks of the same pixels in the same places."""
    digest = hashlib.sha256()
    for layer in stack.walk():
        digest.update(f"{layer.box}".encode())
        digest.update(np.ascontiguousarray(layer.pixels).data)
    return digest.digest()


def _part(progress: Progress, number: int, count: int) -> Progress:
    """The progress of one proposal of several."""
    if count == 1:
        return progress
    return lambda doing, done: progress(f"candidate {number + 1} of {count}: {doing}", (number + done) / count)
