"""Where pictures to train on come from, what a scan keeps of them, and in what order they come."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, IterableDataset, Value
from datasets import Image as Picture
from datasets.exceptions import DatasetNotFoundError
from layerctl_exporters.psd import EXPORTER as PSD
from layerctl_train.evaluate.example import Example, Skipped
from layerctl_train.hub_data import hub_data
from layerctl_train.sample import TrainingData
from layerctl_train.training_data import Entry, Scan, divided, open_training_data, order, read_again, scan
from PIL import Image

from layerctl.colour import srgb_profile
from layerctl.errors import InputError, MissingDependencyError, UsageError
from layerctl.layers import LayerStack
from layerctl.registry import ExportOptions
from layerctl.testing import scene

if TYPE_CHECKING:
    from tests.conftest import DrawPicture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def scanned(data: TrainingData, limit: int | None = None) -> Scan:
    return scan(data, lambda *_: None, limit=limit)


def keys(found: Scan) -> list[str]:
    return [entry.key for entry in found.entries]


def write_psd(path: Path, stack: LayerStack) -> None:
    PSD.export(stack, path, ExportOptions())


def entries(count: int) -> tuple[Entry, ...]:
    return tuple(Entry(f"{at}.png", f"{at:064x}", 8, 8) for at in range(count))


# folders and lists


def test_a_folder_is_its_pictures_and_those_below_with_the_prompts_beside_them(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "b.png", colour="red")
    draw(tmp_path / "a" / "photo.jpg")
    (tmp_path / "a" / "photo.txt").write_text("\ufeffa teal sea\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text(" \n")
    found = scanned(open_training_data(str(tmp_path)))
    assert [(entry.key, entry.prompt) for entry in found.entries] == [("a/photo.jpg", "a teal sea"), ("b.png", None)]
    assert (found.entries[0].width, found.entries[0].height) == (24, 16)


def test_a_list_names_a_picture_a_line_from_where_it_lies(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "shots" / "b.png", colour="red")
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a sea")
    (tmp_path / "list.txt").write_text(f"# mine\n\nshots/b.png\n{tmp_path / 'a.png'}\nshots/b.png\ngone.png\n")
    found = scanned(open_training_data(str(tmp_path / "list.txt")))
    assert keys(found) == ["shots/b.png", str(tmp_path / "a.png")]
    assert found.entries[1].prompt == "a sea"
    assert found.duplicates == (("shots/b.png (line 5)", "shots/b.png"),)
    assert [skipped.key for skipped in found.skipped] == ["gone.png"]


def test_a_list_of_objects_brings_its_prompts(tmp_path: Path, draw: DrawPicture) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        draw(tmp_path / f"{name}.png", colour=colour)
        (tmp_path / f"{name}.txt").write_text(f"beside {name}")
    (tmp_path / "list.jsonl").write_text('{"file": "b.png", "prompt": "of the list"}\n{"file": "a.png"}\n')
    found = scanned(open_training_data(str(tmp_path / "list.jsonl")))
    assert [(entry.key, entry.prompt) for entry in found.entries] == [("b.png", "of the list"), ("a.png", "beside a")]


@pytest.mark.parametrize("line", ["b.png", "[1]", '{"prompt": "x"}', '{"file": 3}', '{"file": "b.png", "prompt": 3}'])
def test_a_line_of_a_list_that_makes_no_sense_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"file": "a.png"}\n' + line)
    with pytest.raises(InputError, match=r"list\.jsonl, line 2"):
        open_training_data(str(tmp_path / "list.jsonl"))


def test_a_list_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# later\n")
    with pytest.raises(InputError, match="lists nothing"):
        open_training_data(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("text", ["nowhere", "list.txt", "hub:", "hub:a/b/c", "crello", "scenes:none", "layered:nowhere"])
def test_what_is_no_data_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--data"):
        open_training_data(text)


@pytest.mark.parametrize("text", ["empty", "layered:nowhere", "table.parquet"])
def test_what_only_evaluation_takes_is_not_offered(folder: Path, text: str) -> None:
    (folder / "empty").mkdir()
    (folder / "table.parquet").touch()
    with pytest.raises((InputError, UsageError)) as caught:
        open_training_data(text)
    assert "hub:ORG/NAME" in str(caught.value.hint)
    assert "crello" not in str(caught.value.hint)


@pytest.mark.parametrize("form", ["{}", "pictures:{}", "{}/list.txt"])
def test_pictures_that_are_larger_than_the_limit_are_left_out(tmp_path: Path, draw: DrawPicture, form: str) -> None:
    draw(tmp_path / "large.png", (40, 30))
    draw(tmp_path / "small.png", (10, 10), "red")
    (tmp_path / "list.txt").write_text("large.png\nsmall.png\n")
    text = form.format(tmp_path)
    assert len(scanned(open_training_data(text)).entries) == 2
    found = scanned(open_training_data(text, max_pixels=1000))
    assert keys(found) == ["small.png"]
    assert "1,200 pixels, more than the limit of 1,000" in found.skipped[0].reason


def test_scenes_come_in_the_number_that_is_asked_for() -> None:
    found = scanned(open_training_data("scenes:3"))
    assert keys(found) == ["scene-0001", "scene-0002", "scene-0003"]


# layered files


def test_layered_files_are_their_composites_for_one_method_and_their_layers_for_the_other(tmp_path: Path) -> None:
    _, stack = scene(1)
    write_psd(tmp_path / "a.psd", stack)
    write_psd(tmp_path / "b.psd", LayerStack(stack.width, stack.height, tuple(stack.layers[:1])))
    (tmp_path / "a.txt").write_text("shapes")
    kept: list[Example] = []
    composites = scan(open_training_data(str(tmp_path)), lambda _, example: kept.append(example))
    assert keys(composites) == ["a.psd", "b.psd"]
    assert [example.truth for example in kept] == [None, None]
    assert composites.entries[0].prompt == "shapes"
    layered = scan(open_training_data(str(tmp_path), with_layers=True), lambda _, example: kept.append(example))
    assert kept[-1].truth is not None
    assert [(one.sha256, one.stack is None) for one in layered.entries] == [(one.sha256, False) for one in composites.entries]
    assert layered.fingerprint != composites.fingerprint


def test_stacks_that_flatten_to_the_same_are_two_where_layers_are_learned(tmp_path: Path) -> None:
    source, stack = scene(1)
    write_psd(tmp_path / "a.psd", stack)
    base, *others = stack.layers
    write_psd(tmp_path / "b.psd", stack.with_layers((base, base, *others)))
    assert len(scanned(open_training_data(str(tmp_path))).entries) == 1
    layered = scanned(open_training_data(str(tmp_path), with_layers=True))
    assert len(layered.entries) == 2
    train, held = divided(Scan("x", (*layered.entries, *entries(1))), 1)
    assert {len(train), len(held)} == {1, 2}
    assert source.width == layered.entries[0].width


def test_what_has_no_layers_is_refused_where_they_are_learned(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png of folder .* has no layers to learn from"):
        scanned(open_training_data(str(tmp_path), with_layers=True))
    with pytest.raises(UsageError, match="no layers to learn from"):
        open_training_data("hub:a/b", with_layers=True)


# the scan


def test_bad_pictures_are_told_and_left_out(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "good.png")
    whole = draw(tmp_path / "cut.png", size=(200, 100)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    Image.new("1", (20_000, 15_001)).save(tmp_path / "huge.png")
    draw(tmp_path / "latin.png", colour="red")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    told: list[str] = []
    found = scan(open_training_data(str(tmp_path)), lambda *_: None, tell=told.append)
    assert keys(found) == ["good.png"]
    reasons = {skipped.key: skipped.reason for skipped in found.skipped}
    assert list(reasons) == ["cut.png", "empty.jpg", "huge.png", "latin.png", "moving.gif", "text.jpg"]
    assert "damaged" in reasons["cut.png"]
    assert "pixels, more than the limit" in reasons["huge.png"]
    assert reasons["moving.gif"] == "it has more than one frame"
    assert told == [f"{key} is left out: {reason}" for key, reason in reasons.items()]


def test_the_same_pixels_count_once_whatever_their_file(tmp_path: Path, draw: DrawPicture) -> None:
    picture = Image.open(draw(tmp_path / "a.png"))
    picture.save(tmp_path / "b.bmp")
    picture.save(tmp_path / "c.png", icc_profile=srgb_profile())
    picture.rotate(180).save(tmp_path / "d.png")
    told: list[str] = []
    found = scan(open_training_data(str(tmp_path)), lambda *_: None, tell=told.append)
    assert keys(found) == ["a.png", "d.png"]
    assert found.duplicates == (("b.bmp", "a.png"), ("c.png", "a.png"))
    assert told[0] == "b.bmp is left out: it is the same picture as a.png"


def test_pictures_of_other_sides_with_the_same_bytes_are_not_the_same(tmp_path: Path) -> None:
    for name, size in (("a", (4, 6)), ("b", (6, 4))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    assert len(scanned(open_training_data(str(tmp_path))).entries) == 2


def test_the_same_numbers_in_another_profile_are_another_picture(tmp_path: Path, draw: DrawPicture) -> None:
    swapped = srgb_profile().replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    Image.open(draw(tmp_path / "a.png")).save(tmp_path / "b.png", icc_profile=swapped)
    assert keys(scanned(open_training_data(str(tmp_path)))) == ["a.png", "b.png"]


def test_what_cannot_be_kept_is_left_out_too() -> None:
    def keep(entry: Entry, _: Example) -> None:
        if entry.key == "scene-0002":
            raise InputError("it shows 1 of its layers")

    found = scan(open_training_data("scenes:3"), keep)
    assert keys(found) == ["scene-0001", "scene-0003"]
    assert found.skipped == (Skipped("scene-0002", "it shows 1 of its layers"),)


def test_a_limit_counts_good_pictures_and_reads_no_further(tmp_path: Path, draw: DrawPicture) -> None:
    (tmp_path / "a.png").touch()
    for name, colour in (("b", "red"), ("c", "blue"), ("d", "green")):
        draw(tmp_path / f"{name}.png", colour=colour)
    shares: list[float] = []
    read: list[str] = []
    data = open_training_data(str(tmp_path))
    found = scan(data, lambda entry, _: read.append(entry.key), limit=2, progress=lambda _, share: shares.append(share))
    assert keys(found) == read == ["b.png", "c.png"]
    assert shares == [1.0, 1.0]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"no picture to train on: a\.png: .*is empty"):
        scanned(open_training_data(str(tmp_path)))


def test_a_scan_comes_back_from_json(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "c.png").touch()
    found = scanned(open_training_data(str(tmp_path)))
    assert Scan.from_json(json.loads(json.dumps(found.to_json()))) == found
    damaged: object
    for damaged in ([], {}, {**found.to_json(), "entries": [{"key": "a"}]}, {**found.to_json(), "duplicates": [["a"]]}):
        with pytest.raises(InputError, match="damaged"):
            Scan.from_json(damaged)


def test_the_fingerprint_is_of_content_prompts_and_order_not_of_places(tmp_path: Path, draw: DrawPicture) -> None:
    def print_of(folder: str) -> str:
        return scanned(open_training_data(str(tmp_path / folder))).fingerprint

    draw(tmp_path / "one" / "a.png")
    draw(tmp_path / "one" / "b.png", colour="red")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert print_of("one") == print_of("two")
    seen = {print_of("two")}
    (tmp_path / "two" / "a.txt").write_text("teal")
    seen.add(print_of("two"))
    (tmp_path / "two" / "b.png").rename(tmp_path / "two" / "0.png")
    seen.add(print_of("two"))
    draw(tmp_path / "two" / "0.png", colour="blue")
    seen.add(print_of("two"))
    draw(tmp_path / "two" / "c.png", colour="green")
    seen.add(print_of("two"))
    assert len(seen) == 5


def test_a_picture_is_read_again_only_if_it_is_still_the_same(tmp_path: Path, draw: DrawPicture) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", colour="red")
    data = open_training_data(str(tmp_path))
    _, entry = scanned(data).entries
    assert read_again(data, entry).key == "b.png"
    draw(tmp_path / "b.png", colour="blue")
    with pytest.raises(InputError, match="another picture now"):
        read_again(data, entry)
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png of .* cannot be read any more: there is no file"):
        read_again(data, entry)


# division and order


def test_held_out_pictures_are_those_of_the_lowest_hash_whatever_the_order() -> None:
    found = entries(40)
    train, held = divided(Scan("x", found), 8)
    assert (len(train), len(held)) == (32, 8)
    assert sorted([*train, *held], key=found.index) == list(found)
    assert {*divided(Scan("x", found[::-1]), 8)[1]} == {*held}
    assert divided(Scan("x", found), 0) == (list(found), [])


def test_a_picture_that_is_added_moves_at_most_one_other() -> None:
    found = entries(60)
    for count in range(20, 59):
        _, held = divided(Scan("x", found[:count]), 8)
        _, then = divided(Scan("x", found[: count + 1]), 8)
        gone = {*held} - {*then}
        assert {*then} - {*held} == ({found[count]} if gone else set())
        assert len(gone) <= 1


def test_holding_out_everything_is_an_error() -> None:
    with pytest.raises(InputError, match="has 3 pictures, and 3 are held out"):
        divided(Scan("x", entries(3)), 3)


def test_every_epoch_has_each_picture_once_in_an_order_of_its_own() -> None:
    epochs = [[order(7, 3, epoch * 7 + place) for place in range(7)] for epoch in range(50)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 45
    firsts = Counter(epoch[0] for epoch in epochs)
    assert len(firsts) == 7
    assert [order(7, 4, place) for place in range(7)] != epochs[0]
    assert order(1, 0, 1000) == 0


def test_the_order_is_a_pure_function_that_never_changes() -> None:
    # Runs that are resumed with a later version depend on these numbers.
    assert [order(5, 0, position) for position in (13, 2, 13, 0)] == [order(5, 0, position) for position in (13, 2, 13, 0)]
    assert [order(6, 0, position) for position in range(12)] == [2, 4, 3, 0, 1, 5, 0, 3, 2, 4, 1, 5]


# the Hub


def packed(colour: str = "red", size: tuple[int, int] = (12, 8)) -> dict[str, Any]:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dataset as one lies on the Hub: parquet files, named for their split."""

    def write(*rows: dict[str, Any], split: str = "train", **columns: Any) -> Path:
        features = Features({"id": Value("int64"), "image": Picture(), **columns})
        path = tmp_path / "dataset" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list([{"id": at, **row} for at, row in enumerate(rows)], features=features).to_parquet(path)
        return tmp_path / "dataset"

    return write


