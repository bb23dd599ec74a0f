"""One engine on one scene: the layers that it finds and how good they are.

Two stand-ins for an engine show the range of the numbers: "full-background" finds nothing; "truth-masks" knows the true alphas but not what
is hidden, and has to fill the plate and solve the colours as an engine does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.usefulness import metrics, reading
from benchmarks.usefulness.scenes import Scene, SceneKind
from layerctl import registry
from layerctl.composite import flatten, largest_difference
from layerctl.decompose import decompose
from layerctl.exact import solve_exact
from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.registry import DecomposeRequest, PictureKind
from layerctl.source import SourceImage

STAND_INS = ("full-background", "truth-masks")


@dataclass(frozen=True, slots=True)
class SceneResult:
    """What was measured on one scene; the errors are those of `metrics`, None where the scene has nothing to measure.

    `found`, `found_auto`: visible layers when the true number was asked for, and when none was. `text_said`, `text_clean`: how many of the
    `texts` text layers read as their string alone, and leave nothing to read below. `seconds`: CPU time of the engine and the solve.
    """

    scene: str
    kind: SceneKind
    layers: int
    found: int
    found_auto: int | None
    iou_elements: float
    iou_all: float
    text_iou: float | None
    pairs: int
    pairs_right: int
    hide: float | None
    move: float | None
    residue: float | None
    colours: float | None
    texts: int
    text_said: int
    text_clean: int
    flatten_error: int
    seconds: float


def evaluate(scene: Scene, engine: str, kind: PictureKind, *, auto: bool) -> SceneResult:
    """Run the engine with the true number of layers, and once more without a number for `found_auto`."""
    started = time.process_time()
    found = find_layers(scene, engine, DecomposeRequest(len(scene.stack.layers), kind))
    seconds = time.process_time() - started
    free = find_layers(scene, engine, DecomposeRequest(None, kind)) if auto else None
    return compare(scene, found, free, seconds)


def find_layers(scene: Scene, engine: str, request: DecomposeRequest) -> LayerStack:
    """The full-size, exact layers that an engine or a stand-in finds in the scene's picture. Raises UsageError for an unknown engine."""
    source = source_of(scene)
    if engine == "full-background":
        return solve_exact(source, scene.stack.with_layers((Layer("Background", source.pixels, kind="background"),)))
    if engine == "truth-masks":
        return solve_exact(source, _true_masks(scene, source))
    return decompose(source, registry.load("engines", engine), request, _silent).stack


def compare(scene: Scene, found: LayerStack, free: LayerStack | None, seconds: float) -> SceneResult:
    """Every metric of a found stack against the scene's true one."""
    true_alphas, found_alphas = metrics.alphas(scene.stack), metrics.alphas(found)
    partners, scores = metrics.match(true_alphas[1:], found_alphas[1:])
    above = [None if partner is None else partner + 1 for partner in partners]
    strong = [0, *metrics.strong_partners(above, scores)]
    _, scores_all = metrics.match(true_alphas, found_alphas)
    errors = metrics.move_errors(scene.stack, found, strong)
    texts = [place for place, layer in enumerate(scene.stack.walk()) if layer.kind == "text"]
    lettering = [place for place, layer in enumerate(found.walk()) if layer.kind == "text"]
    text_partners, text_scores = metrics.match([true_alphas[i] for i in texts], [found_alphas[i] for i in lettering])
    said = clean = 0
    for place, partner in zip(texts, text_partners, strict=True):
        layer = None if partner is None else list(found.walk())[lettering[partner]]
        text = list(scene.stack.walk())[place].text or ""
        said += reading.says(layer, text, found.width, found.height)
        clean += reading.is_clean(found, [strong[place] if partner is None else lettering[partner]], text)
    return SceneResult(
        scene=scene.name,
        kind=scene.kind,
        layers=len(scene.stack.layers),
        found=_shown(found),
        found_auto=None if free is None else _shown(free),
        iou_elements=float(np.mean(scores)),
        iou_all=float(np.mean(scores_all)),
        text_iou=float(np.mean(text_scores)) if texts else None,
        pairs=len(scene.order),
        pairs_right=metrics.order_right(scene.order, strong),
        hide=errors.hide,
        move=errors.move,
        residue=errors.residue,
        colours=errors.colours,
        texts=len(texts),
        text_said=said,
        text_clean=clean,
        flatten_error=largest_difference(flatten(found), source_of(scene).pixels),
        seconds=round(seconds, 3),
    )


def source_of(scene: Scene) -> SourceImage:
    return SourceImage(np.dstack([scene.image, np.full(scene.image.shape[:2], 255, np.uint8)]))


def _shown(stack: LayerStack) -> int:
    """Visible layers that hold anything."""
    return sum(1 for layer in stack.walk() if layer.visible and layer.opacity > 0 and layer.pixels[..., 3].any())


def _true_masks(scene: Scene, source: SourceImage) -> LayerStack:
    """True alphas over a plate filled in from the rim, colours unmixed against what lies below, F = (I - (1 - a) B) / a."""
    layers = list(scene.stack.walk())
    width, height = scene.stack.width, scene.stack.height
    masks = [on_canvas(layer, width, height)[..., 3] for layer in layers[1:]]
    covered = np.maximum.reduce(masks)
    plate = cv2.inpaint(scene.image, (covered > 0).astype(np.uint8), 5, cv2.INPAINT_TELEA)
    solved = [Layer("Background", np.dstack([plate, source.pixels[..., 3]]), kind="background")]
    below = plate.astype(np.float32)
    for layer, mask in zip(layers[1:], masks, strict=True):
        alpha = mask[..., None].astype(np.float32) / 255
        colour = np.clip((scene.image - (1 - alpha) * below) / np.maximum(alpha, 1 / 255), 0, 255)
        below = alpha * colour + (1 - alpha) * below
        solved.append(Layer(layer.name, np.dstack([colour.round().astype(np.uint8), mask]), kind=layer.kind, text=layer.text))
    return scene.stack.with_layers(tuple(solved))


def _silent(_doing: str, _done: float) -> None:
    """Progress that nobody watches."""
