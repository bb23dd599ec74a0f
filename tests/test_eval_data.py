from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from layerctl_exporters.psd import EXPORTER as PSD
from layerctl_train.evaluate.data import layered, open_data, pictures, scenes
from layerctl_train.evaluate.example import Data, Example, Skipped, picture_of
from PIL import Image

from layerctl import cli
from layerctl.composite import flatten
from layerctl.errors import InputError, UsageError
from layerctl.layers import Group, Layer, LayerStack, on_canvas
from layerctl.registry import ExportOptions
from layerctl.source import SourceImage
from layerctl.testing import assert_stacks_equal, scene

if TYPE_CHECKING:
    from tests.conftest import DrawPicture, Halves


def write_psd(path: Path, seed: int = 1) -> LayerStack:
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = scene(seed)[1]
    PSD.export(stack, path, ExportOptions())
    return stack


def write_pngs(folder: Path, seed: int = 1) -> LayerStack:
    """Layers as large as the canvas, numbered."""
    folder.mkdir(parents=True)
    stack = scene(seed)[1]
    for at, layer in enumerate(stack.walk()):
        Image.fromarray(on_canvas(layer, stack.width, stack.height)).save(folder / f"{at:04d}.png")
    return stack


def everything(data: Data) -> list[Example]:
    examples = list(data.examples(data.keys()))
    assert [example.key for example in examples] == list(data.keys())
    return [example for example in examples if isinstance(example, Example)]


def keys(data: Data) -> Sequence[str]:
    return list(data.keys())


# layered files


def test_layered_files_are_found_everywhere_in_a_folder(tmp_path: Path) -> None:
    write_psd(tmp_path / "b" / "poster.psd")
    write_psd(tmp_path / "a.PSB")
    write_pngs(tmp_path / "b" / "stack")
    write_psd(tmp_path / ".hidden" / "c.psd")
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    assert keys(layered(tmp_path)) == ["a.PSB", "b/poster.psd", "b/stack"]


def test_the_layers_are_the_truth_and_the_picture_is_what_they_flatten_to(tmp_path: Path) -> None:
    stack = write_psd(tmp_path / "a.psd")
    (example,) = everything(layered(tmp_path))
    assert example.truth is not None
    assert_stacks_equal(example.truth, stack, hidden_colour=False)
    assert np.array_equal(example.source.pixels, flatten(stack))
    assert example.source.path == tmp_path / "a.psd"


def test_a_file_or_a_stack_of_its_own_is_data_too(tmp_path: Path) -> None:
    write_psd(tmp_path / "a.psd")
    write_pngs(tmp_path / "stack")
    assert [example.key for example in everything(layered(tmp_path / "a.psd"))] == ["a.psd"]
    assert [example.key for example in everything(layered(tmp_path / "stack"))] == ["stack"]


def test_a_result_is_one_layered_file(folder: Path, draw: DrawPicture, halves: Halves) -> None:
    draw(Path("in/photo.png"))
    assert cli.main(["decompose", "in/photo.png", "-o", "results", "--psd", "-q"]) == 0
    (example,) = everything(layered(Path("results")))
    assert example.key == "photo-layers"
    assert example.truth is not None
    assert [layer.name for layer in example.truth.walk()] == ["Background", "Right half"]


def test_hidden_layers_are_no_part_of_the_truth(tmp_path: Path) -> None:
    dot = Layer("Dot", np.full((2, 2, 4), 255, np.uint8))
    seen = (Layer("Ground", np.full((8, 8, 4), 90, np.uint8)), Group("Group", (dot, replace(dot, name="Faint", opacity=0.5))))
    hidden = (replace(dot, name="Off", visible=False), Group("Off", (dot,), visible=False), replace(dot, name="Clear", opacity=0.0))
    PSD.export(LayerStack(8, 8, (*seen, *hidden)), tmp_path / "a.psd", ExportOptions())
    PSD.export(LayerStack(8, 8, hidden), tmp_path / "b.psd", ExportOptions())
    one, other = layered(tmp_path).examples(["a.psd", "b.psd"])
    assert isinstance(one, Example)
    assert one.truth is not None
    assert [layer.name for layer in one.truth.walk()] == ["Ground", "Dot", "Faint"]
    assert np.array_equal(flatten(one.truth), one.source.pixels)
    assert isinstance(other, Skipped)
    assert "b.psd shows nothing" in other.reason


def test_a_file_that_cannot_be_read_does_not_end_the_others(tmp_path: Path) -> None:
    write_psd(tmp_path / "a.psd")
    (tmp_path / "b.psd").write_bytes(b"8BPS and nothing more")
    write_psd(tmp_path / "c.psd")
    first, bad, last = layered(tmp_path).examples(["a.psd", "b.psd", "c.psd"])
    assert isinstance(first, Example)
    assert isinstance(last, Example)
    assert isinstance(bad, Skipped)
    assert bad.is_fault
    assert bad.reason.startswith(f"{tmp_path / 'b.psd'} is damaged")


def test_a_folder_without_layered_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no layered files"):
        layered(tmp_path)


# pictures


