"""Writing five layers of 4096 x 4096 pixels as PSD: layerctl beside the stock `save()` of psd-tools and ag-psd (node).

    python benchmarks/psd_writers.py --size 4096 --content cut-outs --repeats 5 --stock-repeats 1

Two contents: "cut-outs" are four discs with edges a few pixels soft, each 60 % of the canvas wide, "glows" four discs that fade over
half of it, whose boxes cover most of the canvas, both of noisy colour over a noisy gradient.
The same cropped layers for all, PackBits everywhere. Every writing has a process of its own; its layers are read before the clock starts.
layerctl and psd-tools also make the merged image, ag-psd is given it. Medians of wall and CPU seconds of the writing, and the largest
resident memory of the process, layers included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
AG_PSD = ROOT / "tests" / "interop" / "write_psd.mjs"


class Cost(NamedTuple):
    """`wall`, `cpu`: seconds. `memory`, `disk`: bytes."""

    wall: float
    cpu: float
    memory: int
    disk: int


CONTENTS = {"cut-outs": (0.3, 1 / 200), "glows": (0.4, 1 / 2)}
"""The radius of the discs and the width of their edges, in parts of the canvas."""


def prepare(folder: Path, size: int, content: str) -> None:
    """Write the layers, cropped, as raw RGBA files and `layers.json`."""
    from layerctl.composite import flatten
    from layerctl.layers import Layer, LayerStack, crop_to_content

    rng = np.random.default_rng(0)
    radius, softness = CONTENTS[content]
    ramp = np.linspace(0, 200, size, dtype=np.float32)
    layers = []
    for number in range(5):
        pixels = np.empty((size, size, 4), np.uint8)
        for channel in range(3):
            grain = rng.integers(0, 12, (size, size), np.uint8)
            pixels[..., channel] = np.add.outer(ramp * (channel + 1) / 6, ramp * (4 - channel) / 6) + grain + 8 * number
        disc = np.full((size, size), 255, np.uint8)
        if number:
            y, x = np.ogrid[:size, :size]
            away = np.hypot(x / size - (3 + number) / 10, y / size - (7 - number) / 10, dtype=np.float32)
            disc = np.clip(255 * ((radius - away) / softness + 0.5), 0, 255).astype(np.uint8)
        pixels[..., 3] = disc
        layers.append(crop_to_content(Layer(f"Layer {number}", pixels)))
    stack = LayerStack(size, size, tuple(layers))
    about: dict[str, Any] = {"width": size, "height": size, "layers": []}
    for number, layer in enumerate(layers):
        path = folder / f"{number}.rgba"
        layer.pixels.tofile(path)
        place = {"left": layer.left, "top": layer.top, "width": layer.width, "height": layer.height}
        about["layers"].append({"name": layer.name, "path": str(path), **place})
    flatten(stack).tofile(folder / "merged.rgba")
    about["merged"] = {"path": str(folder / "merged.rgba"), "width": size, "height": size}
    (folder / "layers.json").write_text(json.dumps(about))


def write_with_layerctl(about: dict[str, Any], target: Path) -> Callable[[], object]:
    from layerctl_exporters.psd import EXPORTER

    from layerctl.layers import Layer, LayerStack
    from layerctl.registry import ExportOptions

    layers = tuple(Layer(layer["name"], _pixels(layer), layer["left"], layer["top"]) for layer in about["layers"])
    stack = LayerStack(about["width"], about["height"], layers)
    return lambda: EXPORTER.export(stack, target, ExportOptions())


def write_with_psd_tools(about: dict[str, Any], target: Path) -> Callable[[], object]:
    from PIL import Image
    from psd_tools import PSDImage
    from psd_tools.constants import Compression

    pictures = [Image.fromarray(_pixels(layer)) for layer in about["layers"]]

    def write() -> None:
        psd = PSDImage.new("RGBA", (about["width"], about["height"]))
        for layer, picture in zip(about["layers"], pictures, strict=True):
            psd.create_pixel_layer(picture, name=layer["name"], left=layer["left"], top=layer["top"], compression=Compression.RLE)
        psd.save(target)

    return write


WRITERS = {"layerctl": write_with_layerctl, "psd-tools": write_with_psd_tools}


def measure(writer: str, folder: Path) -> Cost:
    target = folder / f"{writer}.psd"
    if writer == "ag-psd":
        command = ["node", str(AG_PSD), str(folder / "layers.json"), str(target)]
    else:
        command = [sys.executable, __file__, "--write", writer, str(folder / "layers.json"), str(target)]
    # wait4, because it gives the memory of this one child; getrusage gives the largest of all children so far.
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{writer} ended with {process.returncode}")
    seconds = json.loads(output)
    return Cost(seconds["wall"], seconds["cpu"], usage.ru_maxrss * 1024, target.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--content", choices=CONTENTS, default="cut-outs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stock-repeats", type=int, default=1, help="repeats of psd-tools, which takes minutes; 0 leaves it out")
    parser.add_argument("--write", nargs=3, metavar=("WRITER", "LAYERS", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        writer, layers, target = arguments.write
        write = WRITERS[writer](json.loads(Path(layers).read_text()), Path(target))
        wall, cpu = time.perf_counter(), time.process_time()
        write()
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.size, arguments.content)
        repeats = {"layerctl": arguments.repeats, "ag-psd": arguments.repeats, "psd-tools": arguments.stock_repeats}
        costs: dict[str, list[Cost]] = {writer: [] for writer, count in repeats.items() if count}
        # In turns, so that a machine that is busy for a while is busy for all.
        for turn in range(max(repeats.values())):
            for writer in costs:
                if turn < repeats[writer]:
                    costs[writer].append(measure(writer, folder))
    report({writer: Cost(*(statistics.median(column) for column in zip(*runs, strict=True))) for writer, runs in costs.items()})


def report(medians: dict[str, Cost]) -> None:
    ours = medians["layerctl"]
    print("| writer | wall s | CPU s | peak MB | MB on disk | CPU time to layerctl's | memory to layerctl's |")
    print("|---|---|---|---|---|---|---|")
    for writer, cost in medians.items():
        sizes = f"{cost.memory / 1e6:.0f} | {cost.disk / 1e6:.0f}"
        print(f"| {writer} | {cost.wall:.2f} | {cost.cpu:.2f} | {sizes} | {cost.cpu / ours.cpu:.2f} | {cost.memory / ours.memory:.2f} |")


def _pixels(layer: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.fromfile(layer["path"], np.uint8).reshape(layer["height"], layer["width"], 4)


if __name__ == "__main__":
    main()
