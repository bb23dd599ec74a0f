"""Processes that train together, for test_train_processes.py: `python train_ranks.py CHECKPOINT TASK...`.

Where a launcher has set its variables this is one of them; else it becomes two, and tells [exit status, stdout, stderr] of each. What
a task found goes to stdout, a JSON value a line; an error of layerctl's to stderr, with exit status 1.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from layerctl_train.processes import Processes, shard
from layerctl_train.training_settings import TARGETS

from layerctl.errors import LayerctlError

if TYPE_CHECKING:
    from layerctl_train.policy import Policy

TIMEOUT = 60.0
Run = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], int]


def tell(processes: Processes, _: str) -> Any:
    return [processes.gather({"rank": processes.rank}), processes.share(f"from {processes.rank}"), str(processes.device)]


def add(processes: Processes, _: str) -> Any:
    """The sums of two gradients, of which only the first process has the second."""
    parameters = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    parameters[0].grad = torch.full((3, 2), 1.5 + processes.rank)
    if processes.rank == 0:
        parameters[1].grad = torch.arange(4.0)
    processes.sum_gradients(parameters)
    return [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]


def train(processes: Processes, checkpoint: str) -> Any:
    """How far the summed gradient of four samples, two a process, is from that of one process, relative to its norm."""
    transformer, policy = adapted(checkpoint)
    samples = [place for place in range(4) if place % processes.world == processes.rank]
    torch.autograd.backward(loss(transformer, samples))
    processes.sum_gradients(policy.parameters.values())
    summed = gradients(policy)
    alone, one = adapted(checkpoint)
    torch.autograd.backward(loss(alone, range(4)))
    return difference(summed, gradients(one))


def spread(processes: Processes, checkpoint: str) -> Any:
    """Whether a sharded model computes the same, by gradient checkpointing; and the share of the base that this process holds."""
    whole = evaluate(*adapted(checkpoint), processes.rank)
    found = {}
    for checkpointing in (False, True):
        transformer, policy = adapted(checkpoint)
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        shard(transformer, policy, processes)
        v, v_reference, grads, held = evaluate(transformer, policy, processes.rank)
        same = torch.equal(v, whole[0]) and torch.equal(v_reference, whole[1]) and type(grads[0]) is torch.Tensor
        found[str(checkpointing)] = [same, difference(grads, whole[2]), held / whole[3]]
    return found


def die(processes: Processes, _: str) -> Any:
    processes.gather(0)
    if processes.rank == 1:
        os._exit(9)
    processes.sum_gradients([torch.nn.Parameter(torch.zeros(1))])


def adapted(checkpoint: str) -> tuple[Any, Policy]:
    """A transformer with an adapter that has learned something."""
    # Not at the top: what needs no model starts sooner.
    from layerctl_train.policy import Policy

    from layerctl.engines.qwen.checkpoint import read_checkpoint
    from layerctl.engines.qwen.model import load_part

    transformer = load_part(read_checkpoint(Path(checkpoint)), "transformer", torch.float32)
    policy = Policy(transformer, rank=3, alpha=6, targets=TARGETS, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return transformer, policy


def velocity(transformer: Any, seed: int) -> torch.Tensor:
    from layerctl.engines.qwen.model import Condition, LayeredModel

    generator = torch.Generator().manual_seed(seed)
    picture, prompt, x = (torch.randn(1, *shape, generator=generator) for shape in ((6, 64), (5, 16), (18, 64)))
    model = LayeredModel(transformer, None, device=torch.device("cpu"), dtype=torch.float32)
    return model.velocity(x, torch.tensor(0.7), Condition(picture, prompt, 2, 3, 2))


def loss(transformer: Any, seeds: Iterable[int]) -> torch.Tensor:
    return torch.stack([velocity(transformer, seed).square().sum() for seed in seeds]).sum()


def evaluate(transformer: Any, policy: Policy, seed: int) -> Run:
    v = velocity(transformer, seed)
    with policy.reference():
        v_reference = velocity(transformer, seed)
    torch.autograd.backward(v.square().sum())
    base = [parameter for parameter in transformer.parameters() if not parameter.requires_grad]
    held = sum(parameter.to_local().nbytes if hasattr(parameter, "to_local") else parameter.nbytes for parameter in base)
    return v.detach(), v_reference, gradients(policy), held


def gradients(policy: Policy) -> list[torch.Tensor]:
    return [parameter.grad for parameter in policy.parameters.values() if parameter.grad is not None]


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    one, two = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, expected))
    return float((one - two).norm() / two.norm())


TASKS: dict[str, Callable[[Processes, str], Any]] = {each.__name__: each for each in (tell, add, train, spread, die)}


def work(checkpoint: str, tasks: list[str]) -> None:
    try:
        processes = Processes.start("cpu", timeout=TIMEOUT)
        for task in tasks:
            print(json.dumps(TASKS[task](processes, checkpoint)), flush=True)
        processes.close()
    except LayerctlError as error:
        sys.exit(error.message)


def fork(rank: int, files: list[IO[bytes]]) -> int:
    """In the child 0, whose stdout and stderr go into the files; in the parent the child's number."""
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        for stream, file in zip((1, 2), files, strict=True):
            os.dup2(file.fileno(), stream)
    return child


def content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        work(sys.argv[1], sys.argv[2:])
        sys.exit()
    # What is imported before they part is imported once.
    adapted(sys.argv[1])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    outputs: list[list[IO[bytes]]] = [[tempfile.TemporaryFile() for _ in range(2)] for _ in range(2)]  # noqa: SIM115 (open until the end)
    children = []
    for rank, files in enumerate(outputs):
        children.append(fork(rank, files))
        if children[-1] == 0:
            work(sys.argv[1], sys.argv[2:])
            sys.exit()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps([[status, *map(content, files)] for status, files in zip(statuses, outputs, strict=True)]))
