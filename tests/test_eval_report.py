from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from layerctl_train.evaluate.findings import galleries, headlines, number, verdict
from layerctl_train.evaluate.plots import distribution, scatter
from layerctl_train.evaluate.published import MARK, PUBLISHED
from layerctl_train.evaluate.report import gallery, to_json, to_markdown, write_report
from layerctl_train.evaluate.results import (
    METRICS,
    Difference,
    Evaluation,
    LayerRow,
    Mean,
    PictureResult,
    Scores,
    Summary,
    SystemRecord,
)
from layerctl_train.evaluate.strips import LETTERS, Shown, draw_strip
from PIL import Image

from layerctl.errors import OutputError
from layerctl.testing import scene

HOSTILE = "<img src=x onerror=alert(1)>|`a`](http://evil.example) \x1b[31m\u202e\udc80.png"
MAIN = "layerd_rgb_l1_0"


def values(shift: float) -> dict[str, float]:
    return {name: 0.5 + shift if metric.better == "lower" else 0.5 - shift for name, metric in METRICS.items()}


def evaluation(gains: dict[str, float]) -> Evaluation:
    """Two systems, `gains` saying by how much the first's every number is better than 0.5, which is what the second has."""
    pictures = [
        PictureResult(
            key, 64, 48, 3, (Scores(values(-gain), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4), 3), Scores(values(0), (0.4, 0.5, 0.6), (), 2))
        )
        for key, gain in gains.items()
    ]
    systems = (SystemRecord("classic", "classic", "1", {"layers": 3, "model": None}), SystemRecord("tri|vial", "trivial", "1", {}))
    return Evaluation("scenes <1>", tuple(pictures), systems, ((HOSTILE, "it is cut"),), 50, 0, "1/2", "3", "pixels", {"layerctl": "1"})


def summary(value: float = -0.2, low: float = -0.3, high: float = -0.1, p: float = 0.0002) -> Summary:
    """The first system less the second: `value` for metrics where less is better, else its opposite."""
    means = {
        "classic": {name: Mean(0.3, 0.2, 0.4, 4) for name in METRICS},
        "tri|vial": {name: Mean(0.5, 0.5, 0.5, 3) for name in METRICS if name != "judge"},
    }
    differences = [
        Difference(name, "classic", "tri|vial", value, low, high, p, 3, 0, 1)
        if metric.better == "lower"
        else Difference(name, "classic", "tri|vial", -value, -high, -low, p, 3, 0, 1)
        for name, metric in METRICS.items()
    ]
    rows = (LayerRow(2, 1, ((0.1, 0.2), (0.3, math.nan)), ((0.1, 0.2), ())), LayerRow(3, 3, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), ((), ())))
    return Summary(means, tuple(differences), rows, {"tri|vial": (1, "one layer")}, {"tri|vial": 1}, {"tri|vial": Mean(0.8, 0.6, 0.9, 4)})


GAINS = {"a.png": 0.1, "b.png": -0.2, "c.png": 0.3, HOSTILE: 0.0}


