"""PackBits, the run-length code of TIFF and Photoshop, for many rows at once.

A packet never crosses a row. Blocks of one value, which cut-outs are full of, and blocks almost without runs, which photographs are full
of, are packed by whole-array operations, the rest by the codec of psd-tools.
"""

from __future__ import annotations

from itertools import groupby

import cv2
import numpy as np
import numpy.typing as npt
from psd_tools.compression import rle_impl as rle  # type: ignore[attr-defined]  # the compiled codec, or psd-tools' own in Python

Plane = npt.NDArray[np.uint8]

LONGEST_PACKET = 128
BLOCK = 4 * LONGEST_PACKET
"""Columns that are looked at together; as a multiple of the longest packet their borders cost nothing."""
FEW_RUNS = 1 / 64
"""The share of a block that has to be in runs of five or more bytes to be worth packing."""
MIXED, LITERAL = -2, -1
"""Kinds of block beside those of one value, whose kind is the value."""


def pack_rows(rows: Plane) -> list[bytes]:
    """The rows of a plane, H x W, each packed by itself."""
    width = rows.shape[1]
    kinds = groupby(range(0, width, BLOCK), key=lambda left: _kind(rows[:, left : left + BLOCK]))
    parts = []
    for kind, lefts in kinds:
        columns = list(lefts)
        parts.append(_pack_span(kind, rows[:, columns[0] : columns[-1] + BLOCK]))
    return parts[0] if len(parts) == 1 else [b"".join(pieces) for pieces in zip(*parts, strict=True)]


def _pack_span(kind: int, rows: Plane) -> list[bytes]:
    if kind == LITERAL:
        return _literal_rows(rows)
    if kind == MIXED:
        return [rle.encode(row) for row in rows]
    return [rle.encode(rows[0])] * len(rows)


def _kind(block: Plane) -> int:
    if block[0, 0] == block[-1, -1] and block.min() == block.max():
        return int(block[0, 0])
    if block.shape[1] < LONGEST_PACKET:
        return MIXED
    same = cv2.compare(block[:, 1:], block[:, :-1], cv2.CMP_EQ)
    pairs = cv2.bitwise_and(same[:, 1:], same[:, :-1])
    fours = cv2.bitwise_and(pairs[:, 2:], pairs[:, :-2])
    return LITERAL if cv2.countNonZero(fours) < FEW_RUNS * block.size else MIXED


def _literal_rows(rows: Plane) -> list[bytes]:
    height, width = rows.shape
    whole, rest = divmod(width, LONGEST_PACKET)
    packed = np.empty((height, whole * (LONGEST_PACKET + 1) + (rest + 1 if rest else 0)), np.uint8)
    packets = packed[:, : whole * (LONGEST_PACKET + 1)].reshape(height, whole, LONGEST_PACKET + 1)
    packets[..., 0] = LONGEST_PACKET - 1
    packets[..., 1:] = rows[:, : whole * LONGEST_PACKET].reshape(height, whole, LONGEST_PACKET)
    if rest:
        packed[:, -rest - 1] = rest - 1
        packed[:, -rest:] = rows[:, -rest:]
    return [row.tobytes() for row in packed]
