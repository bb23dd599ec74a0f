"""Contact sheets: where views stand, what they show, and the same pictures at several steps below each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from layerctl_train.sheets import CAPTION, GAP, MARGIN, NAME, SIDE, TITLE, SheetRow, before_after, write_sheet
from PIL import Image

from layerctl.errors import InputError
from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene


def row(name: str, size: tuple[int, int] = (64, 48), layers: int = 4, seed: int = 1) -> SheetRow:
    source, stack = scene(seed, width=size[0], height=size[1], elements=layers - 1)
    return SheetRow(name, source, stack)


def plain(colour: tuple[int, int, int, int], size: int = 32) -> npt.NDArray[np.uint8]:
    return np.full((size, size, 4), colour, np.uint8)


def view(sheet: npt.NDArray[np.uint8], place: int, top: int = TITLE + NAME) -> npt.NDArray[np.uint8]:
    """A square view of the row whose views begin at `top`."""
    x, y = MARGIN + place * (SIDE + GAP), top + CAPTION
    return sheet[y : y + SIDE, x : x + SIDE]


def opened(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_row_shows_the_picture_each_layer_on_a_board_and_what_they_flatten_to(tmp_path: Path) -> None:
    red, half = plain((255, 0, 0, 255)), plain((0, 0, 255, 255))
    half[:, :16, 3] = 0
    layers = (Layer("a", red), Layer("b", half), Layer("hidden", red, visible=False), Layer("blank", plain((9, 9, 9, 0))))
    path = tmp_path / "sheet.png"
    write_sheet(path, [SheetRow("one", SourceImage(plain((0, 255, 0, 255))), LayerStack(32, 32, layers))], title="Step 0")
    sheet = opened(path)
    assert sheet.shape[1] == 2 * MARGIN + 5 * (SIDE + GAP) - GAP
    assert (view(sheet, 0) == (0, 255, 0)).all()
    assert (view(sheet, 1) == (255, 0, 0)).all()
    left, right = view(sheet, 2)[:, : SIDE // 2 - 1], view(sheet, 2)[:, SIDE // 2 + 1 :]
    assert {tuple(pixel) for pixel in left.reshape(-1, 3).tolist()} == {(250, 250, 250), (224, 225, 229)}
    assert (right == (0, 0, 255)).all()
    assert len(np.unique(view(sheet, 3).reshape(-1, 3), axis=0)) == 2
    assert (view(sheet, 4)[:, : SIDE // 2 - 1] == (255, 0, 0)).all()
    assert (view(sheet, 4)[:, SIDE // 2 + 1 :] == (0, 0, 255)).all()


def test_a_pale_layer_stands_on_a_dark_board(tmp_path: Path) -> None:
    white = plain((255, 255, 255, 255))
    white[:16, :, 3] = 0
    path = tmp_path / "sheet.png"
    write_sheet(path, [SheetRow("one", SourceImage(white), LayerStack(32, 32, (Layer("a", white),)))], title="Step 0")
    assert view(opened(path), 1)[: SIDE // 2 - 1].max() < 120


@pytest.mark.parametrize("size", [(32, 32), (640, 128), (2, 320)])
@pytest.mark.parametrize("layers", [2, 8])
def test_pictures_of_every_size_and_shape_fit_their_places(size: tuple[int, int], layers: int, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_sheet(path, [row("one", size, layers), row("two", (64, 48), 2)], title="Step 0")
    with Image.open(path) as image:
        places = json.loads(image.info["layerctl"])["rows"]
        assert image.width == 2 * MARGIN + (layers + 2) * (SIDE + GAP) - GAP
        assert [place["name"] for place in places] == ["one", "two"]
        assert places[1]["top"] == places[0]["top"] + places[0]["height"] + NAME
        assert places[1]["top"] + places[1]["height"] == image.height


def test_the_same_pictures_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_sheet(tmp_path / name, [row("one")], title="Step 0")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_each_picture_stands_as_it_was_above_as_it_is(tmp_path: Path) -> None:
    colours = {"before": (255, 0, 0, 255), "now": (0, 0, 255, 255)}
    for name, colour in colours.items():
        stack = LayerStack(32, 32, (Layer("a", plain(colour)),))
        rows = [SheetRow(key, SourceImage(plain((0, 255, 0, 255))), stack) for key in ("x", "y", f"only {name}")]
        # More layers elsewhere in a sheet make it wider.
        write_sheet(tmp_path / f"{name}.png", rows if name == "now" else [*rows, row("z", layers=6)], title=name)
    drawn = np.asarray(before_after([tmp_path / "before.png", tmp_path / "now.png"], most=8))
    band = CAPTION + SIDE + GAP
    assert len(drawn) == 2 * (TITLE + 2 * (NAME + band))
    for picture in range(2):
        top = picture * (TITLE + 2 * (NAME + band)) + TITLE + NAME
        assert (view(drawn, 1, top) == (255, 0, 0)).all()
        assert (view(drawn, 1, top + NAME + band) == (0, 0, 255)).all()
    assert before_after([tmp_path / "now.png"], most=1).height == TITLE + NAME + band


@pytest.mark.parametrize("content", [b"", b"\x89PNG", None])
def test_a_file_that_is_no_sheet_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "step-000000.png"
    if content is None:
        Image.new("RGB", (8, 8)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"step-000000\.png is no contact sheet"):
        before_after([path], most=8)


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_sheet(path, [replace(row("one"), name="\x1b[31m\udc80 " + "long " * 90, about="\0")], title="Step 0")
    assert before_after([path], most=8).height > SIDE
