"""Processes that train, each a `layerctl` of its own: forked by a server that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

# What a run loads when it needs it.
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from layerctl_train import loop
from transformers import Qwen2_5_VLForConditionalGeneration

from layerctl import cli, registry
from layerctl.layers import LayerStack
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict
from tests.train_run import Quick

PRELOADED = (AutoencoderKLQwenImage, QwenImageTransformer2DModel, Qwen2_5_VLForConditionalGeneration, loop)
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Sums come out the same with the same number of threads alone."""
PATIENCE = 90.0


class Square(Quick):
    """Points by picture and place in the group, which no rounding changes; only pictures as wide as high teach something."""

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        points = iter([int(7 * place + source.pixels.sum(dtype=int)) % 10 for place in range(len(stacks))])
        quick = Quick(lambda _: next(points), "" if source.width == source.height else "not a square")
        return quick.score_group(source, stacks, told)


SQUARE = Square()


@dataclass(frozen=True, slots=True)
class Started:
    """`log`: what it says on both streams."""

    process: BaseProcess
    log: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def ended(self, within: float = PATIENCE) -> int:
        """Its exit code, the negative number of the signal that killed it."""
        self.process.join(within)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"it hangs: {self.said}")
        return code


def start(log: Path, *arguments: str, **variables: str) -> Started:
    """`layerctl` with these arguments, in this folder, with these variables besides the server's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ALONE | {"PYTHONPATH": str(Path(__file__).parents[1])}).items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    wanted = ALONE | {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"], **variables}
    process = context.Process(target=_run, args=(arguments, wanted, log), daemon=True)
    process.start()
    return Started(process, log)


def start_ranks(folder: Path, world: int, *arguments: str) -> list[Started]:
    """The same in several processes that train together, as a launcher starts them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start(folder / f"rank-{rank}.log", *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(world)]


def wait_for(what: Callable[[], object], started: Started) -> None:
    begun = time.monotonic()
    while not what():
        assert started.process.is_alive(), started.said
        assert time.monotonic() < begun + PATIENCE, started.said
        time.sleep(0.002)


def wait_for_step(step: int, started: Started, run: Path) -> None:
    """Until it is recorded."""
    file = run / "metrics.jsonl"
    wait_for(lambda: not step or (file.exists() and file.read_bytes().count(b"\n") >= step), started)


def _run(arguments: tuple[str, ...], variables: dict[str, str], log: Path) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # What has been imported reads its variable no more.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    registry.BUILT_IN["judges"]["square"] = f"{__name__}:SQUARE"
    sys.exit(cli.main(arguments))
