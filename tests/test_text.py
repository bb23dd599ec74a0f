from __future__ import annotations

import functools
import socket
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from layerctl.engines.classic import ocr
from layerctl.engines.classic.ocr import Reading
from layerctl.engines.classic.text import TextBlock, find_text, group
from layerctl.errors import MissingDependencyError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def letters(size: tuple[int, int], *lines: tuple[int, int, str, int]) -> Floats:
    """Coverage 0..1 of lines of text (x, y, string, font size) on a canvas of width x height."""
    mask = Image.new("L", size)
    for x, y, text, height in lines:
        ImageDraw.Draw(mask).text((x, y), text, fill=255, font=ImageFont.load_default(height))
    return (np.asarray(mask, np.float32) / 255).astype(np.float32)


def over(plate: Floats, alpha: Floats, colour: tuple[int, int, int]) -> Floats:
    return (plate * (1 - alpha[..., None]) + np.asarray(colour, np.float32) * alpha[..., None]).astype(np.float32)


def picture(rgb: Floats) -> Pixels:
    return np.rint(rgb).astype(np.uint8)


def plain(size: tuple[int, int], colour: tuple[int, int, int] = (232, 226, 214)) -> Floats:
    return np.broadcast_to(np.asarray(colour, np.float32), (size[1], size[0], 3)).astype(np.float32)


def on_canvas(blocks: tuple[TextBlock, ...], shape: tuple[int, ...]) -> Floats:
    canvas = np.zeros(shape[:2], np.float32)
    for block in blocks:
        h, w = block.alpha.shape
        view = canvas[block.top : block.top + h, block.left : block.left + w]
        np.maximum(view, (block.alpha / 255).astype(np.float32), out=view)
    return canvas


def iou(found: Floats, truth: Floats) -> float:
    return float(np.minimum(found, truth).sum() / np.maximum(found, truth).sum())


@functools.cache
def poster() -> tuple[Pixels, Floats, tuple[TextBlock, ...]]:
    """A headline with a word in another style below, on a plain ground; with the true coverage and what is found."""
    size = (640, 300)
    headline, second = letters(size, (30, 30, "Quiet, please!", 72)), letters(size, (330, 200, "jigsaw fair", 40))
    rgb = picture(over(over(plain(size), headline, (40, 30, 110)), second, (190, 40, 30)))
    return rgb, np.maximum(headline, second), find_text(rgb)


def test_lines_of_two_styles_become_two_blocks_that_carry_their_strings() -> None:
    _, _, blocks = poster()
    assert [block.text for block in blocks] == ["Quiet, please!", "jigsaw fair"]
    assert all(block.confidence > 0.9 for block in blocks)


def test_alpha_on_a_plain_ground_is_that_of_the_glyphs_with_dots_and_punctuation() -> None:
    rgb, truth, blocks = poster()
    found = on_canvas(blocks, rgb.shape)
    near = cv2.dilate((truth > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert float(np.abs(found - truth)[near].mean()) < 0.03
    assert not ((truth > 0.5) & (found < 0.1)).any()
    assert not (found[~near] > 0).any()


def test_letters_over_the_plate_give_the_picture_again() -> None:
    rgb, _, blocks = poster()
    again = plain((rgb.shape[1], rgb.shape[0]))
    for block in blocks:
        h, w = block.alpha.shape
        place = slice(block.top, block.top + h), slice(block.left, block.left + w)
        alpha = (block.alpha / 255).astype(np.float32)[..., None]
        again[place] = again[place] * (1 - alpha) + block.colour * alpha
    assert float(np.abs(again - rgb).max()) < 24
    assert float(np.abs(again - rgb).mean()) < 0.3


def test_colour_goes_on_where_alpha_ends() -> None:
    _, _, blocks = poster()
    outside = blocks[0].colour[blocks[0].alpha == 0].astype(np.float32)
    assert float(np.abs(outside - (40, 30, 110)).max()) < 12


def test_the_lines_of_a_paragraph_are_one_block() -> None:
    size = (560, 260)
    lines = ((40, 30, "Every day counts", 44), (40, 88, "and so does the", 44), (40, 146, "night after it", 44))
    blocks = find_text(picture(over(plain(size), letters(size, *lines), (20, 90, 60))))
    assert [block.text for block in blocks] == ["Every day counts\nand so does the\nnight after it"]
    assert len(blocks[0].lines) == 3


def test_an_outline_belongs_to_its_letters() -> None:
    size = (560, 160)
    inner = letters(size, (40, 40, "WINTER SALE", 64))
    outer = cv2.dilate(inner, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))).astype(np.float32)
    rgb = picture(over(over(plain(size, (90, 140, 190)), outer, (10, 10, 30)), inner, (255, 250, 240)))
    assert iou(on_canvas(find_text(rgb), rgb.shape), outer) > 0.93


