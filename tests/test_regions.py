from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from layerctl.errors import InputError, LayerctlError, UsageError
from layerctl.layers import Layer, LayerStack
from layerctl.regions import box_region, coverage, mask_region, region_box
from layerctl.registry import Region

U8 = npt.NDArray[np.uint8]


def disc(size: int, radius: float) -> U8:
    """Alpha of a disc in the middle, its edge four pixels soft."""
    down, across = np.mgrid[0:size, 0:size] - (size - 1) / 2
    return np.rint(255 * np.clip((radius - np.hypot(across, down)) / 4 + 0.5, 0, 1)).astype(np.uint8)


def saved(path: Path, pixels: U8) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def stack_of(*alphas: U8) -> LayerStack:
    """An opaque Background and an element of each alpha."""
    height, width = alphas[0].shape
    background = Layer("Background", np.full((height, width, 4), 255, np.uint8), kind="background")
    others = (Layer(f"Element {k}", np.dstack([np.zeros((height, width, 3), np.uint8), alpha])) for k, alpha in enumerate(alphas))
    return LayerStack(width, height, (background, *others))


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("10,5,30,20", (10, 5, 30, 20)),
        (" 10 , 5 ,30, 20 ", (10, 5, 30, 20)),
        ("0,0,40,30", (0, 0, 40, 30)),
        ("25%,50%,75%,100%", (10, 15, 30, 30)),
        ("9.6,5,30.4,20", (10, 5, 30, 20)),
        ("39,29,40,30", (39, 29, 40, 30)),
    ],
)
def test_a_box_is_left_top_right_and_bottom_in_pixels_or_percents(text: str, box: tuple[int, int, int, int]) -> None:
    region = box_region(text, 40, 30)
    assert region.mask.shape == (30, 40)
    assert not region.is_outline
    assert region_box(region) == box
    assert int((region.mask == 255).sum()) == (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not four numbers"),
        ("10,5,30", "not four numbers"),
        ("10,5,30,20,1", "not four numbers"),
        ("a,b,c,d", "not four numbers"),
        ("10;5;30;20", "not four numbers"),
        ("nan,0,5,5", "not four numbers"),
        ("30,5,10,20", "is empty"),
        ("10,5,10,20", "is empty"),
        ("10,5,10.2,20", "is empty"),
        ("-1,5,10,20", "leaves the picture, which is 40 x 30 pixels"),
        ("10,5,41,20", "leaves the picture, which is 40 x 30 pixels"),
        ("0,0,110%,50%", "leaves the picture"),
    ],
)
def test_any_other_box_is_refused_with_the_value_and_what_to_type(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        box_region(text, 40, 30)
    assert repr(text) in caught.value.message
    assert "0,0,40,30" in str(caught.value.hint) or "--target 120,80,420,360" in str(caught.value.hint)


def test_white_is_inside_of_an_opaque_mask_and_its_soft_edge_stays(tmp_path: Path) -> None:
    alpha = disc(64, 20)
    for picture in (alpha, np.dstack([alpha] * 3)):
        region = mask_region(saved(tmp_path / "mask.png", picture), 64, 64)
        assert region.is_outline
        assert np.abs(region.mask.astype(int) - alpha).max() <= 8
        assert len(np.unique(region.mask)) > 4


def test_alpha_is_inside_of_a_mask_with_transparency_whatever_its_colour(tmp_path: Path) -> None:
    alpha = disc(64, 20)
    black = np.dstack([np.zeros((64, 64, 3), np.uint8), alpha])
    region = mask_region(saved(tmp_path / "cut.png", black), 64, 64)
    assert np.abs(region.mask.astype(int) - alpha).max() <= 8


def test_the_noise_of_a_jpeg_is_neither_inside_nor_outside(tmp_path: Path) -> None:
    Image.fromarray(disc(64, 20)).save(tmp_path / "mask.jpg", quality=85)
    mask = mask_region(tmp_path / "mask.jpg", 64, 64).mask
    assert (mask[:6] == 0).all()
    assert (mask[30:34, 30:34] == 255).all()


@pytest.mark.parametrize("size", [(32, 32), (128, 128)])
def test_a_mask_of_the_same_proportions_is_scaled(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(disc(64, 20)).resize(size).save(tmp_path / "mask.png")
    mask = mask_region(tmp_path / "mask.png", 64, 64).mask
    assert mask.shape == (64, 64)
    assert np.abs(mask.astype(int) - disc(64, 20)).mean() < 6


def test_a_side_rounded_to_whole_pixels_is_the_same_proportions(tmp_path: Path) -> None:
    Image.fromarray(disc(50, 20)[:38]).save(tmp_path / "mask.png")
    assert mask_region(tmp_path / "mask.png", 4000, 3001).mask.shape == (3001, 4000)


def test_a_mask_of_other_proportions_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.png", disc(64, 20))
    with pytest.raises(InputError, match=r"mask\.png is 64 x 64 pixels, the picture 64 x 65"):
        mask_region(path, 64, 65)


@pytest.mark.parametrize(("level", "words"), [(0, "nothing is inside"), (5, "nothing is inside"), (255, "everything is inside")])
def test_a_mask_with_nothing_or_everything_inside_is_refused(tmp_path: Path, level: int, words: str) -> None:
    path = saved(tmp_path / "mask.png", np.full((20, 30), level, np.uint8))
    with pytest.raises(InputError, match=words):
        mask_region(path, 30, 20)


def test_a_mask_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("white")
    with pytest.raises(LayerctlError, match=r"mask\.png"):
        mask_region(tmp_path / "mask.png", 30, 20)


def test_a_layer_that_is_the_outline_covers_it_and_the_background_never_does() -> None:
    outline = Region(disc(64, 20), is_outline=True)
    assert coverage(stack_of(disc(64, 8), disc(64, 20)), [outline]) == pytest.approx(1)
    assert 0.1 < coverage(stack_of(disc(64, 8)), [outline]) < 0.25
    everything = Region(np.full((64, 64), 255, np.uint8), is_outline=True)
    assert coverage(stack_of(np.zeros((64, 64), np.uint8)), [everything]) == 0


def test_a_box_is_covered_by_a_layer_of_these_bounds_whatever_its_shape() -> None:
    box = box_region("12,12,52,52", 64, 64)
    assert coverage(stack_of(disc(64, 20)), [box]) > 0.95
    assert coverage(stack_of(disc(64, 10)), [box]) < 0.35


def test_coverage_is_the_mean_of_the_regions_and_whole_without_any() -> None:
    stack = stack_of(disc(64, 20))
    there, elsewhere = Region(disc(64, 20), is_outline=True), box_region("0,0,4,4", 64, 64)
    assert coverage(stack, [there, elsewhere]) == pytest.approx((1 + coverage(stack, [elsewhere])) / 2)
    assert coverage(stack, []) == 1


def test_a_stack_of_another_size_than_the_regions_is_compared_at_its_own() -> None:
    assert coverage(stack_of(disc(64, 20)), [Region(disc(128, 40), is_outline=True)]) > 0.95


def test_a_hidden_or_faint_layer_covers_nothing_or_less() -> None:
    def shown(opacity: float, visible: bool) -> float:
        background, layer = stack_of(disc(64, 20)).walk()
        changed = Layer("Element", layer.pixels, opacity=opacity, visible=visible)
        return coverage(LayerStack(64, 64, (background, changed)), [Region(disc(64, 20), is_outline=True)])

    assert shown(1.0, visible=False) == 0
    assert shown(0.5, visible=True) == pytest.approx(0.5, abs=0.01)
