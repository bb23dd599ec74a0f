"""Small, degraded layers at full size: how near alpha and visible colour come to the truth, beside bicubic and closed-form matting.

    python benchmarks/refine_quality.py --size 2048 --closed-form --moves --crops crops/

True stacks are drawn at full size (hair-like strands, glass, a shadow, text, smoke, a disc, over a photograph or a gradient), reduced to
640 px and degraded as a generating model does: blur, noise, a drift of colours, a shift by half a pixel, ringing. The band is where a
layer's true alpha is neither 0 nor 1, and 2 pixels around. Colour error: of visible pixels, weighted by how much of them shows. Moves:
the move tests of `usefulness/metrics.py`, for layers enlarged by bicubic interpolation, the same after the exact solve, and refined.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.usefulness.metrics import move_errors  # noqa: E402
from layerctl.composite import flatten  # noqa: E402
from layerctl.exact import solve_exact  # noqa: E402
from layerctl.layers import Layer, LayerStack, on_canvas  # noqa: E402
from layerctl.refine import refine  # noqa: E402
from layerctl.scale import at_size  # noqa: E402
from layerctl.source import SourceImage  # noqa: E402

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
ENGINE_SIZE = 640
BAND = 2
HALF_A_PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5]], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    name: str
    truth: LayerStack
    source: SourceImage


def hair(rng: np.random.Generator, size: int) -> U8:
    """Strands, 1 to 3 pixels wide at 2048, that leave a disc of the same colours."""
    pixels, unit = _filled(size, tuple(int(v) for v in rng.integers(20, 110, 3))), size / 2048
    alpha = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.4, 0.6, 2) * size
    cv2.circle(alpha, (int(centre[0]), int(centre[1])), int(0.17 * size), 255, -1, cv2.LINE_AA)
    for _ in range(260):
        angle = rng.uniform(0, 2 * np.pi)
        length = rng.uniform(0.2, 0.36) * size
        bend = rng.normal(0, 0.25)
        steps = np.linspace(0.1 * size, length, 40)
        turn = angle + bend * steps / size * 3
        points = centre + np.stack([np.cos(turn) * steps, np.sin(turn) * steps], axis=1)
        width = max(1, round(rng.uniform(1, 3) * unit))
        cv2.polylines(alpha, [np.round(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
    pixels[..., 3] = alpha
    shade = rng.normal(0, 6, (size // 8, size // 8, 1)).astype(np.float32)
    pixels[..., :3] = np.clip(pixels[..., :3] + cv2.resize(shade, (size, size))[..., None], 0, 255)
    return pixels


def glass(rng: np.random.Generator, size: int) -> U8:
    pixels = _filled(size, (215, 235, 240))
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    cx, cy = rng.uniform(0.3, 0.7, 2)
    radius = np.hypot(x - cx, (y - cy) * 0.8)
    body = np.clip((0.22 - radius) * size / 1.5, 0, 1)
    rim = np.exp(-(((radius - 0.21) / 0.008) ** 2))
    pixels[..., 3] = np.rint(255 * np.clip(body * (0.18 + 0.25 * x) + 0.7 * rim * body, 0, 1))
    return pixels


def shadow(rng: np.random.Generator, size: int) -> U8:
    pixels = _filled(size, (8, 8, 14))
    alpha = np.zeros((size, size), np.float32)
    cx, cy = (rng.uniform(0.35, 0.65, 2) * size).astype(int)
    cv2.ellipse(alpha, (int(cx), int(cy)), (int(0.28 * size), int(0.1 * size)), 10, 0, 360, 0.55, -1)
    small = cv2.resize(alpha, (size // 4, size // 4), interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.006 * size), (size, size))
    pixels[..., 3] = np.rint(255 * alpha)
    return pixels


def text(rng: np.random.Generator, size: int) -> U8:
    picture = Image.new("L", (size, size))
    font = ImageFont.load_default(int(0.13 * size))
    ImageDraw.Draw(picture).text((0.08 * size, rng.uniform(0.2, 0.7) * size), "Summer 2026", 255, font)
    pixels = _filled(size, tuple(int(v) for v in rng.integers(150, 256, 3)))
    pixels[..., 3] = np.asarray(picture)
    return pixels


def smoke(rng: np.random.Generator, size: int) -> U8:
    field = np.zeros((size, size), np.float32)
    for octave in range(2, 7):
        noise = rng.normal(0, 1, (2**octave, 2**octave)).astype(np.float32)
        field += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) / 2 ** (octave - 2)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    veil = np.clip(field * 0.25 + 0.25, 0, 0.8) * np.clip(1.4 - 3.2 * np.hypot(x - 0.5, y - 0.5), 0, 1)
    pixels = _filled(size, (225, 225, 230))
    pixels[..., 3] = np.rint(255 * veil)
    return pixels


def disc(rng: np.random.Generator, size: int) -> U8:
    pixels = _filled(size, tuple(int(v) for v in rng.integers(30, 226, 3)))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    cx, cy = rng.uniform(0.25, 0.75, 2) * size
    ramp = np.clip(x / size * 60 - 30, -40, 40)
    pixels[..., :3] = np.clip(pixels[..., :3] + ramp[..., None], 0, 255)
    pixels[..., 3] = np.rint(255 * np.clip(0.16 * size - np.hypot(x - cx, y - cy) + 0.5, 0, 1))
    return pixels


KINDS: dict[str, Callable[[np.random.Generator, int], U8]] = {
    "hair": hair, "glass": glass, "shadow": shadow, "text": text, "smoke": smoke, "disc": disc,
}  # fmt: skip


def make_cases(size: int, seed: int) -> list[Case]:
    """One case a kind over a photograph and over a gradient, and one with all of them."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for ground in ("photograph", "gradient"):
        for names in [[name] for name in KINDS] + [["shadow", "disc", "text", "hair"]]:
            layers = [Layer("Background", _ground(ground, rng, size), kind="background")]
            layers += [Layer(name, KINDS[name](rng, size)) for name in names]
            truth = LayerStack(size, size, tuple(layers))
            pixels = flatten(truth)
            cases.append(Case(f"{'+'.join(names)} on {ground}", truth, SourceImage(pixels, sha256=f"{len(cases):064d}")))
    return cases


