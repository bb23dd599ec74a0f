"""Generate, score, train: the loop of the Stable-Layers method (arXiv 2605.30257) with Flow-GRPO (arXiv 2505.05470), and what runs it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerctl.errors import LayerctlError, OutOfMemoryError, ProcessesLostError, TrainingStoppedError
from layerctl_train import grpo, held_out, sft
from layerctl_train.flow_grpo import advantages
from layerctl_train.interrupt import Interrupt
from layerctl_train.opening import opened
from layerctl_train.processes import is_first, speaks_of_others
from layerctl_train.report import write_report
from layerctl_train.scoring import reasons, score_metrics
from layerctl_train.sheets import SheetRow, write_sheet
from layerctl_train.windows import window_at

if TYPE_CHECKING:
    from layerctl_train.run_config import RunConfig
    from layerctl_train.training_run import TrainingRun

INTERRUPTED = 130
SMALLER = "begin a new run with a smaller --size, fewer --layers or a smaller rank; several GPUs share the base with --set shard=true"
SHOWN = 8
"""Held-out pictures on a contact sheet."""


def run_training(
    config: RunConfig, folder: Path, *, resume: bool, tell: Callable[[str], None], progress: Callable[[str, float], None]
) -> int:
    """Train to the end, or until Ctrl-C or SIGTERM, which save and leave; the exit code.

    Raises what opening a run raises, JudgeStoppedError and TrainingStoppedError; what was learned until then is saved.
    """
    told = tell if is_first() else lambda _: None
    with Interrupt(told) as interrupt, opened(config, folder, resume=resume, interrupt=interrupt, tell=tell, progress=progress) as run:
        try:
            keep(run)
            while run.step < run.settings.updates:
                step = train_grpo if run.settings.method == "grpo" else train_sft
                step(run, run.step)
                keep(run)
        except BaseException as error:
            if not interrupt.urgent:
                run.save()
                if isinstance(error, LayerctlError | KeyboardInterrupt) and not run.learned:
                    finish(run)
            if not isinstance(error, TrainingStoppedError):
                where = shlex.quote(str(folder))
                run.tell(f"stopped after step {run.saved} of {run.settings.updates}; to go on: layerctl train --resume -o {where}")
            # Whoever is told to leave finds some of the others gone before.
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, ProcessesLostError) and interrupt.noted):
                return INTERRUPTED
            if isinstance(error, torch.OutOfMemoryError):
                raise OutOfMemoryError(f"the {run.base.device.type} device ran out of memory", hint=SMALLER) from error
            if isinstance(error, RuntimeError) and run.processes.world > 1 and speaks_of_others(error):
                if interrupt.noted:
                    return INTERRUPTED
                raise run.processes.lost(error) from error
            raise
        finish(run)
    return 0


def train_grpo(run: TrainingRun, step: int) -> None:
    """One step: sample -> reward -> advantage -> update."""
    settings, begun = run.settings, time.monotonic()
    window = window_at(settings, step)

    # Each group is scored while the next ones are sampled; nothing is learned from before all of the step is scored.
    groups = [grpo.sample_group(run, step, place, window) for place in run.places(settings.groups)]
    sampled = time.monotonic()

    own = [run.interrupt.wait(group.score) for group in groups]
    scores = sorted((score for process in run.processes.gather(own) for score in process), key=lambda score: score.place)
    judged = time.monotonic()
    run.watch.check_scores(scores)

    rewards_PG = np.array([score.rewards_G for score in scores])
    taught_P = np.array([not score.why_not for score in scores])
    advantages_PG = advantages(rewards_PG, taught_P, settings.advantage, settings.advantage_floor, settings.advantage_clip)

    with run.whole():
        run.watch.check_quiet(int(taught_P.sum()), scores)
        learned = grpo.learn(run, groups, scores, advantages_PG)
        run.finish_step(
            {
                **score_metrics(scores),
                **grpo.replay_metrics(learned, run),
                "groups/taught": int(taught_P.sum()),
                "groups/skipped": int((~taught_P).sum()),
                "reasons": reasons(scores),
                "advantage/abs": float(np.abs(advantages_PG[taught_P]).mean()) if taught_P.any() else 0.0,
                "learning_rate": run.learning_rate,
                "window/first": window.first,
                "seconds/sample": sampled - begun,
                "seconds/judge": judged - sampled,
                "seconds/learn": time.monotonic() - judged,
            },
            begun,
        )


def train_sft(run: TrainingRun, step: int) -> None:
    """One step: layered pictures -> noisy states -> the velocity's error -> update."""
    begun = time.monotonic()
    losses = [sft.add_gradient(run, step, place) for place in run.places(run.settings.sft_batch)]
    everyone = [loss for process in run.processes.gather(losses) for loss in process]
    run.processes.sum_gradients(run.policy.parameters.values())
    with run.whole():
        norm = run.optimize()
        found = {"loss/flow": sum(everyone) / len(everyone), "gradient/norm": norm, "learning_rate": run.learning_rate}
        run.finish_step({**found, "seconds/learn": time.monotonic() - begun}, begun)


def keep(run: TrainingRun) -> None:
    """Evaluate and save where the step asks for it."""
    settings = run.settings
    last = run.step == settings.updates
    due = bool(settings.evaluate_every) and (last or run.step % settings.evaluate_every == 0) and bool(run.held_out.entries)
    if due and not run.is_evaluated():
        evaluate(run)
    if due or last or run.step % settings.save_every == 0:
        run.save()
        if run.folder is not None:
            write_report(run.folder)


def evaluate(run: TrainingRun) -> None:
    """Measure the held-out pictures, show them, and note whether this is the best step so far."""
    found = run.held_out.evaluate(run)
    record = held_out.record(found)
    held_out.note_best(run, run.step, record)
    run.count(record)
    if run.folder is not None:
        run.folder.append("evaluations", {"step": run.step, **record})
        rows = [SheetRow(each.key, each.picture.source, each.stack, f"quality {each.values[held_out.MAIN]:.3f}") for each in found[:SHOWN]]
        run.folder.sample(run.step, lambda path: write_sheet(path, rows, title=f"after step {run.step}"))
    shown = ", ".join(f"{name} {record['values'][name]:.3f}" for name in (held_out.JUDGED, held_out.MAIN) if name in record["values"])
    run.tell(f"step {run.step}: {len(found)} held-out pictures, {shown}")


def finish(run: TrainingRun) -> None:
    """Write what came out, and say where it is."""
    adapter = run.write_adapter()
    if run.folder is None or adapter is None:
        return
    report = write_report(run.folder)
    run.tell(f"{adapter}: the adapter after {run.step} steps; {report.name} shows the run")
    if run.best is not None and run.best[0] != run.step:
        run.tell(f"the best evaluation was after step {run.best[0]}: {run.folder.checkpoints().get(run.best[0], 'not kept')}")
