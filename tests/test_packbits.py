from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerctl_exporters.packbits import BLOCK, pack_rows
from psd_tools.compression import rle_impl as rle  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.one_of(st.integers(1, 300), st.integers(BLOCK - 2, 3 * BLOCK + 2)),
    height=st.integers(1, 5),
    stretch=st.sampled_from([1, 2, 5, 127, 129, 700]),
    colours=st.sampled_from([1, 2, 256]),
)
def test_packed_rows_unpack_to_the_same_bytes(seed: int, width: int, height: int, stretch: int, colours: int) -> None:
    rows = np.random.default_rng(seed).integers(0, colours, (height, width)).astype(np.uint8)
    rows = np.repeat(rows, stretch, axis=1)[:, :width]
    assert [rle.decode(packed, width) for packed in pack_rows(rows)] == [row.tobytes() for row in rows]


@pytest.mark.parametrize("cut_out", [False, True])
def test_noise_grows_by_one_byte_in_128_and_emptiness_shrinks_to_two(cut_out: bool) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (64, 4 * BLOCK), dtype=np.uint8)
    if cut_out:
        rows[:, BLOCK : 3 * BLOCK] = 0
    literal = 2 * BLOCK if cut_out else 4 * BLOCK
    assert {len(packed) for packed in pack_rows(rows)} == {literal * 129 // 128 + (4 * BLOCK - literal) * 2 // 128}


def test_smooth_rows_are_no_longer_than_psd_tools_makes_them_by_more_than_a_block_border() -> None:
    ramp = np.add.outer(np.arange(64), np.arange(4 * BLOCK) // 9).astype(np.uint8)
    for packed, row in zip(pack_rows(ramp), ramp, strict=True):
        assert len(packed) <= len(rle.encode(row)) + 2 * 3
