from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerctl.engines.classic.naming import COLOURS, LONGEST, colour_name, place_name, text_name
from layerctl.names import unique


@pytest.mark.parametrize("name", COLOURS)
def test_a_plain_patch_has_the_name_of_its_colour(name: str) -> None:
    patch = np.broadcast_to(np.array(COLOURS[name], np.uint8), (6, 5, 3))
    assert colour_name(patch, np.full((6, 5), 255, np.uint8)) == name


def test_only_what_shows_gives_the_colour() -> None:
    patch = np.full((10, 10, 3), (40, 90, 200), np.uint8)
    patch[:, 6:] = (205, 30, 35)
    alpha = np.zeros((10, 10), np.uint8)
    alpha[:, 6:] = 255
    assert colour_name(patch, alpha) == "red"
    assert colour_name(patch, np.zeros((10, 10), np.uint8)) == "blue", "nothing shows: the whole crop speaks"


def test_the_typical_colour_counts_not_the_mean() -> None:
    patch = np.full((10, 10, 3), (205, 30, 35), np.uint8)
    patch[:4] = (40, 90, 200)
    assert colour_name(patch, np.full((10, 10), 255, np.uint8)) == "red"


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [(0.1, 0.1, "top left"), (0.5, 0.1, "top"), (0.9, 0.9, "bottom right"), (0.1, 0.5, "left"), (0.5, 0.5, "centre"), (0.5, 0.8, "bottom")],
)
def test_places_have_words(x: float, y: float, name: str) -> None:
    assert place_name(x, y) == name


def test_the_name_of_a_text_is_its_words_on_one_line() -> None:
    assert text_name("SUMMER\nSALE\t 50 %") == "SUMMER SALE 50 %"
    assert text_name("夏のセール") == "夏のセール"


@pytest.mark.parametrize("control", ["\x1b", "\x07", "\u202e", "\u200b", "\u2028", "\x00", "\x9b"])
def test_control_and_format_characters_are_not_in_a_name(control: str) -> None:
    assert text_name(f"a{control}b") == "a b"
    assert text_name(control) == ""


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    assert text_name("x" * LONGEST) == "x" * LONGEST
    assert text_name("x" * (LONGEST + 1)) == "x" * (LONGEST - 1) + "…"


def test_later_twins_are_numbered_whatever_their_case() -> None:
    assert unique(["Sale", "sale", "Background", "Sale"]) == ["Sale", "sale (2)", "Background", "Sale (3)"]
    assert unique(["a", "a", "a (2)"]) == ["a", "a (2)", "a (2) (2)"]


@given(st.lists(st.text(alphabet="aA (2)", min_size=1, max_size=5), max_size=8))
def test_unique_names_are_unique_and_begin_as_they_were_asked_for(names: list[str]) -> None:
    given_names = unique(names)
    assert len({name.casefold() for name in given_names}) == len(names)
    assert all(new.startswith(old) for new, old in zip(given_names, names, strict=True))
