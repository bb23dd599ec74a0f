"""Crello is read through `datasets` from parquet files in the dataset's own schema; none of its designs is here."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as Picture
from hypothesis import given
from hypothesis import strategies as st
from layerctl_train.evaluate import crello as reader
from layerctl_train.evaluate.crello import COLUMNS, crello
from layerctl_train.evaluate.crello_design import Design, Element, draw
from layerctl_train.evaluate.data import open_data
from layerctl_train.evaluate.example import Data, Example, Skipped
from PIL import Image

from layerctl.composite import flatten
from layerctl.errors import InputError, MissingDependencyError, UsageError
from layerctl.source import SourceImage

TYPES = ["SvgElement", "TextElement", "ImageElement", "ColoredBackground", "SvgMaskElement"]
NUMBERS = List(Value("float32"))

SCHEMA = Features({
    "id": Value("string"), "length": Value("int64"), "group": ClassLabel(names=["SM", "HC"]),
    "format": ClassLabel(names=["Logo", "Poster"]), "canvas_width": Value("int64"), "canvas_height": Value("int64"),
    "category": ClassLabel(names=["holidays", "business"]), "title": Value("string"), "suitability": List(ClassLabel(names=["mobile"])),
    "keywords": List(Value("string")), "industries": List(ClassLabel(names=["marketingAds"])), "preview": Picture(),
    "cluster_index": Value("int64"), "type": List(ClassLabel(names=TYPES)), "left": NUMBERS, "top": NUMBERS, "width": NUMBERS,
    "height": NUMBERS, "angle": NUMBERS, "opacity": NUMBERS, "color": List(List(Value("string"))), "image": List(Picture()),
    "text": List(Value("string")), "font": List(ClassLabel(names=["", "Montserrat"])), "font_size": NUMBERS,
    "font_bold": List(List(Value("bool"))), "font_italic": List(List(Value("bool"))), "text_color": List(List(Value("string"))),
    "text_line": List(List(Value("int64"))), "text_align": List(ClassLabel(names=["left", "center", "right"])),
    "capitalize": List(Value("bool")), "line_height": NUMBERS, "letter_spacing": NUMBERS,
})  # fmt: skip
"""Of revision 5.1.0, with fewer categories."""


def element(kind: str = "ImageElement", picture: Image.Image | None = None, text: str = "", **values: Any) -> dict[str, Any]:
    """One of 10 x 8 pixels at the canvas's corner, red."""
    return {
        "type": kind, "left": 0.0, "top": 0.0, "width": 10.0, "height": 8.0, "angle": 0.0, "opacity": 1.0, "color": [],
        "image": picture or Image.new("RGBA", (10, 8), "red"), "text": text, "font": 1, "font_size": 12.0, "font_bold": [False] * len(text),
        "font_italic": [False] * len(text), "text_color": ["rgba(0, 0, 0, 1)"] * len(text), "text_line": [0] * len(text), "text_align": 0,
        "capitalize": False, "line_height": 1.0, "letter_spacing": 0.0,
    } | values  # fmt: skip


def background(size: tuple[int, int] = (40, 20), colour: str = "navy") -> dict[str, Any]:
    return element("ColoredBackground", Image.new("RGB", (8, 8), colour), width=float(size[0]), height=float(size[1]))


def design(*elements: dict[str, Any], key: str = "a1", size: tuple[int, int] = (40, 20)) -> dict[str, Any]:
    row = {
        "id": key, "length": len(elements), "group": 0, "format": 1, "canvas_width": size[0], "canvas_height": size[1], "category": 0,
        "title": "Sale", "suitability": [0], "keywords": ["sale"], "industries": [0], "preview": Image.new("RGB", (4, 2)),
        "cluster_index": 3,
    }  # fmt: skip
    return row | {name: [each[name] for each in elements] for name in element()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: dict[str, Any], name: str = "test-00000-of-00001.parquet", schema: Features = SCHEMA) -> Path:
        path = tmp_path / name
        Dataset.from_list(list(rows), features=schema).to_parquet(path)
        return path

    return write


@pytest.fixture
def drawn(written: Callable[..., Path]) -> Callable[..., Example]:
    """The only design of a table, 20 pixels high as its canvas."""

    def read(*elements: dict[str, Any], **about: Any) -> Example:
        example = only(crello(written(design(*elements, **about)), short_side=20))
        assert isinstance(example, Example)
        return example

    return read


def only(data: Data) -> Example | Skipped:
    (example,) = data.examples(data.keys())
    return example


def on_canvas(example: Example, at: int) -> np.ndarray[Any, Any]:
    """The pixels of one layer."""
    assert example.truth is not None
    return flatten(example.truth.with_layers((example.truth.layers[at],)))