def test_a_soft_shadow_belongs_to_its_letters() -> None:
    size = (560, 160)
    inner = letters(size, (40, 40, "Summer night", 64))
    shadow = (cv2.GaussianBlur(np.roll(inner, (5, 5), (0, 1)), (0, 0), 3) * 0.5).astype(np.float32)
    rgb = picture(over(over(plain(size, (240, 200, 120)), shadow, (0, 0, 0)), inner, (180, 20, 60)))
    truth = (1 - (1 - inner) * (1 - shadow)).astype(np.float32)
    found = on_canvas(find_text(rgb), rgb.shape)
    assert iou(found, truth) > 0.9
    assert not ((truth > 0.1) & (found == 0)).any()


def test_letters_on_a_gradient_and_on_a_pattern_are_cut_from_it() -> None:
    size = (600, 170)
    truth = letters(size, (40, 50, "Open until nine", 64))
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    gradient = np.stack([60 + x * 0.2, 120 + y * 0.4, 200 - x * 0.1], axis=2).astype(np.float32)
    checks = np.where(((x // 24 + y // 24) % 2 > 0)[..., None], (150, 60, 60), (170, 90, 80)).astype(np.float32)
    for plate, least in ((gradient, 0.95), (checks, 0.85)):
        rgb = picture(over(plate, truth, (250, 245, 220)))
        assert iou(on_canvas(find_text(rgb), rgb.shape), truth) > least


def test_texture_without_text_gives_no_block() -> None:
    rng = np.random.default_rng(5)
    foliage = np.zeros((400, 500, 3), np.float32)
    for scale in (1, 3, 9):
        coarse = rng.uniform(0, 255, (400 // scale + 1, 500 // scale + 1, 3)).astype(np.float32)
        foliage += cv2.resize(coarse, (500, 400), interpolation=cv2.INTER_CUBIC) / 3
    assert find_text(np.clip(foliage, 0, 255).astype(np.uint8)) == ()


def test_a_single_letter_and_a_vertical_line_stay_in_the_picture() -> None:
    alone = picture(over(plain((300, 300)), letters((300, 300), (100, 60, "A", 140)), (0, 0, 0)))
    upright = picture(over(plain((420, 120)), letters((420, 120), (40, 30, "Sideways text", 48)), (0, 0, 0)))
    assert find_text(alone) == ()
    assert find_text(np.ascontiguousarray(np.rot90(upright))) == ()


def test_a_line_that_leans_is_cut_out() -> None:
    size = (640, 320)
    turn = cv2.getRotationMatrix2D((320, 160), 12, 1.0)
    truth = cv2.warpAffine(letters(size, (110, 120, "Leaning letters", 60)), turn, size).astype(np.float32)
    rgb = picture(over(plain(size, (30, 50, 60)), truth, (240, 220, 90)))
    blocks = find_text(rgb)
    assert [block.text for block in blocks] == ["Leaning letters"]
    assert blocks[0].lines[0].angle == pytest.approx(-12, abs=3)
    assert iou(on_canvas(blocks, rgb.shape), truth) > 0.93


def test_small_print_is_left_to_what_it_is_printed_on() -> None:
    size = (1400, 500)
    rgb = picture(over(plain(size), letters(size, (60, 60, "The headline", 120), (60, 400, "made in a small town", 12)), (0, 0, 0)))
    assert [block.text for block in find_text(rgb)] == ["The headline"]


def test_two_or_three_small_letters_are_left_to_what_they_are_printed_on() -> None:
    size = (1400, 500)
    small = picture(over(plain(size), letters(size, (60, 60, "A41", 40)), (0, 0, 0)))
    large = picture(over(plain(size), letters(size, (60, 60, "A41", 140)), (0, 0, 0)))
    assert [block.text for block in find_text(small)] == []
    assert [block.text for block in find_text(large)] == ["A41"]


def test_the_same_picture_gives_the_same_bytes() -> None:
    rgb, _, blocks = poster()
    again = find_text(rgb)
    assert [block.alpha.tobytes() + block.colour.tobytes() for block in again] == [b.alpha.tobytes() + b.colour.tobytes() for b in blocks]


def test_grouping_keeps_every_line_and_joins_neighbours_first() -> None:
    _, _, blocks = poster()
    lines = tuple(replace(line, text="far away", box=(0, 9000, 50, 9040)) for line in blocks[1].lines)
    two = group((*blocks, replace(blocks[1], text="far away", top=9000, lines=lines)), 2)
    assert [block.text for block in two] == ["Quiet, please!\njigsaw fair", "far away"]
    assert [len(block.lines) for block in group(blocks, 1)] == [2]
    rgb = poster()[0]
    np.testing.assert_array_equal(on_canvas(group(blocks, 1), rgb.shape), on_canvas(blocks, rgb.shape))


def test_reading_opens_no_connection_and_logs_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ocr._session.cache_clear()
    assert find_text(poster()[0])
    assert capfd.readouterr() == ("", "")


def test_a_picture_without_text_does_not_load_the_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    session = ocr._session

    def noted(name: str) -> object:
        asked.append(name)
        return session(name)

    monkeypatch.setattr(ocr, "_session", noted)
    assert ocr.read_lines(picture(plain((300, 200)))) == ()
    assert asked == [ocr.DETECTOR]


def test_a_missing_model_is_an_error_that_names_the_file_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    ocr._session.cache_clear()
    monkeypatch.setattr(ocr, "DETECTOR", "gone.onnx")
    with pytest.raises(MissingDependencyError, match=r"models.gone\.onnx") as caught:
        find_text(poster()[0])
    assert "rapidocr" in str(caught.value.hint)


def test_lines_and_readings_are_those_of_the_wheels_own_pipeline() -> None:
    from rapidocr import RapidOCR

    size = (768, 576)
    drawn = letters(size, (40, 40, "Quiet, please!", 72), (60, 180, "Every day", 36), (420, 184, "counts", 36), (50, 300, "50% off", 90))
    turn = cv2.getRotationMatrix2D((384, 288), 7, 1.0)
    rgb = picture(over(plain(size), cv2.warpAffine(drawn, turn, size).astype(np.float32), (40, 30, 110)))
    whole: Any = RapidOCR(
        params={"Global.log_level": "critical", "Global.use_cls": False, "Det.limit_type": "max", "Det.limit_side_len": 8192}
    )
    boxes = whole(np.ascontiguousarray(rgb[..., ::-1]), use_det=True, use_rec=False).boxes
    np.testing.assert_array_equal(ocr._boxes(rgb), boxes)
    for box in boxes:
        line = ocr.straightened(rgb, np.asarray(box, np.float32))
        result = whole(np.ascontiguousarray(line[..., ::-1]), use_det=False, use_rec=True)
        text, confidence = ocr.read_line(line)
        assert text == result.txts[0]
        assert confidence == pytest.approx(result.scores[0], abs=1e-4)


def test_pictures_of_any_shape_are_taken() -> None:
    for shape in ((1, 1, 3), (3, 900, 3), (700, 5, 3)):
        assert find_text(np.full(shape, 200, np.uint8)) == ()


def test_the_angle_of_a_reading_is_that_of_its_box() -> None:
    quad = np.asarray([[0, 0], [100, 10], [98, 30], [-2, 20]], np.float32)
    line = Reading(quad, "x", 1.0)
    assert line.angle == pytest.approx(5.71, abs=0.01)
    assert line.height == pytest.approx(20.1, abs=0.01)
