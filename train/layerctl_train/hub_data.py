"""Pictures of a dataset on the Hub, read row by row through `datasets`; a local copy of one is read in the same way."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerctl.errors import InputError, LayerctlError, MissingDependencyError, UsageError
from layerctl.settings import MAX_PIXELS
from layerctl.source import PICTURE_SUFFIXES, SourceImage, read_source
from layerctl_train.evaluate.example import Example, Skipped
from layerctl_train.sample import Sample, TrainingData

PROMPT_COLUMNS = ("prompt", "caption", "text")
"""The first of these that holds text is what a row says about its picture."""

_FORM = re.compile(r"(?P<name>[^:@]+)(@(?P<revision>[^:@]+))?(:(?P<split>[^:@]+))?")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_data(text: str, *, offline: bool = False, max_pixels: int = MAX_PIXELS, load: Callable[..., Any] | None = None) -> TrainingData:
    """The pictures of `ORG/NAME[@REVISION][:SPLIT]`, or `FOLDER[:SPLIT]` for a copy; without a split "train", else the first.

    `load`: in the place of `datasets.load_dataset`. Raises UsageError for another form, MissingDependencyError without the package
    `datasets` or when the Hub may not be asked.
    """
    found = _FORM.fullmatch(text)
    if not found or not (Path(found["name"]).is_dir() or _ID.fullmatch(found["name"])):
        raise UsageError(f"--data hub:{text} names no dataset", hint="give hub:ORG/NAME, hub:ORG/NAME@REVISION:SPLIT or hub:FOLDER")
    rows = _HubData(found["name"], found["revision"], found["split"], max_pixels, load or _load_dataset())
    if offline and not rows.is_copy:
        raise rows.not_fetched("--offline is set")
    return rows


def _load_dataset() -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingDependencyError("data of the Hub needs the package datasets", hint="pip install 'layerctl[train]'") from error
    return load_dataset


@dataclass(frozen=True, slots=True)
class _HubData:
    repository: str
    revision: str | None
    split: str | None
    max_pixels: int
    load: Callable[..., Any]

    count = None

    @property
    def name(self) -> str:
        return f"hub {self.place}" + (f" {self.split}" if self.split else "")

    @property
    def place(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")

    @property
    def is_copy(self) -> bool:
        return Path(self.repository).is_dir()

    def samples(self, keys: Collection[str] | None = None) -> Generator[Sample | Skipped]:
        left = None if keys is None else set(keys)
        with self._explained():
            rows, picture, prompt = self._opened()
        # Rows that are left half read keep threads, which can crash the interpreter when it ends.
        with closing(self._rows(rows)) as read:
            for number, row in enumerate(read):
                key = f"row-{number:06d}"
                if left is None or key in left:
                    yield self._sample(key, row[picture], row[prompt] if prompt else None)
                if left is not None:
                    left.discard(key)
                    if not left:
                        return

    def _rows(self, rows: Any) -> Generator[Mapping[str, Any]]:
        with self._explained(), closing(iter(rows)) as read:
            yield from read

    def _opened(self) -> tuple[Any, str, str | None]:
        """The rows with their pictures still packed, the column with the picture, and that with the prompt."""
        from datasets import Image

        splits = self.load(self.repository, revision=self.revision, streaming=True)
        split = self.split or ("train" if "train" in splits else next(iter(splits)))
        if split not in splits:
            raise InputError(f"{self.place} has no split {split}", hint=f"it has {', '.join(splits)}: --data hub:{self.place}:SPLIT")
        rows = splits[split]
        # Without a card or a schema there are none, and then no column is known to hold pictures.
        features = rows.features or {}
        pictures = [column for column, feature in features.items() if isinstance(feature, Image)]
        if not pictures:
            has = f", but {', '.join(features)}" if features else ""
            raise InputError(f"{self.place} has no column of pictures{has}", hint="give a dataset with a column of type Image")
        texts = [column for column in PROMPT_COLUMNS if _is_text(features.get(column))]
        return rows.select_columns([pictures[0], *texts[:1]]).decode(False), pictures[0], texts[0] if texts else None

    def _sample(self, key: str, packed: Mapping[str, Any] | None, prompt: object) -> Sample | Skipped:
        try:
            source = self._unpacked(key, packed or {})
        except LayerctlError as error:
            return Skipped(key, error.message)
        return Sample(Example(key, source), prompt.strip() or None if isinstance(prompt, str) else None)

    def _unpacked(self, key: str, packed: Mapping[str, Any]) -> SourceImage:
        """The picture of a row: the bytes of a file, or where that file lies, which may be on the Hub or in an archive."""
        import fsspec  # type: ignore[import-untyped]

        data, place = packed.get("bytes"), packed.get("path") or ""
        if data is None and not place:
            raise InputError(f"{key} holds no picture")
        if data is None:
            with self._explained():
                try:
                    with fsspec.open(place, "rb") as file:
                        data = file.read()
                except FileNotFoundError as error:
                    raise InputError(f"{key}: there is no file {place}") from error
        suffix = Path(place).suffix
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (key + (suffix if suffix.lower() in PICTURE_SUFFIXES else ""))
            path.write_bytes(data)
            try:
                return replace(read_source(path, max_pixels=self.max_pixels), path=None)
            except InputError as error:
                raise InputError(error.message.replace(str(path), key), hint=error.hint) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what `datasets` and what lies below it raise into errors that say what to type."""
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever library is below it

        try:
            yield
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            if self.is_copy:
                raise InputError(f"{self.place} cannot be read: {reason}", hint="get an intact copy, as hf download makes it") from error
            if isinstance(error, DatasetNotFoundError | ValueError):
                raise InputError(
                    f"{self.place} cannot be read: {reason}", hint="check its name; for a private one: hf auth login"
                ) from error
            raise self.not_fetched(reason) from error

    def not_fetched(self, reason: str) -> MissingDependencyError:
        folder = self.repository.rpartition("/")[2]
        revision = f" --revision {self.revision}" if self.revision else ""
        copy = f"hf download {self.repository} --repo-type dataset{revision} --local-dir {folder}"
        hint = f"with a connection: {copy}; then, without one: --data hub:{folder}"
        return MissingDependencyError(f"{self.place} cannot be fetched: {reason}", hint=hint)


def _is_text(feature: object) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")
