"""What a judge goes by: the `judge_*` part of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from layerctl.values import (
    Value,
    choice,
    json_object,
    name,
    number,
    optional,
    prices,
    text,
    url,
    variable_name,
    weights,
    whole,
)

Condition = Literal["nothing", "caption", "prompt"]
KEY_VARIABLE = "LAYERCTL_JUDGE_KEY"
"""The variable that holds the key of the judge's server, unless `judge_key_env` names another; no setting."""
EVALUATION_KEY_VARIABLE = "LAYERCTL_EVALUATION_JUDGE_KEY"
"""The same for a judge that only evaluates, on a server of its own."""


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
    """Tell every second row order of phase 2 (the first, third, ...) the scores of phase 1; the others show that it is no echo."""

    judge_seed: int = 0
    """Of the shuffled row orders, and of the simulated judge."""

    judge_repeat: int = 0
    """The how-manieth time the same is asked, 0 to 1000: answers of other times are not taken from the cache."""

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
    """Longest side of each view of a candidate looked at alone, 128 to 2048 pixels; a layer and its alpha map are two views."""

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


JUDGE_VALUES: dict[str, Value] = {
    "judge_url": Value(url, "give a URL without credentials, such as http://localhost:8000/v1", is_shown=False),
    "judge_model": Value(name, "give the name that the server has for the model"),
    "judge_key_env": Value(variable_name, f"give the name of the variable that holds the key, such as {KEY_VARIABLE}", is_shown=False),
    "judge_key_file": Value(text, "give the path of the file that holds the key", is_shown=False),
    "judge_condition": choice("nothing", "caption", "prompt"),
    "judge_orders": whole(0, 8, such_as=2),
    "judge_seed": whole(0, 2**53, such_as=0),
    "judge_repeat": whole(0, 1000, such_as=1),
    "judge_blend": number(0, 1, such_as=0.5),
    "judge_weights": Value(weights(5), "give five numbers from 0 up, such as 1,1,1,1,1"),
    "judge_min_spread": number(0, 10, such_as=0.5),
    "judge_min_agreement": number(-1, 1, such_as=0.3),
    "judge_chance": number(0, 1, such_as=0.01),
    "judge_side": whole(128, 2048, such_as=512),
    "judge_grid_side": whole(512, 4096, such_as=1536),
    "judge_temperature": number(0, 2, such_as=0),
    "judge_max_tokens": whole(1, such_as=1500),
    "judge_extra": Value(json_object, """give a JSON object, such as '{"top_p": 0.9}'""", is_shown=False),
    "judge_concurrency": whole(1, 512, such_as=8),
    "judge_requests_per_minute": whole(0, such_as=60),
    "judge_tokens_per_minute": whole(0, such_as=100000),
    "judge_timeout": number(1, 3600, such_as=120),
    "judge_retries": whole(0, 20, such_as=4),
    "judge_cache": Value(text, "give the path of a file, such as judge.sqlite"),
    "judge_prices": Value(prices, "give US dollars for a million tokens in and out, such as name=0.10,0.40"),
    "max_judge_calls": optional(whole(0, such_as=500)),
    "max_judge_cost": optional(number(0, such_as=2)),
}
"""How each is read; `Settings` adds those that say yes or no."""
