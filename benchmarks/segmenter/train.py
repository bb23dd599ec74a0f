"""Train the segmenter on drawn composites and keep checkpoints: `python -m benchmarks.segmenter.train OUT --steps 6000`.

Every batch is a quarter new drawings and three quarters drawings seen before, mirrored and with shuffled colour channels. AdamW, cosine
decay, bfloat16 autocast, exponential moving average of the weights. Killed runs go on from the last checkpoint with the same command. About
45 CPU milliseconds a sample for the step and 35 for the drawing on two cores with AMX.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.segmenter.drawing import Art, Drawing, draw, load_art
from benchmarks.segmenter.net import OFFSETS, Segmenter

BATCH = 16
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Drawings(IterableDataset[Batch]):
    """An endless stream of quarter batches; every worker has its own seed."""

    def __init__(self, art: Art, seed: int) -> None:
        self.art = art
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        while True:
            yield stack([draw(self.art, rng) for _ in range(BATCH // 4)])


def stack(drawings: list[Drawing]) -> Batch:
    rgb = torch.from_numpy(np.stack([d.rgb for d in drawings])).permute(0, 3, 1, 2).contiguous()
    return rgb, torch.from_numpy(np.stack([d.labels for d in drawings])), torch.from_numpy(np.stack([d.overlaps for d in drawings]))


def losses(logits: torch.Tensor, labels: torch.Tensor, overlaps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Binary cross-entropy of the three kinds of channels; pairs with an unsure cell are left out, unlike pairs count three times."""
    batch, _, height, width = logits.shape
    sure = labels >= 0
    element = F.binary_cross_entropy_with_logits(logits[:, 0], (labels > 0).float(), reduction="none")[sure].mean()
    same_sum, same_weight, order_sum, order_weight = (torch.zeros(()) for _ in range(4))
    for k, (dy, dx) in enumerate(OFFSETS):
        rows, columns = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        rows2, columns2 = slice(dy, height), slice(max(0, dx), width + min(0, dx))
        p, q = labels[:, rows, columns], labels[:, rows2, columns2]
        ok = (p >= 0) & (q >= 0)
        unlike = (p != q) & ok
        weight = ok.float() + 2.0 * unlike.float()
        same = F.binary_cross_entropy_with_logits(logits[:, 1 + k, rows, columns], (p == q).float(), reduction="none")
        same_sum = same_sum + (same * weight).sum()
        same_weight = same_weight + weight.sum()
        index = torch.arange(batch)[:, None, None].expand_as(p)
        known = unlike & overlaps[index, p.clamp(min=0).long(), q.clamp(min=0).long()]
        above = F.binary_cross_entropy_with_logits(logits[:, 1 + len(OFFSETS) + k, rows, columns], (p > q).float(), reduction="none")
        emphasis = known.float() * (1 + 3 * ((p > 0) & (q > 0)).float())
        order_sum = order_sum + (above * emphasis).sum()
        order_weight = order_weight + emphasis.sum()
    return {"element": element, "same": same_sum / same_weight, "above": order_sum / (order_weight + 1.0)}


def mirrored(batch: Batch, rng: np.random.Generator) -> Batch:
    rgb, labels, overlaps = batch
    if rng.random() < 0.5:
        rgb, labels = rgb.flip(3), labels.flip(2)
    return rgb[:, torch.from_numpy(rng.permutation(3))], labels, overlaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    model = Segmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own stubs
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.02)
    step = 0
    saved = options.out / "last.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    stream = iter(
        DataLoader(
            Drawings(load_art(), options.seed + 1000 * step),
            batch_size=None,
            num_workers=options.workers,
            prefetch_factor=4 if options.workers else None,
        )
    )
    rng = np.random.default_rng(options.seed + step)
    seen: list[Batch] = []
    sums: dict[str, float] = {}
    began = time.time()
    while step < options.steps:
        fresh = next(stream)
        again = [seen[rng.integers(len(seen))] if seen else fresh for _ in range(3)]
        seen.append(fresh)
        if len(seen) > 3000:
            seen.pop(int(rng.integers(len(seen))))
        quarters = [mirrored(batch, rng) for batch in (fresh, *again)]
        rgb, labels, overlaps = (torch.cat(parts) for parts in zip(*quarters, strict=True))
        rate = options.rate * min(1.0, (step + 1) / 200) * (0.5 * (1 + math.cos(math.pi * step / options.steps)) * 0.98 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            logits = model((rgb.float() / 255).to(memory_format=torch.channels_last))
        terms = losses(logits.float(), labels, overlaps)
        loss = terms["element"] + 2 * terms["same"] + 0.7 * terms["above"]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        step += 1
        keep = min(0.998, step / (step + 20))
        with torch.no_grad():
            for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                if ours.dtype.is_floating_point:
                    ours.lerp_(theirs, 1 - keep)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 50 == 0:
            line = {"step": step, "seconds": round(time.time() - began), **{name: round(value / 50, 4) for name, value in sums.items()}}
            sums = {}
            print(json.dumps(line), flush=True)
        if step % 250 == 0 or step == options.steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, options.out / "last.part")
            (options.out / "last.part").replace(saved)


if __name__ == "__main__":
    main()