def test_rows_of_a_dataset_are_pictures_with_their_prompts(copy: Callable[..., Path]) -> None:
    rows = [{"image": packed("red"), "caption": " red "}, {"image": packed("blue"), "caption": None}]
    found = scanned(open_training_data(f"hub:{copy(*rows, caption=Value('string'))}", offline=True))
    assert [(entry.key, entry.prompt, entry.width) for entry in found.entries] == [("row-000000", "red", 12), ("row-000001", None, 12)]


def test_a_row_is_the_same_picture_as_the_file(copy: Callable[..., Path], tmp_path: Path) -> None:
    kept: list[Example] = []
    (entry,) = scan(open_training_data(f"hub:{copy({'image': packed()})}"), lambda _, example: kept.append(example)).entries
    (tmp_path / "a.png").write_bytes(packed()["bytes"])
    assert scanned(open_training_data(str(tmp_path / "a.png"))).entries[0].sha256 == entry.sha256
    assert np.array_equal(kept[0].source.pixels[0, 0], [255, 0, 0, 255])
    assert kept[0].source.path is None


def test_rows_that_cannot_be_read_are_told_and_do_not_end_the_stream(copy: Callable[..., Path]) -> None:
    damaged = packed("green", (90, 90))["bytes"][:60]
    rows = [packed(), None, {"bytes": damaged, "path": None}, {"bytes": b"text", "path": "a.png"}, packed(), packed("blue")]
    found = scanned(open_training_data(f"hub:{copy(*({'image': row} for row in rows))}"))
    assert keys(found) == ["row-000000", "row-000005"]
    assert found.duplicates == (("row-000004", "row-000000"),)
    reasons = {skipped.key: skipped.reason for skipped in found.skipped}
    assert list(reasons) == ["row-000001", "row-000002", "row-000003"]
    assert reasons["row-000001"] == "row-000001 holds no picture"
    assert reasons["row-000003"] == "row-000003 is not a picture, or a damaged one"


