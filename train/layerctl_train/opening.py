"""Everything that a run needs, brought up in the order in which it fits into memory: data and latents, words, then the transformer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from layerctl import registry
from layerctl.engines.qwen.devices import find_machine
from layerctl.engines.qwen.prompts import cache_folder
from layerctl.errors import InputError, UsageError
from layerctl.settings import Settings
from layerctl_train.base import Base
from layerctl_train.evaluate.data import open_data
from layerctl_train.evaluate.example import Example
from layerctl_train.forecast import require_memory
from layerctl_train.held_out import HeldOut, note_best
from layerctl_train.picture_store import PictureStore
from layerctl_train.policy import Policy
from layerctl_train.processes import Processes, shard
from layerctl_train.run_config import check_processes, to_toml, values
from layerctl_train.run_folder import CONFIG, DATA, RunFolder
from layerctl_train.scoring import Scoring
from layerctl_train.sft_targets import TargetStore
from layerctl_train.tracking import open_tracker
from layerctl_train.training_data import Scan, divided, open_training_data, read_again, scan
from layerctl_train.training_run import TrainingRun

if TYPE_CHECKING:
    from layerctl.layers import LayerStack
    from layerctl.registry import Judge, Progress
    from layerctl_train.evaluate.example import Data
    from layerctl_train.interrupt import Interrupt
    from layerctl_train.run_config import RunConfig
    from layerctl_train.training_data import Entry

EVALUATED = "evaluation"
"""Of data.json: the pictures that are evaluated on, where they come from other data."""
STORE = "training"
"""Below the folder of everything that can be made again."""
GROUPS_SCORED_AT_A_TIME = 4
EVALUATION_SHARE = 0.1
"""Of the limits of calls and money, what is for the judge that evaluates, where there is another one."""


@contextmanager
def opened(
    config: RunConfig, path: Path, *, resume: bool, interrupt: Interrupt, tell: Callable[[str], None], progress: Progress
) -> Iterator[TrainingRun]:
    """A run, new or gone on with, loaded.

    Raises UsageError for settings, data or a number of processes that do not go together or not with the run that was begun, InputError
    for data that cannot be read, MissingDependencyError, OutOfMemoryError, and OutputError for a folder that cannot be had.
    """
    settings = config.training
    with ExitStack() as stack:
        processes = stack.enter_context(
            closing(Processes.start("cuda" if find_machine(config.settings.device).device == "cuda" else "cpu"))
        )
        is_first = processes.rank == 0
        if not is_first:
            tell, progress = (lambda _: None), (lambda *_: None)
        check_processes(config, processes.world)
        stack.enter_context(_repeatable(settings.deterministic))
        folder = stack.enter_context(RunFolder.open(path) if resume else RunFolder.create(path)) if is_first else None
        plain, progress = progress, _interruptible(progress, interrupt)
        first = config.settings.judge if settings.method == "grpo" else None
        share = EVALUATION_SHARE if first and settings.evaluation_judge else 0.0
        judge = _judge(config.settings, first, 1 - share, processes, tell)
        second = _judge(config.evaluation_judge_settings, settings.evaluation_judge, share or 1.0, processes, tell)
        for each in (judge, second):
            if each is not None:
                stack.callback(each.close)

        base = Base(config.settings, settings, tell)
        require_memory(config, base.session.configs, base.session.machine, processes.world)
        sources = _Sources(config, config.data, base, tell, limit=settings.limit, with_layers=settings.method == "sft")
        found = _scan(sources, processes, tell, progress)
        train, held = divided(found, settings.holdout if config.evaluation_data is None else 0)
        others, also = sources, None
        if config.evaluation_data is not None:
            others = _Sources(config, config.evaluation_data, base, tell, limit=None, with_layers=False)
            also = _scan(others, processes, tell, progress)
            held = list(also.entries)
            train = _apart(train, held, config.evaluation_data, tell)
        if folder is not None:
            _check_same(folder, found, also, resume=resume)
        if is_first:
            base.prepare_words(chain(map(sources.store.picture, train), map(others.store.picture, held)), progress)
        # What the first process has made the others find on the disk.
        processes.share(None)
        if not is_first:
            base.prepare_words(chain(map(sources.store.picture, train), map(others.store.picture, held)), progress)

        progress("loading the model", 0.0)
        transformer = base.load(aside=settings.shard)
        policy = Policy(
            transformer, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=settings.seed, start=base.start_plan()
        )
        if settings.checkpointing:
            transformer.enable_gradient_checkpointing()
        if settings.shard:
            shard(transformer, policy, processes)
        if config.settings.compile:
            transformer.compile_repeated_blocks()
        optimizer = torch.optim.AdamW(
            policy.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=settings.adam_epsilon
        )
        scoring = None if judge is None else stack.enter_context(closing(Scoring(judge, settings, GROUPS_SCORED_AT_A_TIME)))
        run = TrainingRun(
            config=config, processes=processes, interrupt=interrupt, base=base, policy=policy, optimizer=optimizer, store=sources.store,
            targets=sources.targets, entries=train, fingerprint=found.fingerprint, scoring=scoring, folder=folder, tell=tell,
            progress=plain, held_out=HeldOut(held, others.store, others.truth, second),
        )  # fmt: skip
        logged = _go_on(run, path, resume=resume)
        if folder is not None:
            resumed = run.step if resume else None
            run.tracker = stack.enter_context(closing(open_tracker(settings.track, path, values(config), resumed=resumed, logged=logged)))
        yield run


class _Sources:
    """Some data, and where what is made of it is kept."""

    def __init__(
        self, config: RunConfig, text: str, base: Base, tell: Callable[[str], None], *, limit: int | None, with_layers: bool
    ) -> None:
        settings, folder = config.training, cache_folder() / STORE
        self.limit, self.text, self.offline, self.max_pixels = limit, text, config.settings.offline, config.settings.max_pixels
        self.data = open_training_data(
            text,
            offline=self.offline,
            with_layers=with_layers,
            with_prompts=settings.prompt_mode == "given",
            max_pixels=self.max_pixels,
        )
        self.store = PictureStore(
            folder, base.mark, lambda entry: read_again(self.data, entry).source, base.encode, base.resized, tell,
            base.session.checkpoint.pixels_per_token,
        )  # fmt: skip
        self.targets = TargetStore(folder, base.mark, settings.layers[1], self._layers, base.encode, tell) if with_layers else None

    @property
    def truth(self) -> Data | None:
        """The same pictures with their layers, where they are known."""
        if self.text.startswith("hub:") or self.text.lower().endswith((".txt", ".jsonl")):
            return None
        data = open_data(self.text, offline=self.offline, max_pixels=self.max_pixels)
        first = next((each for each in data.examples(data.keys()) if isinstance(each, Example)), None)
        return data if first is not None and first.truth is not None else None

    def keep(self, entry: Entry, example: Example) -> None:
        self.store.keep(entry, example.source)
        if self.targets is not None:
            picture = self.store.picture(entry).source
            assert example.truth is not None
            self.targets.keep(entry, example.truth, (picture.width, picture.height))

    def _layers(self, entry: Entry) -> LayerStack:
        truth = read_again(self.data, entry).truth
        assert truth is not None
        return truth


def _scan(sources: _Sources, processes: Processes, tell: Callable[[str], None], progress: Progress) -> Scan:
    """Read by the first process, known to all."""
    found = scan(sources.data, sources.keep, limit=sources.limit, tell=tell, progress=progress) if processes.rank == 0 else None
    shared = processes.share(found)
    assert shared is not None
    return shared


def _apart(train: list[Entry], held: list[Entry], evaluated: str, tell: Callable[[str], None]) -> list[Entry]:
    """The pictures to train on that are not evaluated on. Raises UsageError when none is left."""
    known = {entry.sha256 for entry in held}
    left = [entry for entry in train if entry.sha256 not in known]
    if not left:
        raise UsageError(f"all pictures of the data are in --eval-data {evaluated} too", hint="give other data for one of them")
    if len(left) < len(train):
        tell(f"{len(train) - len(left)} pictures are in --eval-data {evaluated} too, and are not trained on")
    return left


def _go_on(run: TrainingRun, path: Path, *, resume: bool) -> int | None:
    """Put a resumed run where its last checkpoint was, write down what a run begins with; the last step that was recorded before."""
    latest = RunFolder(path).latest() if resume else None
    if latest is not None:
        run.restore(latest)
        if run.step > run.settings.updates:
            raise UsageError(
                f"the run is at step {run.step} already, and --updates is {run.settings.updates}",
                hint=f"give more: --updates {2 * run.step}",
            )
    logged = None
    if run.folder is not None:
        logged = max((entry["step"] for entry in run.folder.records("metrics")), default=None)
        run.folder.cut("metrics", run.step)
        run.folder.cut("evaluations", run.saved)
        # A step that was saved before it was evaluated does not know it yet.
        for entry in run.folder.records("evaluations"):
            note_best(run, entry["step"], entry)
        run.folder.write(CONFIG, to_toml(run.config))
    run.tell(f"{'going on after' if latest else 'beginning at'} step {run.step} of {run.settings.updates}, {len(run.entries)} pictures")
    return logged


def _check_same(folder: RunFolder, found: Scan, evaluated: Scan | None, *, resume: bool) -> None:
    """A run goes on with the pictures that it began with, or the order of training would change unseen."""
    if not resume:
        folder.write(DATA, json.dumps(found.to_json() | ({EVALUATED: evaluated.to_json()} if evaluated else {}), indent=1))
        return
    try:
        before = json.loads((folder.path / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path / DATA} is damaged: {error}", hint="take it from a copy, or begin a new run") from error
    _refuse_others(Scan.from_json(before), found)
    if evaluated is not None:
        _refuse_others(Scan.from_json(before.get(EVALUATED)), evaluated)


def _refuse_others(before: Scan, found: Scan) -> None:
    if before.fingerprint == found.fingerprint:
        return
    then, now = ({entry.sha256: entry.key for entry in each.entries} for each in (before, found))
    gone, new = [then[each] for each in then.keys() - now.keys()], [now[each] for each in now.keys() - then.keys()]
    told = [f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])})" for what, keys in (("gone", gone), ("new", new)) if keys]
    raise UsageError(
        f"the pictures of {found.name} are not those that the run began with: {', '.join(told) or 'their prompts or their order changed'}",
        hint="put them back, or begin a new run from this one's adapter: --start RUN/adapter",
    )


def _interruptible(progress: Progress, interrupt: Interrupt) -> Progress:
    """Looks at signals wherever progress is told."""

    def told(what: str, share: float) -> None:
        interrupt.check()
        progress(what, share)

    return told


def _judge(settings: Settings, name: str | None, share: float, processes: Processes, tell: Callable[[str], None]) -> Judge | None:
    """A judge with a `share` of what the run may spend, and of that this process's."""
    if name is None:
        return None
    calls, cost, world = settings.max_judge_calls, settings.max_judge_cost, processes.world
    own = replace(
        settings,
        judge_concurrency=max(1, settings.judge_concurrency // world),
        judge_requests_per_minute=-(-settings.judge_requests_per_minute // world),
        judge_tokens_per_minute=-(-settings.judge_tokens_per_minute // world),
        max_judge_calls=None if calls is None else int(calls * share) // world,
        max_judge_cost=None if cost is None else cost * share / world,
    )
    made: Judge = registry.load("judges", name)(own, tell)
    return made


@contextmanager
def _repeatable(wanted: bool) -> Iterator[None]:
    """The device's repeatable algorithms, where it has them."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
