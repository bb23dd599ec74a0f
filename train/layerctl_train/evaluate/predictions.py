"""Raw engine stacks on disk, so that an evaluation that was killed goes on, and another one need not compute them again.

A prediction is kept under a hash of the picture's pixels, the engine with its version, every setting that changes its layers, the number
of layers asked for and, for models, whose recipes may count seeds by it, the picture's place in its data. A file is written beside and
moved in, and begins with the hash of the rest: one that was damaged is as good as none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerctl.decompose import MODEL_SETTINGS
from layerctl.errors import OutputError
from layerctl.hub import local_copy, parse_reference, portable_name
from layerctl.layers import Layer, LayerStack, effective
from layerctl.manifest import hash_file

if TYPE_CHECKING:
    from layerctl.registry import DecomposeRequest, Engine
    from layerctl.settings import Settings
    from layerctl.source import SourceImage

SCHEMA = 2
CHECK = 32
"""Bytes of the hash that a file begins with."""
CONFIGS = ("adapter_config.json", "layerctl.json", "config.json", "scheduler_config.json")
"""What beside its weights says how a model or an adapter is run."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells an engine with its settings from every other one. `has_model`: a picture's place counts too."""

    text: str
    has_model: bool


def mark_of(engine: Engine, settings: Settings) -> Mark:
    """Of models and adapters, what is on this disk now counts: it is to be asked before they are loaded, not after each picture."""
    fields = [SCHEMA, engine.name, engine.version, settings.kind]
    has_model = hasattr(engine, "forecast")
    if has_model:
        fields += [_resolved(name, getattr(settings, name)) for name in MODEL_SETTINGS]
    return Mark(json.dumps(fields), has_model)


def key_of(source: SourceImage, mark: Mark, request: DecomposeRequest) -> str:
    """64 hexadecimal digits."""
    digest = hashlib.sha256(f"{mark.text} {request.layers} {request.index if mark.has_model else ''} {source.pixels.shape}".encode())
    digest.update(np.ascontiguousarray(source.pixels).data)
    digest.update(source.icc or b"")
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write beside and move in. Raises OutputError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{path.parent} cannot be written to: {error.strerror}", hint="make room, or choose another folder with --predictions"
        ) from error


class Predictions:
    """A folder of them. Several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.layers"

    def get(self, key: str) -> LayerStack | None:
        """None for one that is not there, or is damaged."""
        try:
            stored = self.path(key).read_bytes()
        except OSError:
            return None
        check, content = stored[:CHECK], stored[CHECK:]
        if hashlib.sha256(content).digest() != check:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            head = json.loads(str(arrays["head"]))
            layers = tuple(Layer(**fields, pixels=arrays[f"layer{place}"]) for place, fields in enumerate(head["layers"]))
            return LayerStack(head["width"], head["height"], layers, icc=bytes(arrays["icc"]) or None)

    def put(self, key: str, stack: LayerStack) -> None:
        """Groups are kept as their layers, which have their opacity. Raises OutputError."""
        layers = [_alone(layer, opacity) for layer, opacity in effective(stack.layers)]
        head = {"width": stack.width, "height": stack.height, "layers": [_fields(layer) for layer in layers]}
        pixels: dict[str, Any] = {f"layer{place}": layer.pixels for place, layer in enumerate(layers)}
        content = io.BytesIO()
        np.savez_compressed(content, head=np.array(json.dumps(head)), icc=np.frombuffer(stack.icc or b"", np.uint8), **pixels)
        write_whole(self.path(key), hashlib.sha256(content.getvalue()).digest() + content.getvalue())


def _alone(layer: Layer, opacity: float) -> Layer:
    """The layer as it shows without its groups."""
    return replace(layer, visible=False) if opacity == 0 < layer.opacity else replace(layer, opacity=opacity)


def _fields(layer: Layer) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in ("name", "left", "top", "opacity", "visible", "kind", "text")}


def _resolved(name: str, value: Any) -> Any:
    """A setting; a model or adapters with the commit, or the content, that they stand for on this disk."""
    if name == "model":
        return _content(value)
    if name == "adapters":
        return [_content(adapter) for adapter in value]
    return value


def _content(name: str) -> list[object]:
    """A name with its commit on the Hub, else with its weights, which `portable_name` tells apart, and what is written about them."""
    found = local_copy(parse_reference(name))
    if found.revision is not None:
        return [name, found.revision]
    beside = found.folder.rglob("*.json") if found.folder.is_dir() else found.folder.parent.glob("*.json")
    return [portable_name(name), *(hash_file(path) for path in sorted(beside) if path.name in CONFIGS)]
