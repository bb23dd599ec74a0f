"""LayerD's metric, by hand on pictures of a few pixels, and what holds for all stacks."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerctl_train.evaluate.layerd import (
    LEVELS,
    LayerdScores,
    aggregate,
    align,
    canvases,
    composite,
    group_indices,
    grouped,
    match,
    score,
    score_stacks,
)
from PIL import Image

from layerctl.layers import Group, Layer, LayerStack
from layerctl.testing import scene

U8 = npt.NDArray[np.uint8]

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def patch(colour: tuple[int, int, int], *alphas: tuple[int, ...], hidden: tuple[int, int, int] = BLACK) -> U8:
    """A layer of one colour with these rows of alpha; `hidden` is its colour where that is 0."""
    alpha = np.array(alphas, np.uint8)
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = np.where(alpha[..., None] > 0, colour, hidden)
    pixels[..., 3] = alpha
    return pixels


FULL = ((255, 255), (255, 255))
LEFT = ((255, 0), (255, 0))
RIGHT = ((0, 255), (0, 255))
NONE = ((0, 0), (0, 0))


def test_equal_layers_differ_by_nothing() -> None:
    same = match(patch(RED, *LEFT), patch(RED, *LEFT))
    assert (same.rgb_l1, same.alpha_iou, same.cost) == (0, 1, 0)


def test_colour_counts_where_the_second_layer_is() -> None:
    # Red against black over the left half: the mean of (255, 0, 0) / 255 is 1/3 at 2 of 2 pixels; + 1e-8 in the divisor.
    # Alphas: smaller 2 x 1, larger 2 x 1. Cost: (1/3 + 1 - 1) / 2 = 1/6.
    pair = match(patch(RED, *LEFT), patch(BLACK, *LEFT))
    assert pair.rgb_l1 == pytest.approx((2 / 3) / (2 + 1e-8), abs=1e-15)
    assert pair.alpha_iou == 1
    assert pair.cost == pytest.approx(1 / 6, abs=1e-8)


def test_swapped_arguments_give_another_cost() -> None:
    small, large = patch(RED, *LEFT), patch(RED, *FULL)
    # Mask of the large one, 4 pixels: red = red on the left; on the right the small one's hidden black against red, 1/3 at 2 of 4 pixels.
    # IoU 2/4. Cost (1/6 + 1/2) / 2 = 1/3.
    assert match(small, large).cost == pytest.approx((1 / 6 + 1 / 2) / 2, abs=1e-8)
    # Mask of the small one, 2 pixels: equal. Cost (0 + 1/2) / 2 = 1/4.
    assert match(large, small).cost == pytest.approx(1 / 4, abs=1e-8)


def test_colour_that_nobody_sees_counts() -> None:
    # The same pixels with white instead of black below alpha 0: (1/3 for black) or (0 + 1 + 1) / 3 against red, at 2 of 4 pixels.
    seen, unseen = patch(RED, *FULL), patch(RED, *LEFT, hidden=WHITE)
    assert match(unseen, seen).rgb_l1 == pytest.approx((2 / 3) * 2 / 4, abs=1e-8)
    assert match(patch(RED, *LEFT), seen).rgb_l1 == pytest.approx((1 / 3) * 2 / 4, abs=1e-8)


def test_two_blank_layers_are_no_match() -> None:
    # No pixel: 0 / 1e-8 = 0. Empty union: IoU 0. Cost (0 + 1 - 0) / 2.
    pair = match(patch(RED, *NONE), patch(RED, *NONE))
    assert (pair.rgb_l1, pair.alpha_iou, pair.cost) == (0, 0, 0.5)


def test_soft_alphas_overlap_in_part() -> None:
    # Rows (100, 200) and (200, 50): smaller 100 + 50, larger 200 + 200.
    assert match(patch(RED, (100, 200)), patch(RED, (200, 50))).alpha_iou == 150 / 400


def test_the_path_takes_the_diagonal_when_steps_tie() -> None:
    # D = [[1, 1], [1, 2]] from C = [[1, 0], [0, 1]]: before the end all three are 1, the diagonal wins.
    assert align(np.array([[1.0, 0.0], [0.0, 1.0]])) == [(0, 0), (1, 1)]


def test_the_path_takes_the_step_to_the_predicted_layer_before_when_the_two_others_tie() -> None:
    # C = [[1, 0, 1], [0, 1, 0]] gives D = [[1, 1, 2], [1, 2, 1]]: before (1, 2) stand diagonal 1, up 2, left 2: the diagonal; before
    # (0, 1) only (0, 0) is left.
    assert align(np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])) == [(0, 0), (0, 1), (1, 2)]
    # C = [[9, 0, 0], [0, 9, 0], [0, 0, 0]] gives D = [[9, 9, 9], [9, 18, 9], [9, 9, 9]]: before (2, 2) stand diagonal 18, up 9, left 9:
    # up, to (1, 2); before it diagonal 9, up 9, left 18: the diagonal, to (0, 1).
    assert align(np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 0]])) == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_the_path_takes_the_step_to_the_true_layer_before_when_it_alone_is_least() -> None:
    # C = [[0, 1], [0, 0], [5, 0]] transposed: D = [[0, 0, 5], [1, 0, 0]]: before (1, 2) stand diagonal 0, up 5, left 0: the diagonal;
    # with C[0, 1] = 2, D = [[0, 2, 7], [1, 0, 0]]: diagonal 2, up 7, left 0: left, to (1, 1), and by the diagonal to (0, 0).
    assert align(np.array([[0.0, 0, 5], [1, 0, 0]])) == [(0, 0), (0, 1), (1, 2)]
    assert align(np.array([[0.0, 2, 5], [1, 0, 0]])) == [(0, 0), (1, 1), (1, 2)]


def test_layers_are_grouped_through_what_lies_over_them() -> None:
    a, b, c, d = (np.array([row], np.uint8) for row in ((1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 1), (1, 0, 0, 0)))
    # d and c have nothing over them (alpha 1 is enough). Without them b has nothing over it; a has b over it, though it does not touch c.
    assert group_indices([a, b, c, d]) == [[0], [1], [2, 3]]
    # Without b, a waits for d only.
    assert group_indices([a, c, d]) == [[0], [1, 2]]


def test_blank_layers_join_the_top_group() -> None:
    blank = np.zeros((1, 2), np.uint8)
    assert group_indices([blank, blank + 9, blank, blank + 9]) == [[1], [0, 2, 3]]
    assert group_indices([blank, blank]) == [[0, 1]]


def test_a_pair_with_a_single_layer_is_skipped_before_grouping() -> None:
    one, two = [patch(RED, *FULL)], [patch(RED, *LEFT), patch(BLUE, *RIGHT)]
    assert score(one, two).skipped == "the prediction has 1 layer, fewer than 2"
    assert score(two, []).skipped == "the truth has 0 layers, fewer than 2"
    assert all(math.isnan(value) for value in score(one, two).rgb_l1)
    # Two layers that make one group are compared: 1 x 1, alike.
    assert score(two, two) == LayerdScores((0,) * LEVELS, (1,) * LEVELS, (0,) * LEVELS)


BACK, LETTER, DOT = patch(BLACK, *FULL), patch(WHITE, (255, 0), (255, 255)), patch(RED, (0, 0), (255, 0))
SIGN = composite(LETTER, DOT)


def test_a_merge_of_the_prediction_that_gains_is_made() -> None:
    scores = score([BACK, LETTER, DOT], [BACK, SIGN])
    # Letter and sign: 3 pixels, alphas equal, at one of them white for red = 2/3: RGB L1 2/9, cost 1/9.
    # Dot and sign: at 2 of 3 pixels the dot's hidden black for white = 1, RGB L1 2/3; IoU 1/3; cost (2/3 + 2/3) / 2 = 2/3.
    # Path (0, 0), (1, 1), (2, 1): RGB L1 (0 + 2/9 + 2/3) / 3 = 8/27, IoU (1 + 1 + 1/3) / 3 = 7/9.
    assert scores.rgb_l1[0] == pytest.approx(8 / 27, abs=1e-8)
    assert scores.alpha_iou[0] == pytest.approx(7 / 9, abs=1e-12)
    # Merging letter and dot: now 1 - 1/9 + 1 - 2/3 = 11/9; the merged one for both is 1 + 1. Then the stacks are equal.
    assert (scores.edits, scores.rgb_l1[1:], scores.alpha_iou[1:]) == (1, (0,) * 5, (1,) * 5)


def test_a_merge_that_does_not_gain_is_not_made() -> None:
    # Equal stacks of three: now = 1 + 1 for both pairs of neighbours, and a likeness cannot be more than 1.
    assert score([BACK, LETTER, DOT], [BACK, LETTER, DOT]).edits == 0


def test_stacks_of_two_are_never_merged() -> None:
    # White over black against a white plate and a red dot: nothing fits, but both have only two.
    assert score([BACK, patch(WHITE, *FULL)], [patch(WHITE, *FULL), DOT]).edits == 0


def test_the_truth_is_merged_where_only_that_gains() -> None:
    scores = score([BACK, SIGN], [BACK, LETTER, DOT])
    # The roles of the pair above, so masks are the other ones' before the edit: at the letter's 3 pixels 2/9; at the dot's one pixel the
    # sign is red: 0. RGB L1 (0 + 2/9 + 0) / 3 = 2/27; the IoU is the same.
    assert scores.rgb_l1[0] == pytest.approx(2 / 27, abs=1e-8)
    assert scores.alpha_iou[0] == pytest.approx(7 / 9, abs=1e-12)
    # The prediction has two layers. Merging in the truth: now = likeness(letter, sign) + likeness(dot, sign), the prediction's mask
    # (swapped): 1 - 1/9 + 1 - 2/3 as above; new = 1 + 1.
    assert (scores.edits, scores.rgb_l1[1:]) == (1, (0,) * 5)


def black(*columns: int) -> U8:
    """One row of four pixels, black even where it is clear, so that colours never differ; opaque where a column is 1."""
    return patch(BLACK, tuple(255 * column for column in columns))


def test_of_two_merges_that_gain_alike_the_truths_is_made() -> None:
    plate = black(1, 1, 1, 1)
    scores = score([plate, black(0, 0, 1, 0), plate], [plate, black(1, 1, 0, 1), plate])
    # Costs are (1 - IoU) / 2: the plates fit, the middle ones do not touch. Diagonal path, IoU (1 + 0 + 1) / 3.
    # Merging the lower two of the prediction makes a plate: now 1 + 1/2, new 1 + 1 with the plate above for the middle: gain 1/2.
    # The lower two of the truth: now 1 + 1/2, new 1 + 1: gain 1/2. Not strictly larger, so the truth's is made: two plates.
    # C = [[0, 0], [3/8, 3/8], [0, 0]], path (0, 0), (1, 0), (2, 1): IoU (1 + 1/4 + 1) / 3. The prediction's would give (1 + 3/4 + 1) / 3.
    # Then the prediction's: now 1 + 5/8, new 1 + 1, and the stacks are equal.
    assert scores.alpha_iou == pytest.approx((2 / 3, 3 / 4, 1, 1, 1, 1), abs=1e-12)
    assert scores.edits == 2


def test_of_two_merges_on_one_side_that_gain_alike_the_earliest_is_made() -> None:
    scores = score([black(1, 1, 1, 1), black(0, 0, 1, 1), black(0, 1, 1, 0), black(1, 1, 0, 0)], [black(1, 1, 1, 1), black(0, 1, 0, 1)])
    # IoU with the plate 1, 1/2, 1/2, 1/2 (costs 0, 1/4 ...), with the other 1/2, 1/3, 1/3, 1/3 (costs 1/4, 1/3 ...).
    # Path (0, 0), (1, 0), (2, 0), (3, 1): IoU (1 + 1/2 + 1/2 + 1/3) / 4 = 7/12.
    # Merging 0 and 1 makes a plate: now 1 + 3/4, new 1 + 1: gain 1/4. Merging 1 and 2 makes 0111, IoU 3/4, cost 1/8: now 3/4 + 3/4,
    # new 7/8 + 7/8: gain 1/4 too. Merging 2 and 3 makes 1110, 7/8 to the plate, IoU 1/4 to the other: less.
    # After the first: path (0, 0), (1, 0), (2, 1), IoU (1 + 1/2 + 1/3) / 3 = 11/18; after the second it would be (1 + 3/4 + 1/3) / 3.
    assert scores.alpha_iou[:2] == pytest.approx((7 / 12, 11 / 18), abs=1e-12)


def test_a_pair_that_stopped_early_counts_with_its_last_scores() -> None:
    early = LayerdScores((0.4,) + (0.2,) * 5, (0.5,) * 6, (0.3,) * 6, edits=1)
    late = LayerdScores((0.8, 0.7, 0.6, 0.5, 0.4, 0.3), (0.7,) * 6, (0.1,) * 6, edits=5)
    none = score([], [])
    means = aggregate([early, none, late])
    # Level 0: (0.4 + 0.8) / 2; level 1: (0.2 + 0.7) / 2; level 5: (0.2 + 0.3) / 2.
    assert means.rgb_l1 == pytest.approx((0.6, 0.45, 0.4, 0.35, 0.3, 0.25))
    assert means.alpha_iou == pytest.approx((0.6,) * 6)
    assert means.edits == (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
    assert means.counts == (2, 2, 1, 1, 1, 1)
    assert (means.pairs, means.skipped) == (2, 1)
    assert math.isnan(aggregate([none]).cost[0])


def test_hidden_layers_are_left_out_and_opacities_count() -> None:
    dot = np.full((1, 1, 4), 200, np.uint8)
    layers = (Layer("a", dot, left=1), Layer("off", dot, visible=False), Group("half", (Layer("b", dot, opacity=0.5),), opacity=0.5))
    first, second = canvases(LayerStack(2, 1, layers))
    assert first.tolist() == [[[0, 0, 0, 0], [200, 200, 200, 200]]]
    assert second.tolist() == [[[200, 200, 200, 50], [0, 0, 0, 0]]]
    assert dot[0, 0, 3] == 200
    deep = LayerStack(1, 1, (Layer("16 bits", np.full((1, 1, 4), 40_000, np.uint16)),))
    assert canvases(deep)[0].tolist() == [[[156] * 4]]  # 40000 / 257 = 155.6


def test_stacks_of_other_sizes_and_layers_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 x 1 and 1 x 1"):
        score_stacks(LayerStack(2, 1), LayerStack(1, 1))
    with pytest.raises(ValueError, match="cannot be compared"):
        score([BACK, BACK], [BACK, BACK[:1]])
    with pytest.raises(ValueError, match="uint8"):
        score([BACK[..., :3]] * 2, [BACK[..., :3]] * 2)


def test_the_scores_of_a_scene_against_itself_are_perfect_and_of_another_are_not() -> None:
    _, stack = scene(3, elements=4)
    assert score_stacks(stack, stack) == LayerdScores((0,) * LEVELS, (1,) * LEVELS, (0,) * LEVELS)
    _, other = scene(4, elements=4)
    assert score_stacks(other, stack).alpha_iou[0] < 0.9


@st.composite
def stacks(draw: st.DrawFn, least: int = 2) -> list[list[U8]]:
    """Two stacks of a few layers in patches and scattered pixels; few levels, so that ties and empty parts are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    levels = np.array(draw(st.sampled_from([[0, 255], [0, 1, 254, 255], list(range(256))])), np.uint8)
    pair = []
    for count in (draw(st.integers(least, 5)), draw(st.integers(least, 5))):
        layers = rng.choice(levels, (count, height, width, 4))
        layers[..., 3][rng.random((count, height, width)) < 0.5] = 0
        layers[0, ..., 3] |= draw(st.sampled_from([0, 255]))
        pair.append([np.ascontiguousarray(layer) for layer in layers])
    return pair


