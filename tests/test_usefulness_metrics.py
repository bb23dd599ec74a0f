"""The metrics of the usefulness benchmark, on stacks small enough to work out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.usefulness import evaluate, metrics, run, scenes, tables
from benchmarks.usefulness.evaluate import SceneResult
from layerctl.composite import flatten
from layerctl.layers import Kind, Layer, LayerStack
from layerctl.registry import DecomposeRequest


def block(name: str, box: tuple[int, int, int, int], colour: tuple[int, int, int], alpha: int = 255, kind: Kind = "element") -> Layer:
    left, top, right, bottom = box
    pixels = np.empty((bottom - top, right - left, 4), np.uint8)
    pixels[:] = (*colour, alpha)
    return Layer(name, pixels, left, top, kind=kind)


PLATE = block("Background", (0, 0, 40, 20), (100, 100, 100), kind="background")
LOW = block("Low", (4, 4, 16, 16), (200, 0, 0))
HIGH = block("High", (10, 4, 22, 16), (0, 0, 200))
TRUE = LayerStack(40, 20, (PLATE, LOW, HIGH))
ORDER = ((1, 2),)


def partners_of(found: LayerStack) -> list[int | None]:
    true, others = metrics.alphas(TRUE), metrics.alphas(found)
    partners, scores = metrics.match(true[1:], others[1:])
    return [0, *metrics.strong_partners([None if p is None else p + 1 for p in partners], scores)]


def test_soft_iou_is_the_sum_of_minima_over_the_sum_of_maxima() -> None:
    first = np.array([[1.0, 0.5, 0.0]], np.float32)
    second = np.array([[0.5, 0.5, 0.25]], np.float32)
    assert metrics.soft_iou(first, second) == pytest.approx((0.5 + 0.5 + 0) / (1 + 0.5 + 0.25))


def test_two_blank_layers_do_not_agree() -> None:
    blank = np.zeros((2, 2), np.float32)
    assert metrics.soft_iou(blank, blank) == 0


def test_opacity_and_visibility_count_in_the_alpha() -> None:
    half = replace(LOW, opacity=0.5)
    assert metrics.alpha_of(half, 40, 20)[5, 5] == pytest.approx(0.5)
    assert metrics.alpha_of(replace(LOW, visible=False), 40, 20).max() == 0


def test_matching_prefers_the_largest_sum_over_the_best_single_pair() -> None:
    true = [np.array([[1, 1, 0, 0]], np.float32), np.array([[1, 0, 0, 0]], np.float32)]
    found = [np.array([[1, 1, 0, 0]], np.float32), np.array([[0, 1, 1, 1]], np.float32)]
    assert metrics.match(true, found) == ([0, None], [1.0, 0.0])
    found[1] = np.array([[1, 1, 1, 0]], np.float32)
    partners, scores = metrics.match(true, found)
    assert partners == [0, 1]
    assert scores == pytest.approx([1.0, 1 / 3])


def test_a_true_layer_without_a_partner_has_iou_0() -> None:
    alphas = metrics.alphas(TRUE)
    assert metrics.match(alphas[1:], []) == ([None, None], [0.0, 0.0])


def test_a_pair_counts_as_ordered_only_when_both_layers_were_found_and_stand_that_way() -> None:
    assert metrics.order_right(ORDER, [0, 1, 2]) == 1
    assert metrics.order_right(ORDER, [0, 2, 1]) == 0
    assert metrics.order_right(ORDER, [0, 1, None]) == 0


def test_what_is_seen_of_a_layer_is_its_alpha_times_the_transparency_above() -> None:
    half_above = replace(HIGH, opacity=0.75)
    seen = metrics.shares(metrics.alphas(TRUE.with_layers((PLATE, LOW, half_above))))
    assert seen[1][8, 12] == pytest.approx(0.25)
    assert seen[0][8, 20] == pytest.approx(0.25)
    assert seen[1][8, 5] == 1


def test_the_rim_reaches_the_given_pixels_to_both_sides_of_the_outline() -> None:
    alpha = np.zeros((1, 20), np.float32)
    alpha[:, 10:] = 1
    assert np.flatnonzero(metrics.rim_of(alpha, 3)).tolist() == [7, 8, 9, 10, 11, 12]
    assert not metrics.rim_of(np.ones((4, 4), np.float32)).any()


def test_the_truth_itself_makes_no_error_in_the_move_tests() -> None:
    assert metrics.move_errors(TRUE, TRUE, [0, 1, 2]) == metrics.MoveErrors(0.0, 0.0, 0.0, 0.0)


def test_hiding_a_layer_over_a_plate_that_kept_its_ghost_costs_the_difference_of_the_colours() -> None:
    true = TRUE.with_layers((PLATE, LOW))
    ghost = np.full((20, 40, 4), (100, 100, 100, 255), np.uint8)
    ghost[4:16, 4:16, :3] = (160, 100, 100)
    errors = metrics.move_errors(true, true.with_layers((replace(PLATE, pixels=ghost), LOW)), [0, 1])
    assert errors.hide == pytest.approx(60 / 3)
    inner, outer = 12**2 - 4**2, metrics.rim_of(metrics.alpha_of(LOW, 40, 20)).sum() - (12**2 - 4**2)
    assert errors.residue == pytest.approx(20 * inner / (inner + outer))
    assert errors.colours == 0


def test_moving_an_unmatched_layer_costs_the_whole_difference() -> None:
    true = TRUE.with_layers((PLATE, LOW))
    flat = np.full((20, 40, 4), (100, 100, 100, 255), np.uint8)
    flat[4:16, 4:16, :3] = (200, 0, 0)
    errors = metrics.move_errors(true, true.with_layers((replace(PLATE, pixels=flat),)), [0, None])
    assert errors.hide == pytest.approx(100)
    exposed_again, newly_covered, both = 4 * 12, 4 * 12, 8 * 12
    assert errors.move == pytest.approx(100 * (exposed_again + newly_covered) / (exposed_again + newly_covered + both))


def test_an_edge_halo_shows_over_white_black_and_magenta() -> None:
    true = TRUE.with_layers((PLATE, LOW))
    grown = block("Low", (3, 3, 17, 17), (200, 0, 0))
    errors = metrics.move_errors(true, true.with_layers((PLATE, grown)), [0, 1])
    rim = metrics.rim_of(metrics.alpha_of(LOW, 40, 20)).sum()
    halo = 14**2 - 12**2
    over_white, over_black, over_magenta = (55 + 255 + 255) / 3, 200 / 3, (55 + 0 + 255) / 3
    assert errors.colours == pytest.approx(halo / rim * (over_white + over_black + over_magenta) / 3)


def test_a_layer_moves_towards_the_roomier_side() -> None:
    assert metrics._shift(LOW, 40) == 4
    assert metrics._shift(block("Right", (30, 0, 38, 8), (0, 0, 0)), 40) == -4


def test_likeness_ignores_case_spaces_and_punctuation_and_counts_edits() -> None:
    assert metrics.likeness("Fresh Coffee!", "FRESH  COFFEE") == 1
    assert metrics.likeness("茶与书", "茶与") == pytest.approx(2 / 3)
    assert metrics.likeness("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert metrics.likeness("50% OFF", "50 OFF") < 1


def test_half_of_a_line_still_read_in_the_plate_is_a_remainder() -> None:
    assert metrics.remains("Night Market", ["x", "arket"]) is False
    assert metrics.remains("Night Market", ["tmarket"]) is True
    assert metrics.remains("Learn\nBuild", ["build it"]) is True
    assert metrics.remains("茶与书", ["茶"]) is False
    assert metrics.remains("Hello", []) is False


def scene_of(true: LayerStack) -> scenes.Scene:
    return scenes.Scene("hand-made", "design", flatten(true)[..., :3].copy(), true, "solid", ORDER, ())


def test_the_truth_itself_has_a_perfect_record() -> None:
    result = evaluate.compare(scene_of(TRUE), TRUE, TRUE, 1.0)
    assert (result.iou_elements, result.iou_all, result.pairs_right, result.found, result.found_auto) == (1, 1, 1, 3, 3)
    assert (result.hide, result.move, result.residue, result.colours, result.flatten_error) == (0, 0, 0, 0, 0)
    assert result.text_iou is None


def test_a_full_background_over_specks_flattens_exactly_and_scores_nothing() -> None:
    scene = scene_of(TRUE)
    whole = Layer("Background", np.dstack([scene.image, np.full((20, 40), 255, np.uint8)]), kind="background")
    speck = Layer("Speck", whole.pixels[:1, :1].copy())
    result = evaluate.compare(scene, TRUE.with_layers((whole, speck)), None, 1.0)
    assert result.flatten_error == 0
    assert result.iou_elements == 0
    assert result.pairs_right == 0
    assert result.hide is not None
    assert result.hide > 50


def test_true_alphas_with_solved_colours_have_a_perfect_iou_and_an_exact_flattening() -> None:
    result = evaluate.compare(scene_of(TRUE), evaluate.find_layers(scene_of(TRUE), "truth-masks", DecomposeRequest(3)), None, 1.0)
    assert result.iou_elements == 1
    assert result.flatten_error <= 1


def result_with(scene: str, iou: float, **changes: object) -> SceneResult:
    plain = evaluate.compare(scene_of(TRUE), TRUE, None, 1.0)
    return replace(plain, scene=scene, iou_elements=iou, **changes)  # type: ignore[arg-type]


def test_the_interval_of_equal_values_has_no_width_and_holds_the_mean_of_others() -> None:
    assert tables.interval([0.4, 0.4, 0.4]) == pytest.approx((0.4, 0.4))
    low, high = tables.interval([0.0, 1.0] * 20)
    assert 0.3 < low < 0.5 < high < 0.7


def test_the_table_has_a_row_per_kind_and_number_of_layers_that_occurs() -> None:
    results = [result_with("a", 0.5), result_with("b", 0.7, layers=4, found=3, found_auto=5)]
    table = tables.rows(results)
    assert [row[0] for row in table] == ["design, L=3", "design, L=4", "**design**", "**all**"]
    of_all = dict(zip(tables.HEADER, table[-1], strict=True))
    assert of_all["IoU elements"].startswith("0.600")
    assert (of_all["exact N"], of_all["auto exact"], of_all["auto ±1"]) == ("50 %", "0 %", "100 %")


def test_a_run_that_was_killed_keeps_its_whole_lines_and_those_of_the_same_code_only(tmp_path: Path) -> None:
    lines = [json.dumps({"code": code, **asdict(result_with(name, 0.5))}) for code, name in (("new", "a"), ("old", "b"), ("new", "c"))]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(lines)[:-20], encoding="utf-8")
    assert run.read_results(path, "new").keys() == {"a"}
    assert run.read_results(tmp_path / "none.jsonl", "new") == {}


def test_scene_names_alternate_between_the_kinds_and_an_unknown_name_is_refused() -> None:
    assert scenes.names("held-out")[:3] == ["held-out-design-000", "held-out-photo-000", "held-out-design-001"]
    assert len(scenes.names("held-out")) >= 150
    with pytest.raises(ValueError, match="held-out-photo-999"):
        scenes.scene("held-out-photo-999")
