"""Check everything that layerctl claims of Qwen-Image-Layered and Stable-Layers on the real weights, and write one report with pictures.

    layerctl pull Qwen/Qwen-Image-Layered
    layerctl pull StabilityLabs/Stable-Layers
    python benchmarks/accept_real_weights.py

Base and tuned model, each with both presets (stable-layers: Heun; qwen: Euler with guidance), decompose example pictures through the same
code as `layerctl decompose`. The report is a folder: report.html, report.json and pictures/. It is brought up to date after each of the
four combinations, so that a run that is stopped leaves what it found.

`--tiny` runs all of it in seconds on a tiny checkpoint with random weights, on the CPU.

Exit code: 0 no check failed, 1 a check failed or was not reached, 2 wrong usage, 5 a model is not here.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.accept import claims, files, tiny  # noqa: E402
from benchmarks.accept.checks import Checks, Outcome  # noqa: E402
from benchmarks.accept.page import Report  # noqa: E402
from benchmarks.accept.running import Run, run_pictures  # noqa: E402
from layerctl import __version__  # noqa: E402
from layerctl.engines.qwen import loading, memory  # noqa: E402
from layerctl.engines.qwen.devices import find_machine  # noqa: E402
from layerctl.engines.qwen.recipe import DEFAULT_LAYERS  # noqa: E402
from layerctl.errors import LayerctlError, UsageError  # noqa: E402
from layerctl.hub import BASE_MODEL  # noqa: E402
from layerctl.registry import ModelOptions  # noqa: E402
from layerctl.source import SourceImage, read_source  # noqa: E402

ADAPTER = "StabilityLabs/Stable-Layers"
EXAMPLES = (
    "photographs/astronaut.png", "designs/poster.png", "photographs/coffee.png", "designs/icons.png",
    "photographs/chelsea.png", "designs/app-screen.png", "photographs/rocket.jpg", "photographs/hubble_deep_field.jpg",
)  # fmt: skip
"""From the first to the last that is left out when fewer are asked for."""
LABELS, PRESETS = ("base", "tuned"), ("stable-layers", "qwen")


@dataclass(frozen=True, slots=True)
class Combination:
    label: str
    preset: str
    options: ModelOptions

    @property
    def place(self) -> str:
        return f"{self.label}, {self.preset}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if options.tiny:
                _make_tiny(options, Path(scratch))
            return accept(options)
    except LayerctlError as error:
        _say(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""))
        return error.exit_code


def accept(options: argparse.Namespace) -> int:
    """Raises UsageError for what makes no sense, MissingDependencyError for a model that is not here."""
    if options.pictures not in range(1, len(EXAMPLES) + 1):
        raise UsageError(f"--pictures is {options.pictures}", hint=f"give 1 to {len(EXAMPLES)}")
    if options.steps is not None and options.steps < 2:
        raise UsageError(f"--steps is {options.steps}", hint="give 2 or more")
    found = files.find(options.model, options.adapter)
    combinations = [
        Combination(label, preset, _model_options(options, preset, with_adapter=label == "tuned")) for label in LABELS for preset in PRESETS
    ]
    places = [combination.place for combination in combinations]
    machine = find_machine("cpu" if options.tiny else "auto")
    facts = {"machine": f"{machine.name} ({machine.device}), {machine.device_total / memory.GB:.0f} GB, {platform.platform()}"}
    versions = [("layerctl", __version__), ("python", platform.python_version()), *machine.libraries, ("CUDA", torch.version.cuda)]
    facts["versions"] = ", ".join(f"{name} {version or 'none'}" for name, version in versions)
    facts["asked for"] = f"{options.pictures} pictures, steps {options.steps or 'of the preset'}, size {options.size or 'of the preset'}"
    if options.tiny:
        facts["dry run"] = "random weights: nothing here is about the real model"
    report = Report(_new_folder(options.output), Checks({files.PLACE: files.CLAIMS, **dict.fromkeys(places, claims.CLAIMS)}), facts, places)
    _say("checking the files")
    files.check(report.checks, found)
    facts |= found.facts
    report.write()
    sources = {Path(name).stem: read_source(ROOT / "examples" / name) for name in EXAMPLES[: options.pictures]}
    prompts: set[str | None] = set()
    for combination in combinations if found.checkpoint is not None else []:
        _say(f"{combination.place}: loading")
        _run(report, combination, sources, prompts, random_weights=options.tiny)
        loading.free_device_memory(torch.device(machine.device))
        report.write()
    for check in report.checks.with_status("failed"):
        _say(f"failed: {check.title}: {check.value}")
    _say(report.checks.verdict)
    print(report.folder / "report.html")
    return 0 if report.is_good else 1


def _run(
    report: Report, combination: Combination, sources: dict[str, SourceImage], prompts: set[str | None], *, random_weights: bool
) -> None:
    """One combination and its checks. `prompts`: those of the Sessions before; this one's is added."""
    runs: list[Run] = []

    def go() -> Outcome:
        runs.append(run_pictures(combination.options, sources, DEFAULT_LAYERS, lambda line: _say(f"  {line}")))
        return claims.loaded(runs[0])

    report.checks.make(combination.place, "runs", go)
    for run in runs:
        prompt = run.session.recipe.prompt
        claims.check(report.checks, combination.place, run, is_first=prompt not in prompts, random_weights=random_weights)
        prompts.add(prompt)
        for picture in run.pictures:
            report.draw(picture, combination.label, combination.preset, run.layers)


def _model_options(options: argparse.Namespace, preset: str, *, with_adapter: bool) -> ModelOptions:
    return ModelOptions(
        options.model,
        adapters=(options.adapter,) if with_adapter else (),
        preset=preset,
        steps=options.steps,
        size=options.size,
        device="cpu" if options.tiny else "auto",
    )


def _make_tiny(options: argparse.Namespace, folder: Path) -> None:
    from layerctl.testing.checkpoint import write_tiny_checkpoint

    write_tiny_checkpoint(folder / "tiny")
    tiny.write_tiny_adapter(folder / "tiny-adapter", folder / "tiny")
    options.model, options.adapter = str(folder / "tiny"), str(folder / "tiny-adapter")
    options.steps, options.size = options.steps or 2, options.size or 64


def _new_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        number = next(number for number in range(2, 10_000) if not folder.with_name(f"{folder.name}-{number}").exists())
        raise UsageError(f"{folder} is there already", hint=f"type --output {folder}-{number}") from None
    return folder


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BASE_MODEL, help="a Hub id, with @revision if need be, or a folder  [default: %(default)s]")
    parser.add_argument("--adapter", default=ADAPTER, help="a Hub id or a folder  [default: %(default)s]")
    parser.add_argument("-o", "--output", type=Path, default=Path("acceptance"), help="a new folder  [default: %(default)s]")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help=f"how many, up to {len(EXAMPLES)}  [default: %(default)s]")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the sampler instead of the presets' 50")
    parser.add_argument("--size", type=int, metavar="N", help="size of the model's picture instead of the presets' 640")
    parser.add_argument("--tiny", action="store_true", help="a dry run with random weights; --model and --adapter do not count")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
