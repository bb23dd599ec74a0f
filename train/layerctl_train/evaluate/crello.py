"""The designs of Crello as examples, read through `datasets`: from the Hub, or from a copy of its parquet files.

`cyberagent/crello`, revision 5.1.0, the designs for testing. A row is a design: `length` elements, bottom to top, each with a picture of
its own of up to 1024 pixels, placed by `left`, `top`, `width` and `height` in pixels of the canvas and `angle` in degrees, and an
`opacity`. How a design becomes layers is in `crello_design`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from layerctl.errors import InputError, MissingDependencyError, UsageError
from layerctl_train.evaluate.crello_design import SHORT_SIDE, Design, Element, draw
from layerctl_train.evaluate.example import Data, Example, Skipped

REPOSITORY, REVISION, SPLIT = "cyberagent/crello", "5.1.0", "test"

COLUMNS = {
    "id": "text",
    "canvas_width": "number",
    "canvas_height": "number",
    "length": "number",
    "type": "list of category",
    "left": "list of number",
    "top": "list of number",
    "width": "list of number",
    "height": "list of number",
    "angle": "list of number",
    "opacity": "list of number",
    "image": "list of picture",
    "text": "list of text",
}
"""What is read of a row, and what each column has to hold."""

_ON_THE_HUB = f"{REPOSITORY} {REVISION}"
_COPY = f"hf download {REPOSITORY} --repo-type dataset --revision {REVISION} --include 'data/{SPLIT}-*' --local-dir crello"


def crello(path: Path | None = None, *, short_side: int = SHORT_SIDE, offline: bool = False) -> Data:
    """Crello's test designs, drawn so that the shorter side has `short_side` pixels; nothing is read before it is asked for.

    `path`: a parquet file, or a folder of them, of which those called `test-*` are taken if there are any; None for the Hub. Raises
    UsageError for a folder without, MissingDependencyError without the package `datasets` or if what is on the Hub may not be fetched.
    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("crello needs the package datasets", hint="pip install 'layerctl[train]'") from error
    if path is None and offline:
        raise _not_fetched("--offline is set")
    if path is None:
        return _Crello(f"crello {REVISION} {SPLIT}", _ON_THE_HUB, (), short_side)
    return _Crello(f"crello, {path.name}", str(path), _parquet_files(path), short_side)


@dataclass(frozen=True, slots=True)
class _Crello:
    """`place`: what messages call it. `files`: of a copy, none for the Hub."""

    name: str
    place: str
    files: tuple[str, ...]
    short_side: int

    def keys(self) -> Sequence[str]:
        self._type_names()
        with closing(self._rows(["id"])) as rows:
            keys = [str(row["id"]) for row in rows]
        repeated = next((key for key, times in Counter(keys).items() if times > 1), None)
        if repeated is not None:
            raise InputError(f"{self.place}: more than one row has the id {repeated}", hint=f"get an intact copy: {_COPY}")
        return keys

    def examples(self, keys: Sequence[str]) -> Iterator[Example | Skipped]:
        names = self._type_names()
        wanted = set(keys)
        # Rows that are left half read keep threads, which can crash the interpreter when it ends.
        with closing(self._rows(list(COLUMNS))) as rows:
            while wanted and (row := next(rows, None)) is not None:
                if row["id"] in wanted:
                    wanted.remove(row["id"])
                    yield self._example(row, names)

    def _example(self, row: Mapping[str, Any], names: Sequence[str]) -> Example | Skipped:
        key = str(row["id"])
        try:
            drawn = draw(_design(row, names), self.short_side)
        except InputError as error:
            return Skipped(key, error.message)
        if drawn is None:
            return Skipped(key, "fewer than two layers are left of it", is_fault=False)
        return Example(key, drawn.source, drawn.layers)

    def _type_names(self) -> Sequence[str]:
        """What the numbers in the column `type` stand for. Raises InputError unless all columns are as they have to be."""
        with self._explained():
            features = self._opened(None).features or {}
        for name, expected in COLUMNS.items():
            found = _kind(features[name]) if name in features else "nothing"
            if found != expected:
                raise InputError(
                    f"{self.place}: the column {name} holds {found}, not {expected} as in {_ON_THE_HUB}",
                    hint=f"get a copy of that revision: {_COPY}",
                )
        names: list[str] = features["type"].feature.names
        return names

    def _rows(self, columns: list[str]) -> Generator[dict[str, Any]]:
        """The rows in their order, one in memory at a time, their pictures still packed."""
        with self._explained(), closing(iter(self._opened(columns).decode(False))) as rows:
            yield from rows

    def _opened(self, columns: list[str] | None) -> Any:
        from datasets import load_dataset

        if self.files:
            return load_dataset("parquet", data_files={SPLIT: list(self.files)}, split=SPLIT, streaming=True, columns=columns)
        return load_dataset(REPOSITORY, revision=REVISION, split=SPLIT, streaming=True, columns=columns)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what `datasets` and what lies below it raise into errors that say what to type."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever library is below it

        try:
            yield
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            if self.files:
                raise InputError(f"{self.place} cannot be read: {reason}", hint=f"get an intact copy: {_COPY}") from error
            raise _not_fetched(reason) from error


def _not_fetched(reason: str) -> MissingDependencyError:
    hint = f"with a connection: {_COPY}; then, without one: --data crello:crello"
    return MissingDependencyError(f"{_ON_THE_HUB} cannot be fetched: {reason}", hint=hint)


def _parquet_files(path: Path) -> tuple[str, ...]:
    """Patterns that mean these files and no others."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    files = [file for file in files if file.name.startswith(f"{SPLIT}-")] or files
    if not files:
        raise UsageError(f"{path} holds no parquet files", hint=f"get some: {_COPY}")
    return tuple(escape(str(file)) for file in files)


def _kind(feature: Any) -> str:
    """A feature of `datasets` in words."""
    from datasets import ClassLabel, Image, LargeList, List, Value

    match feature:
        case List() | LargeList():
            return f"list of {_kind(feature.feature)}"
        case ClassLabel():
            return "category"
        case Image():
            return "picture"
        case Value(dtype="string" | "large_string"):
            return "text"
        case Value() if feature.dtype.startswith(("int", "uint", "float")):
            return "number"
    return str(feature)


def _design(row: Mapping[str, Any], names: Sequence[str]) -> Design:
    """Raises InputError for a row whose values make no sense."""
    length = row["length"]
    for column, kind in COLUMNS.items():
        if kind.startswith("list") and len(row[column] or ()) < length:
            raise InputError(f"{row['id']}: the column {column} has {len(row[column] or ())} entries for {length} elements")
        if kind.endswith(("number", "category")) and not np.isfinite(np.array(row[column], float)).all():
            raise InputError(f"{row['id']}: the column {column} holds {row[column]}")
    elements = tuple(
        Element(
            type=names[row["type"][at]],
            text=row["text"][at] or "",
            picture=(row["image"][at] or {}).get("bytes") or b"",
            box=(row["left"][at], row["top"][at], row["width"][at], row["height"][at]),
            angle=row["angle"][at],
            opacity=row["opacity"][at],
        )
        for at in range(length)
    )
    return Design(row["id"], row["canvas_width"], row["canvas_height"], elements)
