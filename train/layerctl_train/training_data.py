"""The pictures of a training run: where they come from, what a scan finds in them, which are held out, and in what order they come.

The scan reads every picture whole, once, before the first step: what cannot be read is told and left out there, never in the middle of a
run. From then on a picture is known by its content, and what others do to its file changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from layerctl.errors import InputError, UsageError
from layerctl.layered_files import PSD_SUFFIXES
from layerctl.layers import LayerStack, fingerprint
from layerctl.registry import Progress
from layerctl.settings import MAX_PIXELS
from layerctl.source import SourceImage, read_source
from layerctl_train.evaluate.data import Items, open_data, read_layered
from layerctl_train.evaluate.example import Data, Example, Skipped
from layerctl_train.hub_data import hub_data
from layerctl_train.noise import draw
from layerctl_train.sample import Sample, TrainingData

_FORMS = "give a folder, a list (.txt, .jsonl), hub:ORG/NAME or scenes"
_NO_LAYERS = "give layered files (PSD, results of layerctl, folders of PNG layers) or scenes, or train with --method grpo"
_PUT_BACK = "put the picture back as it was, or begin a new run"


def open_training_data(
    text: str, *, offline: bool = False, with_layers: bool = False, with_prompts: bool = True, max_pixels: int = MAX_PIXELS
) -> TrainingData:
    """What `--data` of `layerctl train` means; `offline`: nothing may be fetched; pictures with more than `max_pixels` are left out.

    A picture, a layered file or a folder of either (also as "pictures:FOLDER", "layered:FOLDER"); "LIST.txt", a path a line; "LIST.jsonl",
    {"file": ..., "prompt": ...} a line; "hub:ORG/NAME[@REVISION][:SPLIT]"; "scenes", "scenes:200". What `photo.txt` beside `photo.jpg`
    says is its prompt. `with_layers`: examples keep their layers, and those without are refused; else only what the layers flatten to is
    taken. `with_prompts`: what lies beside a file is read. Raises UsageError for anything else, InputError for data with nothing in it.
    """
    if text.startswith("hub:"):
        if with_layers:
            raise UsageError(f"--data {text} has no layers to learn from", hint=_NO_LAYERS)
        return hub_data(text.removeprefix("hub:"), offline=offline, max_pixels=max_pixels)
    if text == "crello" or text.startswith("crello:"):
        raise UsageError(f"--data {text} is what evaluation measures on: nothing is trained on it", hint=_FORMS)
    path = Path(text)
    if path.suffix.lower() in (".txt", ".jsonl") and path.is_file():
        files, prompts = _listed(path)
        return _Known(Items(f"list {path.name}", files, partial(_read, max_pixels=max_pixels)), prompts, with_layers, with_prompts)
    if not text.startswith(("scenes", "layered:", "pictures:")) and not path.exists():
        raise UsageError(f"--data {text}: there is no such file or folder", hint=_FORMS)
    try:
        data = open_data(text, offline=offline, max_pixels=max_pixels)
    except (InputError, UsageError) as error:
        # What evaluation takes is offered there too.
        raise type(error)(error.message, hint=_FORMS if "crello" in (error.hint or "") else error.hint) from error
    return _Known(data, {}, with_layers, with_prompts)


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """Data whose keys are known before it is read. `prompts`: by key, before those that lie beside the files."""

    data: Data
    prompts: Mapping[str, str]
    with_layers: bool
    with_prompts: bool

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def count(self) -> int:
        return len(self.data.keys())

    def samples(self, keys: Collection[str] | None = None) -> Generator[Sample | Skipped]:
        for example in self.data.examples(self.data.keys() if keys is None else [*keys]):
            yield example if isinstance(example, Skipped) else self._sample(example)

    def _sample(self, example: Example) -> Sample | Skipped:
        if self.with_layers and example.truth is None:
            raise UsageError(f"{example.key} of {self.name} has no layers to learn from", hint=_NO_LAYERS)
        try:
            prompt = (self.prompts.get(example.key) or _prompt_beside(example.source.path)) if self.with_prompts else None
        except (OSError, UnicodeDecodeError) as error:
            return Skipped(example.key, f"the prompt beside it cannot be read: {error}")
        return Sample(example if self.with_layers else replace(example, truth=None), prompt)


def _read(path: Path, max_pixels: int) -> tuple[SourceImage, LayerStack | None]:
    is_layered = path.is_dir() or path.suffix.lower() in PSD_SUFFIXES
    return read_layered(path) if is_layered else (read_source(path, max_pixels=max_pixels), None)


def _listed(path: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of a list by key, in its order, and their prompts. Raises InputError for a line that makes no sense."""
    files, prompts = {}, {}
    try:
        # JSON may hold what Python takes for ends of lines too.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="save it as text in UTF-8") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        file, prompt = _listed_line(line, f"{path}, line {number}") if path.suffix.lower() == ".jsonl" else (line, "")
        key = file if file not in files else f"{file} (line {number})"
        files[key] = path.parent / file
        if prompt:
            prompts[key] = prompt
    if not files:
        raise InputError(f"{path} lists nothing", hint="write the path of a picture into each line")
    return files, prompts


def _listed_line(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry["file"], str) and isinstance(prompt := entry.get("prompt") or "", str):
            return entry["file"], prompt.strip()
    except (ValueError, KeyError):
        pass
    raise InputError(
        f"{where}: {line[:80]} names no file", hint='write {"file": "photo.jpg", "prompt": "a red car"}; the prompt may be absent'
    )


