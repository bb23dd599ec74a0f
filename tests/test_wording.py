"""Text that no longer says what it said is found by reading it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack, crop_to_content
from layerctl.source import SourceImage
from layerctl.wording import altered_text, likeness

WIDTH, HEIGHT = 420, 160


def lettering(text: str, top: int) -> Layer:
    picture = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(picture).text((20, top), text, 255, ImageFont.load_default(44))
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3] = (250, 240, 220)
    pixels[..., 3] = np.asarray(picture)
    return crop_to_content(Layer(text, pixels, kind="text", text=text))


@pytest.fixture(scope="module")
def poster() -> LayerStack:
    plate = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    plate[:] = (30, 60, 90, 255)
    return LayerStack(WIDTH, HEIGHT, (Layer("Background", plate, kind="background"), lettering("Night Market", 50)))


def test_text_that_one_layer_shows_is_whole(poster: LayerStack) -> None:
    assert altered_text(SourceImage(flatten(poster)), poster) == ()


def test_text_that_stays_in_the_background_is_whole_too(poster: LayerStack) -> None:
    source = SourceImage(flatten(poster))
    assert altered_text(source, poster.with_layers((Layer("Background", source.pixels, kind="background"),))) == ()


def test_another_word_is_told_with_the_one_that_was_there(poster: LayerStack) -> None:
    background = poster.layers[0]
    (fault,) = altered_text(SourceImage(flatten(poster)), poster.with_layers((background, lettering("Light Basket", 50))))
    assert fault.kind == "text"
    assert "'Night Market' is changed" in fault.message


def test_a_line_cut_over_two_layers_is_told_though_together_they_show_it(poster: LayerStack) -> None:
    background, text = poster.walk()
    left, right = text.pixels.copy(), text.pixels.copy()
    middle = text.width // 2
    left[:, middle:, 3] = 0
    right[:, :middle, 3] = 0
    cut = poster.with_layers((background, replace(text, name="left", pixels=left), replace(text, name="right", pixels=right)))
    (fault,) = altered_text(SourceImage(flatten(poster)), cut)
    assert "is not whole in any layer" in fault.message


def test_likeness_counts_edits_of_letters_alone() -> None:
    assert likeness("Fresh Coffee!", "FRESH  COFFEE") == 1
    assert likeness("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert likeness("", "") == 1
