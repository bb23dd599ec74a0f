"""A client of the judge's server, as tests want it: waits take no time, and what is asked is small."""

from __future__ import annotations

import asyncio
import atexit
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import numpy as np
import pytest
from layerctl_train.judge.client import Answer, Client
from layerctl_train.judge.question import Kind, Picture, Question

from layerctl.judge_settings import JudgeSettings


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

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", "127.0.0.1")
            patch.setenv("SSL_CERT_FILE", str(_one_authority()))
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


@cache
def _one_authority() -> Path:
    """A file with one certificate authority: reading all of them takes longer than a test."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    file = Path(folder.name, "authority.pem")
    begin, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----")
    file.write_text(begin + end, encoding="utf-8")
    return file
