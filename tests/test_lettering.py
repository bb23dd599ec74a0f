from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from layerctl import lettering
from layerctl.lettering import MEDIUM, REGULAR, draw_text, text_width

TEXTS = (("A", 44, MEDIUM), ("result", 15, MEDIUM), ("Zażółć 网", 22, REGULAR), ("(B 3.5)", 31, REGULAR), ("(B)", 12, MEDIUM))
TURNS = [number % len(TEXTS) for number in range(1200)]


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    """Widths are measured anew, and none that a test got wrong is left for others."""
    lettering._run_width.cache_clear()
    yield
    lettering._run_width.cache_clear()


def drawn(number: int) -> npt.NDArray[np.uint8]:
    text, size, weight = TEXTS[number]
    canvas = np.zeros((64, 160, 3), np.uint8)
    draw_text(canvas, 4, 48, text, size, (255, 255, 255), weight)
    return canvas


def measured(number: int) -> int:
    lettering._run_width.cache_clear()
    return text_width(*TEXTS[number])


def test_threads_that_draw_texts_of_different_sizes_draw_what_one_thread_does() -> None:
    expected = [drawn(number) for number in range(len(TEXTS))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(drawn, TURNS))
    assert [turn for turn, number in enumerate(TURNS) if not np.array_equal(found[turn], expected[number])] == []


def test_widths_that_threads_measure_beside_each_other_are_right() -> None:
    expected = [measured(number) for number in range(len(TEXTS))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(measured, TURNS))
    assert found == [expected[number] for number in TURNS]
