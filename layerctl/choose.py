"""The best of several proposals of an engine for one picture, by the quality of its own layers at its own size, or by a judge of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerctl.errors import JudgeStoppedError, LayerctlError
from layerctl.layers import fingerprint
from layerctl.quality import Quality, assess
from layerctl.regions import coverage
from layerctl.repair import Repair, repaired

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerctl.layers import LayerStack
    from layerctl.registry import DecomposeRequest, Engine, Judge, Progress, Proposal
    from layerctl.source import SourceImage
    from layerctl.verdict import GroupVerdict


MOST_REPEATED = 3
CLEARLY = 1.04
"""Times the first one's score: what another proposal has to reach to be chosen instead of it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One proposal's score. `coverage`: how well the wanted regions became layers of their own, 0..1; 1 where none was wanted.

    `reward`: a judge's, 0..10; NaN without a judge and where it has none.
    """

    number: int
    quality: Quality
    coverage: float
    reward: float = math.nan

    @property
    def score(self) -> float:
        return self.quality.overall * self.coverage


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The proposal that is kept. `candidates`: all that were scored, none where there was no choice. `chosen`: its number.

    `verdict`: the judge's on the candidates, in their order; None without a judge, and where all proposals were the same.
    """

    proposal: Proposal
    candidates: tuple[Candidate, ...]
    chosen: int
    repairs: tuple[Repair, ...]
    verdict: GroupVerdict | None = None


def choose(
    source: SourceImage,
    engine: Engine,
    request: DecomposeRequest,
    progress: Progress,
    *,
    best_of: int = 1,
    keep_faulty: bool = False,
    judge: Judge | None = None,
    told: str = "",
) -> Choice:
    """Ask for `best_of` proposals, keep the best, and take blank layers and copies out of it unless `keep_faulty`.

    Proposals that repeat an earlier one are not scored; after `MOST_REPEATED` of them in a row no more are asked for. A `judge`, which is
    `told` something about the picture, compares all of them once; without one, and where its scores say nothing, the measured quality
    decides. Raises JudgeStoppedError, with its own exit code, for whatever the judge raises: the next picture would meet it too.
    """
    candidates: list[Candidate] = []
    kept: list[Proposal] = []
    chosen = 0
    for number, proposal in _different(source, engine, request, progress, best_of):
        kept.append(proposal)
        if best_of > 1:
            stack = proposal.stack
            candidates.append(Candidate(number, assess(source, stack), coverage(stack, request.regions) if request.regions else 1.0))
            chosen = best_of_scores([candidate.score for candidate in candidates])
        # A judge has to see all of them; without one none is needed but the best so far.
        if judge is None:
            kept = kept[-1:] if chosen == len(candidates) - 1 else kept[:1]
    remarks = [f"{len(candidates)} of {best_of} proposals are different ones"] if len(candidates) < best_of > 1 else []
    verdict = None
    if judge is not None and len(candidates) > 1:
        progress(f"{judge.name} judges {len(candidates)} proposals", 1.0)
        verdict = _scored(judge, source, [proposal.stack for proposal in kept], told)
        candidates = [replace(candidate, reward=reward) for candidate, reward in zip(candidates, verdict.rewards, strict=True)]
        chosen, remark = _judged(candidates, verdict, chosen)
        remarks += remark
    best = kept[chosen if judge is not None else 0]
    best = replace(best, warnings=(*best.warnings, *remarks))
    number = candidates[chosen].number if candidates else 0
    if keep_faulty:
        return Choice(best, tuple(candidates), number, (), verdict)
    mended = repaired(source, best.stack)
    return Choice(replace(best, stack=mended.stack), tuple(candidates), number, mended.repairs, verdict)


def _different(
    source: SourceImage, engine: Engine, request: DecomposeRequest, progress: Progress, best_of: int
) -> Iterator[tuple[int, Proposal]]:
    """The proposals that repeat none before them, with their numbers."""
    seen: set[str] = set()
    repeated = 0
    for number in range(best_of):
        proposal = engine.decompose(source, replace(request, candidate=number), _part(progress, number, best_of))
        key = fingerprint(proposal.stack) if best_of > 1 else ""
        repeated = repeated + 1 if key in seen else 0
        if repeated == MOST_REPEATED:
            return
        if not repeated:
            seen.add(key)
            yield number, proposal


def _scored(judge: Judge, source: SourceImage, stacks: Sequence[LayerStack], told: str) -> GroupVerdict:
    try:
        return judge.score_group(source, stacks, told)
    except LayerctlError as error:
        stopped = JudgeStoppedError(error.message, hint=error.hint)
        stopped.exit_code = error.exit_code
        raise stopped from error


def _judged(candidates: Sequence[Candidate], verdict: GroupVerdict, measured: int) -> tuple[int, list[str]]:
    """The place of the highest reward times coverage, `measured` where the verdict says nothing; and what is to be told of it."""
    remarks = [
        f"the judge has no score for number {place} of the proposals: {sample.reason}"
        for place, sample in enumerate(verdict.samples, 1)
        if not sample.is_valid
    ]
    valid = [place for place, sample in enumerate(verdict.samples) if sample.is_valid]
    if verdict.no_choice or not valid:
        why = verdict.no_choice or "it scored none of them"
        return measured, [*remarks, f"the measured quality chose, not the judge {verdict.judge}: {why}"]
    return max(valid, key=lambda place: candidates[place].reward * candidates[place].coverage), remarks


def best_of_scores(scores: Sequence[float]) -> int:
    """The place of the highest score, the first of equals; 0 unless that is clearly higher than the first, the engine's own choice.

    A first score of 0 is that of a picture left whole, which no score can argue with.
    """
    best = max(range(len(scores)), key=lambda place: scores[place])
    return best if scores[best] > CLEARLY * scores[0] > 0 else 0


def _part(progress: Progress, number: int, count: int) -> Progress:
    """The progress of one proposal of several."""
    if count == 1:
        return progress
    return lambda doing, done: progress(f"candidate {number + 1} of {count}: {doing}", (number + done) / count)
