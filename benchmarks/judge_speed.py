"""What the judge costs beside the model that judges: drawing, encoding, the client and its cache, with a server that answers at once.

    python benchmarks/judge_speed.py [--groups 5]

Prints CPU seconds and wall seconds for groups of 8 candidates with 4 layers at 640 x 640, both phases with two row orders.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from layerctl_train.judge.prompts import about_group, about_sample
from layerctl_train.judge.remote import openai_judge

from layerctl.judge_settings import JudgeSettings
from layerctl.layers import LayerStack
from layerctl.source import SourceImage
from layerctl.testing import scene
from tests.judge_server import Body, JudgeServer, Reply, alone, together, words_of

GROUP, LAYERS, SIDE = 8, 4, 640


def candidates(seed: int) -> tuple[SourceImage, list[LayerStack]]:
    """Eight different stacks of one picture: its layers, and such from which something was taken."""
    source, stack = scene(seed, width=SIDE, height=SIDE, elements=LAYERS - 1)
    stacks = [stack]
    for number in range(1, GROUP):
        ground, first, *others = stack.walk()
        pixels = first.pixels.copy()
        pixels[:: number + 1, :, 3] = 0
        stacks.append(stack.with_layers((ground, replace(first, pixels=pixels), *others)))
    return source, stacks


def answers(body: Body, count: int) -> Reply:
    words = words_of(body)
    return alone(7.0) if "Picture 2: the result" in words else together({chr(65 + row): float(row) for row in range(GROUP)})


@contextmanager
def measured(what: str, times: int) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"| {what} | {(time.process_time() - cpu) / times:.3f} | {(time.perf_counter() - wall) / times:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--groups", type=int, default=5)
    groups = parser.parse_args().groups
    settings = JudgeSettings(judge_model="judge")
    drawn = [candidates(seed) for seed in range(groups)]
    print("| a group of 8 candidates, 4 layers, 640 x 640 | CPU s | wall s |\n|---|---:|---:|")
    with measured("drawing and encoding phase 1, 8 requests", groups):
        for source, stacks in drawn:
            for stack in stacks:
                assert about_sample(source, stack, "", settings).bytes
    with measured("drawing and encoding one grid", groups):
        for source, stacks in drawn:
            assert about_group(source, stacks, None, "", settings).bytes
    with tempfile.TemporaryDirectory() as folder, JudgeServer(answers) as server:
        kept = JudgeSettings(judge_url=server.url, judge_model="judge", judge_cache=f"{folder}/judge.sqlite")
        for what in ("all of it, 10 requests, server in this process", "the same again, from the cache"):
            with closing(openai_judge(kept, lambda _: None)) as judge, measured(what, groups):
                for source, stacks in drawn:
                    judge.score_group(source, stacks)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
