"""Pictures are prepared once, kept on the disk, and served whatever becomes of their files or of the disk."""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from layerctl_train.kept_tensors import KeptTensors
from layerctl_train.picture_store import U8, PictureStore
from layerctl_train.training_data import Entry, open_training_data, read_again, scan
from PIL import Image

from layerctl.errors import InputError
from layerctl.source import SourceImage

if TYPE_CHECKING:
    from tests.conftest import DrawPicture

PICTURE = SourceImage(np.random.default_rng(1).integers(0, 256, (40, 70, 4), np.uint8))
ENTRY = Entry("a.png", "5" * 64, 70, 40, prompt="noise")


class Counted:
    """A store of one picture that counts what it is asked for."""

    def __init__(self, folder: Path, mark: str = "32 x 16, VAE 1") -> None:
        self.read = self.encoded = 0
        self.told: list[str] = []
        self.store = PictureStore(folder, mark, self._read, self._encode, resize, self.told.append)

    def _read(self, _: Entry) -> SourceImage:
        self.read += 1
        return PICTURE

    def _encode(self, pixels: U8) -> torch.Tensor:
        self.encoded += 1
        return (torch.tensor(pixels[::16, ::16].astype(np.float32)) / 255).reshape(1, -1, 4).to(torch.bfloat16)


def resize(source: SourceImage) -> U8:
    return np.asarray(Image.fromarray(source.srgb()[..., :3].copy()).resize((32, 16)).convert("RGBA"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_picture_is_read_and_encoded_once_for_all_runs(tmp_path: Path) -> None:
    first, second = Counted(tmp_path), Counted(tmp_path)
    made, kept = first.store.picture(ENTRY), second.store.picture(ENTRY)
    first.store.picture(ENTRY)
    assert (first.read, first.encoded, second.read, second.encoded) == (1, 1, 0, 0)
    for picture in (made, kept):
        assert (picture.key, picture.sha256, picture.prompt) == ("a.png", ENTRY.sha256, "noise")
        assert (picture.rows, picture.columns, picture.source.sha256) == (1, 2, ENTRY.sha256)
        assert np.array_equal(picture.source.pixels, resize(PICTURE))
        assert not picture.source.has_alpha
    assert kept.latents.dtype == torch.bfloat16
    assert torch.equal(made.latents, kept.latents)
    assert len(files(tmp_path)) == 1


def test_another_mark_or_another_content_is_another_picture(tmp_path: Path) -> None:
    Counted(tmp_path).store.picture(ENTRY)
    for other, entry in ((Counted(tmp_path, "VAE 2"), ENTRY), (Counted(tmp_path), replace(ENTRY, sha256="6" * 64))):
        other.store.picture(entry)
        assert other.read == 1
    renamed = Counted(tmp_path)
    assert renamed.store.picture(replace(ENTRY, key="b.png")).key == "b.png"
    assert renamed.read == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign", "folder"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    before = Counted(tmp_path).store.picture(ENTRY)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(whole[:-100])
        case "empty":
            path.write_bytes(b"")
        case "flipped":
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "foreign":
            path.write_bytes(b"something else" * 1000)
        case "folder":
            path.unlink()
            path.mkdir()
    again = Counted(tmp_path)
    assert torch.equal(again.store.picture(ENTRY).latents, before.latents)
    assert again.read == 1
    if damage != "folder":
        assert path.read_bytes() == whole


def test_a_disk_that_takes_nothing_is_told_once_and_memory_serves(tmp_path: Path) -> None:
    # A file in the place of the folder stands for a full disk: whoever runs the tests may be allowed to write everywhere.
    (tmp_path / "file").touch()
    counted = Counted(tmp_path / "file")
    for _ in range(3):
        assert counted.store.picture(ENTRY).columns == 2
    counted.store.picture(replace(ENTRY, sha256="6" * 64))
    assert counted.read == 2
    (told,) = counted.told
    assert "takes no more files (Not a directory)" in told


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    counted = Counted(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        counted.store.picture(ENTRY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert counted.store.picture(ENTRY).columns == 2
    assert (counted.read, len(counted.told), files(tmp_path)) == (1, 1, [])


def test_nothing_but_whole_files_is_left_when_making_fails(tmp_path: Path) -> None:
    tensors = KeptTensors(tmp_path, lambda _: None)

    def fail() -> dict[str, torch.Tensor]:
        raise InputError("gone")

    with pytest.raises(InputError, match="gone"):
        tensors.get("a", fail)
    tensors.get("a", lambda: {"x": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_several_may_make_the_same_picture_at_a_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: Counted(tmp_path).store.picture(ENTRY), range(16)))
    assert all(torch.equal(picture.latents, pictures[0].latents) for picture in pictures)
    assert len(files(tmp_path)) == 1


def test_what_becomes_of_a_file_after_the_scan_does_not_matter(tmp_path: Path, draw: DrawPicture) -> None:
    def encode(pixels: U8) -> torch.Tensor:
        return torch.tensor(pixels[::16, ::16, :3].astype(np.float32)).reshape(1, -1, 3)

    def store(folder: str) -> PictureStore:
        return PictureStore(tmp_path / folder, "", lambda entry: read_again(data, entry).source, encode, resize)

    for name in ("a.png", "b.png"):
        draw(tmp_path / "data" / name, size=(70, 40), colour="red" if name == "a.png" else "blue")
    data = open_training_data(str(tmp_path / "data"))
    kept = store("kept")
    found = scan(data, lambda entry, example: kept.keep(entry, example.source))
    (tmp_path / "data" / "a.png").unlink()
    draw(tmp_path / "data" / "b.png", colour="green")
    gone, changed = found.entries
    assert kept.picture(gone).latents[0, 0].tolist() == [255, 0, 0]
    assert kept.picture(changed).latents[0, 0].tolist() == [0, 0, 255]
    for entry, words in ((gone, "cannot be read any more"), (changed, "another picture now")):
        with pytest.raises(InputError, match=words):
            store("empty").picture(entry)


def test_a_tensor_of_any_type_and_shape_comes_back(tmp_path: Path) -> None:
    made = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1.5), "c": torch.zeros(0, 4), "d": torch.ones(3, dtype=torch.bfloat16)}
    make: Callable[[], dict[str, torch.Tensor]] = lambda: made  # noqa: E731
    first = KeptTensors(tmp_path, lambda _: None).get("x", make)
    second = KeptTensors(tmp_path, lambda _: None).get("x", lambda: {})
    for key, tensor in made.items():
        assert torch.equal(first[key], tensor)
        assert torch.equal(second[key], tensor)
