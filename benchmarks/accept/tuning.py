"""What the adapter does to the velocity, and what is left of that when it is merged."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear

from benchmarks.accept.checks import Outcome
from benchmarks.accept.running import Run
from layerctl.engines.qwen.fuse import LIMIT, fuse
from layerctl.engines.qwen.session import Session


def effect(run: Run) -> Outcome:
    """How much the adapter changes the velocity in the middle of the first picture."""
    if not run.session.adapters:
        return Outcome(None, "no adapter")
    call = run.pictures[0].watch.call
    tuned = _velocity(run.session, call).float()
    _switch_adapters(run, on=False)
    base = _velocity(run.session, call).float()
    _switch_adapters(run, on=True)
    change = (torch.linalg.vector_norm(tuned - base) / torch.linalg.vector_norm(base)).item()
    value = f"by {change:.3%} in the middle of {run.pictures[0].name}, in {run.pictures[0].used['dtype']}"
    return Outcome(0 < change < float("inf"), value, {"velocity_change": change})


def fusing(run: Run) -> Outcome:
    """How much of that change would be lost by merging; the weights are put back."""
    session = run.session
    if not session.adapters:
        return Outcome(None, "no adapter")
    assert session.plan is not None
    assert session.model is not None
    if session.plan.offload != "none" or session.plan.precision in ("int8", "int4"):
        return Outcome(None, f"needs whole weights on the device; here {session.plan.flags}")
    call = run.pictures[0].watch.call
    before = _velocity(session, call)
    # With a limit that nothing keeps, the weights are put back after the measurement.
    report = fuse(session.model.transformer, session.adapters, session.lora, lambda: _velocity(session, call), limit=-1.0)
    came_back = torch.equal(before, _velocity(session, call))
    error = report.relative_error
    way = "--fuse would merge" if error <= LIMIT else "--fuse would stay unfused"
    state = "" if came_back else "; the weights did not come back"
    value = f"merged in {run.pictures[0].used['dtype']} {error:.3%} of the change is lost: {way}{state}"
    return Outcome(came_back and error < float("inf"), value, {"fuse_error": error})


def _velocity(session: Session, call: dict[str, Any]) -> torch.Tensor:
    """What the transformer gives for the arguments of an evaluation that was watched, without the condition's frame."""
    assert session.model is not None
    with torch.no_grad():
        out: torch.Tensor = session.model.transformer(**call)[0]
    frames = len(call["img_shapes"][0])
    return out[:, : out.shape[1] // frames * (frames - 1)]


def _switch_adapters(run: Run, *, on: bool) -> None:
    assert run.session.model is not None
    for module in run.session.model.transformer.modules():
        if isinstance(module, Linear):
            module.enable_adapters(on)
            # Switching on makes PEFT's parameters trainable.
            module.requires_grad_(False)
