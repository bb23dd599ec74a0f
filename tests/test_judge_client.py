"""The judge's client against a server that fails in every way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layerctl_train.judge.client import Client
from layerctl_train.judge.question import NoAnswerError

from layerctl.errors import ConfigError, JudgeStoppedError, LayerctlError, MissingDependencyError
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
    pictures_of,
    refusal,
    scores,
    together,
    words_of,
)

KEY = "sk-secret-0123456789"


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


def test_a_caption_that_is_cut_or_a_thought_is_none(tmp_path: Path) -> None:
    thought = completion("<think>The user wants a caption, so")
    with JudgeServer(in_turn(completion("A poster with a", finish="length"), thought, completion("A poster."))) as server:
        run = Run(replace(settings_for(server.url, tmp_path), judge_concurrency=1))
        [error, answer] = run.ask(question(0, "caption"), question(1, "caption"))
    assert isinstance(error, NoAnswerError)
    assert "cut at judge_max_tokens" in error.reason
    assert answer.caption == "A poster."
    assert "Answer again with the sentence alone." in words_of(server.bodies[-1])


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
    "a thought that is cut": (
        completion(f"First idea: {scores(GOOD)} hmm", finish="length"),
        "the answer was cut at judge_max_tokens, 1500",
    ),
    "a picture that is not allowed": (
        refusal(403, "your input was flagged", "moderation"),
        "the server refused this request, 403: your input was flagged",
    ),
    "a complaint as a success": (Reply(b'{"error": {"message": "no such thing"}}'), "the server refused this request, 200: no such thing"),
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


def test_a_wait_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    with JudgeServer(in_turn(refusal(429, Retry_After="Mon, 01 Jan 99999999999 00:00:00 GMT"), alone(1))) as server:
        run = Run(settings_for(server.url, tmp_path))
        [answer] = run.ask(question())
    assert points(answer) == [1] * 5
    assert run.waits == [0.5]


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
    "no quota, as a success": (
        Reply(b'{"error": {"message": "You exceeded", "code": "insufficient_quota"}}'),
        JudgeStoppedError,
        "is out of credit, 200: You exceeded",
    ),
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
    for limit in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(ConfigError, match=f"judge_extra may not set {limit}") as caught:
            Client(replace(settings, judge_extra=f'{{"{limit}": 9}}'), print, environment={})
        assert "judge_max_tokens" in str(caught.value.hint)


def test_a_client_that_was_closed_says_so(tmp_path: Path) -> None:
    async def asking() -> Sequence[object]:
        client = Client(settings_for(server.url, tmp_path), print, environment={})
        asked = asyncio.create_task(client.ask(question()))
        while not server.bodies:
            await asyncio.sleep(0.01)
        await client.close()
        await client.close()
        return await asyncio.gather(asked, client.ask(question()), return_exceptions=True)

    with JudgeServer(in_turn(replace(alone(1), delay=0.3))) as server:
        errors = asyncio.run(asyncio.wait_for(asking(), 10))
    assert [str(error) for error in errors] == ["the judge was closed"] * 2
    assert {type(error) for error in errors} == {JudgeStoppedError}
