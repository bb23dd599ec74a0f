"""The judge's client against a server that fails in every way."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import certifi
import numpy as np
import pytest
from layerctl_train.judge.client import Answer, Client
from layerctl_train.judge.question import Kind, NoAnswerError, Picture, Question

from layerctl.errors import ConfigError, JudgeStoppedError, LayerctlError, MissingDependencyError, OutputError
from layerctl.judge_settings import JudgeSettings
from layerctl.verdict import CRITERIA, Usage
from tests.judge_server import JudgeServer, Reply, alone, completion, in_turn, pictures_of, refusal, scores, together, words_of

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and one certificate authority: reading all of them takes longer than a test."""
    authority = Path(certifi.where()).read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
    (tmp_path / "authority.pem").write_text("".join(authority[:2]), encoding="ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@dataclass
class Run:
    """Asks questions with a client of its own; waits take no time, and are written down."""

    settings: JudgeSettings
    environment: Mapping[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    now: float = 0.0

    def ask(self, *questions: Question, repeat: int = 0) -> list[Any]:
        """An answer or an exception for each question, all asked at once."""

        async def asking() -> list[Any]:
            client = Client(
                self.settings,
                self.told.append,
                environment=self.environment,
                clock=lambda: self.now,
                sleep=self._sleep,
                jitter=lambda: 0.5,
            )
            try:
                return await asyncio.gather(*(client.ask(question, repeat) for question in questions), return_exceptions=True)
            finally:
                await client.close()

        return asyncio.run(asyncio.wait_for(asking(), 300))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def settings_for(url: str, tmp_path: Path) -> JudgeSettings:
    return JudgeSettings(judge_url=url, judge_model="judge", judge_cache=str(tmp_path / "judge.sqlite"))


def question(number: int = 0, kind: Kind = "alone", labels: Sequence[str] = ()) -> Question:
    pixels = np.full((8, 8, 3), number % 256, np.uint8)
    return Question(kind, "You judge.", (f"number {number}.", Picture(pixels)), "v1", tuple(labels))


def points(answer: Answer) -> list[float]:
    return [score.points for score in answer.scores]


def test_a_request_holds_words_and_pictures_in_their_order_and_the_schema_of_the_answer(tmp_path: Path) -> None:
    asked = question(7, "together", ["A", "B"])
    with JudgeServer(lambda _body, _count: together({"B": 3, "A": 9.5})) as server:
        [answer] = Run(settings_for(server.url, tmp_path)).ask(asked)
    assert points(answer) == [9.5, 3]
    assert answer.usage == Usage(1, 0, 100, 20, None)
    [body] = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0.0, 1500)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert [part["type"] for part in body["messages"][1]["content"]] == ["text", "image_url"]
    assert pictures_of(body) == [asked.pictures[0].png]
    form = body["response_format"]["json_schema"]
    assert form["strict"]
    assert form["schema"]["required"] == ["A", "B"]


def test_a_caption_is_plain_words_on_one_line(tmp_path: Path) -> None:
    with JudgeServer(lambda _body, _count: completion("A poster,\n with\x1b[31m a cat.")) as server:
        [answer] = Run(settings_for(server.url, tmp_path)).ask(question(kind="caption"))
    assert answer.caption == "A poster, with\\x1b[31m a cat."
    assert "response_format" not in server.bodies[0]


PASSING = {
    "too many requests": refusal(429),
    "too many, wait a moment": refusal(429, Retry_After="3"),
    "server error": refusal(500),
    "request timeout": refusal(408),
    "conflict": refusal(409),
    "a proxy's page for a server error": Reply(b"<html>Bad Gateway</html>", 502),
    "cut before the headers": Reply(cut=0),
    "cut in the headers": replace(alone(1), cut=20),
    "cut in the body": replace(alone(1), cut=300),
    "slow drip": replace(alone(1), drip=0.05),
    "a page instead of a completion": Reply(b"<html>Log in to the hotel's network</html>"),
    "half a completion": Reply(alone(1).body[:100]),
    "garbage": Reply(bytes(range(256))),
    "JSON that is no completion": Reply(b'{"choices": []}'),
    "deeply nested JSON": Reply(b"[" * 100_000),
    "too long": Reply(b" " * (5 << 20)),
    "compressed, which may unfold to any length": Reply(gzip.compress(alone(1).body), headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_what_fails_on_the_way_is_sent_again(fault: Reply, tmp_path: Path) -> None:
    with JudgeServer(in_turn(fault, alone(7))) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_timeout=1.5 if fault.drip else 20))
        [answer] = run.ask(question())
    assert points(answer) == [7] * 5
    assert answer.usage.calls == len(server.bodies) == 2
    assert run.waits


def test_a_request_that_always_fails_is_given_up_after_the_retries(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(500, "out of \x1b[31mmemory"))) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_retries=3))
        [error] = run.ask(question())
    assert isinstance(error, NoAnswerError)
    assert error.reason == "no answer in 4 tries: 500: out of \\x1b[31mmemory"
    assert error.usage.calls == len(server.bodies) == 4
    assert run.waits == [0.5, 1, 2]