def test_a_row_is_read_again_by_its_number(copy: Callable[..., Path]) -> None:
    data = open_training_data(f"hub:{copy(*({'image': packed(colour)} for colour in ('red', 'blue', 'green')))}")
    entry = scanned(data).entries[1]
    assert read_again(data, entry).source.pixels[0, 0].tolist() == [0, 0, 255, 255]


def test_a_folder_of_picture_files_streams_as_a_dataset_too(tmp_path: Path, draw: DrawPicture) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        draw(tmp_path / "train" / f"{name}.png", colour=colour)
    with (tmp_path / "train" / "metadata.jsonl").open("w") as file:
        file.writelines(json.dumps({"file_name": f"{name}.png", "text": name}) + "\n" for name in "ab")
    found = scanned(open_training_data(f"hub:{tmp_path}"))
    assert [entry.prompt for entry in found.entries] == ["a", "b"]


def test_the_split_is_the_one_that_is_asked_for_else_train_else_the_first(copy: Callable[..., Path]) -> None:
    folder = copy({"image": packed("red")}, split="test")
    assert len(scanned(open_training_data(f"hub:{folder}")).entries) == 1
    copy({"image": packed("red")}, {"image": packed("blue")})
    assert len(scanned(open_training_data(f"hub:{folder}")).entries) == 2
    asked = open_training_data(f"hub:{folder}:test")
    assert (len(scanned(asked).entries), asked.name) == (1, f"hub {folder} test")
    with pytest.raises(InputError, match="has no split nothing") as caught:
        scanned(open_training_data(f"hub:{folder}:nothing"))
    assert "train, test" in str(caught.value.hint)


