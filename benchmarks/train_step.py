"""What a training step costs: seconds and memory by part, beside what the forecast says, with the loop's own code.

    python benchmarks/train_step.py --random --json step.json            one GPU with 80 GB; random weights of the real size, no download
    python benchmarks/train_step.py --model FOLDER --device cpu --size 64 --rank 4 --json step.json        any checkpoint folder

A group of candidates of one picture is sampled, decoded and learned from by the code of `layerctl train`; a step of 8 groups is eight
times that with one optimizer step. Random weights make candidates that no judge can tell apart, so that the rewards are made up; the judge
"pixels" and the guards are timed on what was decoded.

Parts that take turns are compared by medians over `--rounds`. A part's peak is the most that was allocated while it ran, weights included;
on a CPU the process's largest size until then. Each section is kept in the file of `--json` when it is done: the same command once more
goes on with those that are missing. A section that fails is reported and the others go on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from layerctl_train import checkpoint, grpo
from layerctl_train.flow_grpo import advantages
from layerctl_train.forecast import forecast_run
from layerctl_train.guards import penalties
from layerctl_train.held_out import HeldOut
from layerctl_train.interrupt import Interrupt
from layerctl_train.noise import noise
from layerctl_train.picture_store import PictureStore
from layerctl_train.policy import Policy
from layerctl_train.processes import Processes
from layerctl_train.run_folder import RunFolder
from layerctl_train.scoring import GroupScore, Scoring
from layerctl_train.training_data import Entry
from layerctl_train.training_run import TrainingRun
from layerctl_train.windows import Window, window_at

from benchmarks.training_subject import Clock, Subject, add_model_options, configured, peak_bytes, wait
from layerctl import registry
from layerctl.engines.qwen.devices import find_machine, matrix_rate
from layerctl.engines.qwen.loading import free_device_memory
from layerctl.engines.qwen.memory import GB, PIXELS_PER_TOKEN
from layerctl.engines.qwen.model import Condition
from layerctl.layers import LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene
from layerctl.verdict import CRITERIA, Usage

REFERENCE = 51.0
"""Seconds of a group on one H200, by the arithmetic of others' evaluations of 0.34 s."""
SHORT = 4
"""Candidates of the groups by which ways to replay are compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: the median and all seconds, the most bytes, and what else is to be said."""

    name: str
    runs: tuple[float, ...] = ()
    peak: int = 0
    remark: str = ""

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.runs) if self.runs else None


class TimedPolicy(Policy):
    clock: Clock

    @contextmanager
    def reference(self) -> Iterator[None]:
        with self.clock.part("distance from the start"), super().reference():
            yield


class TimedRun(TrainingRun):
    """`is_free`: the model costs nothing, so that what is left is the loop's own."""

    clock: Clock
    is_free = False

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        if self.is_free:
            return x * (1 + 0 * next(iter(self.policy.parameters.values())).flatten()[0])
        within = self.clock.open[-1]
        with self.clock.part({"rollout, rest": "rollout, model", "replay, backward": "replay, forward"}.get(within, within)):
            return super().velocity(x, sigma, condition)

    def optimize(self) -> float:
        with self.clock.part("optimizer"):
            return super().optimize()


class MadeUp(Scoring):
    """Scores that teach, whatever the candidates are; the stacks are kept."""

    def __init__(self) -> None:
        self.stacks: list[LayerStack] = []

    def begin(self, place: int, picture: str, source: SourceImage, stacks: Sequence[LayerStack], told: str) -> Future[GroupScore]:
        self.stacks = list(stacks)
        points = tuple(float(member % 5) for member in range(len(stacks)))
        none = tuple((0.0,) * len(CRITERIA) for _ in stacks)
        done: Future[GroupScore] = Future()
        done.set_result(
            GroupScore(place, picture, 0, points, points, points, none, ((),) * len(points), ("",) * len(points), 4.0, 1.0, "", Usage())
        )
        return done