def over(layers: list[U8]) -> U8:
    return np.asarray(reduce(Image.alpha_composite, [Image.fromarray(layer) for layer in layers]))


@settings(deadline=None, max_examples=60)
@given(stacks())
def test_comparing_layers_follows_the_formulas(pair: list[list[U8]]) -> None:
    for first, second in zip(*pair, strict=False):
        one, other = first / 255, second / 255
        where = other[..., 3] > 0
        colour = np.abs(one - other)[..., :3].mean(axis=2)[where].sum() / (where.sum() + 1e-8)
        larger = np.maximum(one, other)[..., 3].sum()
        iou = np.minimum(one, other)[..., 3].sum() / larger if larger else 0
        found = match(first, second)
        assert (found.rgb_l1, found.alpha_iou) == pytest.approx((colour, iou), abs=1e-12)
        assert found.cost == pytest.approx((colour + 1 - iou) / 2, abs=1e-12)
        assert (composite(first, second) == over([first, second])).all()


@settings(deadline=None, max_examples=60)
@given(stacks(least=1))
def test_groups_are_a_partition_of_layers_that_do_not_overlap_and_keep_the_picture(pair: list[list[U8]]) -> None:
    for layers in pair:
        groups = group_indices([np.ascontiguousarray(layer[..., 3]) for layer in layers])
        assert sorted(index for group in groups for index in group) == list(range(len(layers)))
        for group in groups:
            assert group == sorted(group)
            assert np.sum([layers[index][..., 3] > 0 for index in group], axis=0).max() <= 1
        before, after = over(layers), over(grouped(layers))
        assert (before[..., 3] == after[..., 3]).all()
        assert (before == after)[before[..., 3] > 0].all()


