"""What a judge goes by: the `judge_*` part of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Condition = Literal["nothing", "caption", "prompt"]
KEY_VARIABLE = "LAYERCTL_JUDGE_KEY"
"""The variable that holds the key of the judge's server, unless `judge_key_env` names another; no setting."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Resolved and checked. What can change a score is in the cache's key."""

    judge_url: str = "http://localhost:8000/v1"
    """Where the judge `openai` listens: the base of an OpenAI-compatible endpoint, http or https."""

    judge_model: str | None = None
    """The model that judges, as its server names it. Default: the only one that the server lists."""

    judge_key_env: str = KEY_VARIABLE
    """The environment variable that holds the server's key."""

    judge_key_file: str | None = None
    """A file that holds the server's key, instead of the variable."""

    judge_condition: Condition = "nothing"
    """What the judge is told about the picture: nothing, a caption that it makes first, or the prompt of the request."""

    judge_orders: int = 2
    """In how many row orders all candidates are compared (phase 2), 0 to 8; 0 leaves phase 2 out."""

    judge_anchors: bool = True
    """Tell phase 2 the scores of phase 1."""

    judge_seed: int = 0
    """Of the shuffled row orders, and of the simulated judge."""

    judge_blend: float = 0.5
    """Phase 2's share of the reward, 0 to 1; the rest is phase 1's."""

    judge_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Weights of separation, alpha, background, distribution and validity in phase 1's score."""

    judge_min_spread: float = 0.5
    """The least range of raw scores, in points of 10, of a group that teaches something."""

    judge_min_agreement: float = 0.3
    """The least mean rank correlation between row orders, -1 to 1, of a group that teaches something."""

    judge_chance: float = 0.01
    """How likely it may be, at most, that random scores agree as well as a group that teaches something does, 0 to 1."""

    judge_side: int = 512
    """Longest side of each picture of a candidate looked at alone, 128 to 2048 pixels."""

    judge_grid_side: int = 1536
    """Longest side of the picture in which all candidates are compared, 512 to 4096 pixels."""

    judge_temperature: float = 0.0
    """Of the judge's decoding, 0 to 2."""

    judge_max_tokens: int = 1500
    """The longest answer, in tokens."""

    judge_extra: str = ""
    """JSON that is added to every request's body, such as {"chat_template_kwargs": {"enable_thinking": false}}."""

    judge_concurrency: int = 8
    """Requests at a time, 1 to 512."""

    judge_requests_per_minute: int = 0
    """At most so many requests start in a minute; 0 is no limit."""

    judge_tokens_per_minute: int = 0
    """At most so many tokens, in and out, in a minute; 0 is no limit."""

    judge_timeout: float = 120.0
    """Seconds that one request may take from first to last byte, 1 to 3600."""

    judge_retries: int = 4
    """How often a request that failed on the way is sent again, 0 to 20."""

    judge_cache: str | None = None
    """The file that keeps every answer. Default: $XDG_CACHE_HOME/layerctl/judge.sqlite, ~/.cache without the variable."""

    judge_replay: bool = False
    """Answer from the cache alone, and reach for no server."""

    judge_prices: tuple[str, ...] = ()
    """US dollars for a million tokens in and out, by model: "name=0.10,0.40". For sums and limits of money."""

    max_judge_calls: int | None = None
    """Stop before more requests than this are sent in one run."""

    max_judge_cost: float | None = None
    """Stop before a run costs more US dollars than this; needs the model's price in judge_prices."""