def test_train_is_taken_wherever_it_stands_and_the_first_prompt_column() -> None:
    def rows() -> Any:
        yield {"text": "second", "prompt": "first", "number": 1, "picture": packed()}

    def load(*_: object, **__: object) -> Any:
        features = Features({"text": Value("string"), "prompt": Value("string"), "number": Value("int64"), "picture": Picture()})
        return {"test": None, "train": IterableDataset.from_generator(rows, features=features)}

    (entry,) = scanned(hub_data("org/name", load=load)).entries
    assert (entry.prompt, entry.width, entry.height) == ("first", 12, 8)
    with pytest.raises(InputError, match="96 pixels, more than the limit of 90"):
        scanned(hub_data("org/name", max_pixels=90, load=load))


def test_a_dataset_of_unknown_columns_is_refused() -> None:
    def load(*_: object, **__: object) -> Any:
        return {"train": IterableDataset.from_generator(lambda: iter([{"text": "words"}]))}

    with pytest.raises(InputError, match=r"has no column of pictures$"):
        scanned(hub_data("org/name", load=load))


def test_a_dataset_without_pictures_is_refused(tmp_path: Path) -> None:
    Dataset.from_list([{"text": "words"}]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match="no column of pictures, but text"):
        scanned(open_training_data(f"hub:{tmp_path}"))