def test_a_design_becomes_its_picture_and_its_layers(drawn: Callable[..., Example]) -> None:
    example = drawn(background(), element(left=4.0, top=6.0), element("TextElement", text="Sale!", left=20.0))
    truth = example.truth
    assert truth is not None
    assert (example.key, example.source.width, example.source.height) == ("a1", 40, 20)
    assert [(layer.name, layer.box, layer.kind, layer.text) for layer in truth.walk()] == [
        ("ColoredBackground 1", (0, 0, 40, 20), "background", None),
        ("ImageElement 2", (4, 6, 14, 14), "element", None),
        ("TextElement 3", (20, 0, 30, 8), "text", "Sale!"),
    ]
    assert np.array_equal(flatten(truth), example.source.pixels)
    assert example.source.pixels[7, 5].tolist() == [255, 0, 0, 255]
    assert example.source.pixels[19, 39].tolist() == [0, 0, 128, 255]


def test_the_shorter_side_gets_512_pixels_and_fractions_are_cut_off(written: Callable[..., Path]) -> None:
    example = only(crello(written(design(background((1131, 800)), element(), size=(1131, 800)))))
    assert isinstance(example, Example)
    assert (example.source.width, example.source.height) == (723, 512)  # 1131 x 512 / 800 = 723.84
    assert not example.source.has_alpha


def test_pixels_of_an_element_are_repeated_not_mixed(drawn: Callable[..., Example]) -> None:
    chequered = Image.fromarray(np.array([[[255, 0, 0, 255], [0, 255, 0, 255]]], np.uint8))
    row = on_canvas(drawn(background(), element(picture=chequered)), 1)[0]
    assert row[:5].tolist() == [[255, 0, 0, 255]] * 5
    assert row[5:10].tolist() == [[0, 255, 0, 255]] * 5


def test_an_element_between_pixels_covers_its_rims_in_part(drawn: Callable[..., Example]) -> None:
    alpha = on_canvas(drawn(background(), element(left=2.25, top=3.0)), 1)[4, :, 3]
    assert alpha[1:4].tolist() == [0, 191, 255]  # three quarters of 255 are 191.25
    assert alpha[11:14].tolist() == [255, 64, 0]


def test_a_turned_element_turns_clockwise_around_its_centre(drawn: Callable[..., Example]) -> None:
    half = Image.new("RGBA", (10, 8), "red")
    half.paste((0, 255, 0, 255), (0, 0, 5, 8))
    example = drawn(background(), element(picture=half, left=10.0, top=6.0, angle=90.0))
    pixels = on_canvas(example, 1)
    # The box 10..20 x 6..14 around 15, 10 becomes 11..19 x 5..15; its left half comes to lie above.
    assert example.truth is not None
    assert list(example.truth.walk())[1].box == (11, 5, 19, 15)
    assert pixels[6, 15].tolist() == [0, 255, 0, 255]
    assert pixels[13, 15].tolist() == [255, 0, 0, 255]


def test_opacity_is_in_the_pixels(drawn: Callable[..., Example]) -> None:
    assert on_canvas(drawn(background(), element(opacity=0.5)), 1)[0, 0].tolist() == [255, 0, 0, 128]


def test_an_element_outside_of_the_canvas_is_a_blank_layer(drawn: Callable[..., Example]) -> None:
    example = drawn(background(), element(left=200.0), element(left=-5.0))
    assert example.truth is not None
    assert [layer.box for layer in example.truth.walk()] == [(0, 0, 40, 20), (0, 0, 1, 1), (0, 0, 5, 8)]


def test_an_element_that_is_nowhere_opaque_is_dropped(drawn: Callable[..., Example]) -> None:
    glass = Image.new("RGBA", (10, 8), (255, 0, 0, 254))
    example = drawn(background(), element(), element(picture=glass, left=20.0), element(opacity=0.5, left=30.0))
    assert example.truth is not None
    assert [layer.name for layer in example.truth.walk()] == ["ColoredBackground 1", "ImageElement 2", "ImageElement 4"]
    assert example.source.pixels[0, 20].tolist() == [0, 0, 128, 255]


def test_what_is_completely_covered_is_dropped(drawn: Callable[..., Example]) -> None:
    example = drawn(background(), element(), background(colour="teal"), element())
    assert example.truth is not None
    assert [layer.name for layer in example.truth.walk()] == ["ColoredBackground 3", "ImageElement 4"]


def test_a_bottom_layer_with_holes_gets_white_below_it(drawn: Callable[..., Example]) -> None:
    example = drawn(element(), element(left=4.0))
    assert example.truth is not None
    assert [(layer.name, layer.kind) for layer in example.truth.walk()] == [
        ("White", "background"),
        ("ImageElement 1", "element"),
        ("ImageElement 2", "element"),
    ]
    assert example.source.pixels[19, 39].tolist() == [255] * 4
    assert np.array_equal(flatten(example.truth), example.source.pixels)


