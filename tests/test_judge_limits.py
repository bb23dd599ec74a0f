"""How fast a judge is asked, what that may cost, and where its pictures and key go."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from layerctl_train.judge.budget import Budget, Price, price_of
from layerctl_train.judge.credentials import find_key, host_of, is_exposed, scrub
from layerctl_train.judge.pacing import LONGEST_WAIT, Pacer, backoff
from layerctl_train.judge.stops import final
from layerctl_train.judge.wire import RefusedError

from layerctl.errors import ConfigError, MissingDependencyError
from layerctl.judge_settings import JudgeSettings


@dataclass
class Clock:
    """Time that passes only while somebody sleeps."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def starts(pacer: Pacer, clock: Clock, tokens: list[int]) -> list[float]:
    """When each request started, in seconds from the first question."""

    async def starting() -> list[float]:
        return [started.when - 1000.0 for started in await asyncio.gather(*(pacer.start(count) for count in tokens))]

    return asyncio.run(starting())


def test_no_minute_holds_more_requests_than_the_limit() -> None:
    clock = Clock()
    when = starts(Pacer(requests=3, clock=clock, sleep=clock.sleep), clock, [1] * 8)
    assert when == pytest.approx([0, 0, 0, 60, 60, 60, 120, 120])


def test_no_minute_holds_more_tokens_than_the_limit_but_a_large_request_starts_alone() -> None:
    clock = Clock()
    when = starts(Pacer(tokens=100, clock=clock, sleep=clock.sleep), clock, [60, 40, 10, 500, 1])
    assert when == pytest.approx([0, 0, 60, 120, 180])


def test_tokens_that_were_not_taken_are_given_back() -> None:
    clock = Clock()
    pacer = Pacer(tokens=100, clock=clock, sleep=clock.sleep)

    async def starting() -> float:
        first = await pacer.start(90)
        first.tokens = 20
        return (await pacer.start(80)).when

    assert asyncio.run(starting()) == 1000.0


def test_without_limits_nothing_waits_unless_the_server_asks_for_it() -> None:
    clock = Clock()
    pacer = Pacer(clock=clock, sleep=clock.sleep)
    assert starts(pacer, clock, [10**6] * 50) == [0] * 50
    pacer.hold(20)
    pacer.hold(5)
    assert starts(pacer, clock, [1, 1]) == [20, 20]


def test_waits_double_up_to_a_longest_one_and_are_spread_by_chance() -> None:
    assert [backoff(tries, 1.0) for tries in (1, 2, 3, 4, 5, 6, 7, 1000)] == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]
    assert backoff(3, 0.25) == 1
    assert backoff(9, 0.0) == 0


def test_a_price_is_found_by_the_models_name() -> None:
    prices = ["a=1,2", "org/b=c=0.1,0.4"]
    assert price_of("org/b=c", prices) == Price(0.1, 0.4)
    assert price_of("c", prices) is None
    assert Price(0.1, 0.4).of(1_000_000, 500_000) == pytest.approx(0.3)


@pytest.mark.parametrize("entry", ["a", "a=1", "a=1,2,3", "a=x,1", "a=-1,1", "a=nan,1", "a=1,inf", "=1,2"])
def test_what_is_no_price_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="is no price"):
        price_of("a", [entry])


def test_what_is_reserved_counts_until_it_is_settled() -> None:
    budget = Budget(max_cost=1.0)
    assert budget.reserve(0.6)
    assert not budget.reserve(0.6)
    budget.settle(0.6, 0.1)
    assert budget.reserve(0.6)
    assert budget.calls == 2
    assert "max_judge_cost, $1" in budget.what_is_spent(0.6)


def test_what_a_lost_request_may_have_taken_is_spent_and_said_to_be_a_bound() -> None:
    budget = Budget(max_cost=1.0)
    assert budget.reserve(0.6)
    budget.settle(0.6, None)
    assert budget.cost == 0.6
    assert budget.what_is_spent(0.6).startswith("up to $0.6000 is spent, lost requests included")