class Bench:
    """The model with its adapter, a picture, and what they are timed by."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.config = configured(asked)
        settings = self.config.training
        self.base = Subject(asked, self.config)
        self.policy = TimedPolicy(
            self.base.model.transformer, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=settings.seed
        )
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay, eps=settings.adam_epsilon
        )
        self.source, _ = scene(asked.seed, width=asked.size, height=asked.size, elements=3)
        self.store = PictureStore(folder, "benchmark", lambda _: self.source, self.base.encode, self.base.resized)
        self.entry = Entry("scene", self.source.sha256 or "scene", asked.size, asked.size)
        self.scoring = MadeUp()

    @property
    def device(self) -> torch.device:
        return self.base.device

    def run(self, *, is_free: bool = False, **changes: Any) -> TimedRun:
        """A run at its first step, with these training settings changed; policy and optimizer stay as they are."""
        config = replace(self.config, training=replace(self.config.training, **changes))
        made = TimedRun(
            config=config, processes=Processes(self.device), interrupt=Interrupt(print), base=self.base, policy=self.policy,
            optimizer=self.optimizer, store=self.store, targets=None, entries=[self.entry], fingerprint="",
            held_out=HeldOut([], self.store, None, None), scoring=self.scoring, folder=None, tell=print, progress=lambda *_: None,
        )  # fmt: skip
        made.clock = self.base.clock = self.policy.clock = Clock(self.device)
        made.is_free = is_free
        return made

    def group(self, run: TimedRun, step: int, window: Window | None = None, *, decode: bool = False, learn: bool = True) -> grpo.Replays:
        """Sample a group and learn from it; the parts are on the run's clock."""
        settings, self.base.is_decoding = run.settings, decode
        with as_asked(run):
            with run.clock.part("rollout, rest"):
                sampled = grpo.sample_group(run, step, 0, window or window_at(settings, step))
            if not learn:
                return grpo.Replays()
            score = sampled.score.result()
            weights = advantages(
                np.array([score.rewards_G]), np.array([True]), settings.advantage, settings.advantage_floor, settings.advantage_clip
            )
            with run.clock.part("replay, backward"):
                done = grpo.learn(run, [sampled], [score], weights)
        if not math.isfinite(done.ratio):
            raise ValueError("log ratios are no numbers")
        return done


def measure_step(bench: Bench) -> list[Row]:
    """All of a group, and the optimizer's step."""
    bench.group(bench.run(rollout_steps=1 + bench.asked.window, group=3), 0, decode=True)
    free_device_memory(bench.device)
    clocks, firsts, counted = [], [], 0
    for step in range(bench.asked.rounds):
        run = bench.run()
        firsts.append(bench.group(run, step, decode=True).first)
        clocks.append(run.clock)
        counted = run.evaluations
    settings = bench.config.training
    rows = [
        Row(name, tuple(clock.seconds[name] for clock in clocks), max(clock.peaks[name] for clock in clocks)) for name in clocks[0].seconds
    ]
    whole = Row(
        "all of it", tuple(sum(clock.seconds.values()) for clock in clocks), max(row.peak for row in rows), f"{counted} evaluations"
    )
    sampling = next(row for row in rows if row.name == "rollout, model")
    sampled = counted - settings.group * settings.window * (2 if settings.kl else 1)
    each = tuple(seconds / sampled for seconds in sampling.runs)
    forecast = forecast_run(bench.config, bench.base.configs, bench.base.machine, rate=matrix_rate(bench.base.machine), held_out=0)
    aim = "must be 0" if any(firsts) else "as it must be"
    return [
        *rows, whole,
        Row("an evaluation in sampling", each, remark=f"{1 / statistics.median(each):.2f} a second"),
        Row("the forecast", (forecast.seconds,), forecast.device_bytes, "the model alone; memory with what is left free"),
        *([Row("the reference's estimate", (REFERENCE,), remark="one H200, the model alone")] if bench.device.type == "cuda" else []),
        Row("largest log ratio of the first replays, up or down", remark=f"{max(firsts):g}, {aim} ({bench.base.dtype}, checkpointing)"),
    ]  # fmt: skip


def measure_scoring(bench: Bench) -> list[Row]:
    """A group's candidates, one after the other; in a run beside the next group's sampling."""
    if len(bench.scoring.stacks) != bench.asked.group or not bench.scoring.stacks[0].layers:
        bench.group(bench.run(rollout_steps=1 + bench.asked.window), 0, decode=True, learn=False)
    judge = registry.load("judges", "pixels")(bench.config.settings, lambda _: None)
    runs: dict[str, list[float]] = {"guards": [], "judge pixels": []}
    for _ in range(bench.asked.rounds):
        begun = time.perf_counter()
        for stack in bench.scoring.stacks:
            penalties(bench.source, stack, bench.config.training)
        guarded = time.perf_counter()
        judge.score_group(bench.source, bench.scoring.stacks)
        runs["guards"].append(guarded - begun)
        runs["judge pixels"].append(time.perf_counter() - guarded)
    judge.close()
    return [Row(name, tuple(found), peak_bytes(bench.device), f"{bench.asked.group} candidates") for name, found in runs.items()]


