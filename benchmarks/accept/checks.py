"""Named checks: what must hold, what was measured, and whether it held."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from layerctl.errors import LayerctlError

Status = Literal["passed", "failed", "not applicable", "not reached"]
Number = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check measured. `passed`: None where the claim does not apply. `numbers`: for the report's JSON and its tables."""

    passed: bool | None
    value: str
    numbers: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """`place`: what was looked at. `trace`: where a check that could not be made broke off."""

    place: str
    name: str
    claim: str
    status: Status = "not reached"
    value: str = "not reached"
    numbers: dict[str, Number] = field(default_factory=dict)
    trace: str | None = None

    @property
    def title(self) -> str:
        return f"{self.place}: {self.name}"


class Checks:
    """All checks of a report, made or not yet. `claims`: by place, then by name, what must hold."""

    def __init__(self, claims: Mapping[str, Mapping[str, str]]) -> None:
        self._found = {(place, name): Check(place, name, claim) for place, named in claims.items() for name, claim in named.items()}

    def __iter__(self) -> Iterator[Check]:
        return iter(self._found.values())

    def at(self, place: str) -> dict[str, Check]:
        return {check.name: check for check in self if check.place == place}

    def places(self) -> list[str]:
        return list(dict.fromkeys(check.place for check in self))

    def with_status(self, status: Status) -> list[Check]:
        return [check for check in self if check.status == status]

    def make(self, place: str, name: str, measure: Callable[[], Outcome]) -> None:
        """Make one check; what `measure` raises fails it."""
        trace = None
        try:
            outcome = measure()
        except LayerctlError as error:
            outcome = Outcome(False, f"{error.message} ({error.hint})" if error.hint else error.message)
        except Exception as error:
            # Whatever goes wrong with weights that nobody has run yet is what the report is for.
            outcome, trace = Outcome(False, f"{type(error).__name__}: {error}"), traceback.format_exc()
        status: Status = "not applicable" if outcome.passed is None else "passed" if outcome.passed else "failed"
        check = self._found[place, name]
        self._found[place, name] = replace(check, status=status, value=outcome.value, numbers=outcome.numbers, trace=trace)

    @property
    def verdict(self) -> str:
        passed, failed, lost = (len(self.with_status(status)) for status in ("passed", "failed", "not reached"))
        unreached = f", {lost} not reached" if lost else ""
        return f"{passed} of {passed + failed + lost} checks passed, {failed} failed{unreached}"