class Markup(HTMLParser):
    """The page's tags, places that it points to, and words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.places: set[str] = set()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.places |= {value or "" for name, value in attrs if name in ("src", "href")}
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def written(folder: Path, gains: dict[str, float] = GAINS, found: Summary | None = None) -> str:
    source, truth = scene(1, width=64, height=48)
    page = write_report(
        folder, evaluation(gains), found or summary(), lambda key: None if key == "b.png" else Shown(source, truth, (truth, None))
    )
    return page.read_text(encoding="utf-8")


def test_json_holds_every_number_and_null_for_what_is_not_known() -> None:
    one, found = evaluation(GAINS), summary()
    means = {**found.means, "tri|vial": {MAIN: Mean(math.nan, math.inf, np.float32(0.5), 0)}}  # type: ignore[arg-type]
    text = to_json(one, replace(found, means=means))
    read = json.loads(text)
    assert (read["format"], read["schema"]) == ("layerctl-evaluation", 1)
    assert read["means"]["tri|vial"][MAIN] == {"value": None, "low": None, "high": 0.5, "count": 0}
    assert [picture["key"] for picture in read["pictures"]] == [*GAINS]
    assert read["pictures"][0]["scores"][0]["values"] == values(-0.1)
    assert read["rows"][0]["means"] == [[0.1, 0.2], [0.3, None]]
    assert read["skipped"] == {"tri|vial": {"pictures": 1, "reason": "one layer"}}
    assert read["unreadable"] == [{"key": HOSTILE, "reason": "it is cut"}]
    assert {"data", "systems", "limit", "seed", "shard", "layers", "judge", "versions", "differences", "failed", "win_rates"} <= read.keys()
    assert read["metrics"].keys() == METRICS.keys()
    assert text.isascii()


def test_json_does_not_depend_on_the_order_in_which_numbers_were_found() -> None:
    one = evaluation({"a.png": 0.1})
    scores = tuple(
        replace(each, values={name: each.values[name] for name in sorted(each.values, reverse=True)}) for each in one.pictures[0].scores
    )
    assert to_json(replace(one, pictures=(replace(one.pictures[0], scores=scores),)), summary()) == to_json(one, summary())


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    text = to_markdown(evaluation(GAINS), summary())
    tables = [lines.splitlines() for lines in text.split("\n\n") if lines.startswith("|")]
    assert len(tables) == 9
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert re.fullmatch(r"\|( ---:? \|)+", lines[1])
    assert all(metric.label in text for metric in METRICS.values())
    assert "tri\\|vial failed on 1 of 4 pictures" in text
    assert "\x1b" not in text
    assert "<img" not in text.replace("\\<", "")
    assert "](" not in text.replace("\\]", "")
    assert "http://" not in text


def test_published_rows_stand_below_ours_marked_and_never_as_the_best(tmp_path: Path) -> None:
    text, page = to_markdown(evaluation(GAINS), summary()), written(tmp_path)
    for row in PUBLISHED:
        lines = [line for line in text.splitlines() if line.startswith(f"| {row.method}, published")]
        assert [line.count("**") for line in lines] == [0, 0]
        assert f"{row.rgb_l1[5]:.4f}" in lines[0]
        assert f"{row.alpha_iou[5]:.4f}" in lines[1]
    assert text.count(MARK) == 2
    assert page.count(MARK) == 2
    assert page.count('<tr class="published">') == 8
    assert not re.search(r'<tr class="published">(?:(?!</tr>).)*class="best"', page)


def test_without_known_layers_nothing_is_said_of_layerd(tmp_path: Path) -> None:
    found = summary()
    means = {name: {"quality": each["quality"]} for name, each in found.means.items()}
    bare = replace(
        found, means=means, differences=tuple(each for each in found.differences if each.metric == "quality"), rows=(), skipped={}
    )
    text = to_markdown(evaluation(GAINS), bare)
    assert "LayerD" not in text
    assert "Pred 0" not in text
    assert "classic is better than tri\\|vial on quality" in text
    assert "LayerD" not in written(tmp_path, found=bare)


def test_the_page_is_well_formed_shows_every_metric_and_has_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = written(tmp_path)
    markup = Markup(page)
    words = " ".join(markup.words)
    assert markup.open == []
    assert all(metric.label in words for metric in METRICS.values())
    assert "script" not in markup.tags
    outside = [place for place in markup.places if not place.startswith("#") and not (tmp_path / place).is_file()]
    assert outside == []
    ids = set(re.findall(r'<section id="(\w+)"', page))
    assert {place[1:] for place in markup.places if place.startswith("#")} == ids
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "report.json", "report.md", "pictures"}


def test_hostile_names_of_files_stay_words(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<img src=x onerror=alert(1)>" in unescape(page)
    assert all(re.fullmatch(r"strip-[0-9a-f]{16}\.jpg", path.name) for path in (tmp_path / "pictures").iterdir())


def test_a_picture_that_is_not_at_hand_is_said_to_be_so(tmp_path: Path) -> None:
    assert written(tmp_path).count("The picture is not at hand.") == 2
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_a_second_report_replaces_the_first_and_leaves_the_files_of_others(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "pictures" / "mine.jpg").write_bytes(b"mine")
    written(tmp_path, {"a.png": 0.1})
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert (tmp_path / "pictures" / "mine.jpg").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(OutputError, match="report"):
        written(tmp_path / "report")


def test_galleries_show_the_extremes_once_and_only_real_wins_and_losses() -> None:
    found = {each.title: each.keys for each in galleries(evaluation(GAINS), summary())}
    assert found == {
        "Best pictures of classic": ("c.png", "a.png"),
        "Worst pictures of classic": ("b.png", HOSTILE),
        "Where classic beats tri|vial": ("c.png", "a.png"),
        "Where classic loses to tri|vial": ("b.png",),
    }
    assert gallery(evaluation(GAINS), summary()) == ["c.png", "a.png", "b.png", HOSTILE]
    many = evaluation({f"{place:02}": place / 100 for place in range(30)})
    best, worst, wins, losses = galleries(many, summary())
    assert best.keys == wins.keys == tuple(f"{place:02}" for place in range(29, 19, -1))
    assert worst.keys == tuple(f"{place:02}" for place in range(10))
    assert losses.keys == ()


@pytest.mark.parametrize(
    ("low", "high", "p", "says"),
    [
        (-0.3, -0.1, 0.0002, "classic is better than tri|vial on LayerD's RGB L1: 0.4500 against 0.5000, difference −0.2000"),
        (0.1, 0.3, 0.01, "classic is worse than tri|vial on LayerD's RGB L1"),
        (-0.3, 0.1, 0.01, "Whether classic or tri|vial is better on LayerD's RGB L1 is not clear"),
        (-0.3, -0.1, 0.2, "Whether classic or tri|vial is better"),
        (math.nan, math.nan, math.nan, "Whether classic or tri|vial is better"),
    ],
)
def test_the_headline_calls_better_only_what_interval_and_test_agree_on(low: float, high: float, p: float, says: str) -> None:
    (found,) = headlines(evaluation(GAINS), summary((low + high) / 2, low, high, p))
    assert found.sentence.startswith(says)
    assert "of 4 pictures" in found.sentence


def test_the_headline_compares_means_of_the_pictures_that_both_systems_have() -> None:
    whole = evaluation({"a": 0.1, "b": 0.3})
    lost = replace(whole.pictures[1], scores=(whole.pictures[1].scores[0], Scores({}, failed="no memory")))
    (found,) = headlines(replace(whole, pictures=(whole.pictures[0], lost)), summary())
    assert "0.4000 against 0.5000" in found.sentence
    assert "of 1 picture." in found.sentence


def test_what_is_worse_by_other_metrics_is_said_with_the_headline() -> None:
    found = summary()
    turned = [replace(each, value=0.2, low=0.1, high=0.3) if each.metric == "blank_rate" else each for each in found.differences]
    (said,) = headlines(evaluation(GAINS), replace(found, differences=tuple(turned)))
    assert said.besides.startswith(
        "By the other numbers classic is clearly worse on blank layers and clearly better on LayerD's alpha soft IoU, "
    )


def test_one_system_alone_is_not_compared() -> None:
    one = evaluation(GAINS)
    alone = replace(one, systems=one.systems[:1], pictures=tuple(replace(each, scores=each.scores[:1]) for each in one.pictures))
    found = replace(summary(), means={"classic": summary().means["classic"]}, differences=(), win_rates={}, skipped={}, failed={}, rows=())
    (said,) = headlines(alone, found)
    assert said.sentence == "classic has LayerD's RGB L1 0.3000 (95 % interval 0.2000 to 0.4000) on 4 pictures."
    assert [each.title for each in galleries(alone, found)] == ["Best pictures of classic", "Worst pictures of classic"]
    assert "**" not in to_markdown(alone, found)


def test_an_evaluation_of_nothing_can_be_written_down(tmp_path: Path) -> None:
    nothing = Summary({"classic": {}, "tri|vial": {}}, (), (), {}, {}, {})
    page = write_report(tmp_path, evaluation({}), nothing, lambda key: None)
    assert "Nothing could be measured." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("metric", "value", "signed", "text"),
    [
        (MAIN, 0.04126, False, "0.0413"),
        ("judge", -1.5, True, "−1.50"),
        ("blank_rate", 0.05, True, "+0.050"),
        ("blank_rate", -0.0001, True, "0.000"),
        ("quality", math.nan, False, "–"),
    ],
)
def test_numbers_are_written_alike_everywhere(metric: str, value: float, signed: bool, text: str) -> None:
    assert number(metric, value, signed=signed) == text


def test_less_is_better_or_worse_by_the_metric() -> None:
    assert verdict(Difference("blank_rate", "a", "b", -0.1, -0.2, -0.05, 0.001, 9, 0, 0)) == "better"
    assert verdict(Difference("quality", "a", "b", -0.1, -0.2, -0.05, 0.001, 0, 0, 9)) == "worse"


@pytest.mark.parametrize("found", [[], [0.0], [0.3, 0.3], [-5.0, 1e6], [place / 1000 for place in range(1000)]])
def test_drawings_keep_every_dot_within_their_frame(found: list[float]) -> None:
    drawn = distribution("L1 <1>", [("classic", found), ("a<b", found[:1])], "{:.2f}".format)
    dots = [float(x) for x in re.findall(r'cx="([^"]+)"', drawn)]
    assert len(dots) == min(240, len(found)) + len(found[:1])
    assert all(14 <= x <= 546 for x in dots)
    assert "a&lt;b" in drawn
    pairs = scatter("L1", "classic", "a<b", [("k<", value, value / 2) for value in found], "lower")
    places = [float(place) for place in re.findall(r'c[xy]="([^"]+)"', pairs)]
    assert len(places) == 2 * len(found)
    assert all(0 <= place <= 454 for place in places)
    Markup(drawn + pairs)


def test_a_dot_is_coloured_and_placed_by_which_system_is_better() -> None:
    drawn = scatter("L1", "ours", "theirs", [("won", 0.1, 0.9), ("lost", 0.9, 0.1)], "lower")
    won, lost = re.findall(r'cx="([^"]+)" cy="([^"]+)" r="4" fill="([^"]+)"', drawn)
    assert float(won[0]) > float(lost[0])
    assert float(won[1]) > float(lost[1])
    assert won[2] != lost[2]
    assert drawn.index("theirs better") < drawn.index("ours better")


@pytest.mark.parametrize("size", [(64, 48), (48, 400), (900, 12), (1, 1)])
def test_a_strip_has_a_band_for_the_truth_and_for_every_system(size: tuple[int, int]) -> None:
    source, truth = scene(2, width=size[0], height=size[1], elements=20)
    drawn = draw_strip(Shown(source, truth, (truth, None)), [("classic", "3 layers"), ("trivial", "failed: no memory " * 50)])
    alone = draw_strip(Shown(source, truth, ()), [])
    assert drawn.width == alone.width <= 1700
    assert 2 * alone.height < drawn.height < 2 * alone.height + 4 * LETTERS
    again = np.asarray(drawn)[: alone.height]
    assert (again == np.asarray(alone)).all()


def test_a_strip_shows_layers_on_a_board_that_they_stand_out_from() -> None:
    source, truth = scene(3)
    white = truth.with_layers((truth.layers[0], replace(truth.layers[1], pixels=np.full((9, 9, 4), 255, np.uint8))))  # type: ignore[arg-type]
    dark = np.asarray(draw_strip(Shown(source, white, ()), []))
    assert (dark == (84, 86, 93)).all(axis=2).any()
    assert isinstance(draw_strip(Shown(source, None, ()), []), Image.Image)
