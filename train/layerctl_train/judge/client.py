"""Asks an OpenAI-compatible endpoint, and survives what servers and networks do.

Every answer is kept in the cache before anybody gets it. What ends a run (no key, no credit, no server, a spent budget) ends all questions
that wait; requests under way may still come back, and their answers are kept.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from layerctl.errors import ConfigError, LayerctlError
from layerctl.verdict import Score, Usage
from layerctl_train.judge import wire
from layerctl_train.judge.budget import Budget, Price, price_of
from layerctl_train.judge.cache import Cache, Kept, default_path, key_of
from layerctl_train.judge.credentials import find_key, host_of, is_exposed
from layerctl_train.judge.endpoint import Endpoint
from layerctl_train.judge.pacing import Clock, Pacer, Sleep, backoff
from layerctl_train.judge.question import NoAnswerError, Question
from layerctl_train.judge.replies import InvalidReplyError, excerpt, names, read_caption, read_scores
from layerctl_train.judge.stops import closed, down, final, no_models, no_such_model, spent, unwanted
from layerctl_train.judge.wire import Completion, Dialect, LostError, Message, RefusedError

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings

LOST_IN_A_ROW = 5
"""So many questions given up one after the other, none answered between: the server is down."""
REFUSED_IN_A_ROW = 20
"""So many requests refused one after the other: it is not about this picture or that, and every further one would be refused too."""
OURS = {"messages", "model", "n", "stream"}
LIMITS = {"max_tokens", "max_completion_tokens"}


@dataclass(frozen=True, slots=True)
class Answer:
    """`scores`: in the order of `names(question)`. `caption`: for that kind of question. `seconds`: waits included."""

    scores: tuple[Score, ...]
    caption: str
    usage: Usage
    seconds: float


@dataclass(slots=True)
class _Asked:
    """A question on its way. `dialect`: in which it was sent last; `correction`: messages about an answer that was of no use."""

    question: Question
    dialect: Dialect = field(default_factory=Dialect)
    correction: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def tokens(self) -> int:
        """About how many are sent."""
        return 1 + self.question.tokens + sum(wire.tokens_in(message["content"]) for message in self.correction)

    def unanswered(self, reason: str) -> NoAnswerError:
        return NoAnswerError(reason, self.usage, 0.0)


class Client:
    """One server, one model, one cache; used within one event loop, from the first question to `close`.

    `model` is "", and `price` unknown, until the server was asked which model it has, unless settings name it. Raises ConfigError,
    OutputError and MissingDependencyError for what can be known before the first question.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        tell: Callable[[str], None],
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.settings, self.tell = settings, tell
        self.host = host_of(settings.judge_url)
        self.model = ""
        self.price: Price | None = None
        self._extra = _checked_extra(settings.judge_extra)
        self._key = None if settings.judge_replay else find_key(settings, environment)
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._pacer = Pacer(settings.judge_requests_per_minute, settings.judge_tokens_per_minute, clock, sleep)
        self._budget = Budget(settings.max_judge_calls, settings.max_judge_cost)
        self._places = asyncio.Semaphore(settings.judge_concurrency)
        self._preparing = asyncio.Lock()
        self._dialect = Dialect()
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._stopped: LayerctlError | None = None
        self._is_closed = False
        self._lost_in_a_row = 0
        self._refused_in_a_row = 0
        self._measuring = asyncio.Lock()
        self._is_measured = settings.max_judge_cost is None
        self._excess = 1.0  # how many times the tokens that we expect the server has counted, at most
        self._longest = settings.judge_max_tokens  # answer, as the server counts
        self._has_told = False
        self._endpoint = Endpoint(settings.judge_url, self._key, settings.judge_timeout)
        path = Path(settings.judge_cache).expanduser() if settings.judge_cache else default_path()
        self._cache = Cache(path, read_only=settings.judge_replay)
        try:
            if settings.judge_model or settings.judge_replay:
                self._take_model(settings.judge_model or self._only("the cache", self._cache.models()))
        except LayerctlError:
            self._cache.close()
            raise

    async def ask(self, question: Question, repeat: int = 0) -> Answer:
        """The answer, from the cache if it is there; `repeat` 1, 2, ... ask the same again. A question asked twice at a time is sent once.

        Raises NoAnswerError for a question without a usable answer, LayerctlError for what stops the run.
        """
        start = self._clock()
        await self.prepare()
        settings = self.settings
        decoding = {
            "temperature": settings.judge_temperature,
            "max_tokens": settings.judge_max_tokens,
            "extra": self._extra,
            "repeat": repeat,
        }
        key = await asyncio.to_thread(key_of, question, self.model, decoding)
        if self._is_closed:
            self._go_on()
        task = self._under_way.get(key)
        is_shared = task is not None
        if task is None:
            if found := self._recall(question, key):
                return replace(found, seconds=self._clock() - start)
            if settings.judge_replay:
                raise NoAnswerError(f"the cache {self._cache.path} does not hold this answer", Usage(), self._clock() - start)
            self._go_on()
            task = asyncio.create_task(self._answer(question, key))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        try:
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                self._go_on()
            raise
        except NoAnswerError as error:
            raise NoAnswerError(error.reason, Usage() if is_shared else error.usage, self._clock() - start) from None
        return replace(answer, usage=Usage(cached=1) if is_shared else answer.usage, seconds=self._clock() - start)

    async def prepare(self) -> None:
        """Find out what the server's model is, if settings do not say. Sends no picture."""
        if self.model:
            return
        async with self._preparing:
            if not self.model:
                self._go_on()
                self._take_model(self._only(self.host, await self._models()))

    async def close(self) -> None:
        """Give up what is under way, and let go of server and cache; what is asked from now on raises JudgeStoppedError."""
        self._is_closed = True
        self._stopped = self._stopped or closed()
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.close()
        self._cache.close()

    async def _answer(self, question: Question, key: str) -> Answer:
        """Sends the question, and once more with what was wrong with the answer."""
        asked = _Asked(question)
        while True:
            completion = await self._deliver(asked)
            if completion.refusal:
                raise asked.unanswered(f"the model refused: {completion.refusal}")
            # Even if there is JSON in it: that may be a draft, in a thought that was cut.
            if completion.is_cut:
                raise asked.unanswered(f"the answer was cut at judge_max_tokens, {self.settings.judge_max_tokens}")
            try:
                answer = _read(question, completion.text)
            except InvalidReplyError as error:
                if asked.correction:
                    raise asked.unanswered(f"the answer is not what was asked for, twice: {error}") from None
                asked.correction = _correction(question, completion.text, str(error))
            else:
                try:
                    self._cache.put(key, self.model, Kept(completion.text, asked.usage.input_tokens, asked.usage.output_tokens))
                except LayerctlError as error:
                    self._stop(error)
                return replace(answer, usage=asked.usage)

    async def _deliver(self, asked: _Asked) -> Completion:
        """Sends until a completion comes back; raises NoAnswerError if none does.

        Keeps its place while it waits to try again, so that a server in trouble is asked less, and one that is down by few.
        """
        tries = 0
        async with self._places:
            while True:
                self._go_on()
                trouble: LostError | RefusedError
                try:
                    completion = await self._send(asked)
                except LostError as lost:
                    trouble = lost
                except RefusedError as refused:
                    after = asked.dialect.after(refused, asked.question)
                    if after is not None:
                        self._dialect = after if self._dialect == asked.dialect else self._dialect
                        continue
                    await self._heed(refused)
                    if not refused.may_pass:
                        self._lost_in_a_row = 0
                        self._refused_in_a_row += 1
                        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
                            self._stop(unwanted(refused, self.host, self._refused_in_a_row))
                        raise asked.unanswered(f"the server refused this request, {refused}") from None
                    trouble = refused
                else:
                    self._lost_in_a_row = self._refused_in_a_row = 0
                    return completion
                tries += 1
                if tries > self.settings.judge_retries:
                    self._give_up(trouble)
                    raise asked.unanswered(f"no answer in {tries} {'try' if tries == 1 else 'tries'}: {trouble}")
                self._go_on()
                await self._sleep(backoff(tries, self._jitter()))

    async def _send(self, asked: _Asked) -> Completion:
        """One request; goes alone while the limit of money depends on how the server counts, and that is not known."""
        if not self._is_measured:
            async with self._measuring:
                if not self._is_measured:
                    return await self._send_now(asked)
        return await self._send_now(asked)

    async def _send_now(self, asked: _Asked) -> Completion:
        """One request, within all limits; counted whatever becomes of it, and as what it may have taken if nobody knows."""
        expected = math.ceil(asked.tokens * self._excess)
        started = await self._pacer.start(expected + self._longest)
        taken = (expected, self._longest)
        reserved = self.price.of(*taken) if self.price else 0.0
        await self._reserve(reserved)
        self._tell_where()
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        is_known = False
        try:
            asked.dialect = self._dialect
            settings = self.settings
            body = wire.decoding(asked.question, asked.dialect, settings.judge_temperature, settings.judge_max_tokens, self._extra)
            messages = await asyncio.to_thread(wire.messages, asked.question)
            completion = await self._endpoint.complete(self.model, messages + asked.correction, body)
            sent = asked.tokens if completion.input_tokens is None else completion.input_tokens
            said = wire.tokens_in(completion.text) if completion.output_tokens is None else completion.output_tokens
            taken, is_known, self._is_measured = (sent, said), True, True
            self._excess = max(self._excess, sent / asked.tokens)
            self._longest = max(self._longest, said)
            return completion
        except RefusedError:
            taken, is_known = (0, 0), True
            raise
        finally:
            self._in_flight.discard(task)
            started.tokens = sum(taken)
            cost = self.price.of(*taken) if self.price else None
            self._budget.settle(reserved, cost if is_known else None)
            asked.usage += Usage(1, 0, *taken, cost)

    async def _reserve(self, cost: float) -> None:
        """Counts a request that may take so much, or stops the run once nothing is in flight that might turn out cheaper."""
        while not self._budget.reserve(cost):
            if not self._in_flight:
                self._stop(spent(self._budget.what_is_spent(cost)))
            await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)

    async def _models(self) -> list[str]:
        """The server's models, asked for with the usual patience."""
        tries = 0
        while True:
            try:
                return await self._endpoint.models()
            except (LostError, RefusedError) as trouble:
                if isinstance(trouble, RefusedError) and (error := final(trouble, self.host, self.settings, has_key=self._key is not None)):
                    self._stop(error)
                tries += 1
                if tries > self.settings.judge_retries or (isinstance(trouble, RefusedError) and not trouble.may_pass):
                    self._stop(no_models(trouble, self.host))
            await self._sleep(backoff(tries, self._jitter()))

    async def _heed(self, refused: RefusedError) -> None:
        """Stops the run for a complaint that every request would meet; makes all wait where the server asks for it."""
        if error := final(refused, self.host, self.settings, has_key=self._key is not None):
            self._stop(error)
        if refused.status in (404, 405):
            try:
                models = await self._endpoint.models()
            except (LostError, RefusedError):
                models = []
            self._stop(no_such_model(refused, self.host, self.settings.judge_url, self.model, models))
        if refused.wait is not None and refused.may_pass:
            self._pacer.hold(refused.wait)

    def _give_up(self, trouble: LostError | RefusedError) -> None:
        """Stops the run when too many questions in a row were lost."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= LOST_IN_A_ROW:
            self._stop(down(trouble, self.host, self._lost_in_a_row))

    def _stop(self, error: LayerctlError) -> Never:
        """Ends the run: all that waits fails with the first such error."""
        self._stopped = self._stopped or error
        for task in self._under_way.values():
            if task not in self._in_flight and task is not asyncio.current_task():
                task.cancel()
        self._go_on()
        raise self._stopped

    def _go_on(self) -> None:
        if self._stopped is not None:
            raise self._stopped.with_traceback(None) from None

    def _landed(self, key: str, task: asyncio.Task[Answer]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # looked at, for whoever asked may have gone

    def _recall(self, question: Question, key: str) -> Answer | None:
        kept = self._cache.get(key)
        if kept is None:
            return None
        try:
            return _read(question, kept.text)
        except InvalidReplyError:
            return None

    def _take_model(self, model: str) -> None:
        self.price = price_of(model, self.settings.judge_prices)
        if self.settings.max_judge_cost is not None and self.price is None and not self.settings.judge_replay:
            message = f"max_judge_cost needs the price of the model {model!r}"
            raise ConfigError(message, hint=f'add US dollars for a million tokens in, out to judge_prices: "{model}=0.10,0.40"')
        self.model = model

    def _only(self, where: str, models: list[str]) -> str:
        if len(models) == 1:
            return models[0]
        hint = f"choose one with --judge-model: {wire.listed(models)}" if models else "name one with --judge-model"
        raise ConfigError(f"which model is to judge? There are {len(models)} in {where}", hint=hint)

    def _tell_where(self) -> None:
        if self._has_told:
            return
        self._has_told = True
        self.tell(f"pictures go to {self.host}, to the model {excerpt(self.model)}")
        if is_exposed(self.settings.judge_url):
            self.tell(f"{self.settings.judge_url} is not https: pictures and the key travel unencrypted")


def _read(question: Question, text: str) -> Answer:
    """Raises InvalidReplyError."""
    if question.kind == "caption":
        return Answer((), read_caption(text), Usage(cached=1), 0.0)
    return Answer(read_scores(text, names(question)), "", Usage(cached=1), 0.0)


def _correction(question: Question, text: str, problem: str) -> list[Message]:
    """The answer as it was given, its beginning at least, and what was wrong with it."""
    said = text[:4000] or "(nothing)"
    wanted = "sentence alone" if question.kind == "caption" else "JSON object alone, complete, as it was described"
    asked = f"That is not what was asked for: {problem}. Answer again with the {wanted}."
    return [{"role": "assistant", "content": said}, {"role": "user", "content": asked}]


def _checked_extra(text: str) -> dict[str, Any]:
    """What settings add to every request's body."""
    hint = 'write a JSON object, such as {"chat_template_kwargs": {"enable_thinking": false}}'
    try:
        extra = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"judge_extra is no JSON: {error}", hint=hint) from None
    if not isinstance(extra, dict):
        raise ConfigError(f"judge_extra is no JSON object: {excerpt(text)}", hint=hint)
    if taken := sorted(extra.keys() & LIMITS):
        raise ConfigError(f"judge_extra may not set {', '.join(taken)}", hint="the longest answer is a setting: judge_max_tokens")
    if taken := sorted(extra.keys() & OURS):
        raise ConfigError(f"judge_extra may not set {', '.join(taken)}", hint="the rest of a request's body is free")
    return extra
