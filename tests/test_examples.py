"""The example designs that the repository carries: what people see first has to be what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.usefulness import metrics
from examples.sheet import Sheet
from layerctl.composite import flatten
from layerctl.layers import Layer, LayerStack

DESIGNS = Path(__file__).resolve().parent.parent / "examples" / "designs"
NAMES = ("poster", "app-screen", "icons")


def layers_of(name: str) -> LayerStack:
    pictures = [Image.open(path) for path in sorted((DESIGNS / f"{name}-layers").glob("*.png"))]
    layers = [Layer(f"{index}", np.asarray(picture.convert("RGBA"))) for index, picture in enumerate(pictures)]
    return LayerStack(*pictures[0].size, tuple(layers))


@pytest.mark.parametrize("name", NAMES)
def test_the_true_layers_of_a_design_flatten_to_the_design(name: str) -> None:
    flat = flatten(layers_of(name))
    assert np.array_equal(flat[..., :3], np.asarray(Image.open(DESIGNS / f"{name}.png")))
    assert flat[..., 3].min() == 255


@pytest.mark.parametrize("name", NAMES)
def test_every_true_layer_of_a_design_shows(name: str) -> None:
    seen = metrics.shares(metrics.alphas(layers_of(name)))
    assert len(seen) >= 7
    assert min(float(share.sum()) for share in seen) > 1000


def test_the_designs_stay_small_enough_for_every_clone() -> None:
    assert sum(path.stat().st_size for path in DESIGNS.rglob("*.png")) < 2_000_000


def test_a_gradient_fill_runs_from_the_top_to_the_bottom_of_its_shape() -> None:
    sheet = Sheet((20, 20))
    sheet.card((5, 5, 15, 15), 0, ("#000000", "#ffffff"))
    pixels = sheet.layer("Card").pixels
    assert pixels[0, 3, 0] < 30
    assert pixels[-2, 3, 0] > 225


def test_a_shadow_lies_under_the_shape_and_below_it() -> None:
    sheet = Sheet((40, 40))
    sheet.card((10, 10, 30, 30), 0, "#ff0000")
    sheet.cast_shadow(4, 2, 0.5)
    layer = sheet.layer("Card")
    assert layer.box[3] > 32
    assert layer.pixels[15 - layer.top, 20 - layer.left].tolist() == [255, 0, 0, 255]
