"""What must hold of a run: the recipe is the published one, the numbers stay sound, the layers make the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp, sqrt
from statistics import mean

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.accept import cost, tuning
from benchmarks.accept.checks import Checks, Number, Outcome
from benchmarks.accept.running import FAR_OUT, Run
from layerctl import colour
from layerctl.composite import flatten
from layerctl.decompose import LARGEST_ERROR, solve
from layerctl.engines.qwen import sampler
from layerctl.engines.qwen.fuse import LIMIT
from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage

PUBLISHED = {
    "stable-layers": {"sampler": "heun", "steps": 50, "cfg": 1.0, "cfg_normalize": False, "negative_prompt": None, "noise": "release"},
    "qwen": {"sampler": "euler", "steps": 50, "cfg": 4.0, "cfg_normalize": True, "negative_prompt": " ", "noise": "picture"},
}
BLANK = 0.001
"""A layer of which less than this share of the picture is covered is blank."""
ABSURD = 40
"""Levels of 255 between the raw layers together and the picture: so far off is only what went wrong."""
ROUNDING = 3 * 2**-9
"""Of a sigma that was rounded to bfloat16 twice, relative."""

CLAIMS = {
    "runs": "the model loads and every picture is decomposed",
    "recipe": "sampler, steps, guidance and noise are those of the preset as it was published",
    "evaluations": "the transformer runs 2 N - 1 times a picture for Heun, 2 N times for Euler with guidance: 99 and 100 for N = 50",
    "sigma grid": "the sigmas that reach the transformer are those of the formula, with mu = sqrt(tokens / 256)",
    "finite latents": "latents and velocities are finite at every step",
    "decoded range": f"the decoder's values are finite, and less than 5 % of them are beyond ±{FAR_OUT}",
    "layer count": "the raw stack has as many layers as were asked for",
    "blank layers": "not all layers of a picture are blank (some being blank is normal; the rate is for information)",
    "raw recomposition": f"the raw layers together are less than {ABSURD} levels off the picture (how far is the model's own property)",
    "refined result": f"the full-size layers flatten to the picture within {LARGEST_ERROR} level",
    "same bytes twice": "the first picture once more with the same seed gives the same bytes",
    "text encoder": "a later Session with the same prompts does not load the text encoder",
    "noise": "the noise is the one that seed and picture alone decide, made on the CPU",
    "memory": f"the planned bytes of tensors are within {cost.PLAN_ERROR:.0%} of the most that were allocated",
    "seconds": f"the estimated time of the largest picture is within a factor of {cost.TIME_FACTOR:g} of its evaluations'",
    "adapter's effect": "the adapter changes the velocity",
    "fusing": f"what merging would lose of that change is measured (above {LIMIT:.0%} --fuse keeps to unfused), and the weights come back",
}


def check(checks: Checks, place: str, run: Run, *, is_first: bool, random_weights: bool) -> None:
    """Everything but "runs". `is_first`: no Session before this one had the same prompts."""
    measures: dict[str, Callable[[Run], Outcome]] = {
        "recipe": _recipe,
        "evaluations": _evaluations,
        "sigma grid": _sigma_grid,
        "finite latents": _finite_latents,
        "decoded range": _decoded_range,
        "layer count": _layer_count,
        "blank layers": _blank_layers,
        "raw recomposition": partial(_raw_recomposition, random_weights=random_weights),
        "refined result": _refined_result,
        "same bytes twice": _same_bytes,
        "text encoder": partial(_text_encoder, is_first=is_first),
        "noise": _noise,
        "memory": cost.memory_plan,
        "seconds": cost.seconds,
        "adapter's effect": tuning.effect,
        "fusing": tuning.fusing,
    }
    for name, measure in measures.items():
        checks.make(place, name, partial(measure, run))


def loaded(run: Run) -> Outcome:
    assert run.session.plan is not None
    used = run.pictures[0].used
    value = f"{len(run.pictures)} pictures on {run.session.machine.name}, {used['dtype']}, {run.session.plan.flags}"
    return Outcome(True, f"{value}; the first one with loading took {run.loading_seconds:.1f} s", {"loading_seconds": run.loading_seconds})


def _recipe(run: Run) -> Outcome:
    preset, used = run.session.recipe.name, run.pictures[0].used
    expected = PUBLISHED[preset] | ({"steps": run.session.options.steps} if run.session.options.steps else {})
    found = {name: used[name] for name in expected}
    told = ", ".join(f"{name} {value!r}" for name, value in found.items())
    sizes = ", ".join(f"{picture.proposal.stack.width} × {picture.proposal.stack.height}" for picture in run.pictures)
    warnings = f"; {'; '.join(run.session.warnings)}" if run.session.warnings else ""
    return Outcome(found == expected, f"{told}, seed {used['seed']}, prompt {used['prompt']!r}; at {sizes}{warnings}")


def _evaluations(run: Run) -> Outcome:
    heun, steps = run.session.recipe.name == "stable-layers", run.session.recipe.steps
    expected = 2 * steps - 1 if heun else 2 * steps
    counted = {len(picture.watch.sigmas) for picture in run.pictures}
    recorded = {picture.used["evaluations"] for picture in run.pictures}
    value = f"{' and '.join(map(str, sorted(counted)))} counted in {steps} steps, {expected} expected"
    return Outcome(counted == recorded == {expected}, value, {"evaluations": max(counted)})


def _sigma_grid(run: Run) -> Outcome:
    """Against the formula, worked out here: linspace, shifted by mu, stretched to the terminal sigma."""
    config, worst = run.session.checkpoint.configs["scheduler"], 0.0
    told, numbers = "", dict[str, Number]()
    for picture in run.pictures:
        mu = sqrt(picture.pixels / 256 / 256)
        sigmas = np.linspace(1, 0, run.session.recipe.steps + 1)[:-1]
        sigmas = exp(mu) / (exp(mu) + 1 / sigmas - 1)
        terminal = config.get("shift_terminal")
        if terminal:
            sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
        expected = [sigmas[0], *np.repeat(sigmas[1:], 2)] if run.session.recipe.sampler == "heun" else list(np.repeat(sigmas, 2))
        seen = np.array(picture.watch.sigmas)
        if len(seen) != len(expected):
            return Outcome(False, f"{len(seen)} sigmas were seen, {len(expected)} expected")
        worst = max(worst, float(np.max(np.abs(seen - expected) / expected)))
        told = told or f"mu {mu:.4f}, from {seen[0]:.4f} to {seen[-1]:.4f}, then 0 (terminal {terminal})"
        numbers = numbers or {"mu": mu, "first_sigma": float(seen[0]), "last_sigma": float(seen[-1])}
    value = f"{run.pictures[0].name}: {told}; largest relative difference from the formula {worst:.1e}"
    return Outcome(worst <= ROUNDING, value, numbers | {"sigma_error": worst})


def _finite_latents(run: Run) -> Outcome:
    broken = [picture.name for picture in run.pictures if not picture.watch.finite]
    count = sum(len(picture.watch.sigmas) for picture in run.pictures)
    return Outcome(not broken, f"not finite: {', '.join(broken)}" if broken else f"all of {count} evaluations and what was decoded")


def _decoded_range(run: Run) -> Outcome:
    share = max(picture.watch.far_out for picture in run.pictures)
    sound = share < 0.05 and all(picture.watch.finite and picture.watch.decoded for picture in run.pictures)
    return Outcome(sound, f"at most {share:.2%} of the values beyond ±{FAR_OUT}", {"far_out_share": share})


def _layer_count(run: Run) -> Outcome:
    counts = {picture.name: len(_layers(picture.proposal.stack)) for picture in run.pictures}
    value = ", ".join(f"{name} {count}" for name, count in counts.items())
    return Outcome(set(counts.values()) == {run.layers}, f"{value}; {run.layers} asked for", {"layers": run.layers})


def _blank_layers(run: Run) -> Outcome:
    blank = [sum(_coverage(layer, picture.proposal.stack) < BLANK for layer in _layers(picture.proposal.stack)) for picture in run.pictures]
    rate = sum(blank) / (run.layers * len(blank))
    value = f"{sum(blank)} of {run.layers * len(blank)} layers cover less than {BLANK:.1%}: {rate:.0%}"
    return Outcome(max(blank) < run.layers, value, {"blank_rate": rate})


def _raw_recomposition(run: Run, *, random_weights: bool) -> Outcome:
    errors = {picture.name: recomposition_error(picture.source, picture.proposal.stack) for picture in run.pictures}
    value = "mean absolute error in levels: " + ", ".join(f"{name} {error:.2f}" for name, error in errors.items())
    numbers: dict[str, Number] = {"recomposition_levels": mean(errors.values())}
    numbers |= {f"recomposition_levels of {name}": error for name, error in errors.items()}
    if random_weights:
        return Outcome(None, f"the weights are random; {value}", numbers)
    return Outcome(max(errors.values()) < ABSURD, value, numbers)


def recomposition_error(source: SourceImage, stack: LayerStack) -> float:
    """Levels of 255, mean over pixels and colours, between the raw layers and the picture at their size, both over white in sRGB."""
    size = (stack.width, stack.height)
    picture = Image.fromarray(np.ascontiguousarray(source.srgb())).convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    return float(np.abs(_over_white(np.asarray(picture)) - _over_white(colour.converted(flatten(stack), stack.icc, None))).mean())


def _refined_result(run: Run) -> Outcome:
    errors = {picture.name: solve(picture.source, picture.proposal, "qwen").error for picture in run.pictures}
    value = ", ".join(f"{name} {error}" for name, error in errors.items())
    worst = max(errors.values())
    return Outcome(worst <= LARGEST_ERROR, f"largest difference in levels: {value}", {"refined_levels": worst})


def _same_bytes(run: Run) -> Outcome:
    one, other = _layers(run.first.stack), _layers(run.pictures[0].proposal.stack)
    same = [a.box == b.box and np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True)]
    return Outcome(all(same), f"{run.pictures[0].name}: {sum(same)} of {len(same)} layers have the same bytes")


def _text_encoder(run: Run, *, is_first: bool) -> Outcome:
    was_loaded = any("loading the text encoder" in line for line in run.told)
    value = "loaded" if was_loaded else "not loaded: what it makes was kept"
    return Outcome(None if is_first else not was_loaded, f"{value}; the first Session with these prompts" if is_first else value)


def _noise(run: Run) -> Outcome:
    if run.session.recipe.noise == "release":
        return Outcome(None, "the release draws it from PyTorch's generator of the device; it has no latents beside it to compare with")
    same = []
    for picture in run.pictures:
        states = picture.watch.states
        assert states is not None
        frames = len(picture.watch.call["img_shapes"][0])
        rows = states.shape[1] // frames * (frames - 1)
        expected = sampler.picture_noise((1, rows, states.shape[2]), run.session.recipe.seed, picture.source.sha256)
        same.append(torch.equal(states[:, :rows].cpu(), expected.to(states.dtype)))
    return Outcome(all(same), f"{sum(same)} of {len(same)} pictures begin with it")


def _layers(stack: LayerStack) -> list[Layer]:
    return list(stack.walk())


def _coverage(layer: Layer, stack: LayerStack) -> float:
    return float(layer.pixels[..., 3].sum(dtype=np.int64)) / (255 * stack.width * stack.height)


def _over_white(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)
