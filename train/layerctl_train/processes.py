"""The processes of one training run: who they are, what they add up and tell each other, and the base spread over them.

Each learns from its own groups; gradients are added up before every optimizer step, so that all hold the same adapter. `torchrun` and
`accelerate launch` start them and say who is who by the same variables.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from layerctl.errors import ConfigError, LayerctlError, MissingDependencyError, ProcessesLostError

if TYPE_CHECKING:
    from layerctl_train.policy import Policy

T = TypeVar("T")

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
HINT = "start with torchrun --nproc-per-node N -m layerctl train ..., or unset them to train in one process"
TIMEOUT = 86400.0
"""Seconds that a process waits for the others: the first one reads all the data while they do (*ours*)."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process: number `rank` of `world`, number `local_rank` on its machine, computing on `device`."""

    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def start(cls, kind: str, *, timeout: float = TIMEOUT) -> Processes:
        """Meet the other processes, by the variables that the launcher has set; alone without them.

        `kind`: of device, such as "cuda", where the GPU of the local rank becomes the current one. Raises ConfigError for variables that
        make no sense, MissingDependencyError for a torch that cannot, LayerctlError when others have not come within `timeout` seconds.
        """
        if not any(name in os.environ for name in PLACES):
            return cls(torch.device(kind))
        rank, world, local_rank = map(_number, PLACES)
        if not 0 <= rank < world or not 0 <= local_rank <= rank:
            raise ConfigError(f"process RANK={rank}, LOCAL_RANK={local_rank} of WORLD_SIZE={world} cannot be", hint=HINT)
        if kind == "cuda":
            if local_rank >= torch.cuda.device_count():
                what = f"LOCAL_RANK is {local_rank}, and this machine has {torch.cuda.device_count()} GPUs"
                raise ConfigError(what, hint="start as many processes a machine as it has GPUs")
            torch.cuda.set_device(local_rank)
        found = cls(torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind), rank, world, local_rank)
        if world > 1:
            found._meet(timeout)
        return found

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum over all processes in place of each gradient, in float32 and one message; none counts as 0."""
        if self.world == 1:
            return
        each = list(parameters)
        flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten().float() for one in each])
        with self._together():
            dist.all_reduce(flat)
        for one, total in zip(each, torch.split(flat, [one.numel() for one in each]), strict=True):
            one.grad = total.view_as(one).to(one.dtype)

    def gather(self, value: T) -> list[T]:
        """What every process has, in the order of their ranks, for all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def share(self, value: T) -> T:
        """What the first process has, for all of them."""
        if self.world == 1:
            return value
        values = [value]
        with self._together():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def close(self) -> None:
        """Part from the others."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _meet(self, timeout: float) -> None:
        missing = [name for name in ADDRESS if name not in os.environ]
        if missing:
            raise ConfigError(f"{missing[0]} is not set, and WORLD_SIZE is {self.world}", hint=HINT)
        # Gloo beside NCCL, for what is said from CPU to CPU.
        backends = {"cpu": "gloo", "cuda": "nccl"} if self.device.type == "cuda" else {"cpu": "gloo"}
        for backend in backends.values():
            if not dist.is_available() or not dist.is_backend_available(backend):
                raise MissingDependencyError(f"this torch has no {backend}, by which processes talk", hint="install torch from pytorch.org")
        try:
            dist.init_process_group(",".join(f"{kind}:{backend}" for kind, backend in backends.items()), timeout=timedelta(seconds=timeout))
        except (RuntimeError, ValueError) as error:
            where = ":".join(os.environ[name] for name in ADDRESS)
            message = f"process {self.rank} of {self.world} has not met the others at {where} within {timeout:g} s: {_first_line(error)}"
            raise LayerctlError(message, hint="see whether all were started, and reach MASTER_ADDR") from error

    def lost(self, error: RuntimeError) -> ProcessesLostError:
        """What torch says when a process is gone, in words."""
        message = f"process {self.rank} of {self.world} has lost the others: {_first_line(error)}"
        return ProcessesLostError(message, hint="see what the others said last, then go on with --resume")

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error


def speaks_of_others(error: RuntimeError) -> bool:
    """Whether it is about processes that are gone, as a base that is spread over them raises it while the model runs."""
    return isinstance(error, dist.DistBackendError) or any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed"))


def shard(transformer: Any, policy: Policy, processes: Processes) -> None:
    """Spread the frozen base over all processes, FSDP2: a block is whole while it computes, and a part at all other times.

    The base may come from the CPU; the adapter goes to the device too, and stays whole. From here on all processes have to evaluate the
    model equally often, forwards and backwards. One process alone holds all of it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    policy.to(processes.device)
    if processes.world == 1:
        transformer.to(processes.device)
        return
    # A velocity is a view; nobody writes into it.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(processes.device.type, (processes.world,))
    whole = set(policy.parameters.values())
    for module in (*transformer.transformer_blocks, transformer):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def is_first() -> bool:
    """Whether this process speaks for all of them; known before they meet."""
    return os.environ.get("RANK", "0") == "0"


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except KeyError:
        there = next(each for each in PLACES if each in os.environ)
        raise ConfigError(f"{there} is set, and {name} is not", hint=HINT) from None
    except ValueError:
        raise ConfigError(f"{name} is {os.environ[name]!r}, no number", hint=HINT) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
