"""Tensors that are made once and kept on the disk; without a disk that takes them, in memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

Tensors = Mapping[str, torch.Tensor]


class KeptTensors:
    """A folder with one safetensors file a name; several processes may use it at a time.

    A file appears whole or not at all and holds the hash of its tensors: one that is damaged is made again. What the disk does not take is
    told once and stays in memory.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.in_memory: dict[str, Tensors] = {}

    def get(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """What is kept under the name; what `make` makes, the first time."""
        path = self.folder / f"{name}.safetensors"
        found = self.in_memory.get(name) or _read(path)
        if found is not None:
            return found
        made = {key: tensor.cpu().contiguous() for key, tensor in make().items()}
        try:
            _write(path, made)
        except OSError as error:
            if not self.in_memory:
                self.tell(
                    f"{self.folder} takes no more files ({error.strerror}): what is prepared stays in memory and is made again next time"
                )
            self.in_memory[name] = made
        return made


def _read(path: Path) -> Tensors | None:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return tensors if about.get("sha256") == _hash(tensors) else None


def _write(path: Path, tensors: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        whole = Path(aside) / path.name
        whole.write_bytes(save(dict(tensors), {"sha256": _hash(tensors)}))
        os.replace(whole, path)


def _hash(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