def test_plain_pictures_have_no_truth(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "b.jpg")
    draw(tmp_path / "deep" / "a.png")
    (tmp_path / "c.webp").write_bytes(b"no picture")
    data = pictures(tmp_path)
    assert keys(data) == ["b.jpg", "c.webp", "deep/a.png"]
    one, bad, other = data.examples(data.keys())
    assert isinstance(one, Example)
    assert (one.truth, one.source.width) == (None, 24)
    assert isinstance(bad, Skipped)
    assert "c.webp" in bad.reason
    assert isinstance(other, Example)


def test_pictures_inside_of_results_are_not_taken(folder: Path, draw: DrawPicture, halves: Halves) -> None:
    draw(Path("photo.png"))
    assert cli.main(["decompose", "photo.png", "-q"]) == 0
    assert keys(pictures(folder)) == ["photo.png"]


def test_only_what_is_asked_for_is_read(tmp_path: Path, draw: DrawPicture) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)
    data = pictures(tmp_path)
    (tmp_path / "b.png").unlink()
    assert [example.key for example in data.examples(["c.png", "a.png"]) if isinstance(example, Example)] == ["a.png", "c.png"]


# scenes


def test_scenes_have_two_to_six_layers() -> None:
    data = scenes(10)
    counts = Counter(sum(1 for _ in example.truth.walk()) for example in everything(data) if example.truth is not None)
    assert counts == {2: 2, 3: 2, 4: 2, 5: 2, 6: 2}
    assert keys(data)[:2] == ["scene-0001", "scene-0002"]


def test_a_scene_is_the_same_in_every_set() -> None:
    (one,), (other,) = (list(scenes(count).examples(["scene-0003"])) for count in (3, 50))
    assert isinstance(one, Example)
    assert isinstance(other, Example)
    assert one.source.sha256 == other.source.sha256


def test_different_pictures_have_different_hashes() -> None:
    examples = everything(scenes(5))
    assert len({example.source.sha256 for example in examples}) == 5
    pixels = np.zeros((2, 3, 4), np.uint8)
    one, other = (picture_of(LayerStack(*size, (Layer("a", pixels.reshape(size[1], size[0], 4)),))) for size in ((3, 2), (2, 3)))
    assert one.sha256 != other.sha256


def test_one_picture_at_a_time_is_in_memory() -> None:
    alive: weakref.WeakSet[SourceImage] = weakref.WeakSet()
    most = 0
    data = scenes(200, width=24, height=16)
    for example in data.examples(data.keys()):
        assert isinstance(example, Example)
        alive.add(example.source)
        most = max(most, len(alive))
    assert most <= 2


# what --data means


def test_a_number_of_scenes_can_be_asked_for() -> None:
    assert len(open_data("scenes").keys()) == 100
    assert len(open_data("scenes:7").keys()) == 7


def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path, draw: DrawPicture) -> None:
    write_psd(tmp_path / "designs" / "a.psd")
    write_pngs(tmp_path / "stacks" / "one")
    write_pngs(tmp_path / "stacks" / "two", seed=2)
    for name in ("a.png", "b.png"):  # of one size, but nothing in them is transparent
        draw(tmp_path / "photos" / name)
    found = {name: open_data(str(tmp_path / name)) for name in ("designs", "stacks", "photos")}
    assert {name: keys(data) for name, data in found.items()} == {
        "designs": ["a.psd"],
        "stacks": ["one", "two"],
        "photos": ["a.png", "b.png"],
    }
    assert {name: everything(data)[0].truth is not None for name, data in found.items()} == {
        "designs": True,
        "stacks": True,
        "photos": False,
    }
    assert found["designs"].name == "folder designs"


def test_a_folder_with_both_has_to_be_told_apart(tmp_path: Path, draw: DrawPicture) -> None:
    write_psd(tmp_path / "poster.psd")
    draw(tmp_path / "poster.png")
    with pytest.raises(UsageError, match=r"holds layered files \(poster\.psd\) and pictures \(poster\.png\)") as caught:
        open_data(str(tmp_path))
    assert caught.value.hint == f"say which: --data layered:{tmp_path} or --data pictures:{tmp_path}"
    assert keys(open_data(f"pictures:{tmp_path}")) == ["poster.png"]
    assert "poster.psd" in keys(open_data(f"layered:{tmp_path}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes:0", "'0' is no number of scenes"),
        ("scenes:many", "'many' is no number of scenes"),
        ("scenes:", "'' is no number of scenes"),
        ("nowhere", "--data nowhere: there is no such file or folder"),
        ("layered:nowhere", "--data layered:nowhere: there is no such file or folder"),
        ("crello:nowhere.parquet", "--data crello:nowhere.parquet: there is no such file or folder"),
        ("pictures:", "there is no such file or folder"),
        ("", "there is no such file or folder"),
        ("crellos:5", "--data crellos:5: there is no such file or folder"),
    ],
)
def test_what_is_no_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_data(text)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_table_by_itself_is_refused_with_the_name_to_type(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.touch()
    with pytest.raises(UsageError) as caught:
        open_data(str(path))
    assert caught.value.hint == f"if it has the columns of Crello: --data crello:{path}"


def test_a_folder_with_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither layered files nor pictures"):
        open_data(str(tmp_path))
