"""Numbers that others published, to stand beside ours: never ranked with them, never in bold."""

from __future__ import annotations

from dataclasses import dataclass

MARK = "published: Crello test, other data or tuning, second-hand copy"
"""What every table says where it shows one of these rows."""


@dataclass(frozen=True, slots=True)
class Published:
    """LayerD's metric with 0 to 5 allowed merges."""

    method: str
    rgb_l1: tuple[float, ...]
    alpha_iou: tuple[float, ...]


PUBLISHED = (
    Published("VLM + Hi-SAM", (0.1197, 0.1029, 0.0892, 0.0807, 0.0755, 0.0726), (0.5596, 0.6302, 0.6860, 0.7222, 0.7465, 0.7589)),
    Published("YOLO + Hi-SAM", (0.0962, 0.0833, 0.0710, 0.0630, 0.0592, 0.0579), (0.5697, 0.6537, 0.7169, 0.7567, 0.7811, 0.7897)),
    Published("LayerD", (0.0709, 0.0541, 0.0457, 0.0419, 0.0403, 0.0396), (0.7520, 0.8111, 0.8435, 0.8564, 0.8622, 0.8650)),
    Published("Qwen-Image-Layered", (0.0594, 0.0490, 0.0393, 0.0377, 0.0364, 0.0363), (0.8705, 0.8863, 0.9105, 0.9121, 0.9156, 0.9160)),
)
"""The table of the Qwen-Image-Layered paper (arXiv 2512.15603), whose methods were all tuned on Crello's training split."""