def _prompt_beside(path: Path | None) -> str | None:
    if path is None:
        return None
    beside = path.with_name(f"{path.name if path.is_dir() else path.stem}.txt")
    return beside.read_text(encoding="utf-8-sig").strip() or None if beside.is_file() else None


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a scan. `sha256`: of its size and pixels in sRGB. `stack`: of its layers, where those are learned from."""

    key: str
    sha256: str
    width: int
    height: int
    prompt: str | None = None
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found. `duplicates`: (key that was left out, key of the same picture that stays)."""

    name: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with every picture, prompt and stack that training sees and with their order; names and places do not count."""
        seen = [(entry.sha256, entry.prompt, entry.stack) for entry in self.entries]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Scan:
        """Raises InputError for what `to_json` did not make."""
        try:
            return cls(
                str(value["name"]),
                tuple(Entry(**entry) for entry in value["entries"]),
                tuple(Skipped(**skipped) for skipped in value["skipped"]),
                tuple((str(key), str(first)) for key, first in value["duplicates"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("what the run keeps of its data's scan is damaged", hint="begin a new run") from error


def scan(
    data: TrainingData,
    keep: Callable[[Entry, Example], None],
    *,
    limit: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Scan:
    """Read the pictures whole, the first `limit` good ones or all, and hand each that stays to `keep`.

    What cannot be read or is animated is told and skipped, and so is what `keep` raises InputError for; of pictures with the same pixels
    the first stays. Raises InputError when nothing is left.
    """
    entries: dict[tuple[str, str | None], Entry] = {}
    skipped: list[Skipped] = []
    duplicates: list[tuple[str, str]] = []
    total = min((number for number in (limit, data.count) if number is not None), default=None)
    with closing(data.samples()) as samples:
        while (limit is None or len(entries) < limit) and (sample := next(samples, None)) is not None:
            found = _checked(sample, entries, keep)
            if isinstance(found, Skipped):
                skipped.append(found)
                tell(f"{found.key} is left out: {found.reason}")
                continue
            first = entries.setdefault((found.sha256, found.stack), found)
            if first is not found:
                duplicates.append((found.key, first.key))
                tell(f"{found.key} is left out: it is the same picture as {first.key}")
            done = len(entries) + len(skipped) + len(duplicates)
            progress(f"reading {found.key}", min(done / total, 1.0) if total else 0.0)
    if not entries:
        why = f": {skipped[0].key}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"{data.name} has no picture to train on{why}", hint=_FORMS)
    return Scan(data.name, tuple(entries.values()), tuple(skipped), tuple(duplicates))


def _checked(
    sample: Sample | Skipped, known: Collection[tuple[str, str | None]], keep: Callable[[Entry, Example], None]
) -> Entry | Skipped:
    if isinstance(sample, Skipped):
        return sample
    example = sample.example
    animated = next((remark for remark in example.source.warnings if remark.startswith("it has more than one")), None)
    if animated:
        return Skipped(example.key, animated.partition(":")[0])
    entry = entry_of(sample)
    if (entry.sha256, entry.stack) not in known:
        try:
            keep(entry, example)
        except InputError as error:
            return Skipped(example.key, error.message)
    return entry


def entry_of(sample: Sample) -> Entry:
    source, truth = sample.example.source, sample.example.truth
    content = f"{source.width} x {source.height}\n".encode() + source.srgb().tobytes()
    stack = None if truth is None else fingerprint(truth)
    return Entry(sample.example.key, hashlib.sha256(content).hexdigest(), source.width, source.height, sample.prompt, stack)


def read_again(data: TrainingData, entry: Entry) -> Example:
    """The picture of a scan from where it came. Raises InputError when it is gone or another one now."""
    with closing(data.samples([entry.key])) as samples:
        sample = next(samples, None)
    if sample is None or isinstance(sample, Skipped):
        raise InputError(f"{entry.key} of {data.name} cannot be read any more: {sample.reason if sample else 'it is gone'}", hint=_PUT_BACK)
    now = entry_of(sample)
    if (now.sha256, now.stack) != (entry.sha256, entry.stack):
        raise InputError(f"{entry.key} of {data.name} is another picture now than when training began", hint=_PUT_BACK)
    return sample.example


def divided(found: Scan, holdout: int) -> tuple[list[Entry], list[Entry]]:
    """The pictures to train on and the `holdout` that are held out, both in the scan's order.

    The ones whose content's hash is lowest are held out: a picture that is added or taken away changes the place of one other at most.
    Stacks that flatten to the same picture stay together. Raises InputError when nothing is left to train on.
    """
    ranked = sorted({entry.sha256 for entry in found.entries}, key=lambda content: hashlib.sha256(f"holdout {content}".encode()).digest())
    held = set(ranked[:holdout])
    train = [entry for entry in found.entries if entry.sha256 not in held]
    if not train:
        raise InputError(
            f"{found.name} has {len(ranked)} pictures, and {holdout} are held out: nothing is left to train on",
            hint="give more pictures, or hold out fewer: --set holdout=0",
        )
    return train, [entry for entry in found.entries if entry.sha256 in held]


def order(count: int, seed: int, position: int) -> int:
    """Which of `count` pictures comes at this position of training: in every epoch each once, in another order; a pure function."""
    epoch, place = divmod(position, count)
    return _permutation(count, seed, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    indices = list(range(count))
    draw(seed, "order", epoch).shuffle(indices)
    return tuple(indices)
