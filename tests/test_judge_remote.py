"""The judge `openai` from end to end: layers go to a real server on localhost, and a verdict comes back."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest
from layerctl_train.judge.prompts import PROMPT_VERSION

from layerctl import registry
from layerctl.errors import ConfigError, JudgeStoppedError
from layerctl.judge_settings import JudgeSettings
from layerctl.layers import Layer, LayerStack
from layerctl.registry import Judge
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict
from tests.judge_server import Body, JudgeServer, Reply, alone, completion, pictures_of, refusal, together, words_of

SOURCE = SourceImage(np.full((64, 64, 4), 255, np.uint8))
TRUTH = (2.0, 9.0, 4.5, 7.0, 1.0, 6.0, 3.0, 8.0)


def colour(number: int) -> tuple[int, int, int]:
    return 30 + 10 * number, 250 - 20 * number, 77


def candidate(number: int) -> LayerStack:
    """A stack that a server can recognize in any picture: its ground has a colour of its own."""
    ground = np.full((64, 64, 4), 255, np.uint8)
    ground[..., :3] = colour(number)
    thing = np.full((16, 16, 4), 255, np.uint8)
    return LayerStack(64, 64, (Layer("Background", ground, kind="background"), Layer(f"give {number} of 10", thing, 40, 40)))


STACKS = [candidate(number) for number in range(len(TRUTH))]


def rows_of(grid: bytes) -> list[int]:
    """Which candidates are to be seen in a picture, from the top down."""
    picture = cv2.imdecode(np.frombuffer(grid, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    places = {number: np.flatnonzero((picture[:, ::7] == colour(number)).all(2).any(1)) for number in range(len(STACKS))}
    return sorted((number for number, rows in places.items() if rows.size), key=lambda number: int(places[number][0]))


def sees(body: Body, count: int) -> Reply:
    """An honest judge: it squeezes alone, and tells the truth beside each other."""
    if "Picture 2: the result" in words_of(body):
        (number,) = rows_of(pictures_of(body)[1])
        return alone(6 + 0.1 * TRUTH[number])
    rows = rows_of(pictures_of(body)[-1])
    return together({chr(ord("A") + place): TRUTH[number] for place, number in enumerate(rows)})


def judged(
    tmp_path: Path, script: Callable[[Body, int], Reply], told: str = "", group: int = 4, **changed: Any
) -> tuple[GroupVerdict, JudgeServer]:
    with JudgeServer(script) as server, closing(judge(tmp_path, server.url, **changed)) as asked:
        return asked.score_group(SOURCE, STACKS[:group], told), server


def judge(tmp_path: Path, url: str, tell: Callable[[str], None] = lambda _: None, **changed: Any) -> Judge:
    settings = JudgeSettings(
        judge_url=url,
        judge_cache=str(tmp_path / "judge.sqlite"),
        **{"judge_retries": 0, "judge_side": 128} | changed,
    )
    made: Judge = registry.load("judges", "openai")(settings, tell)
    return made


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_group_is_scored_through_both_phases_and_every_score_finds_its_candidate(tmp_path: Path) -> None:
    verdict, server = judged(tmp_path, sees, group=8)
    assert [sample.phase1 for sample in verdict.samples] == pytest.approx([6 + 0.1 * truth for truth in TRUTH])
    assert [sample.phase2 for sample in verdict.samples] == pytest.approx(TRUTH)
    assert verdict.rewards == pytest.approx([3 + 0.55 * truth for truth in TRUTH])
    assert verdict.teaches
    assert (verdict.judge, verdict.model, verdict.prompt_version) == ("openai", "judge", PROMPT_VERSION)
    assert (verdict.usage.calls, len(server.bodies)) == (10, 10)
    assert all(sample.usage.calls == 1 and sample.seconds > 0 for sample in verdict.samples)
    assert [sorted(rows) for rows in verdict.grids] == [list(range(8))] * 2


def test_the_grids_of_the_verdict_are_those_that_the_server_saw(tmp_path: Path) -> None:
    verdict, server = judged(tmp_path, sees)
    seen = [rows_of(pictures_of(body)[-1]) for body in server.bodies if "candidates, one in each row" in words_of(body)]
    assert sorted(seen) == sorted(list(rows) for rows in verdict.grids)


def test_one_of_two_orders_is_told_each_rows_own_score_of_phase_1(tmp_path: Path) -> None:
    verdict, server = judged(tmp_path, sees)
    told = {}
    for body in server.bodies:
        words = words_of(body)
        if "candidates, one in each row" in words:
            rows = rows_of(pictures_of(body)[-1])
            scores = ", ".join(f"{chr(ord('A') + place)}: {6 + 0.1 * TRUTH[number]:.1f}" for place, number in enumerate(rows))
            told[tuple(rows)] = f"Points from looking at each alone: {scores}." in words
    assert told == {verdict.grids[0]: True, verdict.grids[1]: False}


def test_layer_names_never_reach_the_judge(tmp_path: Path) -> None:
    _, server = judged(tmp_path, sees)
    assert not any("give" in words_of(body) for body in server.bodies)


def test_asked_again_everything_comes_from_the_cache_and_replay_needs_no_server(tmp_path: Path) -> None:
    first, _ = judged(tmp_path, sees)
    again, server = judged(tmp_path, sees)
    assert again.rewards == first.rewards
    assert (again.usage.calls, again.usage.cached, server.bodies) == (0, 6, [])
    with closing(judge(tmp_path, "http://127.0.0.1:9/v1", judge_replay=True)) as replay:
        assert replay.host == ""
        assert replay.score_group(SOURCE, STACKS[:4]).rewards == first.rewards


def test_another_repetition_is_asked_anew(tmp_path: Path) -> None:
    judged(tmp_path, sees)
    _, server = judged(tmp_path, sees, judge_repeat=1)
    assert len(server.bodies) == 6


def test_a_replay_of_what_was_never_asked_is_missing_scores_with_the_reason(tmp_path: Path) -> None:
    judged(tmp_path, sees)
    with closing(judge(tmp_path, "http://127.0.0.1:9/v1", judge_replay=True, judge_temperature=1.0)) as replay:
        verdict = replay.score_group(SOURCE, STACKS[:4])
    assert all(math.isnan(reward) for reward in verdict.rewards)
    assert all("does not hold this answer" in sample.reason for sample in verdict.samples)


def test_a_judge_that_refuses_one_candidate_leaves_the_others_their_scores(tmp_path: Path) -> None:
    def shy(body: Body, count: int) -> Reply:
        is_third = "Picture 2: the result" in words_of(body) and rows_of(pictures_of(body)[1]) == [3]
        return completion("I cannot help with that.") if is_third else sees(body, count)

    verdict, _ = judged(tmp_path, shy)
    assert [sample.is_valid for sample in verdict.samples] == [number != 3 for number in range(4)]
    assert "I cannot help with that" in verdict.samples[3].reason


def test_a_caption_is_made_first_and_told_with_every_question(tmp_path: Path) -> None:
    def describes(body: Body, count: int) -> Reply:
        return completion("A white square.") if "Now the sentence." in words_of(body) else sees(body, count)

    verdict, server = judged(tmp_path, describes, judge_condition="caption")
    assert "Now the sentence." in words_of(server.bodies[0])
    assert all("<about>A white square.</about>" in words_of(body) for body in server.bodies[1:])
    assert verdict.usage.calls == 7


def test_without_a_caption_nothing_else_is_asked(tmp_path: Path) -> None:
    verdict, server = judged(tmp_path, lambda *_: completion(""), judge_condition="caption")
    assert {sample.reason.partition(":")[0] for sample in verdict.samples} == {"no caption"}
    assert all("Now the sentence." in words_of(body) for body in server.bodies)
    assert verdict.usage.calls == len(server.bodies)


@pytest.mark.parametrize(("condition", "is_told"), [("nothing", False), ("prompt", True)])
def test_what_is_known_about_the_picture_is_told_only_when_that_is_wanted(tmp_path: Path, condition: Any, is_told: bool) -> None:
    _, server = judged(tmp_path, sees, "a poster", judge_condition=condition)
    assert all(("<about>a poster</about>" in words_of(body)) == is_told for body in server.bodies)


def test_where_pictures_go_is_told_once_before_the_first_one(tmp_path: Path) -> None:
    told: list[str] = []

    def listens(body: Body, count: int) -> Reply:
        assert told
        return sees(body, count)

    with JudgeServer(listens) as server, closing(judge(tmp_path, server.url, told.append)) as asked:
        assert asked.score_group(SOURCE, STACKS[:3]).samples[0].is_valid
        asked.score_group(SOURCE, STACKS[3:6])
        assert told == [f"pictures go to {server.host}, to the model judge"]


def test_the_forecast_counts_what_a_group_then_takes(tmp_path: Path) -> None:
    with JudgeServer(sees) as server, closing(judge(tmp_path, server.url, judge_model="judge", judge_prices=("judge=1,2",))) as asked:
        planned = asked.forecast(4, 2)
        verdict = asked.score_group(SOURCE, STACKS[:4])
    assert planned.calls == verdict.usage.calls == 6
    assert planned.cost == pytest.approx((planned.input_tokens + 2 * planned.output_tokens) / 1e6)
    assert verdict.usage.cost == pytest.approx((verdict.usage.input_tokens + 2 * verdict.usage.output_tokens) / 1e6)


def test_a_spent_budget_stops_the_run_and_the_next_one_goes_on_from_there(tmp_path: Path) -> None:
    with pytest.raises(JudgeStoppedError, match="3"):
        judged(tmp_path, sees, max_judge_calls=3)
    verdict, server = judged(tmp_path, sees, max_judge_calls=3)
    assert all(sample.is_valid for sample in verdict.samples)
    assert len(server.bodies) == 3
    assert verdict.usage.cached == 3


def test_a_server_that_is_down_stops_the_run(tmp_path: Path) -> None:
    with JudgeServer(sees) as server:
        url = server.url
    with closing(judge(tmp_path, url, judge_model="judge")) as asked, pytest.raises(JudgeStoppedError, match="127"):
        asked.score_group(SOURCE, STACKS)


def test_several_threads_may_ask_at_a_time(tmp_path: Path) -> None:
    with JudgeServer(sees) as server, closing(judge(tmp_path, server.url)) as asked, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda turn: asked.score_group(SOURCE, STACKS[turn : turn + 4]), range(4)))
    for turn, verdict in enumerate(found):
        assert [sample.phase2 for sample in verdict.samples] == pytest.approx(TRUTH[turn : turn + 4])


@pytest.mark.parametrize("phase", ["alone", "together"])
def test_a_judge_that_is_closed_while_it_is_asked_says_so_to_all_who_wait(tmp_path: Path, phase: str) -> None:
    reached, release = Event(), Event()

    def slow(body: Body, count: int) -> Reply:
        if ("Picture 2: the result" in words_of(body)) == (phase == "alone"):
            reached.set()
            release.wait(10)
        return sees(body, count)

    with JudgeServer(slow) as server, ThreadPoolExecutor(2) as threads:
        asked = judge(tmp_path, server.url)
        waiting = [threads.submit(asked.score_group, SOURCE, STACKS[turn : turn + 4]) for turn in range(2)]
        try:
            assert reached.wait(10)
            asked.close()
            errors = [group.exception(10) for group in waiting]
        finally:
            release.set()
    assert [(type(error), str(error)) for error in errors] == [(JudgeStoppedError, "the judge was closed")] * 2


def test_a_judge_is_closed_once_and_then_asked_no_more(tmp_path: Path) -> None:
    with JudgeServer(sees) as server:
        asked = judge(tmp_path, server.url)
        asked.close()
        asked.close()
        with pytest.raises(JudgeStoppedError, match="the judge was closed"):
            asked.score_group(SOURCE, STACKS[:3])
    assert not server.bodies


def test_a_server_that_fails_in_phase_2_only_leaves_no_reward_and_says_why(tmp_path: Path) -> None:
    def half(body: Body, count: int) -> Reply:
        return sees(body, count) if "Picture 2: the result" in words_of(body) else refusal(400, "too many pixels")

    verdict, _ = judged(tmp_path, half)
    assert all(math.isnan(reward) for reward in verdict.rewards)
    assert all("too many pixels" in sample.reason for sample in verdict.samples)
    assert [sample.phase1 for sample in verdict.samples] == pytest.approx([6 + 0.1 * truth for truth in TRUTH[:4]])


def test_an_address_that_cannot_be_one_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ftp"):
        judge(tmp_path, "ftp://example.org/v1")
    assert os.listdir(tmp_path) == []
