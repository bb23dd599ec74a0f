"""Turn the results of runs into the tables and the picture of the documentation.

    python benchmarks/usefulness/report.py .cache/usefulness/held-out-classic-auto.jsonl --engine classic -o docs/images/worst.jpg

Prints Markdown: the engine's table, and beside it the two stand-ins where they were run on the same scenes. With `-o` it draws the ten
scenes with the lowest IoU, each as a row: picture, true layers, found layers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.usefulness import art, evaluate, run, scenes, tables
from benchmarks.usefulness.evaluate import SceneResult
from layerctl.layers import Layer, LayerStack, on_canvas
from layerctl.registry import DecomposeRequest

CELL, GAP, CAPTION = 150, 8, 16
PAPER, INK = (255, 255, 255), (60, 60, 70)
FONT = "DejaVuSans-Bold.ttf"


def worst(results: dict[str, SceneResult], count: int) -> list[SceneResult]:
    """The scenes with the lowest IoU of elements, the lowest first."""
    return sorted(results.values(), key=lambda result: (result.iou_elements, result.scene))[:count]


def draw_rows(chosen: list[SceneResult], engine: str) -> Image.Image:
    """A sheet with one row a scene: the picture, the true layers, the layers that the engine finds, bottom to top."""
    pairs = []
    for result in chosen:
        scene = scenes.scene(result.scene)
        pairs.append((scene, evaluate.find_layers(scene, engine, DecomposeRequest(len(scene.stack.layers)))))
    columns = 1 + max(len(scene.stack.layers) + len(list(found.walk())) for scene, found in pairs)
    step = CELL + GAP
    sheet = Image.new("RGB", (columns * step + 3 * GAP, len(pairs) * (step + CAPTION) + GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(str(art.font_path(FONT)), 10)
    for row, (result, (scene, found)) in enumerate(zip(chosen, pairs, strict=True)):
        top = GAP + row * (step + CAPTION)
        x = GAP
        pen.text((x, top), f"{result.scene}: IoU {result.iou_elements:.2f}", INK, font)
        sheet.paste(_fitted(Image.fromarray(scene.image)), (x, top + CAPTION))
        for title, stack in (("true layers", scene.stack), ("found layers", found)):
            x += GAP
            for place, layer in enumerate(stack.walk()):
                x += step
                pen.text((x, top), title if place == 0 else layer.name[:22], INK, font)
                sheet.paste(_fitted(_on_squares(layer, stack)), (x, top + CAPTION))
    return sheet


def main() -> None:
    options = _parser().parse_args()
    results = run.read_results(options.results, run.code_of(options.engine))
    if not results:
        sys.exit(f"{options.results} has no results of this code; run benchmarks/usefulness/run.py --engine {options.engine}")
    print(tables.markdown(tables.HEADER, tables.rows(list(results.values()))))
    for stand_in in evaluate.STAND_INS:
        path = options.results.with_name(f"{options.split}-{stand_in}.jsonl")
        known = run.read_results(path, run.code_of(stand_in))
        table = tables.rows([result for name, result in known.items() if name in results])
        if table:
            print(f"\nThe stand-in {stand_in}:\n\n{tables.markdown(tables.HEADER, table)}")
    if options.output:
        draw_rows(worst(results, options.count), options.engine).save(options.output, quality=88)


def _on_squares(layer: Layer, stack: LayerStack) -> Image.Image:
    """The layer on its canvas over a checkerboard."""
    rows, columns = np.indices((stack.height, stack.width)) * 15 // max(stack.width, stack.height)
    board = np.where((rows + columns) % 2, 235, 255).astype(np.uint8)
    picture = Image.fromarray(np.dstack([board, board, board, np.full_like(board, 255)]))
    picture.alpha_composite(Image.fromarray(on_canvas(layer, stack.width, stack.height)))
    return picture.convert("RGB")


def _fitted(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a file that run.py wrote")
    parser.add_argument("--split", choices=tuple(scenes.SCENES_A_KIND), default="held-out", help="whose stand-ins are shown")
    parser.add_argument("--engine", default="classic", help="the engine that made the results")
    parser.add_argument("--count", type=int, default=10, help="how many of the worst scenes are drawn")
    parser.add_argument("-o", "--output", type=Path, help="where the picture of the worst scenes goes")
    return parser


if __name__ == "__main__":
    main()