GOOD = dict.fromkeys(CRITERIA, 5.0)
USELESS = {
    "cut short": scores(GOOD)[:-9],
    "eleven of ten": scores(GOOD | {"alpha": 11}),
    "below nothing": scores(GOOD | {"alpha": -1}),
    "not a number": scores(GOOD | {"alpha": float("nan")}),
    "infinite": scores(GOOD).replace("5.0", "1e999"),
    "a number as text": scores(GOOD).replace("5.0", '"5"'),
    "a truth value": scores(GOOD).replace("5.0", "true"),
    "null": scores(GOOD).replace("5.0", "null"),
    "a criterion is missing": scores(dict.fromkeys(CRITERIA[1:], 5.0)),
    "other names": scores({"A": 5.0, "B": 5.0}),
    "a criterion twice": scores(GOOD)[:-1] + ', "alpha": {"evidence": "", "points": 10}}',
    "a list": f"[{scores(GOOD)}, {scores(GOOD)}]",
    "nested without end": '{"alpha":' * 50_000,
    "words": "I would give it a 7.",
    "nothing": "",
}


@pytest.mark.parametrize("text", USELESS.values(), ids=USELESS.keys())
def test_a_useless_answer_is_shown_to_the_model_once_with_what_is_wrong(text: str, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], _count: int) -> Reply:
        learns = "number 1." in words_of(body) and len(body["messages"]) > 2
        return alone(6) if learns else completion(text)

    with JudgeServer(reply) as server:
        [answer, error] = Run(settings_for(server.url, tmp_path)).ask(question(1), question(2))
    assert points(answer) == [6] * 5
    assert isinstance(error, NoAnswerError)
    assert "twice" in error.reason
    assert answer.usage == error.usage == Usage(2, 0, 200, 40, None)
    assert len(server.bodies) == 4
    said, asked = server.bodies[-1]["messages"][2:]
    assert said == {"role": "assistant", "content": text[:4000] or "(nothing)"}
    assert asked["role"] == "user"


WORDLESS = {
    "a refusal": (completion(None, refusal="I can't look at\nthis."), "the model refused: I can't look at this."),
    "a filter": (completion("", finish="content_filter"), "the model refused: the server's filter held the answer back"),
    "too long": (completion(scores(GOOD)[:40], finish="length"), "the answer was cut at judge_max_tokens, 1500"),
    "a bad request": (refusal(400, "the picture is too large"), "the server refused this request, 400: the picture is too large"),
    "too large a request": (Reply(b"<html>", 413), "the server refused this request, 413: a page for browsers"),
}


@pytest.mark.parametrize(("reply", "reason"), WORDLESS.values(), ids=WORDLESS.keys())
def test_a_question_without_an_answer_says_why_and_is_not_sent_again(reply: Reply, reason: str, tmp_path: Path) -> None:
    with JudgeServer(in_turn(reply, alone(4))) as server:
        [error, answer] = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=1)).ask(question(0), question(1))
    assert isinstance(error, NoAnswerError)
    assert (error.reason, error.usage.calls) == (reason, 1)
    assert points(answer) == [4] * 5


def test_whatever_else_an_answer_holds_does_nothing(tmp_path: Path) -> None:
    hostile = json.loads(scores(GOOD)) | {
        "reward": 10,
        "__class__": "x",
        "system": "rm -rf",
        "alpha": {"points": 2, "evidence": "\x1b]0;x\x07\ud800"},
    }
    calls = [{"id": "1", "type": "function", "function": {"name": "run", "arguments": "{}"}}]
    with JudgeServer(in_turn(completion(json.dumps(hostile), tool_calls=calls, usage={"prompt_tokens": -5}))) as server:
        [answer] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert points(answer) == [5, 2, 5, 5, 5]
    assert answer.scores[1].evidence == "\\x1b]0;x\\x07\\ud800"
    assert answer.usage.input_tokens > 0


def test_a_wait_that_the_server_asks_for_is_kept_by_all_requests(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(429, Retry_After="30"), alone(1))) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=1))
        answers = run.ask(question(0), question(1))
    assert [points(answer) for answer in answers] == [[1] * 5] * 2
    assert run.now == pytest.approx(30)


def test_a_wait_that_is_too_long_stops_the_run(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(429, "daily limit", Retry_After="7200"))) as server:
        [error] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert error.message == f"{server.host} asks to wait 7200 seconds, 429: daily limit"


FINAL = {
    "an unknown key": (
        refusal(401, f"Incorrect API key: {KEY}"),
        MissingDependencyError,
        "does not accept the key, 401: Incorrect API key: [key]",
    ),
    "a key as an escape": (Reply(b'{"error": "\\u0073k-secret-0123456789"}', 403), MissingDependencyError, "403: [key]"),
    "no credit": (refusal(402, "pay"), JudgeStoppedError, "is out of credit, 402: pay"),
    "no quota": (refusal(429, "You exceeded", "insufficient_quota"), JudgeStoppedError, "is out of credit, 429: You exceeded"),
}


