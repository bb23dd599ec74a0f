"""What a training run measures at every step, by name: the one table that the run, its report and its documentation share."""

from __future__ import annotations

from typing import NamedTuple

from layerctl.verdict import CRITERIA

GUARDS = ("blank", "copy", "duplicate", "recomposition", "texture")
"""Faults in pixels that cost points whatever the judge says."""


class Metric(NamedTuple):
    """`chart`: the report's chart that shows it, "" for none. `methods`: which ways of training have it."""

    meaning: str
    chart: str = ""
    methods: tuple[str, ...] = ("grpo",)


_BOTH = ("grpo", "sft")
METRICS: dict[str, Metric] = {
    "reward/mean": Metric("mean reward of all candidates with a score, penalties taken off, in points of 10", "reward"),
    "reward/judge": Metric("the judge's part of it", "reward"),
    "reward/phase1": Metric("the judge's score of each candidate alone, mean", "reward by phase"),
    "reward/phase2": Metric("the judge's score of each candidate beside the others, mean; near 5 by its nature", "reward by phase"),
    **{f"criterion/{name}": Metric(f"the judge's points for {name}, mean", "reward by criterion") for name in CRITERIA},
    "reward/std": Metric("standard deviation of the reward within a group, mean over groups: what there is to learn from", "spread"),
    "judge/spread": Metric("range of the judge's raw scores within a group, mean", "spread"),
    "judge/agreement": Metric("rank correlation between row orders, mean; absent where only one was asked", "agreement"),
    "groups/taught": Metric("groups that were learned from", "groups"),
    "groups/skipped": Metric("groups left out whole, KL included: no signal, or too few scores", "groups"),
    "invalid": Metric("share of candidates without a score", "invalid"),
    "guard/points": Metric("points off for faults in pixels, mean over candidates", "guards"),
    **{f"guard/{name}": Metric(f"of these for {name}", "guards") for name in GUARDS},
    "guard/disagreement": Metric(
        "share of pairs of a group, different for the guards, of which the judge prefers the one that the guards find worse", "disagreement"
    ),
    "advantage/abs": Metric("mean size of the advantages that were learned from", ""),
    "ratio/first": Metric(
        "largest |log ratio| on the first replay, before anything was learned: 0 when sampling and replay agree", "ratio"
    ),
    "ratio/abs": Metric("mean |log ratio| over all replays of the step", "ratio"),
    "clip": Metric("share of replayed steps whose ratio was clipped; 0.1 to 0.3 is usual with several optimizer steps", "clip"),
    "loss/policy": Metric("the clipped objective, to be made smaller", "loss"),
    "loss/kl": Metric("the distance from the start, times its weight", "loss"),
    "loss/flow": Metric("mean squared error of the velocity", "loss", ("sft",)),
    "kl/velocity": Metric("mean squared distance of the velocity from the start's", "KL"),
    "kl/exact": Metric("KL divergence from the start of one noisy step, mean over dimensions", "KL"),
    "gradient/norm": Metric("norm of the gradient before it is clipped", "gradient", _BOTH),
    "learning_rate": Metric("of the optimizer", "", _BOTH),
    "window/first": Metric("the step of the rollout at which noise begins"),
    "evaluations": Metric("how often the model ran, in all processes", "", _BOTH),
    "judge/calls": Metric("requests to the judge", "cost"),
    "judge/cached": Metric("answers found in the judge's cache", "cost"),
    "judge/tokens": Metric("tokens in and out", ""),
    "judge/dollars": Metric("US dollars; absent where the model's price is unknown", "cost"),
    "seconds/sample": Metric("seconds spent on making candidates", "time"),
    "seconds/judge": Metric("seconds spent waiting for the judge, beyond what sampling covered", "time"),
    "seconds/learn": Metric("seconds spent on replay and optimizer", "time", _BOTH),
    "seconds/step": Metric("seconds of the whole step", "", _BOTH),
}
"""Mean, unless it is said otherwise, over all groups and processes of one step. All but `seconds/...` are the same when a run is repeated
on the same hardware with the same answers of the judge."""
