"""What is made of answers and of a server's complaints, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from layerctl_train.judge import wire
from layerctl_train.judge.question import Kind, Picture, Question, schema
from layerctl_train.judge.replies import EVIDENCE, InvalidReplyError, names, read_caption, read_scores

from layerctl.verdict import CRITERIA, Score

GOOD = '{"A": {"evidence": "clean edges", "points": 7}, "B": {"evidence": "torn", "points": 2.5}}'
SCORES = (Score(7, "clean edges"), Score(2.5, "torn"))
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def asked(kind: Kind, *parts: str | Picture) -> Question:
    return Question(kind, "You judge.", parts, "v1", ("A", "B"))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here you are:\n```\n{GOOD}\n```\nAnything else?",
        f"My answer is {GOOD}.",
        f"<think>Is {{this}} a 10? {GOOD.replace('7', '1')}</think>\n{GOOD}",
        f"thoughts without a beginning {{ </think>{GOOD}",
        f"thoughts with a draft {GOOD.replace('7', '1')}</think>{GOOD}",
        f"<think>It ends with '</think>' {GOOD.replace('7', '1')}</think>{GOOD}",
        f'{GOOD[:-1]}, "note": [1, {{}}], "C": {{"points": 10}}}}',
        GOOD.replace('"points": 7', '"points": 7, "confidence": "high"'),
    ],
)
def test_scores_are_found_in_what_models_put_around_them(text: str) -> None:
    assert read_scores(text, ("A", "B")) == SCORES


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Sorry, I can't.", 'no JSON object in the answer: "Sorry, I can\'t."'),
        (" \n", "the answer is empty"),
        (GOOD[:-1], "cannot be read"),
        (GOOD + GOOD, "cannot be read"),
        (GOOD.replace('"B"', '"b"'), "B: Field required"),
        (GOOD.replace('"B"', '"A"'), "'A' is there twice"),
        (GOOD.replace("2.5", "10.01"), "B.points: Input should be less than or equal to 10"),
        (GOOD.replace("2.5", '"2.5"'), "B.points: Input should be a valid number"),
        (GOOD.replace("2.5", "1" + "0" * 4000), "B.points"),
        (GOOD.replace("2.5", "1" + "0" * 5000), "cannot be read"),
        (GOOD.replace('"torn"', "1"), "B.evidence: Input should be a valid string"),
        (GOOD.replace("2.5", "-Infinity"), "-Infinity is no number"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_in_one_short_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidReplyError) as caught:
        read_scores(text, ("A", "B"))
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("before", ["", "```json\n", "<think>hm {</think>", "hm {</think>"])
def test_evidence_may_quote_the_end_of_a_thought(before: str) -> None:
    text = before + GOOD.replace("torn", 'a sign says </think> {\\"A\\": 10}')
    assert read_scores(text, ("A", "B")) == (SCORES[0], Score(2.5, 'a sign says </think> {"A": 10}'))


@pytest.mark.parametrize("text", [f"<think>First idea: {GOOD} hmm", f"\n<think>{GOOD}", f"Draft: {GOOD}</think>I cannot judge that."])
def test_a_draft_inside_of_a_thought_is_no_answer(text: str) -> None:
    with pytest.raises(InvalidReplyError):
        read_scores(text, ("A", "B"))


def test_evidence_is_one_bounded_line_that_moves_no_cursor() -> None:
    text = json.dumps({"A": {"evidence": "\x1b[2J\u202eone\n" + "two " * 9999, "points": 1}})
    [score] = read_scores(text, ("A",))
    assert score.evidence.startswith("\\x1b[2J\\u202eone two two")
    assert len(score.evidence) == EVIDENCE
    assert score.evidence.isprintable()


def test_a_caption_has_words_and_a_largest_length() -> None:
    assert read_caption("<think>hm</think> A red\ncar. ") == "A red car."
    assert len(read_caption("word " * 10_000)) == 1000
    with pytest.raises(InvalidReplyError, match="empty"):
        read_caption("<think>hm</think> ")
    with pytest.raises(InvalidReplyError, match="inside of <think>"):
        read_caption("<think>the user wants a caption, so")


def test_a_schema_asks_for_each_name_with_evidence_before_points_and_nothing_else() -> None:
    found = schema(names(asked("alone")))
    assert tuple(found["properties"]) == tuple(found["required"]) == CRITERIA
    for opinion in (found, *found["properties"].values()):
        assert opinion["additionalProperties"] is False
    assert found["properties"]["alpha"]["required"] == ["evidence", "points"]
    assert found["properties"]["alpha"]["properties"]["points"] == {"type": "number", "minimum": 0, "maximum": 10}
    assert "$" not in json.dumps(found)


def test_a_questions_size_is_known_before_it_is_sent() -> None:
    question = asked("alone", "x" * 400, Picture(np.zeros((57, 28, 3), np.uint8)))
    body = {"model": "judge", "messages": wire.messages(question)}
    assert 0 <= len(json.dumps(body)) - question.bytes < 300
    assert question.tokens == 100 + 3 + 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("1e300", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
    ],
)
def test_a_wait_is_asked_for_in_seconds_or_as_a_date(text: str, seconds: float | None) -> None:
    refused = wire.read_refusal(429, {"retry-after": text}, b"", None, NOW)
    assert refused.wait == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too many images", "code": 400}}', "400: too many images"),
        (b'[{"error": {"message": "too many images"}}]', "400: too many images"),
        (b'{"object": "error", "message": "too many images"}', "400: too many images"),
        (b'{"detail": "too many images"}', "400: too many images"),
        (b'{"detail": [{"loc": ["body"]}]}', '400: [{"loc": ["body"]}]'),
        (b'{"error": "too many images"}', "400: too many images"),
        (b"too many images", "400: too many images"),
        (b"<!DOCTYPE html><p>no", "400: a page for browsers"),
        (b"", "status 400"),
        (b"\xff\x1b[31m", "400: \ufffd\\x1b[31m"),
        (b"[" * 100_000, "400: " + "[" * 119 + "…"),
    ],
)
def test_complaints_are_understood_in_the_forms_that_servers_use(body: bytes, message: str) -> None:
    assert str(wire.read_refusal(400, {}, body, None, NOW)) == message


def test_a_key_is_taken_out_of_what_is_shown_or_kept_however_it_is_written() -> None:
    key, escaped = "sk-0123456789", "\\u0073k-0123456789"
    body = json.dumps({"choices": [{"message": {"content": f"it is {key}", "refusal": f"no {key}"}}]}).replace(key, escaped)
    completion = wire.read_completion(body.encode(), key)
    assert (completion.text, completion.refusal) == ("it is [key]", "no [key]")
    assert str(wire.read_refusal(400, {}, f'{{"detail": ["{escaped}"]}}'.encode(), key, NOW)) == '400: ["[key]"]'
    assert wire.read_models(f'{{"data": [{{"id": "{escaped}"}}]}}'.encode(), key) == ["[key]"]


@pytest.mark.parametrize("key", ["x", "1", "id", "none", "message", "["])
def test_a_dummy_in_the_place_of_a_key_takes_nothing_out(key: str) -> None:
    body = json.dumps({"id": "1", "choices": [{"message": {"content": GOOD}}], "usage": {"prompt_tokens": 11}}).encode()
    assert wire.read_completion(body, key) == wire.Completion(GOOD, "", False, 11, None)
    assert wire.read_models(b'{"data": [{"id": "idx1"}]}', key) == ["idx1"]
    assert str(wire.read_refusal(400, {}, b'{"error": {"message": "id 1 is no index"}}', key, NOW)) == "400: id 1 is no index"


def test_an_answer_in_parts_is_put_together() -> None:
    parts = [{"type": "thinking", "thinking": [{}]}, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": GOOD[:9]}]
    message = {"content": [*parts, {"type": "text", "text": GOOD[9:]}]}
    assert wire.read_completion(json.dumps({"choices": [{"message": message}]}).encode(), None).text == GOOD


@pytest.mark.parametrize(
    ("error", "message", "may_pass", "is_about_money"),
    [
        ({"message": "slow down", "code": 429}, "429: slow down", True, False),
        ({"message": "slow down", "code": "503"}, "503: slow down", True, False),
        ({"message": "slow down", "type": "rate_limit_error"}, "200: slow down", True, False),
        ({"message": "pay", "code": "insufficient_quota"}, "200: pay", False, True),
        ({"message": "pay", "code": 402}, "402: pay", False, True),
        ({"message": "no such thing", "code": 7}, "200: no such thing", False, False),
        ("no such thing", "200: no such thing", False, False),
    ],
)
def test_a_complaint_that_comes_as_a_success_is_one(error: object, message: str, may_pass: bool, is_about_money: bool) -> None:
    with pytest.raises(wire.RefusedError) as caught:
        wire.read_completion(json.dumps({"choices": [], "error": error}).encode(), None)
    assert (str(caught.value), caught.value.may_pass, caught.value.is_about_money) == (message, may_pass, is_about_money)


def test_tokens_that_make_no_sense_are_not_believed() -> None:
    def completion(usage: object) -> wire.Completion:
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        return wire.read_completion(json.dumps({"choices": [choice], "usage": usage}).encode(), None)

    assert completion({"prompt_tokens": 3, "completion_tokens": 4}).output_tokens == 4
    nonsense: list[object] = [None, [], {"prompt_tokens": -1}, {"prompt_tokens": 10**30}, {"prompt_tokens": "3"}]
    assert [completion(usage).input_tokens for usage in nonsense] == [None] * 5