@settings(deadline=None, max_examples=60)
@given(stacks())
def test_scores_are_within_their_ranges_and_kept_once_no_merge_gains(pair: list[list[U8]]) -> None:
    prediction, truth = pair
    scores = score(prediction, truth)
    for values in (scores.rgb_l1, scores.alpha_iou, scores.cost):
        assert len(values) == LEVELS
        assert all(0 <= value <= 1 for value in values)
        assert len(set(values[scores.edits :])) == 1
    assert scores.edits <= sum(max(0, len(grouped(layers)) - 2) for layers in pair)


@settings(deadline=None, max_examples=30)
@given(stacks())
def test_a_stack_against_itself_is_perfect(pair: list[list[U8]]) -> None:
    for layers in pair:
        if any(layer[..., 3].any() for layer in layers):
            assert score(layers, layers) == LayerdScores((0,) * LEVELS, (1,) * LEVELS, (0,) * LEVELS)


def plain(prediction: list[U8], truth: list[U8]) -> list[float]:
    """The whole metric once more, without any haste: the alpha IoU at every number of edits, in floats."""
    sides = [grouped(prediction), grouped(truth)]
    scores: list[float] = []
    while len(scores) < LEVELS:
        table = np.array([[plain_cost(p, g) for g in sides[1]] for p in sides[0]])
        path = align(table)
        scores.append(float(np.mean([plain_iou(sides[0][i], sides[1][j]) for i, j in path])))
        gains = []
        for side, steps in enumerate((path, [(j, i) for i, j in path])):
            mine, others = sides[side], sides[1 - side]
            for k in range(len(mine) - 1 if len(mine) > 2 else 0):
                at = [[others[j] for i, j in steps if i == n] for n in (k, k + 1)]

                def like(layer: U8, matched: list[U8]) -> float:
                    return sum(1 - plain_cost(layer, other) for other in matched)

                merged = over(mine[k : k + 2])
                rest = [like(merged, at[1]), *(like(above, part) for above in mine[k + 2 : k + 3] for part in at)]
                now, new = like(mine[k], at[0]) + like(mine[k + 1], at[1]), max(like(merged, at[0]) + value for value in rest)
                if new > now:
                    gains.append((new - now, side, -k))
        if not gains:
            break
        _, side, k = max(gains)  # the truth's on ties, and the earliest
        sides[side][-k : -k + 2] = [over(sides[side][-k : -k + 2])]
    return scores + scores[-1:] * (LEVELS - len(scores))


