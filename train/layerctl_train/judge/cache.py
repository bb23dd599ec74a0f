"""Answers that were paid for, in one SQLite file that many processes may share and that survives their end at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerctl.errors import ConfigError, OutputError
from layerctl_train.judge.question import Picture

if TYPE_CHECKING:
    from layerctl_train.judge.question import Question

SCHEMA = 1
APPLICATION = 0x6C796A31
"""SQLite's mark of whose file it is."""
BUSY = 30.0
"""Seconds to wait for another process that writes."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A validated answer, as the model gave it."""

    text: str
    input_tokens: int
    output_tokens: int


class Cache:
    """Open from the first moment to `close`; used by one thread at a time.

    Raises ConfigError for a file that is not such a cache, or not there to be read only, OutputError for one that cannot be opened or
    written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        with self._explained():
            if not read_only:
                _make_private(path)
                self._open("mode=rw")
                return
            if not os.path.lexists(path):
                raise ConfigError(f"there is no cache at {path}", hint="run once without --replay, or name another: --judge-cache FILE")
            try:
                self._open("mode=ro")
            except sqlite3.OperationalError:
                # Readers too need a file beside the cache, which a folder may not let them make; without a log nobody writes there.
                if _has_log(path):
                    raise
                self._open("immutable=1")

    def _open(self, way: str) -> None:
        address = f"{self.path.absolute().as_uri()}?{way}"
        self._base = sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(read_only=way != "mode=rw")
        except BaseException:
            self._base.close()
            raise

    def get(self, key: str) -> Kept | None:
        with self._explained():
            row = self._base.execute("SELECT text, input_tokens, output_tokens FROM answers WHERE key = ?", (key,)).fetchone()
        return Kept(*row) if row else None

    def put(self, key: str, model: str, kept: Kept) -> None:
        with self._explained():
            values = (key, model, kept.text, kept.input_tokens, kept.output_tokens)
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", values)

    def models(self) -> list[str]:
        with self._explained():
            return [row[0] for row in self._base.execute("SELECT DISTINCT model FROM answers ORDER BY model")]

    def close(self) -> None:
        self._base.close()

    def _prepare(self, *, read_only: bool) -> None:
        if not self._is_empty() or read_only:
            self._check_owner()
        if read_only:
            return
        # Another process that is switching a new file at this moment does it for both.
        with suppress(sqlite3.OperationalError):
            self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = NORMAL")
        self._base.execute("BEGIN IMMEDIATE")
        if self._is_empty():
            self._base.execute(f"PRAGMA application_id = {APPLICATION}")
            self._base.execute(f"PRAGMA user_version = {SCHEMA}")
            self._base.execute(
                "CREATE TABLE answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, "
                "input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)"
            )
            self._base.execute("CREATE INDEX models ON answers (model)")
        self._base.execute("COMMIT")

    def _is_empty(self) -> bool:
        return self._base.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)

    def _check_owner(self) -> None:
        owner, schema = (self._base.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if owner != APPLICATION:
            raise ConfigError(f"{self.path} is a database, but not a cache of the judge", hint="name another file: --judge-cache FILE")
        if schema != SCHEMA:
            message = f"{self.path} is a cache of schema {schema}, and this layerctl knows {SCHEMA}"
            raise ConfigError(message, hint="pip install --upgrade layerctl, or name another file: --judge-cache FILE")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        hint = "name a file that can be written, on a disk that has room: --judge-cache FILE"
        try:
            yield
        except OSError as error:
            raise OutputError(f"the judge's cache {self.path} cannot be opened: {error.strerror}", hint=hint) from error
        except sqlite3.OperationalError as error:
            raise OutputError(f"the judge's cache {self.path} cannot be used: {error}", hint=hint) from error
        except sqlite3.DatabaseError as error:
            message = f"{self.path} is no cache of the judge, or is damaged: {error}"
            raise ConfigError(message, hint="move it away, or name another file: --judge-cache FILE") from error


def default_path() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".cache") / "layerctl" / "judge.sqlite"


def key_of(question: Question, model: str, decoding: dict[str, Any]) -> str:
    """The hash of all that an answer depends on: pixels and words, in their order, prompt version, model and decoding."""
    shown = [{"picture": part.sha256} if isinstance(part, Picture) else {"text": part} for part in question.parts]
    asked = {
        "schema": SCHEMA,
        "model": model,
        "decoding": decoding,
        "version": question.version,
        "kind": question.kind,
        "labels": question.labels,
        "system": question.system,
        "shown": shown,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


def _has_log(path: Path) -> bool:
    """Whether there are answers that are not in the file itself yet."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _make_private(path: Path) -> None:
    """An empty file that only its owner can read, if there is none; replies may quote private pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
