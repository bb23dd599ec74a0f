"""One layer decomposed further, and all that still hold several things: a group takes the layer's place, and the whole stays exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from layerctl.composite import flatten, largest_difference
from layerctl.errors import InputError
from layerctl.exact import MOST, check_flat, solve_exact
from layerctl.layers import Group, Kind, Layer, LayerStack, crop_to_content, mapped, named_paths, on_canvas
from layerctl.measures import LEAST_PIECE, pieces
from layerctl.names import unique
from layerctl.quality import assess
from layerctl.refine import refine
from layerctl.registry import DecomposeRequest, Engine, Progress
from layerctl.source import SourceImage

WORTH = 0.4
"""Overall quality of a layer's parts from which recursion keeps them."""
LEAST_THING = 64
"""Pixels of the smallest piece of its own."""
LEAST_SHARE = 0.005
"""Of what a layer shows: a part that shows less is no part of its own (the soft rim that a cut-out leaves in its plate)."""
SOLID = 200
"""Alpha from which a pixel's colour is taken as the layer's own."""


def split_layer(
    layer: Layer,
    canvas_stack: LayerStack,
    engine: Engine,
    request: DecomposeRequest,
    progress: Progress,
    tell: Callable[[str], None] = lambda _: None,
) -> Group | Layer:
    """A group of the layer's name, opacity and visibility that flattens to its pixels within 1/255, transparency included.

    A layer of things that lie apart is cut between them, without the engine; each can be split again. The layer itself comes back where
    the engine finds nothing more in it. The children's names are taken by nothing in `canvas_stack`,
    whose profile and resolution the engine is told. `request.regions` are of the whole picture and not passed on. `tell` takes the
    engine's remarks. Raises InputError for a layer of 16 bits.
    """
    if layer.pixels.dtype != np.uint8:
        raise InputError(f"{layer.name!r} has 16 bits a channel, layers of 8 can be split", hint="convert it to 8 bits a channel first")
    cropped = crop_to_content(layer)
    pixels = np.ascontiguousarray(cropped.pixels, np.uint8)
    if not pixels[..., 3].any():
        return layer
    lying_apart = _apart(cropped, canvas_stack, request.layers)
    if lying_apart:
        names = _free_names([part.name for part in lying_apart], canvas_stack)
        children = tuple(replace(part, name=name) for part, name in zip(lying_apart, names, strict=True))
        return Group(layer.name, children, layer.opacity, layer.visible)
    source = SourceImage(pixels, canvas_stack.icc, canvas_stack.dpi, bool((pixels[..., 3] < 255).any()))
    proposal = engine.decompose(_as_shown_to_engines(source), replace(request, regions=()), progress)
    refined = refine(source, replace(proposal.stack, icc=source.icc, dpi=source.dpi))
    parts, several = _parts(refined.stack, source)
    if not several:
        return layer
    error = largest_difference(flatten(refined.stack.with_layers(tuple(parts))), pixels)
    if error > 1:
        raise AssertionError(f"the parts of {layer.name!r} by engine {engine.name} flatten to a picture that is {error} levels off")
    for remark in (*proposal.warnings, *refined.warnings):
        tell(f"{layer.name}: {remark}")
    plate = next(refined.stack.walk()).name
    names = _free_names([f"{layer.name} base" if part.name == plate else part.name for part in parts], canvas_stack)
    children = tuple(
        replace(part, name=name, left=part.left + cropped.left, top=part.top + cropped.top, kind=_kind(part, layer, is_bottom=z == 0))
        for z, (part, name) in enumerate(zip(parts, names, strict=True))
    )
    return Group(layer.name, children, layer.opacity, layer.visible)


def recursed(
    source: SourceImage,
    stack: LayerStack,
    engine: Engine,
    request: DecomposeRequest,
    progress: Progress,
    depth: int,
    holds_several: Callable[[LayerStack, Layer], bool],
    tell: Callable[[str], None] = lambda _: None,
    worth: float = WORTH,
) -> LayerStack:
    """The stack with a group for every layer of which `holds_several` says so, their children looked at too, `depth` levels down.

    Parts whose overall quality, as layers of what they show, is below `worth` are not kept.

    Flattens to the source within 1/255. Text is not split, and nothing once there are as many layers as the exact solve takes.
    Raises ValueError for a stack with hidden layers or opacities, which the solve cannot take.
    """
    tree, candidates = stack, list(stack.walk())
    for level in range(depth):
        children: list[Layer] = []
        for place, layer in enumerate(candidates):
            if layer.kind == "text" or not holds_several(tree, layer):
                continue
            part = _part_of(progress, layer.name, (level + place / len(candidates)) / depth, 1 / len(candidates) / depth)
            node = split_layer(layer, tree, engine, request, part, tell)
            room = isinstance(node, Group) and len(list(tree.walk())) + len(node.children) - 1 <= MOST
            if isinstance(node, Group) and room and _quality(node, tree) >= worth:
                tree = with_group(tree, layer, node)
                children += (layer for _, layer in named_paths(node.children))
        candidates = children
    return tree if tree is stack else exact_tree(source, tree)


