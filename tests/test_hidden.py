from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layerctl.engines.classic.hidden import reach

Bool = npt.NDArray[np.bool_]
DOWN, ACROSS = np.mgrid[0:120, 0:160]


def box(left: int, top: int, right: int, bottom: int) -> Bool:
    return (left <= ACROSS) & (right > ACROSS) & (top <= DOWN) & (bottom > DOWN)


def ellipse(x: float, y: float, a: float, b: float, angle: float = 0.0) -> Bool:
    along, over = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = (ACROSS - x) * along + (DOWN - y) * over, (DOWN - y) * along - (ACROSS - x) * over
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def stacked(*elements: Bool) -> npt.NDArray[np.int32]:
    """Label picture of elements drawn one over the other."""
    labels = np.zeros(DOWN.shape, np.int32)
    for k, element in enumerate(elements, 1):
        labels[element] = k
    return labels


def iou(a: Bool, b: Bool) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_covered_corner_of_a_rectangle_is_completed() -> None:
    card, coin = box(30, 30, 100, 90), ellipse(100, 85, 26, 26)
    assert iou(reach(stacked(card, coin), 1), card) > 0.98


def test_a_bar_across_a_rectangle_leaves_one_rectangle() -> None:
    card, bar = box(30, 20, 110, 100), box(60, 0, 80, 120)
    assert iou(reach(stacked(card, bar), 1), card) > 0.97


def test_a_covered_disc_is_completed() -> None:
    disc, card = ellipse(60, 60, 38, 38), box(72, 30, 150, 80)
    assert iou(stacked(disc, card) == 1, disc) < 0.85
    assert iou(reach(stacked(disc, card), 1), disc) > 0.96


def test_a_turned_covered_ellipse_is_completed() -> None:
    leaf, card = ellipse(70, 60, 48, 26, 25), box(85, 55, 150, 110)
    assert iou(reach(stacked(leaf, card), 1), leaf) > 0.96


def test_a_shape_that_nothing_covers_stays_as_it_is() -> None:
    star = box(30, 30, 60, 90) | box(20, 50, 70, 60)
    assert np.array_equal(reach(stacked(star, box(100, 20, 140, 60)), 1), star)


def test_what_lies_below_an_element_is_no_reason_to_complete_it() -> None:
    card, coin = box(30, 30, 100, 90), ellipse(100, 85, 26, 26)
    assert np.array_equal(reach(stacked(card, coin), 2), coin)


def test_an_element_never_grows_over_the_plate_or_what_lies_below() -> None:
    plank, blob, card = box(10, 40, 150, 50), ellipse(60, 60, 30, 22) | box(40, 60, 50, 100), box(70, 30, 120, 90)
    labels = stacked(plank, blob, card)
    for k in (1, 2, 3):
        grown = reach(labels, k) & (labels != k)
        assert (labels[grown] > k).all()


def test_a_hollow_shape_is_not_filled_under_what_covers_it() -> None:
    frame = box(20, 20, 120, 110) & ~box(30, 30, 110, 100)
    card = box(50, 10, 80, 60)
    grown = reach(stacked(frame, card), 1)
    assert iou(grown, frame) > 0.9
    assert not grown[40:60, 55:75].any()