def test_a_translucent_bottom_layer_without_holes_gets_none(drawn: Callable[..., Example]) -> None:
    example = drawn(background() | {"opacity": 0.5}, element())
    assert example.truth is not None
    assert [layer.name for layer in example.truth.walk()] == ["ColoredBackground 1", "ImageElement 2"]
    assert example.source.pixels[19, 39].tolist() == [127, 127, 191, 255]


def literally(alphas: list[np.ndarray[Any, Any]]) -> list[str] | None:
    """The names of the layers that LayerD's code would keep, step by step as that code goes, for pictures as large as the canvas."""
    kept = list(range(len(alphas)))
    for at, alpha in enumerate(alphas):
        if alpha.max() < 255 and at in kept:
            kept.remove(at)
        if alpha.min() == 255 and at != 0:
            kept = kept[at:]
    if len(kept) < 2:
        return None
    remaining, group = kept, []
    while remaining:
        group = [
            one for place, one in enumerate(remaining) if not any((alphas[one] * alphas[other]).any() for other in remaining[place + 1 :])
        ]
        remaining = [one for one in remaining if one not in group]
    with_holes = min(alphas[at].min() for at in group) == 0
    return ["White"] * bool(with_holes) + [f"ImageElement {at + 1}" for at in kept]


@given(st.lists(st.lists(st.sampled_from([0, 90, 255]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_same_layers_are_left_as_of_the_published_code(values: list[list[int]]) -> None:
    alphas = [np.array(one).reshape(2, 2) for one in values]
    pictures = [np.dstack([np.full((2, 2, 3), 50), alpha]).astype(np.uint8) for alpha in alphas]
    drawn = draw(Design("a1", 2, 2, tuple(Element("ImageElement", "", png(one), (0, 0, 2, 2)) for one in pictures)), short_side=2)
    assert (None if drawn is None else [layer.name for layer in drawn.layers.walk()]) == literally(alphas)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_fewer_than_two_layers_are_no_example(written: Callable[..., Path]) -> None:
    skipped = only(crello(written(design(background()))))
    assert skipped == Skipped("a1", "fewer than two layers are left of it", is_fault=False)


def test_a_damaged_row_does_not_end_the_table(written: Callable[..., Path]) -> None:
    path = written(
        design(background(), element(), key="good"),
        design(background(), element() | {"image": {"bytes": b"no picture", "path": None}}, key="torn"),
        design(background(), element(), key="short") | {"left": [0.0]},
        design(background(), element(left=float("nan")), key="nowhere"),
        design(background(), element(), key="flat", size=(40, 0)),
        design(background(), element(), key="last"),
    )
    data = crello(path, short_side=20)
    found = {example.key: example for example in data.examples(data.keys())}
    assert list(found) == ["good", "torn", "short", "nowhere", "flat", "last"]
    faults = {key: example.reason for key, example in found.items() if isinstance(example, Skipped)}
    assert faults["torn"].startswith("torn: the picture of element 2 is damaged")
    assert faults["short"] == "short: the column left has 1 entries for 2 elements"
    assert faults["nowhere"] == "nowhere: the column left holds [0.0, nan]"
    assert faults["flat"] == "flat: its canvas has 40 x 0 pixels"
    assert len(faults) == 4


def test_only_what_is_asked_for_comes_in_the_order_of_the_table(written: Callable[..., Path]) -> None:
    data = crello(written(*(design(background(), element(), key=f"k{at}") for at in (3, 1, 2, 0))), short_side=20)
    assert data.keys() == ["k3", "k1", "k2", "k0"]
    assert [example.key for example in data.examples(["k2", "k3"])] == ["k3", "k2"]


def test_one_design_at_a_time_is_in_memory(written: Callable[..., Path]) -> None:
    data = crello(written(*(design(background(), element(), key=f"k{at}") for at in range(200))), short_side=20)
    alive: weakref.WeakSet[SourceImage] = weakref.WeakSet()
    most = 0
    for example in data.examples(data.keys()):
        assert isinstance(example, Example)
        alive.add(example.source)
        most = max(most, len(alive))
    assert most <= 2


def test_of_a_folder_the_test_designs_are_taken(written: Callable[..., Path], tmp_path: Path) -> None:
    written(design(background(), element(), key="t"), name="train-00000-of-00001.parquet")
    written(design(background(), element(), key="b"), name="test-00001-of-00002.parquet")
    written(design(background(), element(), key="a"), name="test-00000-of-00002.parquet")
    assert crello(tmp_path).keys() == ["a", "b"]


def test_a_file_may_have_brackets_in_its_name(written: Callable[..., Path]) -> None:
    path = written(design(background(), element()), name="copy [1] *.parquet")
    data = open_data(f"crello:{path}")
    assert (data.name, data.keys()) == ("crello, copy [1] *.parquet", ["a1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canvas_width": ClassLabel(names=["40"])}, "the column canvas_width holds category, not number as in cyberagent/crello 5.1.0"),
        ({"left": None}, "the column left holds nothing, not list of number"),
        ({"image": List(Value("string"))}, "the column image holds list of text, not list of picture"),
        ({"type": List(Value("int64"))}, "the column type holds list of number, not list of category"),
    ],
)
def test_a_table_with_other_columns_is_refused_by_their_name(written: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    (name,) = change
    as_it_is_there = {"canvas_width": "40", "left": None, "image": ["a", "b"], "type": [0, 1]}
    row = design(background(), element()) | {name: as_it_is_there[name]}
    schema = Features({key: feature for key, feature in (SCHEMA | change).items() if feature is not None})
    path = written({key: row[key] for key in schema}, schema=schema)
    for read in (lambda: crello(path).keys(), lambda: list(crello(path).examples(["a1"]))):
        with pytest.raises(InputError) as caught:
            read()
        assert message in caught.value.message
        assert str(path) in caught.value.message
        assert caught.value.hint is not None
        assert "--revision 5.1.0" in caught.value.hint


def test_every_column_that_is_read_is_in_the_schema() -> None:
    assert set(COLUMNS) <= set(SCHEMA)


def test_ids_that_are_there_twice_are_refused(written: Callable[..., Path]) -> None:
    path = written(design(background(), element()), design(background(), element()))
    with pytest.raises(InputError, match="more than one row has the id a1"):
        crello(path).keys()


def test_a_file_that_is_no_table_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read: "):
        crello(path).keys()


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no parquet files"):
        crello(tmp_path)


CARD = """\
---
dataset_info:
  features:
  - {name: id, dtype: string}
  - {name: length, dtype: int64}
  - {name: canvas_width, dtype: int64}
  - {name: canvas_height, dtype: int64}
  - name: type
    sequence:
      class_label:
        names: {'0': SvgElement, '1': TextElement, '2': ImageElement, '3': ColoredBackground, '4': SvgMaskElement}
  - {name: left, sequence: float32}
  - {name: top, sequence: float32}
  - {name: width, sequence: float32}
  - {name: height, sequence: float32}
  - {name: angle, sequence: float32}
  - {name: opacity, sequence: float32}
  - name: color
    sequence: {sequence: string}
  - {name: image, sequence: image}
  - {name: text, sequence: string}
  splits:
  - {name: test, num_bytes: 1, num_examples: 1}
configs:
- config_name: default
  data_files:
  - {split: test, path: data/test-*}
---
"""


def test_a_repository_is_read_by_its_card(written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    schema = Features({name: feature for name, feature in SCHEMA.items() if name in {*COLUMNS, "color"}})
    row = design(background(), element())
    written({name: row[name] for name in schema}, name="data/test-00000-of-00001.parquet", schema=schema)
    (tmp_path / "README.md").write_text(CARD)
    monkeypatch.setattr(reader, "REPOSITORY", str(tmp_path))
    data = open_data("crello")
    example = only(data)
    assert isinstance(example, Example)
    assert (data.name, example.key, example.source.height) == ("crello 5.1.0 test", "a1", 512)


def test_lists_are_known_by_their_older_name_too(written: Callable[..., Path]) -> None:
    path = written(design(background(), element()))
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"huggingface"])
    assert '"_type": "List"' in json.dumps(about)
    older = json.dumps(about).replace('"_type": "List"', '"_type": "Sequence"')
    pq.write_table(table.replace_schema_metadata({"huggingface": older}), path)
    assert isinstance(only(crello(path, short_side=20)), Example)


def test_without_a_connection_it_is_said_how_to_get_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    data = crello()
    with pytest.raises(MissingDependencyError, match=r"cyberagent/crello 5\.1\.0 cannot be fetched") as caught:
        data.keys()
    assert caught.value.hint is not None
    assert "hf download cyberagent/crello --repo-type dataset --revision 5.1.0" in caught.value.hint
    assert "--data crello:crello" in caught.value.hint


def test_offline_nothing_is_fetched() -> None:
    with pytest.raises(MissingDependencyError, match=r"cyberagent/crello 5\.1\.0 cannot be fetched: --offline is set"):
        open_data("crello", offline=True)


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="needs the package datasets") as caught:
        crello()
    assert caught.value.hint == "pip install 'layerctl[train]'"
