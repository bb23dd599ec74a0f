"""Gates: conditions under which an evaluation counts as failed, such as "blank_rate > 0.05".

    METRIC[.low|.high] [of SYSTEM] OP NUMBER                       a mean, or an end of its 95 % interval
    difference(METRIC)[.low|.high] [against SYSTEM] OP NUMBER      the first system's less the other's, on the same pictures
    win_rate[.low|.high] [against SYSTEM] OP NUMBER                the judge's
    failed [of SYSTEM] OP NUMBER                                   pictures without a prediction

OP is one of > >= < <=. Without "of" it is the first system; "against" may be left out where two are compared. What has no value fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from operator import ge, gt, le, lt

from layerctl.errors import UsageError
from layerctl_train.evaluate.results import METRICS, Difference, Mean, Summary

FORM = re.compile(
    r"(?P<difference>difference\s*\(\s*)?(?P<metric>\w+)\s*(?(difference)\))(?:\.(?P<end>\w+))?"
    r"(?:\s+(?P<word>of|against)\s+(?P<name>\S.*?))?\s*(?P<compare>[<>]=?)\s*(?P<limit>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)",
    re.ASCII,
)
COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le}
WIN_RATE, FAILED = "win_rate", "failed"
ENDS = ("low", "high")
EXAMPLE = 'such as --fail-if "blank_rate > 0.05" or --fail-if "difference(layerd_rgb_l1_0).high > 0"'


@dataclass(frozen=True, slots=True)
class Gate:
    """`text`: as it was typed. `other`: what the first system is compared with, None where `system` is looked at alone."""

    text: str
    metric: str
    end: str
    system: str
    other: str | None
    compare: str
    limit: float


@dataclass(frozen=True, slots=True)
class Failed:
    message: str


def read_gates(texts: Sequence[str], systems: Sequence[str]) -> tuple[Gate, ...]:
    """The conditions for these systems, the first being the one that is judged. Raises UsageError."""
    return tuple(_read(text, systems) for text in texts)


def gates(texts: Sequence[str], summary: Summary) -> list[Failed]:
    """Those that the evaluation fails, in their order. Raises UsageError."""
    read = [_placed(gate, summary) for gate in read_gates(texts, tuple(summary.means))]
    return [failed for gate in read if (failed := _failed(gate, summary)) is not None]


def _read(text: str, systems: Sequence[str]) -> Gate:
    found = FORM.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--fail-if {text!r} is no condition", hint=f"give a metric, > >= < or <=, and a number, {EXAMPLE}")
    metric, end, word, name = found["metric"], found["end"], found["word"], found["name"]
    is_difference = bool(found["difference"])
    known = [*METRICS] if is_difference else [*METRICS, WIN_RATE, FAILED]
    if metric not in known:
        near = get_close_matches(metric, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the metrics are: {', '.join(known)}"
        raise UsageError(f"--fail-if {text!r}: {metric} is no metric", hint=hint)
    if end and (end not in ENDS or metric == FAILED):
        ends = "a number of pictures has no interval" if metric == FAILED else ".low and .high are the ends of the interval"
        raise UsageError(f"--fail-if {text!r}: .{end} is unknown", hint=ends)
    compares = is_difference or metric == WIN_RATE
    if word and word != ("against" if compares else "of"):
        right = (
            f"difference({metric}) against {name}" if compares and is_difference else f"{metric} {'against' if compares else 'of'} {name}"
        )
        raise UsageError(f"--fail-if {text!r}: {word!r} does not fit here", hint=f"write: {right}")
    others = systems[1:] if compares else systems
    if name and name not in others:
        raise UsageError(f"--fail-if {text!r}: {name} is not compared", hint=f"there is: {'; '.join(others) or 'no other system'}")
    if compares and not name and len(others) != 1:
        hint = f"write: against {others[0]}" if others else "name another system with --against"
        raise UsageError(f"--fail-if {text!r} does not say against which system", hint=hint)
    other = (name or others[0]) if compares else None
    return Gate(
        text.strip(), metric, end or "value", systems[0] if compares else name or systems[0], other, found["compare"], float(found["limit"])
    )


def _placed(gate: Gate, summary: Summary) -> Gate:
    """With the system that the other one is compared with: where several presets are compared, the first of its own."""
    return replace(gate, system=next((each.first for each in summary.differences if each.other == gate.other), gate.system))


def _failed(gate: Gate, summary: Summary) -> Failed | None:
    what = f"{gate.metric} of {gate.system}" if gate.other is None else f"{gate.metric} of {gate.system} against {gate.other}"
    found = _value(gate, summary)
    if found is None or not math.isfinite(found):
        return Failed(f"{gate.text}: there is no {what} to judge by")
    if COMPARE[gate.compare](found, gate.limit):
        end = "" if gate.end == "value" else f"the {gate.end} end of "
        return Failed(f"{gate.text}: {end}{what} is {found:.4g}")
    return None


def _value(gate: Gate, summary: Summary) -> float | None:
    if gate.metric == FAILED:
        return summary.failed.get(gate.system, 0)
    found: Mean | Difference | None
    if gate.other is None:
        found = summary.means[gate.system].get(gate.metric)
    elif gate.metric == WIN_RATE:
        found = summary.win_rates.get(gate.other)
    else:
        wanted = (gate.metric, gate.system, gate.other)
        found = next((each for each in summary.differences if (each.metric, each.first, each.other) == wanted), None)
    if found is None or (isinstance(found, Mean) and not found.count):
        return None
    value: float = getattr(found, gate.end)
    return value