def _quality(group: Group, stack: LayerStack) -> float:
    """Of the parts of a layer, as layers of what they show."""
    alone = replace(stack, layers=group.children)
    return assess(SourceImage(flatten(alone), stack.icc, has_alpha=True), alone).overall


def with_group(stack: LayerStack, layer: Layer, group: Group) -> LayerStack:
    """The stack with the group in the place of that very layer."""
    return stack.with_layers(mapped(stack.layers, lambda other: group if other is layer else other))


def exact_tree(source: SourceImage, tree: LayerStack) -> LayerStack:
    """The tree with its layers solved to flatten to the source within 1/255; without those of which nothing is left.

    Raises ValueError for what `check_solvable` refuses.
    """
    check_solvable(tree)
    leaves = solve_exact(source, tree.with_layers(tuple(tree.walk()))).walk()
    return tree.with_layers(mapped(tree.layers, lambda _: _unless_blank(next(leaves))))


def check_solvable(tree: LayerStack) -> None:
    """Raise ValueError for a tree that holds anything hidden, an opacity, 16 bits, or more than `MOST` layers."""
    for group in _groups(tree.layers):
        if not group.visible or group.opacity != 1:
            raise ValueError(f"{group.name!r} is not a visible group of opacity 1")
    check_flat(tree.with_layers(tuple(tree.walk())))


def _apart(layer: Layer, stack: LayerStack, most: int | None) -> list[Layer]:
    """The pieces of a layer that lie apart, the largest first, at most `most`; none where it is one. Every pixel goes to the nearest."""
    labels, sizes = pieces(layer.pixels[..., 3] > 127, max(stack.width, stack.height))
    least = max(LEAST_THING, LEAST_PIECE * float(sizes[1:].sum()))
    kept = [int(label) for label in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[label] >= least][:most]
    if len(kept) < 2:
        return []
    others = (~np.isin(labels, kept)).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(others, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    piece_of = np.zeros(int(nearest.max()) + 1, np.int32)
    piece_of[nearest[others == 0]] = labels[others == 0]
    owner = piece_of[nearest]
    parts = []
    for number, label in enumerate(kept, 1):
        pixels = np.where((owner == label)[..., None], layer.pixels, np.zeros_like(layer.pixels))
        kind: Kind = "element" if layer.kind == "text" else layer.kind
        parts.append(crop_to_content(Layer(f"{layer.name} {number}", pixels, layer.left, layer.top, kind=kind)))
    return parts


def _groups(nodes: Sequence[Layer | Group]) -> Iterator[Group]:
    for node in nodes:
        if isinstance(node, Group):
            yield node
            yield from _groups(node.children)


def _unless_blank(layer: Layer) -> Layer | None:
    return layer if layer.pixels[..., 3].any() else None


def _as_shown_to_engines(source: SourceImage) -> SourceImage:
    """A layer shown opaque, its colours carried on outside of it.

    What engines see best in a cut-out on an empty ground is its outline, which says nothing about what is inside of it.
    """
    alpha = np.ascontiguousarray(source.pixels[..., 3])
    solid = alpha >= SOLID
    if solid.all() or not solid.any():
        return source
    _, nearest = cv2.distanceTransformWithLabels((~solid).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colours[nearest[solid]] = source.pixels[solid, :3]
    return replace(source, pixels=np.dstack([colours[nearest], np.full_like(alpha, 255)]), has_alpha=False)


def _parts(stack: LayerStack, source: SourceImage) -> tuple[list[Layer], bool]:
    """What of the stack shows, bottom first, and whether it is several things.

    A layer that hardly shows is cut to what shows of it: engines complete what is hidden, and here that would be all.
    """
    shown = float(source.pixels[..., 3].sum(dtype=np.int64)) / 255
    left = np.ones((source.height, source.width), np.float32)
    parts, several = [], 0
    for part in reversed(list(stack.walk())):
        canvas = on_canvas(part, source.width, source.height)
        alpha = canvas[..., 3].astype(np.float32) / 255
        if float((left * alpha).sum(dtype=np.float64)) >= LEAST_SHARE * shown:
            several += 1
        else:
            canvas[left == 0] = 0
            part = crop_to_content(replace(part, pixels=canvas, left=0, top=0))
        if part.pixels[..., 3].any():
            parts.append(part)
        left *= 1 - alpha
    return parts[::-1], several > 1


def _free_names(names: Sequence[str], stack: LayerStack) -> list[str]:
    taken = [*(group.name for group in _groups(stack.layers)), *(layer.name for layer in stack.walk())]
    return unique([*taken, *names])[len(taken) :]


def _kind(part: Layer, whole: Layer, *, is_bottom: bool) -> Kind:
    """What is a plate in the layer alone is the picture's background only where the layer was."""
    if part.kind == "text":
        return "text"
    return "background" if is_bottom and whole.kind == "background" else "element"


def _part_of(progress: Progress, name: str, start: float, share: float) -> Progress:
    return lambda what, done: progress(f"{name}: {what}", start + share * done)
