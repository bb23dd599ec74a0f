"""For tests of layerctl and of plugins: one comparison of stacks, and synthetic scenes whose layers are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import ImageCms

from layerctl.composite import flatten
from layerctl.layers import Group, Layer, LayerStack, crop_to_content
from layerctl.source import SourceImage

OPACITY_STEP = 1 / 255
"""Files keep an opacity as a byte."""

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


def assert_stacks_equal(actual: LayerStack, expected: LayerStack, *, hidden_colour: bool = True, kinds: bool = True) -> None:
    """Raise AssertionError that names the first difference: canvas, profile, resolution, tree, and of each layer all fields and pixels.

    Opacities may differ by half a step of a byte, resolutions by a thousandth. `hidden_colour`: the colour under alpha 0 counts too.
    `kinds`: kind and text count too; most formats do not hold them.
    """
    _same("canvas", (actual.width, actual.height), (expected.width, expected.height))
    _same("profile", actual.icc, expected.icc)
    if actual.dpi is None or expected.dpi is None:
        _same("resolution", actual.dpi, expected.dpi)
    else:
        assert np.allclose(actual.dpi, expected.dpi, rtol=1e-3), f"resolution: {actual.dpi} is not {expected.dpi}"
    _compare_nodes("stack", actual.layers, expected.layers, hidden_colour, kinds)


def scene(
    seed: int, *, width: int = 96, height: int = 64, elements: int = 3, opaque: bool = True, icc: bytes | None = None
) -> tuple[SourceImage, LayerStack]:
    """A picture and the layers that it was made of: soft-edged shapes over a gradient, the same for the same arguments.

    The stack flattens exactly to the picture. `opaque`: the background covers the canvas, else it is a soft shape too. Layers are cropped
    to their content; shapes may be cut off by the canvas and overlap.
    """
    rng = np.random.default_rng(seed)
    background = _gradient(rng, width, height)
    background[..., 3] = 255 if opaque else _shape(rng, width, height, radius=0.45)
    layers = [Layer("Background", background, kind="background")]
    for number in range(1, elements + 1):
        pixels = _gradient(rng, width, height)
        pixels[..., 3] = _shape(rng, width, height, radius=rng.uniform(0.12, 0.3))
        pixels[pixels[..., 3] == 0] = 0
        layers.append(Layer(f"Element {number}", pixels))
    stack = LayerStack(width, height, tuple(crop_to_content(layer) for layer in layers), icc=icc)
    pixels = flatten(stack)
    return SourceImage(pixels, icc=icc, has_alpha=bool((pixels[..., 3] < 255).any())), stack


def specimen() -> LayerStack:
    """A small stack with what formats get wrong.

    Soft edges with leftover colour under alpha 0, layers that hang over every rim, a blank one, opacities, hidden layers and groups,
    nested groups, names in many scripts, twins and too long ones, a colour profile and an odd resolution. The bottom layer is opaque.
    """
    rng = np.random.default_rng(7)
    width, height = 61, 43

    def patch(name: str, left: int, top: int, size: tuple[int, int], opacity: float = 1.0, visible: bool = True) -> Layer:
        pixels = rng.integers(0, 256, (size[1], size[0], 4), np.uint8)
        pixels[..., 3] = _shape(rng, size[0], size[1], radius=0.4)
        return crop_to_content(Layer(name, pixels, left, top, opacity, visible))

    background = rng.integers(0, 256, (height, width, 4), np.uint8)
    background[..., 3] = 255
    blank = Layer("nothing", np.zeros((1, 1, 4), np.uint8), 30, 20)
    inner = Group("内側", (patch("twin", 3, 22, (17, 15)), patch("twin", 9, 25, (14, 14), opacity=0.5)), visible=False)
    group = Group("Gruppe Ä/ö", (patch("猫のロゴ", 20, 4, (23, 21)), inner, blank))
    layers = (
        Layer("Background", background, kind="background"),
        patch("عربي", -8, -6, (25, 19)),
        group,
        patch("🎈 balloon 👩🏽‍🚀", 44, 28, (30, 30), opacity=0.6),
        patch("hidden", 12, 12, (20, 20), visible=False),
        patch("long " * 80, 30, 1, (21, 33)),
    )
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    icc[24:36] = bytes(12)  # the time of its making
    return LayerStack(width, height, layers, icc=bytes(icc), dpi=(300.0, 72.5))


def _gradient(rng: np.random.Generator, width: int, height: int) -> U8:
    """Colours from one to another along a random direction, RGBA with alpha 0."""
    start, end = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    y, x = _coordinates(width, height)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    picture = np.zeros((height, width, 4), np.uint8)
    picture[..., :3] = np.rint(start + (end - start) * along)
    return picture


def _shape(rng: np.random.Generator, width: int, height: int, radius: float) -> U8:
    """The alpha of a super-ellipse (from disc to rounded square) with an edge two to six pixels soft."""
    y, x = _coordinates(width, height)
    aspect = width / height
    centre_x, centre_y = rng.uniform(0.2, 0.8, 2)
    power = rng.uniform(2, 6)
    across, down = np.abs(x - centre_x) * aspect / radius, np.abs(y - centre_y) / radius
    distance = (across**power + down**power) ** (1 / power)
    edge = rng.uniform(2, 6) / (radius * height)
    alpha: U8 = np.rint(255 * np.clip(0.5 + (1 - distance) / edge, 0, 1)).astype(np.uint8)
    if not alpha.any():
        alpha[height // 2, width // 2] = 255
    return alpha


def _coordinates(width: int, height: int) -> tuple[F64, F64]:
    """Rows and columns of pixel centres, 0..1, as arrays that broadcast."""
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    return y, x


def _compare_nodes(
    where: str, actual: tuple[Layer | Group, ...], expected: tuple[Layer | Group, ...], hidden_colour: bool, kinds: bool
) -> None:
    _same(f"{where}: names", [node.name for node in actual], [node.name for node in expected])
    for one, other in zip(actual, expected, strict=True):
        here = f"{where} / {one.name}"
        _same(f"{here}: type", type(one), type(other))
        _same(f"{here}: visible", one.visible, other.visible)
        assert abs(one.opacity - other.opacity) <= OPACITY_STEP / 2 + 1e-9, f"{here}: opacity {one.opacity} is not {other.opacity}"
        if isinstance(one, Group) and isinstance(other, Group):
            _compare_nodes(here, one.children, other.children, hidden_colour, kinds)
        elif isinstance(one, Layer) and isinstance(other, Layer):
            _compare_layers(here, one, other, hidden_colour, kinds)


def _compare_layers(where: str, one: Layer, other: Layer, hidden_colour: bool, kinds: bool) -> None:
    _same(f"{where}: box", one.box, other.box)
    _same(f"{where}: depth", one.pixels.dtype, other.pixels.dtype)
    if kinds:
        _same(f"{where}: kind and text", (one.kind, one.text), (other.kind, other.text))
    different = one.pixels != other.pixels
    if not hidden_colour:
        different[..., :3] &= (one.pixels[..., 3] > 0)[..., None]
    if different.any():
        y, x, _ = (int(index) for index in np.argwhere(different)[0])
        count = int(different.any(axis=2).sum())
        raise AssertionError(f"{where}: {count} pixels differ, the first at x={x} y={y}: {one.pixels[y, x]} is not {other.pixels[y, x]}")


def _same(what: str, actual: object, expected: object) -> None:
    assert actual == expected, f"{what}: {actual!r} is not {expected!r}"
