"""Raw engine stacks on disk, so that an evaluation that was killed goes on, and another one need not compute them again.

A prediction is kept under a hash of the picture's pixels, the engine with its version, every setting that changes its layers, the number
of layers asked for and, for models, whose recipes may count seeds by it, the picture's place in its data. A file is written beside and
moved in, so that one that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from layerctl.decompose import MODEL_SETTINGS
from layerctl.errors import OutputError
from layerctl.hub import local_copy, parse_reference, portable_name
from layerctl.layers import Layer, LayerStack

if TYPE_CHECKING:
    from layerctl.registry import DecomposeRequest, Engine
    from layerctl.settings import Settings
    from layerctl.source import SourceImage

SCHEMA = 1


def key_of(source: SourceImage, engine: Engine, settings: Settings, request: DecomposeRequest) -> str:
    """64 hexadecimal digits."""
    pixels = hashlib.sha256(f"{source.pixels.shape}".encode())
    pixels.update(np.ascontiguousarray(source.pixels).data)
    pixels.update(source.icc or b"")
    fields = [SCHEMA, pixels.hexdigest(), engine.name, engine.version, settings.kind, request.layers]
    if hasattr(engine, "forecast"):
        fields += [request.index, *(_resolved(name, getattr(settings, name)) for name in MODEL_SETTINGS)]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _resolved(name: str, value: Any) -> Any:
    """A setting, names of models and adapters with the commit or the content that they stand for on this disk."""
    if name == "model":
        return [portable_name(value), local_copy(parse_reference(value)).revision]
    if name == "adapters":
        return [[portable_name(adapter), local_copy(parse_reference(adapter)).revision] for adapter in value]
    return value


class Predictions:
    """A folder of them. Several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> LayerStack | None:
        """None for one that is not there, or cannot be read."""
        try:
            with np.load(self._path(key), allow_pickle=False) as stored:
                head = json.loads(str(stored["head"]))
                layers = tuple(Layer(**fields, pixels=stored[f"layer{place}"]) for place, fields in enumerate(head["layers"]))
                icc = bytes(stored["icc"]) or None
        except (OSError, ValueError, KeyError, TypeError, BadZipFile):
            return None
        return LayerStack(head["width"], head["height"], layers, icc=icc)

    def put(self, key: str, stack: LayerStack) -> None:
        """Groups are kept as their layers. Raises OutputError."""
        layers = list(stack.walk())
        head = {"width": stack.width, "height": stack.height, "layers": [_fields(layer) for layer in layers]}
        arrays: dict[str, Any] = {f"layer{place}": layer.pixels for place, layer in enumerate(layers)}
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                np.savez_compressed(file, head=np.array(json.dumps(head)), icc=np.frombuffer(stack.icc or b"", np.uint8), **arrays)
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise OutputError(f"a prediction cannot be kept in {path.parent}: {error.strerror}", hint="make room, or choose -o") from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


def _fields(layer: Layer) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in ("name", "left", "top", "opacity", "visible", "kind", "text")}
