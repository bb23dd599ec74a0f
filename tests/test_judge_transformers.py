"""The judge `openai` against a real server, `transformers serve`: requests are well formed; a model that cannot answer scores nothing."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from layerctl_train.judge.prompts import about_group, about_sample, shown_prompt
from layerctl_train.judge.question import Question

from layerctl import registry
from layerctl.judge_settings import JudgeSettings
from layerctl.testing.stacks import scene
from layerctl.verdict import GroupVerdict

SOURCE, STACK = scene(3, elements=2)
STACKS = (STACK, scene(4, elements=2)[1], scene(5, elements=2)[1])
SECONDS_TO_START = 180


class Server:
    """A process that serves one model; `tokens` counts as the model's tokenizer does."""

    def __init__(self, home: Path) -> None:
        from tests.tiny_judge import write_tiny_judge

        # Where a download would have put it: the server lists no other models.
        repository = home / "hub" / "models--tiny--judge"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40, encoding="ascii")
        self._tokenizer = write_tiny_judge(repository / "snapshots" / ("0" * 40), shown_prompt())
        self._log = home / "log.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "transformers.cli.transformers", "serve", "tiny/judge",
                    "--device", "cpu", "--host", "127.0.0.1", "--port", "0",
                ],
                cwd=home,
                env={
                    **os.environ, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1",
                    "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + SECONDS_TO_START
        while "running on http" not in self.log:
            alive = self._process.poll() is None and time.monotonic() < end
            assert alive, f"the server did not start; the last that it wrote:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def host(self) -> str:
        return re.findall(r"running on http://(127\.0\.0\.1:\d+)", self.log)[0]

    def tokens(self, question: Question) -> int:
        from tests.tiny_judge import TOKENS_OF_A_PICTURE

        content = "".join(part if isinstance(part, str) else "<image>" * TOKENS_OF_A_PICTURE for part in question.parts)
        return len(self._tokenizer.encode(f"<message>{question.system}<message>{content}<message>"))

    def statuses(self) -> list[str]:
        """Of the requests for a completion, so far."""
        return re.findall(r'"POST /v1/chat/completions HTTP/1.1" (\d+)', self.log)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture
def settings(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return JudgeSettings(judge_url=f"http://{server.host}/v1", judge_cache=str(tmp_path / "judge.sqlite"), judge_retries=0)


def judged(settings: JudgeSettings, tell: Callable[[str], None] = lambda _: None) -> GroupVerdict:
    judge = registry.load("judges", "openai")(settings, tell)
    try:
        verdict: GroupVerdict = judge.score_group(SOURCE, STACKS)
    finally:
        judge.close()
    return verdict


def test_every_word_and_picture_of_every_request_reaches_the_model(server: Server, settings: JudgeSettings) -> None:
    before = len(server.statuses())
    # Answers that are cut are not asked for again: each question is one request.
    settings = replace(settings, judge_max_tokens=4)
    verdict = judged(settings)
    assert server.statuses()[before:] == ["200"] * (len(STACKS) + settings.judge_orders)
    assert {sample.reason for sample in verdict.samples} == {"the answer was cut at judge_max_tokens, 4"}
    alone = [server.tokens(about_sample(SOURCE, stack, "", settings)) for stack in STACKS]
    # The second order is not told the scores of phase 1.
    told: list[list[float] | None] = [[math.nan] * len(STACKS), None]
    together = [
        server.tokens(about_group(SOURCE, [STACKS[row] for row in grid], anchors, "", settings))
        for grid, anchors in zip(verdict.grids, told, strict=True)
    ]
    assert [sample.usage.input_tokens for sample in verdict.samples] == alone
    assert verdict.usage.input_tokens == sum(alone) + sum(together)


def test_gibberish_is_asked_about_once_more_and_ends_as_no_score_with_a_reason(server: Server, settings: JudgeSettings) -> None:
    before = len(server.statuses())
    verdict = judged(replace(settings, judge_max_tokens=64))
    calls = 2 * (len(STACKS) + settings.judge_orders)
    assert server.statuses()[before:] == ["200"] * calls
    assert verdict.usage.calls == calls
    for sample in verdict.samples:
        assert sample.usage.calls == 2
        assert sample.reason.startswith("the answer is not what was asked for, twice: ")
        assert math.isnan(sample.reward)
        assert all(math.isnan(score.points) and score.evidence == sample.reason for score in sample.criteria)
    assert all(math.isnan(point) for order in verdict.orders_KG for point in order)
    assert not verdict.teaches
    assert verdict.no_signal == "0 of 3 candidates have a score, at least 3 are needed"


def test_the_answer_changes_with_the_pictures(settings: JudgeSettings) -> None:
    words = [[part for part in about_sample(SOURCE, stack, "", settings).parts if isinstance(part, str)] for stack in STACKS]
    assert words[0] == words[1] == words[2]
    verdict = judged(replace(settings, judge_max_tokens=64, judge_orders=0))
    assert len({sample.reason for sample in verdict.samples}) == len(STACKS)


def test_the_only_model_that_the_server_lists_is_asked_and_makes_captions_too(server: Server, settings: JudgeSettings) -> None:
    before = len(server.statuses())
    told: list[str] = []
    verdict = judged(replace(settings, judge_max_tokens=64, judge_condition="caption", judge_orders=0), told.append)
    assert told == [f"pictures go to {server.host}, to the model tiny/judge"]
    assert verdict.model == "tiny/judge"
    # Its caption is taken as it is; every other question is asked twice.
    assert server.statuses()[before:] == ["200"] * (1 + 2 * len(STACKS))
