"""Answers are kept once, by many processes, and survive the end of any of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.judge.cache import SCHEMA, Cache, Kept, default_path, key_of
from layerctl_train.judge.question import Picture, Question

from layerctl.errors import ConfigError, OutputError

GREY, BLACK = (Picture(np.full((4, 4, 3), value, np.uint8)) for value in (128, 0))
QUESTION = Question("together", "You judge.", ("above", GREY, "below", BLACK), "v1", ("A", "B"))
NOBODY = 65534
DECODING = {"temperature": 0.0, "max_tokens": 1500, "extra": {"top_k": 1}, "repeat": 0}

WRITER = """
import sys
from pathlib import Path
from layerctl_train.judge.cache import Cache, Kept
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cache = Cache(path)
for number in range(count):
    cache.put(f"{name} {number}", "judge", Kept(f"{name} {number} " + "x" * 500, number, 1))
    print(number, flush=True)
cache.close()
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE, text=True)


def test_what_was_kept_is_there_for_the_next_run_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "judge.sqlite"
    kept = Kept('{"A": "ü"}', 100, 20)
    cache = Cache(path)
    cache.put("key", "qwen", kept)
    cache.put("other", "qwen", kept)
    cache.close()
    cache = Cache(path, read_only=True)
    assert cache.get("key") == kept
    assert cache.get("none") is None
    assert cache.models() == ["qwen"]
    cache.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_processes_that_begin_and_write_at_once_lose_nothing_and_neither_does_the_end_of_one(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    writers = [writer(path, name, 60) for name in ("first", "second")]
    doomed = writer(path, "doomed", 10**6)
    assert doomed.stdout
    for line in doomed.stdout:
        if int(line) == 50:
            break
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    cache = Cache(path)
    for name, count in (("first", 60), ("second", 60), ("doomed", 51)):
        for number in range(count):
            kept = cache.get(f"{name} {number}")
            assert kept
            assert kept.text.startswith(f"{name} {number} ")
    cache.close()
    base = sqlite3.connect(path)
    assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    base.close()


def test_a_writer_waits_for_another_that_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    Cache(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = writer(path, "late", 1)
    time.sleep(0.5)
    assert waiting.poll() is None
    other.execute("COMMIT")
    other.close()
    assert waiting.communicate()[0] == "0\n"


def test_every_part_of_a_question_and_of_the_decoding_is_in_the_key() -> None:
    shown = Question("together", "You judge.", ("above", GREY, "below", GREY), "v1", ("A", "B"))
    others = [
        replace(QUESTION, kind="alone"),
        replace(QUESTION, system="You judge!"),
        replace(QUESTION, version="v2"),
        replace(QUESTION, labels=("B", "A")),
        replace(QUESTION, parts=("above", BLACK, "below", GREY)),
        replace(QUESTION, parts=("above", GREY, "belo", BLACK)),
        replace(QUESTION, parts=("above", "below", GREY, BLACK)),
        replace(QUESTION, parts=("above", "below", GREY.sha256, BLACK)),
        shown,
    ]
    keys = {key_of(question, "qwen", DECODING) for question in (QUESTION, *others)}
    keys |= {key_of(QUESTION, "llava", DECODING)}
    keys |= {key_of(QUESTION, "qwen", DECODING | {name: 7}) for name in DECODING}
    assert len(keys) == 1 + len(others) + 1 + len(DECODING)


def test_the_same_question_has_the_same_key_in_whatever_order_settings_are() -> None:
    again = replace(QUESTION, parts=("above", Picture(GREY.pixels.copy()), "below", Picture(BLACK.pixels.copy())))
    assert key_of(again, "qwen", dict(reversed(DECODING.items()))) == key_of(QUESTION, "qwen", json.loads(json.dumps(DECODING)))


def foreign(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE bookmarks (name TEXT)")
    base.commit()
    base.close()


def newer(path: Path) -> None:
    Cache(path).close()
    base = sqlite3.connect(path)
    base.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    base.close()


def damaged(path: Path) -> None:
    Cache(path).close()
    content = bytearray(path.read_bytes())
    content[100:3000] = b"\xff" * 2900
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("notes of somebody " * 100)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("make", "words"), [(foreign, "not a cache of the judge"), (newer, f"schema {SCHEMA + 1}"), (damaged, "damaged"), (text, "damaged")]
)
def test_a_file_that_is_no_such_cache_is_named_and_left_as_it_is(
    make: Callable[[Path], None], words: str, read_only: bool, tmp_path: Path
) -> None:
    path = tmp_path / "judge.sqlite"
    make(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=words) as caught:
        Cache(path, read_only=read_only)
    assert str(path) in caught.value.message
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "judge.sqlite", tmp_path):
        with pytest.raises(OutputError, match="cannot be opened") as caught:
            Cache(path)
        assert str(path) in caught.value.message


def test_a_cache_that_is_not_there_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no cache at .*none\.sqlite") as caught:
        Cache(tmp_path / "none.sqlite", read_only=True)
    assert "without --replay" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this lasts, we can read the folder's files, and make none; an administrator, who always can, becomes somebody else."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that others may look into, as pytest's own may not."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_a_cache_in_a_folder_that_cannot_be_written_is_replayed(folder: Path) -> None:
    path, kept = folder / "judge.sqlite", Kept("text", 1, 1)
    cache = Cache(path)
    cache.put("key", "qwen", kept)
    cache.close()
    with locked(folder), closing(Cache(path, read_only=True)) as read:
        assert read.get("key") == kept
        with pytest.raises(OutputError):
            Cache(path)


def test_answers_that_are_still_in_a_log_are_not_passed_over(folder: Path, tmp_path: Path) -> None:
    with closing(Cache(tmp_path / "judge.sqlite")) as cache:
        cache.put("key", "qwen", Kept("text", 1, 1))
        for name in ("judge.sqlite", "judge.sqlite-wal"):
            shutil.copy(tmp_path / name, folder)
    with locked(folder), pytest.raises(OutputError, match="unable to open"):
        Cache(folder / "judge.sqlite", read_only=True)


def test_the_default_is_in_the_persons_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert default_path() == tmp_path / "elsewhere" / "layerctl" / "judge.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == tmp_path / ".cache" / "layerctl" / "judge.sqlite"
