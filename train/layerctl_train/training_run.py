"""A training run: what is loaded, what step it is at, and everything that is kept of it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from layerctl_train import checkpoint
from layerctl_train.checkpoint import State, Totals
from layerctl_train.run_config import config_hash
from layerctl_train.training_data import order
from layerctl_train.trends import duration
from layerctl_train.watchdog import Watchdog

if TYPE_CHECKING:
    from layerctl.engines.qwen.model import Condition
    from layerctl_train.base import Base
    from layerctl_train.held_out import HeldOut
    from layerctl_train.interrupt import Interrupt
    from layerctl_train.picture_store import Picture, PictureStore
    from layerctl_train.policy import Policy
    from layerctl_train.processes import Processes
    from layerctl_train.run_config import RunConfig
    from layerctl_train.run_folder import RunFolder
    from layerctl_train.scoring import Scoring
    from layerctl_train.sft_targets import Target, TargetStore
    from layerctl_train.tracking import Tracker
    from layerctl_train.training_data import Entry
    from layerctl_train.training_settings import TrainingSettings

BETWEEN_LINES = 10.0
"""Seconds between two lines about steps."""
FINAL, COMFYUI = "adapter", "comfyui/adapter.safetensors"


@dataclass(slots=True, eq=False)
class TrainingRun:
    """`folder`, `tracker`: of the first process alone. `step`: how many are done. `entries`: the pictures that are trained on.

    `scoring`: None where no judge is needed. `best`: step and value of the best evaluation. `learned`: the weights are ahead of `step`.
    """

    config: RunConfig
    processes: Processes
    interrupt: Interrupt
    base: Base
    policy: Policy
    optimizer: torch.optim.AdamW
    store: PictureStore
    targets: TargetStore | None
    entries: Sequence[Entry]
    fingerprint: str
    held_out: HeldOut
    scoring: Scoring | None
    folder: RunFolder | None
    tell: Callable[[str], None]
    progress: Callable[[str, float], None]
    tracker: Tracker | None = None
    step: int = 0
    best: tuple[int, float] | None = None
    totals: Totals = field(default_factory=Totals)
    evaluations: int = 0
    learned: bool = False
    saved: int = -1
    announced: float = -math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    watch: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watchdog(self.settings)

    @property
    def settings(self) -> TrainingSettings:
        return self.config.training

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The policy's, counted."""
        self.evaluations += len(x)
        return self.base.model.velocity(x, sigma, condition)

    def picture(self, position: int) -> Picture:
        """The picture at a place of all that training sees, from 0."""
        return self.store.picture(self._entry(position))

    def target(self, position: int) -> Target:
        """The layers at a place of all that training sees, from 0."""
        assert self.targets is not None
        entry = self._entry(position)
        return self.targets.target(entry, self.store.picture(entry))

    def places(self, count: int) -> range:
        """Those of `count` places of a step that are this process's."""
        return range(self.processes.rank, count, self.processes.world)

    def averaged(self) -> AbstractContextManager[None]:
        """With the average of the weights, if there is one."""
        return self.policy.averaged() if self.settings.ema_decay else nullcontext()

    def optimize(self) -> float:
        """One optimizer step with the gradients that are there; returns their norm. Raises TrainingStoppedError before it."""
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.policy.parameters.values()), self.settings.gradient_clip or math.inf))
        self.watch.check_gradient(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.learned = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @property
    def learning_rate(self) -> float:
        return self.settings.learning_rate * min(1.0, (self.step + 1) / max(1, self.settings.warmup))

    def tick(self) -> None:
        """Between two evaluations of the model: leave if that is asked for, where it leaves no other process behind."""
        if not self.settings.shard:
            self.interrupt.check()

    def meet(self) -> None:
        """Where all processes come equally often: leave together if any of those that share the base is asked to."""
        if self.settings.shard and any(self.processes.gather(self.interrupt.noted)):
            self.interrupt.noted = True
        self.interrupt.check()

    def finish_step(self, metrics: Mapping[str, Any], begun: float) -> None:
        """Record the step and count it. `begun`: when, by `time.monotonic`."""
        found = {**metrics, "evaluations": sum(self.processes.gather(self.evaluations)), "seconds/step": time.monotonic() - begun}
        if self.folder is not None:
            self.folder.append("metrics", {"step": self.step + 1, **found})
        self.step += 1
        self._average()
        self.learned = False
        self.evaluations = 0
        self.count(found)
        if self.tracker is not None:
            self.tracker.log(self.step, found)
        self._announce(found)

    def count(self, found: Mapping[str, Any]) -> None:
        """Add a step's or an evaluation's numbers to those of the run."""
        totals, dollars = self.totals, found.get("judge/dollars", 0.0 if "judge/calls" not in found else None)
        self.totals = replace(
            totals,
            evaluations=totals.evaluations + int(found.get("evaluations", 0)),
            judge_calls=totals.judge_calls + int(found.get("judge/calls", 0)),
            judge_tokens=totals.judge_tokens + int(found.get("judge/tokens", 0)),
            dollars=None if totals.dollars is None or dollars is None else totals.dollars + dollars,
            seconds=totals.seconds + found.get("seconds/step", 0.0),
        )

    def is_evaluated(self) -> bool:
        """Whether the evaluation of this step is recorded."""
        own = self.folder is not None and any(entry["step"] == self.step for entry in self.folder.records("evaluations"))
        return self.processes.share(own)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A step's learning and its record, all of it or nothing: what ends it in between leaves the step before, or nothing to save."""
        norms, quiet = tuple(self.watch.norms), self.watch.quiet
        # With one optimizer step nothing but a fault can come between it and the record.
        begun, before = self.step, self._state() if self.settings.optimizer_steps > 1 else None
        try:
            yield
        except BaseException:
            if self.step == begun:
                self.watch.norms, self.watch.quiet = deque(norms, maxlen=self.watch.norms.maxlen), quiet
            # Behind the count there is no way back, and no way to tell how far it came: then nothing is saved.
            if self.learned and before is not None and self.step == begun:
                self.policy.load(before[0])
                self.optimizer.load_state_dict(before[1])
                self.learned = False
            raise

    def save(self) -> None:
        """Keep everything that the next step needs; in the first process, once a step."""
        if self.folder is None or self.saved == self.step or self.learned:
            return
        self.folder.save(self.step, self._write_checkpoint)
        self.saved = self.step
        self.folder.prune(self.settings.keep, self.best[0] if self.best else None)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        state = checkpoint.restore(folder, self.policy, self.optimizer)
        self.step = self.saved = state.step
        self.best, self.totals = state.best, state.totals
        self.watch.norms.extend(state.gradient_norms)
        self.watch.quiet = state.quiet
        if state.threads is not None and self.base.device.type == "cpu":
            # The bits of a sum depend on how it is split.
            torch.set_num_threads(state.threads)

    def write_adapter(self) -> Path | None:
        """What came out, in PEFT's form and in ComfyUI's; None in other processes than the first."""
        if self.folder is None:
            return None

        def write(folder: Path) -> None:
            self._save_adapter(folder)
            (folder / COMFYUI).parent.mkdir()
            self.policy.save_comfyui(folder / COMFYUI, averaged=bool(self.settings.ema_decay))

        return self.folder.fill(FINAL, write)

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Weights and moments, copied to main memory."""
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.policy.state().items()}
        held = self.optimizer.state_dict()
        moments = {at: {key: value.to("cpu", copy=True) for key, value in entry.items()} for at, entry in held["state"].items()}
        return weights, {**held, "state": moments}

    def _average(self) -> None:
        """The weights themselves until the first average is due, then a decay that rises to the asked one, so that short runs have one."""
        settings = self.settings
        averages, rest = divmod(self.step, settings.ema_every)
        if not averages:
            self.policy.average(0.0)
        elif not rest:
            self.policy.average(min(settings.ema_decay, averages / (9 + averages)))

    def _announce(self, found: Mapping[str, Any]) -> None:
        """One line about the step, not too often, and how long the rest takes by the last steps."""
        now, total = time.monotonic(), self.settings.updates
        self.recent.append(found["seconds/step"])
        left = fmean(self.recent) * (total - self.step)
        parts = [f"step {self.step} of {total}"]
        parts += [f"reward {found['reward/mean']:.2f}"] if "reward/mean" in found else []
        parts += [f"loss {found['loss/flow']:.4f}"] if "loss/flow" in found else []
        parts += [f"{found['groups/taught']:.0f} of {self.settings.groups} groups taught"] if "groups/taught" in found else []
        parts += [f"{found['seconds/step']:.0f} s", f"about {duration(left)} left"]
        parts += [f"${self.totals.dollars:.2f} spent"] if self.totals.dollars else []
        line = ", ".join(parts)
        self.progress(line, self.step / total)
        if now - self.announced > BETWEEN_LINES or self.step == total:
            self.announced = now
            self.tell(line)

    def _entry(self, position: int) -> Entry:
        return self.entries[order(len(self.entries), self.settings.seed, position)]

    def _write_checkpoint(self, folder: Path) -> None:
        self._save_adapter(folder)
        state = State(
            step=self.step,
            method=self.settings.method,
            config_hash=config_hash(self.config),
            data_fingerprint=self.fingerprint,
            best=self.best,
            totals=self.totals,
            gradient_norms=tuple(self.watch.norms),
            quiet=self.watch.quiet,
            threads=torch.get_num_threads() if self.base.device.type == "cpu" else None,
        )
        checkpoint.write(folder, self.policy, self.optimizer, state)

    def _save_adapter(self, folder: Path) -> None:
        self.policy.save(
            folder,
            averaged=bool(self.settings.ema_decay),
            base_model=self.base.session.checkpoint.name,
            wishes=self.base.words,
            embedding=self.base.kept_embedding(),
        )
