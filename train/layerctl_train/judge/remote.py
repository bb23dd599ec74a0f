"""The judge `openai`: a vision-language model behind any OpenAI-compatible endpoint, asked in two phases."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import cache
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from layerctl.errors import JudgeStoppedError, MissingDependencyError
from layerctl.layers import Layer, LayerStack
from layerctl.source import SourceImage
from layerctl.verdict import GroupVerdict, Usage
from layerctl_train.judge.phases import Alone, Together, examine, grid_calls
from layerctl_train.judge.pictures import most_rows
from layerctl_train.judge.question import NoAnswerError, Question

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings
    from layerctl_train.judge.client import Answer, Client

_FORECAST_SIDE = 640


def openai_judge(settings: JudgeSettings, tell: Callable[[str], None]) -> RemoteJudge:
    """Raises MissingDependencyError without the extra, ConfigError for an address or a key that cannot be right."""
    try:
        from layerctl_train.judge.client import Client
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the judge openai needs the package {error.name}, which is not installed", hint="pip install 'layerctl[judge]'"
        ) from error
    return RemoteJudge(settings, Client(settings, tell))


class RemoteJudge:
    """One client in an event loop of its own, which runs in a thread; any thread may ask, or close it, which ends what is asked."""

    name = "openai"

    def __init__(self, settings: JudgeSettings, client: Client) -> None:
        self.settings, self.client = settings, client
        self._loop = asyncio.new_event_loop()
        self._is_closed = False
        self._opening = Lock()
        self._groups: set[asyncio.Task[Any]] = set()
        self._thread = Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        return self.client.model

    @property
    def host(self) -> str:
        return "" if self.settings.judge_replay else self.client.host

    def score_group(self, source: SourceImage, stacks: Sequence[LayerStack], told: str = "") -> GroupVerdict:
        """Raises JudgeStoppedError, among others, if the judge is closed before the verdict is there."""
        running = self._start(self._score(source, stacks, told))
        try:
            return running.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        except BaseException:
            running.cancel()
            raise

    def forecast(self, group: int, layers: int, aspect: float = 1.0) -> Usage:
        """For pictures of 640 pixels on the longer side, with answers as long as they may be."""
        questions = _blank_questions(group, layers, round(aspect, 2), self.settings)
        tokens = sum(count * question.tokens for question, count in questions)
        calls = sum(count for _, count in questions)
        answers = calls * self.settings.judge_max_tokens
        return Usage(calls, 0, tokens, answers, self.client.price.of(tokens, answers) if self.client.price else None)

    def close(self) -> None:
        with self._opening:
            if self._is_closed:
                return
            self._is_closed = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        try:
            ending.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        # Their own tasks end with them, in an order that is theirs.
        groups = list(self._groups)
        for group in groups:
            group.cancel()
        await asyncio.gather(*groups, return_exceptions=True)
        await self.client.close()
        await self._loop.shutdown_default_executor()

    async def _score(self, source: SourceImage, stacks: Sequence[LayerStack], told: str) -> GroupVerdict:
        from layerctl_train.judge import prompts

        group = asyncio.current_task()
        assert group is not None
        self._groups.add(group)
        group.add_done_callback(self._groups.discard)
        await self.client.prepare()
        examiner = _Examiner(self.client, self.settings)
        if self.settings.judge_condition == "caption":
            told = await examiner.caption(source)
        verdict = await examine(
            examiner,
            source,
            stacks,
            told,
            self.settings,
            most_rows(stacks, self.settings),
            judge=self.name,
            model=self.client.model,
            prompt_version=prompts.PROMPT_VERSION,
        )
        return replace(verdict, usage=verdict.usage + examiner.caption_usage)

    def _start(self, work: Coroutine[Any, Any, GroupVerdict]) -> concurrent.futures.Future[GroupVerdict]:
        """What is started before the judge is closed is ended by that, and nothing is started afterwards."""
        with self._opening:
            if self._is_closed:
                work.close()
                raise _closed()
            return asyncio.run_coroutine_threadsafe(work, self._loop)


def _closed() -> JudgeStoppedError:
    # Imported here, as the client is: all of that needs the extra.
    from layerctl_train.judge.stops import closed

    return closed()


class _Examiner:
    """One group's questions; pictures are drawn beside the event loop."""

    def __init__(self, client: Client, settings: JudgeSettings) -> None:
        self.client, self.settings = client, settings
        self.caption_usage = Usage()
        self.no_caption = ""

    async def caption(self, source: SourceImage) -> str:
        """What is to be seen in the picture; without an answer no other question is asked, because it would be another question."""
        from layerctl_train.judge.prompts import about_picture

        try:
            answer = await self._ask(about_picture, source, self.settings)
        except NoAnswerError as error:
            self.no_caption, self.caption_usage = f"no caption: {error.reason}", error.usage
            return ""
        self.caption_usage = answer.usage
        return answer.caption

    async def alone(self, source: SourceImage, stack: LayerStack, told: str) -> Alone:
        from layerctl_train.judge.prompts import about_sample

        answer = await self._ask(about_sample, source, stack, told, self.settings)
        return Alone(answer.scores, answer.usage, answer.seconds)

    async def together(self, source: SourceImage, stacks: Sequence[LayerStack], anchors: Sequence[float] | None, told: str) -> Together:
        from layerctl_train.judge.prompts import about_group

        answer = await self._ask(about_group, source, stacks, anchors, told, self.settings)
        return Together(tuple(score.points for score in answer.scores), answer.usage, answer.seconds)

    async def _ask(self, about: Callable[..., Question], *shown: Any) -> Answer:
        if self.no_caption:
            raise NoAnswerError(self.no_caption, Usage(), 0.0)
        question = await asyncio.to_thread(about, *shown)
        return await self.client.ask(question, self.settings.judge_repeat)


@cache
def _blank_questions(group: int, layers: int, aspect: float, settings: JudgeSettings) -> tuple[tuple[Question, int], ...]:
    """One question of each kind about layers that show nothing, and how many of it a group takes."""
    from layerctl_train.judge.prompts import about_group, about_picture, about_sample

    width, height = round(_FORECAST_SIDE * min(1, aspect)), round(_FORECAST_SIDE / max(1, aspect))
    source = SourceImage(np.zeros((max(1, height), max(1, width), 4), np.uint8))
    blank = LayerStack(source.width, source.height, (Layer("blank", source.pixels),) * layers)
    rows = most_rows([blank] * group, settings)
    questions = [(about_sample(source, blank, "", settings), group)]
    if grids := grid_calls(group, rows, settings.judge_orders):
        questions.append((about_group(source, [blank] * min(group, rows), [5.0] * min(group, rows), "", settings), grids))
    if settings.judge_condition == "caption":
        questions.append((about_picture(source, settings), 1))
    return tuple(questions)