def degraded(truth: LayerStack, seed: int) -> LayerStack:
    """The stack as a model would give it at ENGINE_SIZE: half a pixel off, blurred, rung, drifted and noisy."""
    rng = np.random.default_rng(seed)
    small = at_size(truth, ENGINE_SIZE, ENGINE_SIZE)
    gain, offset = 1 + rng.normal(0, 0.02, 3), rng.normal(0, 4, 3)
    layers = []
    for layer in small.walk():
        canvas = _canvas(layer, ENGINE_SIZE).astype(np.float32)
        alpha = canvas[..., 3:]
        canvas[..., :3] = np.where(alpha > 0, canvas[..., :3], 0)
        planes = np.concatenate([canvas[..., :3] * alpha / 255, alpha], axis=2)
        planes = cv2.warpAffine(planes, HALF_A_PIXEL, (ENGINE_SIZE, ENGINE_SIZE), borderMode=cv2.BORDER_REPLICATE)
        soft = cv2.GaussianBlur(planes, (0, 0), 0.7)
        rung = soft + 0.3 * (soft - cv2.GaussianBlur(soft, (0, 0), 1.5))
        shown = np.clip(rung[..., 3:], 0, 255)
        colour = rung[..., :3] * 255 / np.maximum(shown, 4)
        colour = colour * gain + offset + rng.normal(0, 3, colour.shape)
        fringe = np.where(shown > 2, rng.normal(0, 3, shown.shape), 0)
        pixels = np.concatenate([colour, shown + fringe], axis=2)
        layers.append(replace(layer, pixels=np.clip(np.rint(pixels), 0, 255).astype(np.uint8), left=0, top=0))
    return LayerStack(ENGINE_SIZE, ENGINE_SIZE, tuple(layers))