def test_calls_are_counted_up_to_the_limit_and_not_beyond() -> None:
    budget = Budget(max_calls=2)
    assert [budget.reserve(0.0) for _ in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("url", "host", "exposed"),
    [
        ("http://localhost:8000/v1", "localhost:8000", False),
        ("http://127.0.0.9/v1", "127.0.0.9:80", False),
        ("http://[::1]:9/v1", "[::1]:9", False),
        ("https://api.example.com/v1", "api.example.com:443", False),
        ("http://10.0.0.7:8000/v1", "10.0.0.7:8000", True),
        ("http://localhost.example.com/v1", "localhost.example.com:80", True),
    ],
)
def test_the_host_that_pictures_go_to_is_named_with_its_port(url: str, host: str, exposed: bool) -> None:
    assert host_of(url) == host
    assert is_exposed(url) is exposed


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "file:///etc/passwd",
        "ftp://host/v1",
        "http:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://host/v1?key=1",
        "http://ho st/v1",
        "http://host/v1\n",
        "http://user:sesame@host/v1",
        "http://sesame@host/v1",
    ],
)
def test_an_address_that_is_not_plainly_http_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="judge_url") as caught:
        host_of(url)
    assert "sesame" not in caught.value.message
    assert caught.value.hint


def test_a_key_comes_from_the_variable_that_settings_name_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbf from-file \r\nsecond line")
    environment = {"LAYERCTL_JUDGE_KEY": "standard", "OTHER": " other\n"}
    settings = JudgeSettings()
    assert find_key(settings, environment) == "standard"
    assert find_key(settings, {}) is None
    assert find_key(replace(settings, judge_key_env="OTHER"), environment) == "other"
    assert find_key(replace(settings, judge_key_file=str(file)), environment) == "from-file"


@pytest.mark.parametrize("content", [None, b"", b"\nkey on the second line", b"two words", b"\x00secret", "schlüssel".encode()])
def test_a_file_without_a_key_is_named_and_what_it_holds_is_not(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MissingDependencyError) as caught:
        find_key(JudgeSettings(judge_key_file=str(file)), {})
    assert str(file) in caught.value.message
    said = f"{caught.value.message} {caught.value.hint}".replace(str(file), "")
    assert not [word for word in ("second", "words", "secret", "schl") if word in said]


def test_a_variable_that_was_named_has_to_hold_a_key() -> None:
    with pytest.raises(MissingDependencyError, match="the variable OTHER holds no key") as caught:
        find_key(JudgeSettings(judge_key_env="OTHER"), {})
    assert "set the variable OTHER" in str(caught.value.hint)
    assert "first line" not in str(caught.value.hint)


@pytest.mark.parametrize("key", ["AIzaSyA0123456789abcdef", "AKIAIOSFODNN7EXAMPLE", "abcdef0123456789", "sk_live_0123456789"])
def test_a_key_in_the_place_of_a_variables_name_is_not_shown(key: str) -> None:
    settings = JudgeSettings(judge_key_env=key)
    with pytest.raises(MissingDependencyError, match="the variable that judge_key_env names") as caught:
        find_key(settings, {})
    complaint = final(RefusedError(401, "no"), "host:1", settings, has_key=False)
    assert complaint
    assert key not in f"{caught.value} {caught.value.hint} {complaint} {complaint.hint}"


@pytest.mark.parametrize("key", ["sk-SECRET", "AIzaSyA0123456789abcdef", f"eyJ0.{'x' * 60}.y", "k" * 300])
def test_a_key_in_the_place_of_a_files_name_is_not_shown(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependencyError, match="cannot be read from the file that judge_key_file names") as caught:
        find_key(JudgeSettings(judge_key_file=key), {})
    assert key not in "".join(traceback.format_exception(caught.value))
    assert key not in str(caught.value.hint)


@pytest.mark.parametrize("name", ["keyfile", "judge-key.txt", "secrets/judge-key"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependencyError, match=f"cannot be read from {name}: No such file"):
        find_key(JudgeSettings(judge_key_file=name), {})


def test_a_key_is_taken_out_of_what_others_say() -> None:
    assert scrub("bad key sk-12345", "sk-12345") == "bad key [key]"
    assert scrub("bad key", None) == scrub("bad key", "key") == "bad key"
