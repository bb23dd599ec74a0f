"""Layered pictures as targets of supervised training: frames in the model's layout, their latents, and the flow-matching loss.

The layout is Qwen-Image-Layered's own: the whole picture, then the layers bottom to top, each frame encoded by itself (`LayeredModel`
decodes the same). The loss is rectified flow's with logit-normal times (arXiv 2403.03206, eq. 2 and section 3.1).

Ours, since neither paper says it: how frames are reduced, the black under alpha 0, which layers are merged when there are too many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from layerctl.colour import converted
from layerctl.composite import flatten
from layerctl.errors import InputError
from layerctl.layers import Group, Layer, LayerStack
from layerctl_train.kept_tensors import KeptTensors
from layerctl_train.noise import draw
from layerctl_train.picture_store import Picture, marked
from layerctl_train.training_data import Entry

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """`x0`: the state at sigma = 0, fp32, [1, (layers + 1) * rows * columns, C], on the CPU."""

    condition: Picture
    x0: torch.Tensor
    layers: int


class TargetStore:
    """Targets are made once and kept by their layers' content. `mark`, `encode`: as of a `PictureStore`.

    `read`: the layers at full size. `most`: with more layers, neighbours are merged.
    """

    def __init__(
        self,
        folder: Path,
        mark: str,
        most: int,
        read: Callable[[Entry], LayerStack],
        encode: Callable[[U8], torch.Tensor],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.most, self.read, self.encode = most, read, encode
        self.tensors = KeptTensors(folder / marked(f"{mark} target {most}"), tell)

    def keep(self, entry: Entry, stack: LayerStack, size: tuple[int, int]) -> None:
        """Make sure that the target is kept, `size` the width and height of the model's picture. Raises InputError as `frames` does."""
        self._get(entry, lambda: stack, size)

    def target(self, entry: Entry, picture: Picture) -> Target:
        x0 = self._get(entry, lambda: self.read(entry), (picture.source.width, picture.source.height))
        return Target(picture, x0.float(), x0.shape[1] // (picture.rows * picture.columns) - 1)

    def _get(self, entry: Entry, read: Callable[[], LayerStack], size: tuple[int, int]) -> torch.Tensor:
        def make() -> dict[str, torch.Tensor]:
            return {"x0": encoded(frames(read(), size, self.most), self.encode)}

        return self.tensors.get(f"{entry.sha256}-{entry.stack}", make)["x0"]


def encoded(shown: list[U8], encode: Callable[[U8], torch.Tensor]) -> torch.Tensor:
    """The frames' latents one after another, [1, frames * h * w, C]."""
    return torch.cat([encode(frame) for frame in shown], dim=1)


def frames(stack: LayerStack, size: tuple[int, int], most: int) -> list[U8]:
    """What the stack flattens to, and its layers bottom to top: each H x W x 4, sRGB, of `size` (width, height), whole canvases.

    Layers that show nothing are left out; a group that is not opaque is one layer. With more than `most`, 2 or more, the two neighbours
    that together show the least become one until there are so many; the bottom one stays as it is. Raises InputError for fewer than two.
    """
    layers = [frame for pixels in _canvases(stack.layers, stack) if (frame := _reduced(pixels, stack.icc, size))[..., 3].any()]
    if len(layers) < 2:
        raise InputError(f"it shows {len(layers)} of its layers, and 2 or more are needed")
    areas = _shown_areas(layers)
    while len(layers) > most:
        both, at = min((areas[at] + areas[at + 1], at) for at in range(1, len(layers) - 1))
        layers[at : at + 2], areas[at : at + 2] = [_over(layers[at], layers[at + 1])], [both]
    return [_reduced(flatten(stack), stack.icc, size), *layers]


def _canvases(nodes: tuple[Layer | Group, ...], stack: LayerStack) -> Iterator[U8]:
    for node in nodes:
        if isinstance(node, Group) and node.visible and node.opacity == 1:
            yield from _canvases(node.children, stack)
        else:
            yield flatten(stack.with_layers((node,)))


def _reduced(pixels: U8, icc: bytes | None, size: tuple[int, int]) -> U8:
    """At another size, colours weighted by alpha, black where alpha is 0.

    Opaque frames by Lanczos, as the condition is made; others by a Hamming window, which has no negative lobes: Lanczos would draw faint
    outlines into alpha.
    """
    straight = converted(pixels, icc, None).astype(np.float32)
    method = Image.Resampling.LANCZOS if pixels[..., 3].min() == 255 else Image.Resampling.HAMMING
    straight[..., :3] *= straight[..., 3:] / 255
    planes = [Image.fromarray(np.ascontiguousarray(straight[..., channel])).resize(size, method) for channel in range(4)]
    resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    alpha = np.rint(np.clip(resized[..., 3:], 0, 255))
    colour = np.where(alpha > 0, resized[..., :3] * 255 / np.maximum(resized[..., 3:], 0.5), 0)
    return np.concatenate([np.rint(np.clip(colour, 0, 255)), alpha], axis=-1).astype(np.uint8)


def _shown_areas(layers: list[U8]) -> list[float]:
    """Of each layer in pixels, less what the layers above cover."""
    clear = np.ones(layers[0].shape[:2], np.float32)
    areas = []
    for layer in reversed(layers):
        alpha = layer[..., 3].astype(np.float32) / 255
        areas.append(float((alpha * clear).sum()))
        clear *= 1 - alpha
    return areas[::-1]


def _over(below: U8, above: U8) -> U8:
    return np.asarray(Image.alpha_composite(Image.fromarray(below), Image.fromarray(above)))


def draw_sigma(seed: int, *counters: int | str, shift: float) -> float:
    """A time by the logit-normal distribution with mean `shift` and deviation 1, from seed and counters alone; within 0 to 1."""
    return 1 / (1 + math.exp(-draw(seed, "sigma", *counters).gauss(shift, 1.0)))


def flow_loss(v: torch.Tensor, x0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the velocity to eps - x0 by sample, [B], in fp32; x = (1 - sigma) * x0 + sigma * eps."""
    return (v.float() - (eps - x0).float()).square().flatten(1).mean(dim=1)