@dataclass(frozen=True, slots=True)
class Errors:
    """Means over the layers above the background: alpha in the band, and of all layers visible colour, in levels of 255."""

    alpha: float
    colour: float


def measure(case: Case, stack: LayerStack) -> Errors:
    size = case.truth.width
    alphas, colours, weights = [], 0.0, 0.0
    left = np.ones((size, size), np.float32)
    for true, found in reversed(list(zip(case.truth.walk(), stack.walk(), strict=True))):
        a, b = (_canvas(layer, size) for layer in (true, found))
        if true.kind != "background":
            edge = ((a[..., 3] > 4) & (a[..., 3] < 251)).astype(np.uint8)
            band = cv2.dilate(edge, np.ones((2 * BAND + 1,) * 2)) > 0
            alphas.append(float(np.abs(a[..., 3].astype(np.int16) - b[..., 3])[band].mean()))
        share = left * a[..., 3].astype(np.float32) / 255
        colours += float((np.abs(a[..., :3].astype(np.int16) - b[..., :3]).mean(axis=2) * share).sum())
        weights += float(share.sum())
        left = np.asarray(left - share, np.float32)
    return Errors(float(np.mean(alphas)), colours / weights)


def closed_form(case: Case, small: LayerStack) -> tuple[float, float] | None:
    """Alpha error in the band of the top layer, in a crop of 512 pixels around its edge, and CPU seconds.

    The unknown region is where the engine's alpha is soft, and 1.5 of its pixels around. None without pymatting, and for layers that are
    nowhere wholly there or wholly gone, which closed-form matting needs to be told.
    """
    try:
        from pymatting import estimate_alpha_cf
    except ImportError:
        return None
    size = case.truth.width
    true = _canvas(list(case.truth.walk())[-1], size)[..., 3]
    guess = _canvas(list(at_size(small, size, size).walk())[-1], size).astype(np.float32)[..., 3] / 255
    crop = _crop(true)
    reach = int(1.5 * size / ENGINE_SIZE)
    kernel = np.ones((2 * reach + 1,) * 2)
    trimap = np.full_like(guess, 0.5)
    trimap[cv2.erode(guess, kernel) > 0.95] = 1
    trimap[cv2.dilate(guess, kernel) < 0.05] = 0
    if not {0.0, 1.0} <= set(np.unique(trimap[crop])):
        return None
    begun = time.process_time()
    alpha = estimate_alpha_cf(case.source.pixels[crop][..., :3] / 255.0, trimap[crop].astype(np.float64))
    seconds = time.process_time() - begun
    return _band_error(true[crop], alpha * 255), seconds


def moves(case: Case, plain: LayerStack, refined: LayerStack) -> str:
    """hide, move, residue, colours of the stack enlarged by interpolation, of the same made exact, and of the refined one."""
    partners = list(range(len(case.truth.layers)))
    parts = []
    for stack in (plain, solve_exact(case.source, plain), refined):
        errors = move_errors(case.truth, stack, partners)
        parts.append(", ".join("–" if value is None else f"{value:.2f}" for value in astuple(errors)))
    return " | ".join(parts)


def _canvas(layer: Layer, size: int) -> U8:
    return on_canvas(layer, size, size).astype(np.uint8, copy=False)


def _band_error(true: U8, found: npt.NDArray[Any]) -> float:
    edge = ((true > 4) & (true < 251)).astype(np.uint8)
    band = cv2.dilate(edge, np.ones((2 * BAND + 1,) * 2)) > 0
    return float(np.abs(true.astype(np.float64) - found)[band].mean())