def measure_save(bench: Bench) -> list[Row]:
    """A checkpoint, as a run writes it."""
    for parameter in bench.policy.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    bench.optimizer.step()
    bench.optimizer.zero_grad(set_to_none=True)
    state = checkpoint.State(0, "grpo", "", "")
    runs, size = [], 0

    def write(folder: Path) -> None:
        bench.policy.save(folder, averaged=True, base_model="benchmark", wishes={}, embedding=None)
        checkpoint.write(folder, bench.policy, bench.optimizer, state)

    for number in range(bench.asked.rounds):
        with tempfile.TemporaryDirectory(dir=bench.folder) as place, RunFolder.create(Path(place) / "run") as folder:
            begun = time.perf_counter()
            saved = folder.save(number, write)
            runs.append(time.perf_counter() - begun)
            size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    return [Row("saving a checkpoint", tuple(runs), peak_bytes(bench.device), f"{size / 1e6:,.1f} MB on disk")]


def measure_adapter(bench: Bench) -> list[Row]:
    """One evaluation without and with the adapter, whose up halves get numbers, so that what TF32 changes can be seen."""
    run, layers = bench.run(), bench.asked.layers
    condition = bench.base.condition(run.picture(0), layers)
    x, sigma = noise(condition.state_shape, 0, "x").to(bench.device), torch.tensor(0.9, device=bench.device)
    ups = {name: each for name, each in bench.policy.parameters.items() if name.endswith("lora_B")}
    before = {name: each.detach().clone() for name, each in ups.items()}
    ways = {"without the adapter": (False, False), "with it": (True, False)}
    if bench.device.type == "cuda":
        ways["with it, TF32"] = (True, True)

    @torch.no_grad()
    def evaluate(with_adapter: bool, fast: bool) -> torch.Tensor:
        with tf32(fast), nullcontext() if with_adapter else bench.policy.reference():
            return bench.base.model.velocity(x, sigma, condition).float()

    try:
        for number, (name, each) in enumerate(ups.items()):
            each.data = (noise(tuple(each.shape), number, name) * 1e-2).to(bench.device)
        with run.clock.part("all"):
            velocities = {name: evaluate(*way) for name, way in ways.items()}
            runs: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(3 * bench.asked.rounds):
                for name, way in ways.items():
                    runs[name].append(timed(bench.device, partial(evaluate, *way)))
    finally:
        for name, each in ups.items():
            each.data = before[name]
    bare = statistics.median(runs["without the adapter"])
    effect = (velocities["with it"] - velocities["without the adapter"]).norm()
    rows = []
    for name, found in runs.items():
        off = float((velocities[name] - velocities["with it"]).norm() / effect)
        changed = f", its effect changed by {off:.1%}" if name.endswith("TF32") else ""
        rows.append(Row(name, tuple(found), remark=f"{statistics.median(found) / bare - 1:+.1%}{changed}"))
    return rows


def measure_shared_start(bench: Bench) -> list[Row]:
    """Sampling a group whose candidates begin from their own noise or from one, with the first and the last window."""
    rows, training = [], bench.config.training
    for first in sorted({1, min(3, training.rollout_steps - training.window)}):
        for shared in (False, True):
            runs, counted = [], 0
            for step in range(bench.asked.rounds if bench.device.type == "cpu" else 1):
                run = bench.run(shared_start=shared)
                bench.group(run, step, Window(first, training.window), learn=False)
                runs.append(run.clock.seconds["rollout, rest"] + run.clock.seconds["rollout, model"])
                counted = run.evaluations
            rows.append(
                Row(f"window at {first}, {'shared' if shared else 'own'} start", tuple(runs), remark=f"{counted} candidates' evaluations")
            )
    return rows


def measure_ways(bench: Bench) -> list[Row]:
    """Sampling and learning from a short group in several ways: seconds a candidate's evaluation, and its replay, forward and backward."""
    ways: dict[str, dict[str, Any]] = {
        "micro_batch 1, checkpointing": {},
        "micro_batch 2": {"micro_batch": 2},
        "all activations kept": {"checkpointing": False},
        "algorithms that need not repeat": {"deterministic": False},
    }
    if bench.device.type == "cuda":
        ways["TF32 for the adapter"] = {}
    window = Window(1, bench.asked.window)
    short = {"group": SHORT, "rollout_steps": 1 + window.size, "abort_gradient": math.inf}
    lacking: dict[str, str] = {}
    found: dict[str, list[tuple[TimedRun, grpo.Replays]]] = {name: [] for name in ways}
    for number in range(bench.asked.rounds + 1):
        for name in [name for name in ways if name not in lacking]:
            run = bench.run(**short | ways[name])
            try:
                with tf32(name.startswith("TF32")):
                    done = bench.group(run, 0, window)
                # The first turn warms up.
                found[name] += [(run, done)] if number else []
            except torch.OutOfMemoryError as error:
                lacking[name] = f"does not fit: {str(error).splitlines()[0][:120]}"
            if name in lacking:
                bench.optimizer.zero_grad(set_to_none=True)
                free_device_memory(bench.device)
    rows = [Row(name, remark=reason) for name, reason in lacking.items()]
    for name, turns in found.items():
        if not turns or name in lacking:
            continue
        sampling = tuple(run.clock.seconds["rollout, model"] / (SHORT * (1 + window.size)) for run, _ in turns)
        replays = tuple(
            (run.clock.seconds["replay, forward"] + run.clock.seconds["replay, backward"]) / (SHORT * window.size) for run, _ in turns
        )
        ratio = max(done.first for _, done in turns)
        peak = max(run.clock.peaks["replay, backward"] for run, _ in turns)
        times = statistics.median(replays) / statistics.median(sampling)
        rows.append(Row(f"{name}: an evaluation", sampling, max(run.clock.peaks["rollout, model"] for run, _ in turns)))
        rows.append(Row(f"{name}: a replay", replays, peak, f"{times:.2f} evaluations, first log ratio {ratio:g}"))
    return rows


