"""The subject of a photograph: found whole, drawn to its outline, and not believed in where there is none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from layerctl.engines.classic.network import look
from layerctl.engines.classic.proposals import LOOKS
from layerctl.engines.classic.subject import SURE, Subject, find_subject

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
PHOTOGRAPHS = Path(__file__).parent.parent / "examples" / "photographs"


def found(work: U8) -> Subject | None:
    return find_subject(work, [look(work, side) for side in LOOKS])


@cache
def photograph(name: str) -> U8:
    picture = Image.open(PHOTOGRAPHS / name).convert("RGB")
    picture.thumbnail((512, 512), Image.Resampling.LANCZOS)
    return np.asarray(picture)


@cache
def subject_of(name: str) -> Subject:
    subject = found(photograph(name))
    assert subject is not None
    return subject


def overlap(a: Bool, b: Bool) -> float:
    return float((a & b).sum() / (a | b).sum())


def ball_on_grass(row: int, column: int) -> tuple[U8, Bool]:
    """A shaded ball before soft green texture, and where it is."""
    rng = np.random.default_rng(3)
    soft = cv2.GaussianBlur(rng.normal(0, 60, (300, 400)).astype(np.float32), (0, 0), 4)
    grass = np.array([70, 120, 50], np.float32) + soft[..., None] * np.array([3, 4, 2], np.float32)
    y, x = np.ogrid[:300, :400]
    ball = (y - row) ** 2 + (x - column) ** 2 < 70**2
    light = 1 - np.hypot(y - row + 25, x - column + 25) / 160
    picture = np.where(ball[..., None], light[..., None] * np.array([230, 60, 40]) + 15, grass)
    return np.clip(picture, 0, 255).astype(np.uint8), ball


@pytest.mark.parametrize(("row", "column"), [(120, 280), (260, 110)])
def test_a_ball_on_grass_is_found_whole_wherever_it_lies(row: int, column: int) -> None:
    picture, ball = ball_on_grass(row, column)
    subject = found(picture)
    assert subject is not None
    assert subject.mask.shape == ball.shape
    assert overlap(subject.mask, ball) > 0.93
    assert subject.confidence >= SURE


def test_the_astronaut_is_one_subject_without_the_rocket_behind() -> None:
    subject = subject_of("astronaut.png")
    hair, face, chest, arm = (50, 220), (120, 220), (380, 190), (400, 60)
    rocket, wall = (180, 400), (100, 320)
    assert all(subject.mask[place] for place in (hair, face, chest, arm))
    assert not any(subject.mask[place] for place in (rocket, wall))
    assert subject.confidence >= SURE


def test_the_cup_comes_with_its_saucer_and_spoon_and_without_the_table() -> None:
    subject = subject_of("coffee.png")
    coffee, saucer, spoon = (120, 240), (220, 100), (240, 310)
    assert all(subject.mask[place] for place in (coffee, saucer, spoon))
    table = subject.mask[:40, :100].sum() + subject.mask[300:, 460:].sum()
    assert table == 0
    assert subject.confidence >= SURE


def test_the_rocket_is_one_thin_upright_piece() -> None:
    ys, xs = np.nonzero(subject_of("rocket.jpg").mask)
    assert 4 * np.ptp(xs) < np.ptp(ys)
    assert 240 < xs.mean() < 275


def test_the_mirrored_picture_has_the_mirrored_subject() -> None:
    mirrored = found(np.ascontiguousarray(photograph("coffee.png")[:, ::-1]))
    assert mirrored is not None
    assert overlap(mirrored.mask[:, ::-1], subject_of("coffee.png").mask) > 0.8


def test_nothing_is_sure_in_a_field_of_stars() -> None:
    assert subject_of("hubble_deep_field.jpg").confidence < SURE / 2


@pytest.mark.parametrize("kind", ["grain", "gradient", "stripes"])
def test_nothing_is_sure_in_a_picture_without_a_thing(kind: str) -> None:
    ramp = np.linspace(40, 200, 400)
    pictures = {
        "grain": np.random.default_rng(1).normal(120, 25, (300, 400)),
        "gradient": np.broadcast_to(ramp, (300, 400)),
        "stripes": np.broadcast_to(120 + 60 * np.sin(ramp), (300, 400)),
    }
    subject = found(np.repeat(np.clip(pictures[kind], 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    assert subject is None or subject.confidence < SURE


def test_the_same_picture_gives_the_same_subject() -> None:
    again, first = found(photograph("coffee.png")), subject_of("coffee.png")
    assert again is not None
    assert np.array_equal(again.mask, first.mask)
    assert again.confidence == first.confidence


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (8, 400)])
def test_no_picture_is_too_small_or_too_flat(height: int, width: int) -> None:
    flat = np.full((height, width, 3), 90, np.uint8)
    grain = np.random.default_rng(2).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for picture in (flat, grain):
        subject = found(picture)
        assert subject is None or subject.mask.shape == (height, width)
