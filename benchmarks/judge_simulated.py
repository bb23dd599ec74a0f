"""What both phases of the judge find out, and which groups would teach, with judges whose weaknesses are known.

    python benchmarks/judge_simulated.py

120 groups of eight candidates that are alike (truth: a group's own level, uniform in 3 to 8, and a deviation of 1 point within it), each
judged by the simulated judge in 2, 4 and 6 row orders. The table has the mean rank correlation of scores with the truth, a phase that gives
all the same score counting 0, and the share of groups that would teach. The characters are ours: the numbers say what the arithmetic does
with a judge of that kind, nothing about any model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from layerctl_train.judge.combine import rank_correlation
from layerctl_train.judge.simulated import Character, SimulatedJudge

from layerctl.judge_settings import JudgeSettings
from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict

GROUPS, GROUP = 120, 8
SOURCE = SourceImage(np.full((8, 8, 4), 255, np.uint8))
ORDERS = (2, 4, 6)


class Case(NamedTuple):
    """`anchors`: whether phase 2 is told the scores of phase 1."""

    name: str
    character: Character
    anchors: bool = True


CASES = (
    Case("sees; phase 1 within 6 to 8", Character()),
    Case("sees; phase 1 within 6.5 to 7.5", Character(low=6.5, high=7.5)),
    Case("random, anchoring 0", Character(skill=0, anchoring=0)),
    Case("random, anchoring 0.2", Character(skill=0, anchoring=0.2)),
    Case("random, anchoring 0.4", Character(skill=0, anchoring=0.4)),
    Case("random, anchoring 0.4, anchors off", Character(skill=0, anchoring=0.4), anchors=False),
)


def truths() -> np.ndarray:
    """Of all candidates by group, 0..10."""
    rng = np.random.default_rng(5)
    return np.clip(rng.uniform(3, 8, (GROUPS, 1)) + rng.normal(0, 1, (GROUPS, GROUP)), 0, 10)


def candidate(number: int) -> LayerStack:
    """A stack unlike all others; what it shows does not matter to the judge."""
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[..., 0], pixels[..., 1] = divmod(number, 256)
    return LayerStack(8, 8, (Layer("Background", pixels, kind="background"),))


def judged(truth: np.ndarray, case: Case, orders: int) -> list[GroupVerdict]:
    stacks = [candidate(number) for number in range(truth.size)]
    known = dict(zip(map(id, stacks), truth.flat, strict=True))
    settings = JudgeSettings(judge_orders=orders, judge_anchors=case.anchors)
    judge = SimulatedJudge(settings, lambda _, stack: [known[id(stack)]] * 5, case.character)
    return [judge.score_group(SOURCE, stacks[at : at + GROUP]) for at in range(0, len(stacks), GROUP)]


def correlation(truth: np.ndarray, scores: list[tuple[float, ...]]) -> float:
    found = [rank_correlation(np.array(given), known) for given, known in zip(scores, truth, strict=True)]
    return float(np.nan_to_num(found).mean())


def main() -> None:
    truth = truths()
    columns = ["phase 1 alone", *(f"both, K = {orders}" for orders in ORDERS), *(f"teach, K = {orders}" for orders in ORDERS)]
    print(f"| judge | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for case in CASES:
        verdicts = [judged(truth, case, orders) for orders in ORDERS]
        alone = correlation(truth, [tuple(sample.phase1 for sample in verdict.samples) for verdict in verdicts[0]])
        both = [correlation(truth, [verdict.rewards for verdict in some]) for some in verdicts]
        taught = [np.mean([verdict.teaches for verdict in some]) for some in verdicts]
        cells = [f"{alone:.2f}", *(f"{value:.2f}" for value in both), *(f"{value:.1%}" for value in taught)]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
