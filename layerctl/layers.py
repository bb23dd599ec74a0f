"""What a layered picture is: `Layer`, `Group` and `LayerStack`. Pure data, numpy only.

Pixels are straight (not premultiplied) RGBA in the source's own RGB profile. A layer holds only its bounding box; `left` and `top`
place it on the canvas and may be negative. Layers are listed bottom to top everywhere in this code base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["background", "element", "text"]
KINDS: tuple[Kind, ...] = ("background", "element", "text")
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One full-quality layer, cropped to its bounding box.

    `pixels`: uint8 or uint16, H x W x 4, straight alpha, H and W at least 1. `left`, `top`: position of the box on the canvas in
    pixels. `opacity`: 0..1. `text`: the string that the layer shows, for kind "text".
    Raises ValueError for pixels of another shape or type, an opacity outside 0..1, an unknown kind or an empty name.
    """

    name: str
    pixels: Pixels
    left: int = 0
    top: int = 0
    opacity: float = 1.0
    visible: bool = True
    kind: Kind = "element"
    text: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels of layer {self.name!r} are {self.pixels.dtype}, not uint8 or uint16")
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 4 or 0 in self.pixels.shape:
            raise ValueError(f"pixels of layer {self.name!r} have shape {self.pixels.shape}, not (height, width, 4)")
        if not 0.0 <= self.opacity <= 1.0:
            raise ValueError(f"opacity of layer {self.name!r} is {self.opacity}, not within 0..1")
        if self.kind not in KINDS:
            raise ValueError(f"kind of layer {self.name!r} is {self.kind!r}, not one of {', '.join(KINDS)}")

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def box(self) -> tuple[int, int, int, int]:
        """left, top, right, bottom on the canvas (right and bottom exclusive)."""
        return self.left, self.top, self.left + self.width, self.top + self.height


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A named folder of layers and groups, bottom to top."""

    name: str
    children: tuple[Layer | Group, ...] = ()
    opacity: float = 1.0
    visible: bool = True

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not 0.0 <= self.opacity <= 1.0:
            raise ValueError(f"opacity of group {self.name!r} is {self.opacity}, not within 0..1")


@dataclass(frozen=True, slots=True, eq=False)
class LayerStack:
    """A layered picture of `width` x `height` pixels; `layers` bottom to top.

    `icc`: the RGB profile that the values are in, None for sRGB. `dpi`: horizontal and vertical resolution, None if unknown.
    Raises ValueError for a canvas without area.
    """

    width: int
    height: int
    layers: tuple[Layer | Group, ...] = ()
    icc: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a canvas of {self.width} x {self.height} pixels has no area")
        if self.dpi is not None and not all(0 < d < 1e6 for d in self.dpi):
            raise ValueError(f"a resolution of {self.dpi} dpi makes no sense")

    def walk(self) -> Iterator[Layer]:
        """Every layer, groups opened, bottom to top."""
        yield from _walk(self.layers)

    def with_layers(self, layers: tuple[Layer | Group, ...]) -> LayerStack:
        return replace(self, layers=layers)


def named_paths(nodes: tuple[Layer | Group, ...], above: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer, bottom to top, with its name after those of its groups: "Group / Name"."""
    for node in nodes:
        if isinstance(node, Group):
            yield from named_paths(node.children, f"{above}{node.name} / ")
        else:
            yield above + node.name, node


def effective(nodes: tuple[Layer | Group, ...], opacity: float = 1.0) -> Iterator[tuple[Layer, float]]:
    """Every layer, bottom to top, with its opacity times that of all its groups; 0 for what is hidden."""
    for node in nodes:
        strength = opacity * node.opacity * node.visible
        if isinstance(node, Group):
            yield from effective(node.children, strength)
        else:
            yield node, strength


def mapped(nodes: tuple[Layer | Group, ...], change: Callable[[Layer], Layer | Group | None]) -> tuple[Layer | Group, ...]:
    """The same tree with what `change` makes of each layer, called bottom to top; without what it makes None, and groups emptied so."""
    changed: list[Layer | Group] = []
    for node in nodes:
        if isinstance(node, Layer):
            new = change(node)
        else:
            children = mapped(node.children, change)
            new = replace(node, children=children) if children or not node.children else None
        if new is not None:
            changed.append(new)
    return tuple(changed)


def crop_to_content(layer: Layer) -> Layer:
    """The same layer without the rows and columns at its rim whose alpha is 0; a blank layer becomes 1 x 1."""
    alpha = layer.pixels[..., 3]
    if all(rim.any() for rim in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])):
        return layer
    rows = np.flatnonzero(alpha.any(axis=1))
    columns = np.flatnonzero(alpha.any(axis=0))
    if rows.size == 0:
        return replace(layer, pixels=np.zeros((1, 1, 4), layer.pixels.dtype))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    pixels: Pixels = layer.pixels[top:bottom, left:right].copy()
    return replace(layer, pixels=pixels, left=layer.left + left, top=layer.top + top)


def fingerprint(stack: LayerStack) -> str:
    """64 hexadecimal digits, the same for stacks of the same pixels in the same places, as strong as each other; names do not count."""
    digest = hashlib.sha256(f"{stack.width} x {stack.height}".encode())
    for layer, opacity in effective(stack.layers):
        digest.update(f"{layer.box}{opacity}".encode())
        digest.update(np.ascontiguousarray(layer.pixels).data)
    return digest.hexdigest()


def on_canvas(layer: Layer, width: int, height: int) -> Pixels:
    """The layer's pixels on a transparent canvas, height x width x 4; what lies outside of the canvas is cut off."""
    canvas = np.zeros((height, width, 4), layer.pixels.dtype)
    left, top, right, bottom = layer.box
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = layer.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    return canvas


def _walk(nodes: tuple[Layer | Group, ...]) -> Iterator[Layer]:
    for node in nodes:
        if isinstance(node, Group):
            yield from _walk(node.children)
        else:
            yield node


def _check_name(name: str) -> None:
    if not name.strip():
        raise ValueError("a layer or group without a name")
