"""Memory and time of a run against what the plan said."""

from __future__ import annotations

from statistics import mean

from benchmarks.accept.checks import Number, Outcome
from benchmarks.accept.running import Run
from layerctl.engines.qwen import memory
from layerctl.engines.qwen.devices import matrix_rate
from layerctl.engines.qwen.prompts import LONGEST_PROMPT

PLAN_ERROR, TIME_FACTOR = 0.1, 2.0


def memory_plan(run: Run) -> Outcome:
    """Against the most that was allocated."""
    plan = _plan_of_largest(run, rate=None)
    # What is left free beside the tensors is no tensor.
    planned = round((plan.device_bytes - memory.FIXED) / (1 + memory.SHARE))
    numbers: dict[str, Number] = {"planned_bytes": planned, "peak_bytes": run.peak_bytes}
    if run.peak_bytes is None:
        return Outcome(None, f"{planned / memory.GB:.2f} GB planned; only CUDA tells how much was allocated", numbers)
    ratio = planned / run.peak_bytes
    value = f"{planned / memory.GB:.2f} GB planned, {run.peak_bytes / memory.GB:.2f} GB allocated: {ratio - 1:+.1%}"
    return Outcome(abs(ratio - 1) <= PLAN_ERROR, value, numbers | {"planned_to_peak": ratio})


def seconds(run: Run) -> Outcome:
    """Against the estimate."""
    largest = max(run.pictures, key=lambda picture: picture.pixels)
    evaluation, outside = largest.watch.seconds / len(largest.watch.sigmas), 1 - largest.watch.seconds / largest.seconds
    numbers: dict[str, Number] = {
        "seconds_an_evaluation": evaluation,
        "seconds_a_picture": mean(picture.seconds for picture in run.pictures),
        "share_outside_evaluations": outside,
    }
    numbers |= {f"seconds of {picture.name}": picture.seconds for picture in run.pictures}
    value = f"{largest.name}: {largest.seconds:.1f} s, {evaluation:.3f} s an evaluation, {outside:.1%} outside of the evaluations"
    if run.session.machine.device == "cpu":
        return Outcome(None, f"{value}; nothing is claimed for the CPU", numbers)
    estimate = _plan_of_largest(run, rate=matrix_rate(run.session.machine)).seconds
    assert estimate is not None
    # The estimate is of the evaluations alone, and the time outside may hold a caption.
    ratio = estimate / largest.watch.seconds
    numbers |= {"estimated_seconds": estimate, "estimate_to_measured": ratio}
    return Outcome(1 / TIME_FACTOR <= ratio <= TIME_FACTOR, f"{value}; {estimate:.1f} s estimated", numbers)


def _plan_of_largest(run: Run, rate: float | None) -> memory.Plan:
    """The way that the run took, planned for the largest picture of it and for the parts that were loaded."""
    session = run.session
    assert session.plan is not None
    stack = max(run.pictures, key=lambda picture: picture.pixels).proposal.stack
    job = memory.Job(
        width=stack.width,
        height=stack.height,
        layers=run.layers,
        evaluations=len(run.pictures[0].watch.sigmas),
        guided=session.recipe.guided,
        needs_text_encoder=session.encoder is not None,
        caption=session.encoder is not None and session.recipe.prompt is None,
        text_tokens=LONGEST_PROMPT,
        adapter_bytes=4 * sum(plan.parameters for plan in session.lora),
    )
    way = {"precision": session.plan.precision, "offload": session.plan.offload}
    return memory.possible_plans(session.configs, job, session.machine, rate=rate, **way)[0]
