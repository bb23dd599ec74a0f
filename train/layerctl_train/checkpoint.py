"""A checkpoint: everything that a run needs to go on as if it had never stopped, in safetensors and JSON alone.

    adapter_model.safetensors, adapter_config.json, ...    the adapter, a PEFT folder to be used as it is
    state/policy.safetensors                               weights and their average, as they are trained
    state/optimizer.safetensors                            AdamW's moments and counts, as PARAMETER:KEY
    state/state.json                                       the rest

The optimizer's rates are not here: they follow from the settings and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layerctl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import AdamW

STATE, POLICY_FILE, OPTIMIZER_FILE, STATE_FILE = "state", "policy.safetensors", "optimizer.safetensors", "state.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the run up to now. `dollars`: None once a price is unknown. `seconds`: of training, without pauses."""

    evaluations: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0
    dollars: float | None = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """What is no tensor. `best`: step and value of the best evaluation. `gradient_norms`: the latest, for the rule that stops a run that
    explodes. `quiet`: steps in a row that taught nothing. `threads`: of the CPU that sums were split over; None on other devices."""

    step: int
    method: str
    config_hash: str
    data_fingerprint: str
    best: tuple[int, float] | None = None
    totals: Totals = Totals()
    gradient_norms: tuple[float, ...] = ()
    quiet: int = 0
    threads: int | None = None


class Policy(Protocol):
    """What is kept of a policy."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


def write(folder: Path, policy: Policy, optimizer: AdamW, state: State) -> None:
    """Write `folder`/state; the adapter beside it is the policy's own to write.

    `optimizer`: over `policy.parameters.values()`, in one group. Raises OSError or SafetensorError.
    """
    from safetensors.torch import save_file

    names = list(policy.parameters)
    held: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    moments = {f"{names[place]}:{key}": value for place, entry in held.items() for key, value in entry.items()}
    place = folder / STATE
    place.mkdir()
    for file, tensors in ((POLICY_FILE, policy.state()), (OPTIMIZER_FILE, moments)):
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, place / file)
    (place / STATE_FILE).write_text(json.dumps({"version": VERSION, **asdict(state)}, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_state(folder: Path) -> State:
    """Of a checkpoint, without its tensors. Raises InputError."""
    try:
        read: dict[str, Any] = json.loads((folder / STATE / STATE_FILE).read_text(encoding="utf-8"))
        if read.pop("version") != VERSION:
            raise ValueError("it is of another version of layerctl")
        best, totals, norms = read.pop("best"), Totals(**read.pop("totals")), tuple(read.pop("gradient_norms"))
        return State(**read, best=None if best is None else (best[0], best[1]), totals=totals, gradient_norms=norms)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error


def restore(folder: Path, policy: Policy, optimizer: AdamW) -> State:
    """Put a fresh policy and its fresh optimizer, made by the same settings, where they were. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = read_state(folder)
    try:
        weights = load_file(folder / STATE / POLICY_FILE)
        moments = load_file(folder / STATE / OPTIMIZER_FILE)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    places = {name: place for place, name in enumerate(policy.parameters)}
    held: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in places:
            raise InputError(f"the checkpoint {folder} trains {parameter}, which this adapter has not", hint="take its own settings")
        held.setdefault(places[parameter], {})[key] = tensor
    policy.load(weights)
    optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def _damaged(folder: Path, error: Exception) -> InputError:
    hint = f"delete {folder}, and --resume goes on from the checkpoint before it"
    return InputError(f"the checkpoint {folder} cannot be read: {error}", hint=hint)