def _crop(true: U8) -> tuple[slice, slice]:
    """512 pixels around where most of the edge is."""
    edge = ((true > 4) & (true < 251)).astype(np.float32)
    density = cv2.boxFilter(edge, -1, (512, 512), normalize=False, borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(density.argmax()), density.shape)
    top, left = (int(np.clip(at - 256, 0, true.shape[0] - 512)) for at in (y, x))
    return slice(top, top + 512), slice(left, left + 512)


def _ground(kind: str, rng: np.random.Generator, size: int) -> U8:
    if kind == "photograph":
        picture = Image.open(ROOT / "examples" / "photographs" / rng.choice(["coffee.png", "chelsea.png"])).convert("RGB")
        side = min(picture.size)
        rgb = np.asarray(picture.crop((0, 0, side, side)).resize((size, size), Image.Resampling.LANCZOS)).astype(np.float32)
        # Enlarged pictures have no grain of their own.
        rgb += rng.normal(0, 2, rgb.shape)
    else:
        one, other = rng.uniform(30, 225, (2, 3))
        ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
        rgb = np.broadcast_to(one + (other - one) * ramp, (size, size, 3))
    pixels = np.full((size, size, 4), 255, np.uint8)
    pixels[..., :3] = np.clip(np.rint(rgb), 0, 255)
    return pixels


def _filled(size: int, rgb: tuple[int, ...]) -> U8:
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., :3] = rgb
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--closed-form", action="store_true")
    parser.add_argument("--moves", action="store_true")
    parser.add_argument("--crops", type=Path, help="folder for crops at 100 %%")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pymatting tells how it preconditions
    print("case | bicubic alpha, colour | refined alpha, colour | seconds | closed form alpha, refined there, seconds")
    rows = []
    for case in make_cases(options.size, options.seed):
        if options.only and options.only not in case.name:
            continue
        small = degraded(case.truth, options.seed)
        plain = at_size(small, options.size, options.size)
        begun = time.process_time()
        result = refine(case.source, small)
        refined, seconds = result.stack, time.process_time() - begun
        before, after = measure(case, plain), measure(case, refined)
        rows.append((before, after))
        line = f"{case.name} | {before.alpha:.2f}, {before.colour:.2f} | {after.alpha:.2f}, {after.colour:.2f} | {seconds:.1f}"
        if options.verbose:
            print(result.fidelity)
        if options.closed_form and (matte := closed_form(case, small)) is not None:
            top = _canvas(list(refined.walk())[-1], options.size)[..., 3]
            true = _canvas(list(case.truth.walk())[-1], options.size)[..., 3]
            crop = _crop(true)
            line += f" | {matte[0]:.2f}, {_band_error(true[crop], top[crop]):.2f}, {matte[1]:.1f}"
        print(line, flush=True)
        if options.moves:
            print(f"  hide, move, residue, colours | {moves(case, plain, refined)}", flush=True)
        if options.crops:
            _save_crops(options.crops, case, plain, refined)
    alpha = 1 - np.mean([after.alpha for _, after in rows]) / np.mean([before.alpha for before, _ in rows])
    colour = 1 - np.mean([after.colour for _, after in rows]) / np.mean([before.colour for before, _ in rows])
    print(f"all | alpha error {alpha:.0%} lower, colour error {colour:.0%} lower")


def _save_crops(folder: Path, case: Case, plain: LayerStack, refined: LayerStack) -> None:
    """Source, and the top layer on magenta: bicubic, refined, true."""
    folder.mkdir(parents=True, exist_ok=True)
    size = case.truth.width
    crop = _crop(_canvas(list(case.truth.walk())[-1], size)[..., 3])
    shown = [case.source.pixels[crop][..., :3]]
    for stack in (plain, refined, case.truth):
        top = _canvas(list(stack.walk())[-1], size)[crop].astype(np.float32)
        share = top[..., 3:] / 255
        shown.append(np.rint(top[..., :3] * share + np.array([255, 0, 255]) * (1 - share)).astype(np.uint8))
    Image.fromarray(np.hstack(shown)).save(folder / f"{case.name.replace(' ', '-')}.png")


if __name__ == "__main__":
    main()
