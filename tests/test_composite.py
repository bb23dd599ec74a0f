from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from layerctl.composite import difference, flatten, largest_difference
from layerctl.layers import Group, Layer, LayerStack, on_canvas


def plain(colour: tuple[int, int, int, int], width: int = 4, height: int = 3) -> np.ndarray:
    return np.full((height, width, 4), colour, np.uint8)


def noisy_layers(count: int, seed: int) -> list[Layer]:
    rng = np.random.default_rng(seed)
    layers = []
    for index in range(count):
        pixels = rng.integers(0, 256, (*rng.integers(1, 400, 2), 4), dtype=np.uint8)
        left, top = (int(v) for v in rng.integers(-90, 90, 2))
        layers.append(Layer(f"noise {index}", pixels, left, top))
    return layers


def test_flatten_is_what_pillow_makes_of_full_size_layers() -> None:
    stack = LayerStack(150, 300, tuple(noisy_layers(6, seed=1)))
    expected = Image.new("RGBA", (150, 300))
    for layer in stack.walk():
        expected.alpha_composite(Image.fromarray(on_canvas(layer, 150, 300)))
    assert np.array_equal(flatten(stack), np.asarray(expected))


def test_a_stack_without_layers_is_transparent() -> None:
    assert not flatten(LayerStack(5, 4)).any()


def test_a_hidden_layer_and_the_layers_of_a_hidden_group_are_left_out() -> None:
    red, blue = plain((255, 0, 0, 255)), plain((0, 0, 255, 255))
    hidden = Group("closed", (Layer("inside", blue),), visible=False)
    stack = LayerStack(4, 3, (Layer("base", red), Layer("hidden", blue, visible=False), hidden))
    assert np.array_equal(flatten(stack), red)


def test_the_opacity_of_a_group_is_multiplied_into_its_layers() -> None:
    layer = Layer("veil", plain((10, 20, 30, 200)), opacity=0.5)
    stack = LayerStack(4, 3, (Group("outer", (Group("inner", (layer,), opacity=0.5),)),))
    assert np.array_equal(flatten(stack), plain((10, 20, 30, 50)))
    assert layer.pixels[0, 0, 3] == 200, "the layer itself was changed"


def test_what_overlaps_in_a_group_that_is_not_opaque_hides_what_it_covers_first() -> None:
    """As editors and psd-tools have it: (255, 0, 0) below does not shimmer through (0, 0, 0) above."""
    both = Group("both", (Layer("below", plain((255, 0, 0, 255))), Layer("above", plain((0, 0, 0, 255)))), opacity=0.5)
    assert np.array_equal(flatten(LayerStack(4, 3, (both,))), plain((0, 0, 0, 128)))


def test_a_16_bit_layer_is_rounded_to_8_bits() -> None:
    pixels = np.full((3, 4, 4), 65535, np.uint16)
    pixels[..., 0] = 257 * 100 + 128
    pixels[..., 1] = 257 * 100 + 129
    assert flatten(LayerStack(4, 3, (Layer("deep", pixels),)))[0, 0].tolist() == [100, 101, 255, 255]


def test_the_difference_of_opaque_pictures_is_in_plain_levels() -> None:
    a = plain((100, 100, 100, 255))
    b = a.copy()
    b[1, 2, 1] = 93
    expected = np.zeros((3, 4))
    expected[1, 2] = 7
    assert np.array_equal(difference(a, b), expected)
    assert largest_difference(a, b) == largest_difference(b, a) == 7


def test_colours_under_alpha_0_make_no_difference() -> None:
    assert largest_difference(plain((255, 0, 9, 0)), plain((0, 80, 200, 0))) == 0


def test_a_difference_of_alpha_alone_counts_also_under_black() -> None:
    assert largest_difference(plain((0, 0, 0, 10)), plain((0, 0, 0, 30))) == 20


def test_a_difference_beyond_one_level_is_not_rounded_down_to_one() -> None:
    assert largest_difference(plain((100, 0, 0, 128)), plain((102, 0, 0, 128))) == 2
    assert largest_difference(plain((100, 0, 0, 127)), plain((102, 0, 0, 127))) == 1


def test_pictures_of_other_sizes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) and \(4, 4, 4\)"):
        largest_difference(plain((0, 0, 0, 0)), plain((0, 0, 0, 0), height=4))


def test_the_difference_of_opaque_pictures_is_that_of_all_pictures() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 300, 40, 4), np.uint8)
    a[..., 3] = b[..., 3] = 255
    slow = difference(np.vstack([a, np.zeros((1, 40, 4), np.uint8)]), np.vstack([b, np.zeros((1, 40, 4), np.uint8)]))
    assert np.array_equal(difference(a, b)[256:], slow[256:300])
    assert np.array_equal(difference(a, b), np.abs(a[..., :3].astype(int) - b[..., :3]).max(axis=2))
