"""A run of the judge's client as a whole: what stops it, what it may take, and that nothing is lost or mixed up."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from layerctl_train.judge.client import Answer, Client
from layerctl_train.judge.question import NoAnswerError

from layerctl.errors import ConfigError, JudgeStoppedError, MissingDependencyError, OutputError
from layerctl.judge_settings import JudgeSettings
from layerctl.verdict import Usage
from tests.judge_run import Run, points, question, settings_for
from tests.judge_server import (
    GOOD,
    PASSING,
    USELESS,
    JudgeServer,
    Reply,
    alone,
    completion,
    in_turn,
    refusal,
    scores,
    words_of,
)

KEY = "sk-secret-0123456789"


def test_a_server_that_is_down_stops_the_run_before_every_question_was_tried(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(1))) as gone:
        pass
    run = Run(settings_for(gone.url, tmp_path))
    errors = run.ask(*(question(number) for number in range(300)))
    stopped = [error for error in errors if isinstance(error, JudgeStoppedError)]
    assert len(stopped) >= 295
    assert stopped[0].message.startswith(f"{gone.host} answered none of 5 questions in a row: the connection failed")
    assert len(run.waits) < 20 * 4


def test_some_questions_that_get_lost_do_not_stop_the_others(tmp_path: Path) -> None:
    with JudgeServer(lambda body, _: refusal(500) if "0." in words_of(body) else alone(2)) as server:
        settings = replace(settings_for(server.url, tmp_path), judge_retries=0, judge_concurrency=2)
        answers = Run(settings).ask(*(question(number) for number in range(100)))
    assert [isinstance(answer, Answer) for answer in answers] == [number % 10 != 0 for number in range(100)]


def test_no_more_requests_are_sent_than_the_budget_allows_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    questions = [question(number) for number in range(40)]
    with JudgeServer(lambda _body, count: replace(refusal(500) if count in (1, 5, 9) else alone(2), delay=0.01)) as server:
        settings = settings_for(server.url, tmp_path)
        first = Run(replace(settings, max_judge_calls=11)).ask(*questions)
        assert len(server.bodies) == 11
        answered = sum(isinstance(answer, Answer) for answer in first)
        assert answered == 11 - 3
        assert {type(answer) for answer in first} == {Answer, JudgeStoppedError}
        second = Run(settings).ask(*questions)
    assert all(points(answer) == [2] * 5 for answer in second)
    assert sum(answer.usage.cached for answer in second) == answered


def test_a_run_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    with JudgeServer(in_turn(replace(alone(2), delay=0.01))) as server:
        prices = ("other=9,9", "judge=10,100")  # 100 and 20 tokens: $0.003 a request, reserved as up to $0.006
        settings = replace(settings_for(server.url, tmp_path), judge_prices=prices, judge_max_tokens=50, max_judge_cost=0.03)
        answers = Run(settings).ask(*(question(number) for number in range(30)))
    spent = sum(answer.usage.cost or 0 for answer in answers if isinstance(answer, Answer))
    assert len(server.bodies) == round(spent / 0.003)
    assert 0.024 <= spent <= 0.03


def test_a_server_that_counts_more_tokens_than_expected_is_reckoned_with(tmp_path: Path) -> None:
    reply = completion(scores(GOOD), usage={"prompt_tokens": 1000, "completion_tokens": 1})  # $0.01 each
    with JudgeServer(in_turn(reply)) as server:
        settings = replace(settings_for(server.url, tmp_path), judge_prices=("judge=10,0",), max_judge_cost=0.035, judge_concurrency=1)
        Run(settings).ask(*(question(number) for number in range(10)))
    assert len(server.bodies) == 3


@pytest.mark.parametrize("usage", [{"prompt_tokens": 1000, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 1000}])
def test_the_limit_of_money_holds_from_the_first_requests_on(usage: dict[str, int], tmp_path: Path) -> None:
    reply = replace(completion(scores(GOOD), usage=usage), delay=0.2)  # $0.01 each
    with JudgeServer(in_turn(refusal(500), reply)) as server:
        settings = replace(settings_for(server.url, tmp_path), judge_prices=("judge=10,10",), judge_max_tokens=10, max_judge_cost=0.035)
        answers = Run(settings).ask(*(question(number) for number in range(20)))
    assert sum(isinstance(answer, Answer) for answer in answers) == len(server.bodies) - 1 == 3
    assert server.peak > 1


def test_what_lost_requests_may_have_cost_is_counted_as_spent(tmp_path: Path) -> None:
    with JudgeServer(in_turn(Reply(cut=0))) as server:
        prices = ("judge=0,100",)  # up to $0.01 a request
        settings = replace(settings_for(server.url, tmp_path), judge_prices=prices, judge_max_tokens=100, max_judge_cost=0.025)
        [error] = Run(settings).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert "up to $0.0200 is spent, lost requests included" in error.message
    assert len(server.bodies) == 2


def test_a_correction_is_reckoned_with(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    with JudgeServer(in_turn(completion("x" * 4000, usage=usage))) as server:  # 1000 tokens and more, at $0.01
        settings = replace(settings_for(server.url, tmp_path), judge_prices=("judge=10,0",), max_judge_cost=0.009)
        [error] = Run(settings).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert len(server.bodies) == 1


def test_an_answer_that_cannot_be_kept_stops_the_run(tmp_path: Path) -> None:
    def reply(_body: dict[str, Any], _count: int) -> Reply:
        with closing(sqlite3.connect(tmp_path / "judge.sqlite")) as base:
            base.execute("DROP TABLE IF EXISTS answers")
        return alone(1)

    with JudgeServer(reply) as server:
        errors = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=1)).ask(question(1), question(2))
    assert [type(error) for error in errors] == [OutputError] * 2
    assert len(server.bodies) == 1


def test_a_limit_of_money_needs_a_price(tmp_path: Path) -> None:
    settings = replace(settings_for("http://localhost:1/v1", tmp_path), max_judge_cost=1.0, judge_prices=("other=1,1",))
    with pytest.raises(ConfigError, match="price of the model 'judge'"):
        Client(settings, print, environment={})


def test_the_same_question_asked_twice_at_a_time_is_sent_once(tmp_path: Path) -> None:
    with JudgeServer(in_turn(replace(alone(2), delay=0.05))) as server:
        answers = Run(settings_for(server.url, tmp_path)).ask(question(1), question(1), question(1))
        assert len(server.bodies) == 1
        assert sorted((answer.usage.calls, answer.usage.cached) for answer in answers) == [(0, 1), (0, 1), (1, 0)]
        [again] = Run(settings_for(server.url, tmp_path)).ask(question(1))
        assert again.usage == Usage(cached=1)
        Run(settings_for(server.url, tmp_path)).ask(question(1), repeat=1)
        assert len(server.bodies) == 2


def test_replay_reaches_for_no_server_and_needs_no_key(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(8))) as server:
        settings = settings_for(server.url, tmp_path)
        Run(settings).ask(question(1))
    replayed = replace(settings, judge_replay=True, judge_model=None, judge_key_env="NOT_SET", max_judge_cost=1.0)
    run = Run(replayed)
    [answer, error] = run.ask(question(1), question(2))
    assert points(answer) == [8] * 5
    assert answer.usage == Usage(cached=1)
    assert isinstance(error, NoAnswerError)
    assert "does not hold this answer" in error.reason
    assert not run.told


def test_the_key_is_in_the_header_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f" {KEY}\nsecond line\n")
    echo = alone(4, evidence=f"the key is {KEY}")
    with JudgeServer(lambda body, count: echo if count else refusal(400, f"bad {KEY}")) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_key_file=str(file), judge_concurrency=1))
        [error, answer] = run.ask(question(0), question(1))
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}"] * 2
    assert answer.scores[0].evidence == "the key is [key]"
    assert KEY not in f"{error!r} {error.reason} {answer} {run.told}"
    kept = list(tmp_path.glob("judge.sqlite*"))
    assert kept
    assert all(KEY.encode() not in path.read_bytes() for path in kept)


def test_the_host_is_told_before_the_first_upload_and_once(tmp_path: Path) -> None:
    run = Run(JudgeSettings())

    def reply(_body: dict[str, Any], _count: int) -> Reply:
        assert len(run.told) == 1
        return alone(1)

    with JudgeServer(reply) as server:
        run.settings = settings_for(server.url, tmp_path)
        assert all(isinstance(answer, Answer) for answer in run.ask(question(1), question(2)))
    assert run.told == [f"pictures go to {server.host}, to the model judge"]


def test_what_the_environment_holds_for_another_server_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: private\nAuthorization: private")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with JudgeServer(in_turn(alone(1))) as server:
        [answer] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert points(answer) == [1] * 5
    assert "private" not in f"{server.headers} {server.bodies}"


def test_without_the_library_the_command_that_installs_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    [error] = Run(settings_for("http://localhost:1/v1", tmp_path)).ask(question())
    assert isinstance(error, MissingDependencyError)
    assert error.hint == "pip install 'layerctl[judge]'"


def _of_number(number: int) -> tuple[float, ...]:
    """Points that tell which question they belong to."""
    return tuple(float(digit) for digit in f"{number:05}")


def test_of_5000_questions_with_10_percent_faults_no_score_is_lost_or_given_to_another(tmp_path: Path) -> None:
    count = 5000
    faults = [fault for fault in PASSING.values() if not fault.drip and len(fault.body) < 10**6]
    faults += [completion(text) for text in USELESS.values() if len(text) < 1000]
    dealt: dict[int, int] = {}
    lock = Lock()

    def reply(body: dict[str, Any], _count: int) -> Reply:
        found = re.search(r"number (\d+)\.", words_of(body))
        assert found
        number = int(found[1])
        with lock:
            dealt[number] = dealt.get(number, 0) + 1
        is_faulty = number % 10 == 3 and dealt[number] == 1
        return faults[number // 10 % len(faults)] if is_faulty else alone(*_of_number(number))

    with JudgeServer(reply) as server:
        answers = Run(settings_for(server.url, tmp_path)).ask(*(question(number) for number in range(count)))
    assert [tuple(points(answer)) for answer in answers] == [_of_number(number) for number in range(count)]
    assert len(server.bodies) == sum(answer.usage.calls for answer in answers) == count + count // 10
    assert server.peak <= JudgeSettings().judge_concurrency


def test_a_server_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(400, "Server is pinned to 'other'"))) as server:
        answers = Run(settings_for(server.url, tmp_path)).ask(*(question(number) for number in range(200)))
    stopped = [answer for answer in answers if isinstance(answer, JudgeStoppedError)]
    assert len(stopped) > 150
    assert stopped[0].message.endswith("refused 20 requests in a row, 400: Server is pinned to 'other'")
    assert "--judge-model" in str(stopped[0].hint)
    assert len(server.bodies) <= 20 + JudgeSettings().judge_concurrency


def test_a_few_questions_that_a_server_will_not_have_do_not_stop_the_run(tmp_path: Path) -> None:
    with JudgeServer(lambda _, count: refusal(400, "too large") if count % 10 else alone(5)) as server:
        answers = Run(settings_for(server.url, tmp_path)).ask(*(question(number) for number in range(100)))
    assert not any(isinstance(answer, JudgeStoppedError) for answer in answers)


def test_requests_are_under_way_at_a_time_up_to_the_limit(tmp_path: Path) -> None:
    with JudgeServer(in_turn(replace(alone(1), delay=0.1))) as server:
        start = time.monotonic()
        Run(replace(settings_for(server.url, tmp_path), judge_concurrency=6)).ask(*(question(number) for number in range(24)))
    assert 3 <= server.peak <= 6
    assert time.monotonic() - start >= 0.4
