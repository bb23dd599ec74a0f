from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ImageCms

from layerctl import lettering
from layerctl.layers import Group, Layer, LayerStack
from layerctl.lettering import draw_text, shortened, text_width, wrapped
from layerctl.preview import DARK_CHECKER, GAP, MARGIN, PADDING, SHEET, contact_sheet
from layerctl.source import SourceImage
from layerctl.testing import scene, specimen

U8 = npt.NDArray[np.uint8]
RED = (200, 30, 40)


@pytest.mark.parametrize("size", [(96, 64), (10, 400), (900, 12), (1, 1), (16, 16)])
def test_a_sheet_is_made_for_any_shape_of_picture(size: tuple[int, int]) -> None:
    source, stack = scene(1, width=size[0], height=size[1], elements=2)
    sheet = contact_sheet(source, stack, title="a", notes=[])
    assert sheet.mode == "RGB"
    assert sheet.width == SHEET
    assert 300 < sheet.height < 4000


@pytest.mark.parametrize("elements", [0, 1, 6, 19])
def test_a_sheet_has_a_card_for_every_layer(elements: int) -> None:
    source, stack = scene(2, elements=elements)
    sheet = contact_sheet(source, stack, title="a", notes=[])
    cards_down_the_left = _white_runs(np.asarray(sheet)[:, MARGIN + PADDING // 2])
    assert cards_down_the_left == 1 + _rows(elements + 1)


def test_the_same_input_gives_the_same_pixels() -> None:
    source, stack = scene(3)
    first, second = (contact_sheet(source, stack, title="a", notes=["b"]) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_source_and_result_are_shown_unchanged() -> None:
    pixels = np.full((30, 40, 4), (*RED, 255), np.uint8)
    stack = LayerStack(40, 30, (Layer("Background", np.full((30, 40, 4), (20, 90, 160, 255), np.uint8)),))
    sheet = np.asarray(contact_sheet(SourceImage(pixels), stack, title="a", notes=[]))
    middle = sheet[MARGIN + 74 + PADDING + 200]
    quarter = (SHEET - 2 * MARGIN - GAP) // 4
    assert middle[MARGIN + quarter].tolist() == list(RED)
    assert middle[SHEET - MARGIN - quarter].tolist() == [20, 90, 160]


def test_a_wide_gamut_picture_is_converted_for_display() -> None:
    icc = _profile_with_red_and_green_exchanged()
    pixels = np.full((30, 40, 4), (*RED, 255), np.uint8)
    stack = LayerStack(40, 30, (Layer("Background", pixels),), icc=icc)
    sheet = np.asarray(contact_sheet(SourceImage(pixels, icc=icc), stack, title="a", notes=[]))
    shown = sheet[MARGIN + 74 + PADDING + 200, MARGIN + 200].astype(int)
    assert np.abs(shown - (RED[1], RED[0], RED[2])).max() <= 2


def test_white_lettering_is_shown_on_a_dark_ground() -> None:
    pixels = np.full((30, 40, 4), (*RED, 255), np.uint8)
    stack = LayerStack(40, 30, (Layer("Background", pixels), Layer("white", np.full((8, 30, 4), 255, np.uint8), 5, 5)))
    sheet = np.asarray(contact_sheet(SourceImage(pixels), stack, title="a", notes=[]))
    assert (sheet == DARK_CHECKER[0]).all(axis=2).any()


def test_a_broken_profile_does_not_hide_the_picture() -> None:
    source, stack = scene(4)
    broken = contact_sheet(replace(source, icc=b"no profile"), replace(stack, icc=b"no profile"), title="a", notes=[])
    assert broken.tobytes() == contact_sheet(source, stack, title="a", notes=[]).tobytes()


def test_a_specimen_with_groups_hidden_layers_and_many_scripts_is_shown() -> None:
    stack = specimen()
    source = SourceImage(np.full((stack.height, stack.width, 4), 255, np.uint8))
    layer = next(stack.walk())
    flat = stack.with_layers(tuple(replace(layer, name="x") for layer in stack.walk()))
    assert contact_sheet(source, stack, title="a", notes=[]).tobytes() != contact_sheet(source, flat, title="a", notes=[]).tobytes()
    outside = Layer("far away", layer.pixels, 5000, 5000)
    deep = Layer("deep", layer.pixels.astype(np.uint16) * 257)
    contact_sheet(source, stack.with_layers((Group("g", (outside, deep)),)), title="a", notes=[])


def test_text_is_as_wide_as_measured() -> None:
    for text in ("Element 2 (red, top left)", "Ärger Łódź", "猫のロゴ", "\u16a0\u16c7"):
        canvas = _canvas()
        end = draw_text(canvas, 20, 50, text, 24, (0, 0, 0))
        assert end - 20 == text_width(text, 24)
        assert (canvas[:, end + 3 :] == 255).all()
        assert (canvas[:, 20:end] < 128).any()


def test_letters_of_another_script_are_drawn_and_not_replaced() -> None:
    drawn = {text: _drawing(text).tobytes() for text in ("?", "Ж", "Ω", "猫", "한", "ß")}
    assert len(set(drawn.values())) == len(drawn)


def test_a_character_that_no_font_has_is_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_font_files", lambda: ())
    lettering._source.cache_clear()
    first, second = _drawing("\U0001f388"), _drawing("\u0e01")
    lettering._source.cache_clear()
    np.testing.assert_array_equal(first, second)
    assert (first < 128).any()


def test_shortened_text_fits_and_ends_in_an_ellipsis() -> None:
    text = "a long name that does not fit"
    assert shortened(text, 20, 120).endswith("…")
    assert text_width(shortened(text, 20, 120), 20) <= 122
    assert shortened("short", 20, 120) == "short"


def test_wrapped_lines_hold_all_words_in_order() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lines = wrapped(text, 20, 150)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert all(text_width(line, 20) <= 150 for line in lines)


def _rows(count: int) -> int:
    return {1: 1, 2: 1, 7: 2, 20: 5}[count]


def _white_runs(column: U8) -> int:
    """How many cards a column of pixels crosses: long runs of pure white."""
    white = (column == 255).all(axis=1).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], white, [0]))))
    return int((np.diff(edges)[::2] > 60).sum())


def _canvas() -> U8:
    return np.full((80, 600, 3), 255, np.uint8)


def _drawing(text: str) -> U8:
    canvas = _canvas()
    draw_text(canvas, 20, 50, text, 24, (0, 0, 0))
    return canvas


def _profile_with_red_and_green_exchanged() -> bytes:
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)
