"""The folder of a training run: what it holds, who may write to it, and how it outlives a kill at any moment.

    config.toml         the resolved settings, written last of what a run begins with: with it the folder is a run
    data.json           the pictures of the data
    metrics.jsonl       a record a step
    evaluations.jsonl   a record an evaluation
    checkpoints/        step-000010/, ...
    samples/            step-000010.png, ...
    adapter/            what came out
    report.html

Records are appended; everything else is written beside its place and moved in whole. Names that begin with a dot are not of the run: the
lock, and what a kill left.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN, EDEADLK
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from layerctl.errors import InputError, OutputError
from layerctl.results import sync_file, sync_folder, sync_tree

CONFIG, DATA, REPORT, LOCK = "config.toml", "data.json", "report.html", ".lock"
CHECKPOINTS, SAMPLES, ADAPTER = "checkpoints", "samples", "adapter"
PARTIAL, ASIDE = ".partial-", ".aside-"
STEP = re.compile(r"step-(\d{6,})")
TAKEN = (EACCES, EAGAIN, EDEADLK)
WRITABLE = "make room, or allow writing there; a run that has begun goes on with --resume"
LOCKED_BYTE = 1 << 20
"""Behind the words in the lock file, since Windows lets nobody read a byte that is locked."""

Records = Literal["metrics", "evaluations"]


class RunFolder:
    """A run on disk. `RunFolder(path)` alone is for reading; `create` and `open` are for the one process that runs it.

    What cannot be written raises OutputError, and leaves what was there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO | None = None

    @classmethod
    def create(cls, path: Path) -> Self:
        """An empty folder, made if need be, and locked. Raises OutputError for one that holds something or is in use."""
        run = cls(path)
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            run._take()
        # What stands there before config.toml is of a run that was killed before it began.
        held = sorted(each.name for each in path.iterdir() if not each.name.startswith(".") and each.name != DATA)
        if held:
            run.close()
            if CONFIG in held:
                raise OutputError(f"{path} holds a run already", hint="go on with it by --resume, or choose another folder with -o RUN")
            raise OutputError(f"{path} is not empty: it holds {held[0]}", hint="choose another folder with -o RUN")
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """A run to go on with, locked; what a kill left half done is put in order.

        Raises InputError where there is no run, OutputError where another process has it.
        """
        if not (path / CONFIG).is_file():
            raise InputError(f"there is no run in {path}: it holds no {CONFIG}", hint="begin one without --resume")
        run = cls(path)
        with _writing(path):
            run._take()
            try:
                run._put_in_order()
            except BaseException:
                run.close()
                raise
        return run

    def close(self) -> None:
        """Let another process have it; a folder in which no run began is gone again."""
        if self._lock is None:
            return
        self._lock.close()
        self._lock = None
        if not (self.path / CONFIG).exists():
            with suppress(OSError):
                for name in (DATA, LOCK):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def append(self, file: Records, record: Mapping[str, Any]) -> None:
        """Add a record with its "step"; numbers come back exactly. What is no number (NaN, infinite) is left out."""
        line = json.dumps(_known(record), allow_nan=False).encode() + b"\n"
        path = self._records(file)
        with _writing(self.path), path.open("ab", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            try:
                rest = line
                while rest:
                    rest = rest[stream.write(rest) :]
            except BaseException:
                os.truncate(path, size)
                raise

    def records(self, file: Records) -> list[dict[str, Any]]:
        """All of them; a last one that was not written to its end is none. Raises InputError for a damaged one."""
        found = []
        for number, line in enumerate(self._lines(file), 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                path = self._records(file)
                raise InputError(f"line {number} of {path} is damaged", hint="delete that line: the step is missing in the report then")
            found.append(record)
        return found

    def cut(self, file: Records, step: int) -> None:
        """Drop the records behind a step, which will be made again."""
        lines = self._lines(file)
        kept = [line for line, record in zip(lines, self.records(file), strict=True) if record["step"] <= step]
        if len(kept) < len(lines):
            self.write(self._records(file).name, b"".join(kept))

    def write(self, name: str, content: str | bytes) -> Path:
        """A file, whole or not at all."""
        return self.draw(name, lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content))

    def draw(self, name: str, write: Callable[[Path], object]) -> Path:
        """A file that `write` makes at the path that it is given, whose ending is that of `name`."""
        target = self.path / name
        beside = target.with_name(f"{PARTIAL}{secrets.token_hex(4)}{target.suffix}")
        with _writing(self.path):
            try:
                target.parent.mkdir(exist_ok=True)
                write(beside)
                sync_file(beside)
                os.replace(beside, target)
                sync_folder(target.parent)
            finally:
                with suppress(OSError):
                    beside.unlink(missing_ok=True)
        return target

    def fill(self, name: str, write: Callable[[Path], object]) -> Path:
        """A folder that `write` fills, in place of what was there; records that came before are on the disk before it is."""
        target = self.path / name
        beside, aside = target.with_name(f"{PARTIAL}{secrets.token_hex(4)}"), target.with_name(ASIDE + target.name)
        with _writing(self.path):
            try:
                beside.mkdir(parents=True)
                write(beside)
                sync_tree(beside)
                for file in self.path.glob("*.jsonl"):
                    sync_file(file)
                if target.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(target, aside)
                os.replace(beside, target)
                sync_folder(target.parent)
            finally:
                if aside.exists() and not target.exists():
                    os.replace(aside, target)
                shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)
        return target

    def save(self, step: int, write: Callable[[Path], object]) -> Path:
        """The checkpoint of a step, written by `write`; the step's records come before it."""
        return self.fill(f"{CHECKPOINTS}/step-{step:06d}", write)

    def checkpoints(self) -> dict[int, Path]:
        """By step, the earliest first."""
        return _by_step(self.path / CHECKPOINTS)

    def samples(self) -> dict[int, Path]:
        """Contact sheets by step, the earliest first."""
        return _by_step(self.path / SAMPLES)

    def sample(self, step: int, write: Callable[[Path], object]) -> Path:
        """The contact sheet of a step, a PNG that `write` makes."""
        return self.draw(f"{SAMPLES}/step-{step:06d}.png", write)

    def latest(self) -> Path | None:
        """The last checkpoint."""
        return next(reversed(self.checkpoints().values()), None)

    def prune(self, keep: int, best: int | None) -> None:
        """Delete all checkpoints but the last `keep` and the one of the step `best`."""
        found = self.checkpoints()
        for step in list(found)[:-keep]:
            if step != best:
                doomed = found[step].with_name(f"{PARTIAL}{found[step].name}")
                with _writing(self.path):
                    os.replace(found[step], doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _records(self, file: Records) -> Path:
        return self.path / f"{file}.jsonl"

    def _lines(self, file: Records) -> list[bytes]:
        try:
            lines = self._records(file).read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [line for line in lines if line.endswith(b"\n")]

    def _put_in_order(self) -> None:
        for folder in (self.path, self.path / CHECKPOINTS, self.path / SAMPLES):
            for aside in folder.glob(f"{ASIDE}*"):
                target = aside.with_name(aside.name.removeprefix(ASIDE))
                if target.exists():
                    shutil.rmtree(aside)
                else:
                    os.replace(aside, target)
            for left in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        files: tuple[Records, ...] = ("metrics", "evaluations")
        for file in files:
            if self._records(file).is_file():
                os.truncate(self._records(file), sum(map(len, self._lines(file))))

    def _take(self) -> None:
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        stream = os.fdopen(descriptor, "r+b", buffering=0)
        if not _is_locked(stream):
            holder = stream.read(200).decode(errors="replace").strip()
            stream.close()
            raise OutputError(
                f"{self.path} is in use by {holder or 'another process'}", hint="end that one first, or choose another folder with -o RUN"
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        self._lock = stream


def _is_locked(stream: BinaryIO) -> bool:
    """Lock a file as long as it is open, which ends with the process at the latest; False where another has it.

    On a file system that has no locks, which some clusters mount, the run goes without one.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(LOCKED_BYTE)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
    finally:
        stream.seek(0)
    return True


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written to: {error.strerror or error}", hint=WRITABLE) from error
    except SafetensorError as error:
        raise OutputError(f"{path} cannot be written to: {error}", hint=WRITABLE) from error


def _by_step(folder: Path) -> dict[int, Path]:
    found = folder.iterdir() if folder.is_dir() else iter(())
    steps = {int(match[1]): path for path in found if (match := STEP.fullmatch(path.stem))}
    return dict(sorted(steps.items()))


def _known(value: Any) -> Any:
    """Without numbers that JSON cannot write: absent in a mapping, None in a list."""
    if isinstance(value, Mapping):
        return {key: _known(each) for key, each in value.items() if not _is_no_number(each)}
    if isinstance(value, list | tuple):
        return [None if _is_no_number(each) else _known(each) for each in value]
    return value


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
