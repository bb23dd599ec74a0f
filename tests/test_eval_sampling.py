from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerctl_train.evaluate.sampling import Shard, chosen, parse_shard

from layerctl.errors import UsageError

KEYS = [f"picture-{number}" for number in range(100)]

some_keys = st.lists(st.text(max_size=8), unique=True, max_size=40)


@given(some_keys, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 5))
def test_shards_are_disjoint_and_together_complete(keys: list[str], count: int, limit: int | None, seed: int) -> None:
    parts = [chosen(keys, limit=limit, seed=seed, shard=Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(key for part in parts for key in part) == sorted(chosen(keys, limit=limit, seed=seed))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(some_keys, st.integers(1, 50), st.integers(1, 50), st.integers(0, 5))
def test_a_smaller_sample_is_part_of_a_larger_one(keys: list[str], one: int, other: int, seed: int) -> None:
    small, large = (chosen(keys, limit=limit, seed=seed) for limit in sorted((one, other)))
    assert len(small) == min(one, other, len(keys))
    assert set(small) <= set(large)


@given(some_keys, st.integers(1, 50), st.data())
def test_a_picture_that_goes_changes_no_other_draw(keys: list[str], limit: int, data: st.DataObject) -> None:
    gone = set(data.draw(st.lists(st.sampled_from(keys)))) if keys else set()
    before = set(chosen(keys, limit=limit))
    after = set(chosen([key for key in keys if key not in gone], limit=limit))
    assert before - gone <= after


def test_a_sample_keeps_the_order_of_the_keys() -> None:
    sample = chosen(KEYS, limit=10)
    assert sample == sorted(sample, key=KEYS.index)
    assert sample != KEYS[:10]


def test_the_same_seed_draws_the_same_on_every_machine() -> None:
    assert chosen(KEYS, limit=4, seed=0) == ["picture-82", "picture-90", "picture-91", "picture-99"]
    assert chosen(KEYS, limit=4, seed=1) != chosen(KEYS, limit=4, seed=0)


def test_a_name_that_is_no_text_can_be_drawn() -> None:
    assert chosen(["\udcff.png", "b.png"], limit=2) == ["\udcff.png", "b.png"]


def test_without_a_limit_everything_is_taken() -> None:
    assert chosen(KEYS) == KEYS


def test_a_shard_is_read_as_it_is_typed() -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "4", "1/2/3", "-1/4", "a/b", "", "1/4 "])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"shard"):
        parse_shard(text)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--limit 0 leaves no picture"):
        chosen(KEYS, limit=0)