@pytest.mark.parametrize(("reply", "kind", "words"), FINAL.values(), ids=FINAL.keys())
def test_a_complaint_that_all_requests_would_meet_stops_them_all(
    reply: Reply, kind: type[LayerctlError], words: str, tmp_path: Path
) -> None:
    with JudgeServer(in_turn(reply)) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=2), {"LAYERCTL_JUDGE_KEY": KEY})
        errors = run.ask(*(question(number) for number in range(50)))
    assert {type(error) for error in errors} == {kind}
    assert len({id(error) for error in errors}) == 1
    assert words in errors[0].message
    assert errors[0].hint
    assert len(server.bodies) <= 2
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{errors} {errors[0].hint} {run.told}"


def test_without_a_key_the_hint_says_how_to_give_one(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(401))) as server:
        [error] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert error.exit_code == 5
    assert error.message == f"{server.host} wants a key, 401: no"
    assert "LAYERCTL_JUDGE_KEY" in error.hint
    assert server.headers[0]["authorization"] == "Bearer none"


def test_pictures_do_not_follow_a_redirect(tmp_path: Path) -> None:
    with (
        JudgeServer(in_turn(alone(1))) as elsewhere,
        JudgeServer(in_turn(Reply(status=307, headers={"Location": elsewhere.url}))) as server,
    ):
        [error] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert elsewhere.url in error.message
    assert not elsewhere.bodies


def test_a_model_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(404, "model not found")), models=["qwen", "llava\x1b[31m", "pixtral"]) as server:
        [error] = Run(settings_for(server.url, tmp_path)).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert error.message == f"{server.host} has no model 'judge', 404: model not found"
    assert error.hint == "choose with --judge-model one of: qwen, pixtral"


def test_an_address_without_an_endpoint_is_said_to_be_one(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(1))) as server:
        [error] = Run(settings_for(server.url.removesuffix("/v1"), tmp_path)).ask(question())
    assert isinstance(error, JudgeStoppedError)
    assert "nothing that completes chats" in error.message


def test_the_only_model_of_a_server_is_taken(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(1)), models=["qwen"]) as server:
        [answer] = Run(replace(settings_for(server.url, tmp_path), judge_model=None)).ask(question())
    assert points(answer) == [1] * 5
    assert server.bodies[0]["model"] == "qwen"


def test_of_several_models_one_has_to_be_named(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(1)), models=["qwen", "pixtral"]) as server:
        [error] = Run(replace(settings_for(server.url, tmp_path), judge_model=None)).ask(question())
    assert isinstance(error, ConfigError)
    assert error.hint == "choose one with --judge-model: qwen, pixtral"
    assert not server.bodies


def test_what_the_server_does_not_know_of_the_protocol_is_left_out_from_then_on(tmp_path: Path) -> None:
    def reply(body: dict[str, Any], _count: int) -> Reply:
        if "max_tokens" in body:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "response_format" in body:
            return refusal(422 if body["response_format"]["type"] == "json_object" else 400, "extra key: response_format")
        return alone(3)

    with JudgeServer(reply) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=1))
        answers = run.ask(*(question(number) for number in range(3)))
    assert [points(answer) for answer in answers] == [[3] * 5] * 3
    assert len(server.bodies) == 3 + 3
    assert server.bodies[-1]["max_completion_tokens"] == 1500
    assert not run.waits


def test_settings_may_add_to_a_request_but_not_say_what_is_asked(tmp_path: Path) -> None:
    with JudgeServer(in_turn(alone(3))) as server:
        settings = settings_for(server.url, tmp_path)
        Run(replace(settings, judge_extra='{"top_k": 1}')).ask(question())
    assert server.bodies[0]["top_k"] == 1
    for extra in ('{"messages": []}', '{"model": "other"}', "[1]", "{"):
        with pytest.raises(ConfigError, match="judge_extra"):
            Client(replace(settings, judge_extra=extra), print, environment={})


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
    with JudgeServer(lambda _body, count: replace(refusal(500) if count % 4 == 1 else alone(2), delay=0.01)) as server:
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
    assert error.hint == "pip install 'layerctl[train]'"


def _of_number(number: int) -> tuple[float, ...]:
    """Points that tell which question they belong to."""
    return tuple(float(digit) for digit in f"{number:05}")


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_score_is_lost_or_given_to_another_question(count: int, tmp_path: Path) -> None:
    faults = list(PASSING.values())[:9] + [completion(text) for text in USELESS.values() if len(text) < 1000]
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


def test_requests_are_under_way_at_a_time_up_to_the_limit(tmp_path: Path) -> None:
    with JudgeServer(in_turn(replace(alone(1), delay=0.1))) as server:
        start = time.monotonic()
        Run(replace(settings_for(server.url, tmp_path), judge_concurrency=6)).ask(*(question(number) for number in range(24)))
    assert 3 <= server.peak <= 6
    assert time.monotonic() - start >= 0.4