def plain_iou(first: U8, second: U8) -> float:
    one, other = first[..., 3] / 255, second[..., 3] / 255
    larger = np.maximum(one, other).sum()
    return float(np.minimum(one, other).sum() / larger) if larger > 0 else 0.0


def plain_cost(first: U8, second: U8) -> float:
    one, other = first / 255, second / 255
    mask = other[..., 3] > 0
    colour = (np.abs(one[..., :3] - other[..., :3]).mean(-1) * mask).sum() / (mask.sum() + 1e-8)
    return float((colour + (1 - plain_iou(first, second))) / 2)


@settings(deadline=None, max_examples=60)
@given(stacks())
def test_shortcuts_change_no_score(pair: list[list[U8]]) -> None:
    assert score(*pair).alpha_iou == pytest.approx(plain(*pair), abs=1e-12)


def test_what_ties_but_for_rounding_is_decided_by_the_published_order_of_operations() -> None:
    def row(*colours: tuple[int, int, int, int]) -> U8:
        return np.array([colours], np.uint8)

    prediction = [
        row((100, 100, 255, 255), (255, 100, 0, 255)),
        row((0, 255, 100, 0), (0, 255, 100, 255)),
        row((100, 100, 255, 255), (0, 255, 100, 255)),
    ]
    truth = [
        row((0, 0, 100, 255), (100, 100, 100, 255)),
        row((255, 0, 100, 255), (255, 100, 100, 255)),
        row((0, 255, 100, 255), (255, 100, 100, 255)),
    ]
    # The steps before the end cost alike but for rounding: from (1, 1), an IoU of 5/6, or by (0, 1) and (1, 2), of 7/8.
    assert score(prediction, truth).alpha_iou == pytest.approx(plain(prediction, truth), abs=1e-12)
    assert score(prediction, truth).alpha_iou[:3] == pytest.approx((5 / 6, 5 / 6, 1), abs=1e-12)
