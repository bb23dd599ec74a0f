"""Processes that train together: real ones, over gloo on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from layerctl_train.policy import Policy
from layerctl_train.processes import ADDRESS, PLACES, Processes, shard

from layerctl.errors import ConfigError, LayerctlError, MissingDependencyError

RANKS = Path(__file__).with_name("train_ranks.py")
TASKS = ("tell", "add", "train", "spread")
Ended = tuple[int, str, str]
"""Exit status, stdout and stderr."""


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PLACES, *ADDRESS):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def launched(*command: str) -> str:
    """What the command says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def together(tiny: Path) -> list[Ended]:
    """Two processes that have done all of the tasks in turn and the second of which dies in the last, by rank."""
    ended: list[Ended] = json.loads(launched(str(RANKS), str(tiny), *TASKS, "die"))
    return ended


def answers(together: list[Ended], task: str) -> list[Any]:
    """What each process found."""
    for _, out, err in together:
        assert len(out.splitlines()) == len(TASKS), err
    return [json.loads(out.splitlines()[TASKS.index(task)]) for _, out, _ in together]


def test_without_a_launcher_there_is_one_process() -> None:
    alone = Processes.start("cpu")
    assert (alone.rank, alone.world, alone.local_rank, alone.device) == (0, 1, 0, torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.zeros(2))
    alone.sum_gradients([parameter])
    assert parameter.grad is None
    assert (alone.gather("a"), alone.share("b")) == (["a"], "b")
    alone.close()


def test_a_launcher_of_one_process_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    assert Processes.start("cpu") == Processes(torch.device("cpu"))
    assert not torch.distributed.is_initialized()


def set_variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK is set, and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "RANK is set, and LOCAL_RANK is not"),
        ({"RANK": "0", "WORLD_SIZE": "two", "LOCAL_RANK": "0"}, "WORLD_SIZE is 'two', no number"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2, LOCAL_RANK=0 of WORLD_SIZE=2 cannot be"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set, and WORLD_SIZE is 2"),
    ],
)
def test_variables_that_make_no_sense_are_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    set_variables(monkeypatch, **variables)
    with pytest.raises(ConfigError, match=message) as caught:
        Processes.start("cpu")
    assert "torchrun" in str(caught.value.hint)


def test_processes_that_do_not_come_are_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    set_variables(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with pytest.raises(LayerctlError, match=rf"process 1 of 2 has not met the others at 127\.0\.0\.1:{port} within 0\.5 s"):
        Processes.start("cpu", timeout=0.5)


def test_a_torch_that_cannot_talk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda backend: False)
    with pytest.raises(MissingDependencyError, match="this torch has no gloo"):
        Processes.start("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, RANK="8", WORLD_SIZE="16", LOCAL_RANK="8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(ConfigError, match="LOCAL_RANK is 8, and this machine has 8 GPUs"):
        Processes.start("cuda")


def test_all_processes_are_told_the_same_in_the_order_of_their_ranks(together: list[Ended]) -> None:
    expected = [[{"rank": 0}, {"rank": 1}], "from 0", "cpu"]
    assert answers(together, "tell") == [expected, expected]


def test_gradients_are_added_up_and_none_counts_as_nothing(together: list[Ended]) -> None:
    expected = [[[4.0, 4.0]] * 3, [0.0, 1.0, 2.0, 3.0]]
    assert answers(together, "add") == [expected, expected]


def test_two_processes_have_the_gradient_of_one(together: list[Ended]) -> None:
    first, second = answers(together, "train")
    assert first == second <= 1e-6


def test_a_process_that_dies_ends_the_others(together: list[Ended]) -> None:
    first, second = together
    assert (first[0], second[0]) == (1, 9)
    assert "process 0 of 2 has lost the others: " in first[2].splitlines()[-1]


def test_a_base_that_is_spread_computes_the_same_and_takes_half_the_memory(together: list[Ended]) -> None:
    for found in answers(together, "spread"):
        for same, difference, share in found.values():
            assert same
            assert difference <= 1e-6
            assert share == pytest.approx(0.5, abs=0.01)


def test_one_process_alone_holds_all_of_the_base() -> None:
    transformer = QwenImageTransformer2DModel(num_layers=2, num_attention_heads=2, attention_head_dim=16, axes_dims_rope=(8, 4, 4))
    policy = Policy(transformer, rank=2, alpha=4, targets=("to_q",), seed=0)
    before = {name: id(parameter) for name, parameter in transformer.named_parameters()}
    shard(transformer, policy, Processes.start("cpu"))
    assert {name: id(parameter) for name, parameter in transformer.named_parameters()} == before
    assert not torch.distributed.is_initialized()


def test_torchrun_starts_them_too() -> None:
    said = launched("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(RANKS), "no checkpoint", "tell")
    assert said.count(json.dumps([[{"rank": 0}, {"rank": 1}], "from 0", "cpu"])) == 2