def test_offline_it_is_said_how_to_get_a_copy() -> None:
    with pytest.raises(MissingDependencyError, match="org/name@v2 cannot be fetched: --offline is set") as caught:
        open_training_data("hub:org/name@v2:train", offline=True)
    copy = "hf download org/name --repo-type dataset --revision v2 --local-dir name"
    assert caught.value.hint == f"with a connection: {copy}; then, without one: --data hub:name"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ConnectionError("no route to host"), MissingDependencyError),
        (DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub"), InputError),
        (ValueError("Config name is missing"), InputError),
    ],
)
def test_a_hub_that_does_not_give_the_dataset_is_an_error_in_words(fault: Exception, error: type[InputError]) -> None:
    def load(repository: str, revision: str | None, streaming: bool) -> Any:
        assert (repository, revision, streaming) == ("org/name", "v2", True)
        raise fault

    with pytest.raises(error, match=f"org/name@v2 cannot be .*: {fault}"):
        scanned(hub_data("org/name@v2:train", load=load))


def test_a_connection_that_breaks_in_the_stream_is_an_error_in_words() -> None:
    def rows() -> Any:
        yield {"image": packed()}
        raise ConnectionError("reset by peer")

    def load(*_: object, **__: object) -> Any:
        return {"train": IterableDataset.from_generator(rows, features=Features({"image": Picture()}))}

    with pytest.raises(MissingDependencyError, match="org/name cannot be fetched: reset by peer"):
        scanned(hub_data("org/name", load=load))