def measure_bookkeeping(bench: Bench) -> list[Row]:
    """A group with a model that costs nothing: what is left is noise, steps, ratios and losses."""
    runs: dict[str, list[float]] = {"sampling": [], "learning": []}
    for step in range(bench.asked.rounds):
        run = bench.run(is_free=True)
        bench.group(run, step)
        runs["sampling"].append(run.clock.seconds["rollout, rest"])
        runs["learning"].append(run.clock.seconds["replay, backward"] + run.clock.seconds.get("distance from the start", 0.0))
    return [Row(f"the loop beside the model, {name}", tuple(found), remark="a group") for name, found in runs.items()]


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "step": measure_step,
    "scoring": measure_scoring,
    "adapter": measure_adapter,
    "ways": measure_ways,
    "shared-start": measure_shared_start,
    "bookkeeping": measure_bookkeeping,
    "save": measure_save,
}


@contextmanager
def as_asked(run: TimedRun) -> Iterator[None]:
    """Repeatable algorithms and checkpointing as the run's settings have them, as a real run sets them."""
    transformer = run.base.model.transformer
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(run.settings.deterministic, warn_only=True)
    if run.settings.checkpointing:
        transformer.enable_gradient_checkpointing()
    else:
        transformer.disable_gradient_checkpointing()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Products of float32 matrices, which are the adapter's, in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def timed(device: torch.device, call: Callable[[], object]) -> float:
    wait(device)
    begun = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begun


def table(rows: Sequence[Row]) -> list[str]:
    lines = ["| | s | fastest to slowest | peak GB | |", "|---|---:|---|---:|---|"]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.4f}"
        spread = f"{min(row.runs):.4f} to {max(row.runs):.4f}" if len(row.runs) > 1 else ""
        lines.append(f"| {row.name} | {seconds} | {spread} | {f'{row.peak / GB:.2f}' if row.peak else ''} | {row.remark} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parse(arguments)
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    about = {name: str(value) for name, value in vars(asked).items() if name not in ("json", "only")}
    about |= {"torch": torch.__version__, "machine": find_machine(asked.device).name}
    kept: dict[str, Any] = {"about": about, "sections": {}}
    if asked.json is not None and asked.json.exists():
        before = json.loads(asked.json.read_text(encoding="utf-8"))
        if before["about"] != about:
            raise SystemExit(f"{asked.json} is of another command or machine: {before['about']}")
        kept = before
    begun = time.perf_counter()
    missing = [name for name in asked.only or SECTIONS if name not in kept["sections"]]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked, Path(folder)) if missing else None
        for name in missing:
            assert bench is not None
            try:
                rows = SECTIONS[name](bench)
            except Exception as error:  # what one section lacks must not stop the others
                print(f"\n{name}: failed, {type(error).__name__}: {str(error).strip()[:500] or 'no reason given'}", flush=True)
                bench.optimizer.zero_grad(set_to_none=True)
                free_device_memory(bench.device)
                continue
            kept["sections"][name] = [asdict(row) for row in rows]
            if asked.json is not None:
                beside = asked.json.with_suffix(".part")
                beside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
                beside.replace(asked.json)
            print(f"{name}, {time.perf_counter() - begun:.0f} s so far", flush=True)
    print(
        f"{about['machine']}, torch {about['torch']}; {asked.size} px, {asked.layers} layers, {asked.group} candidates, {asked.steps} steps"
    )
    for name, found in kept["sections"].items():
        print("\n" + "\n".join([f"{name}:", *table([Row(**row) for row in found])]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="of a rollout")
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--json", type=Path, help="a file for all numbers, from which the same command goes on")
    asked = parser.parse_args(arguments)
    if asked.size % PIXELS_PER_TOKEN or asked.group < SHORT or asked.steps < asked.window + 1:
        parser.error(f"--size must be a multiple of {PIXELS_PER_TOKEN}, --group {SHORT} or more, --steps more than --window")
    return asked


if __name__ == "__main__":
    main()
