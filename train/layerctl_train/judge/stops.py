"""Complaints of a server that every further request would meet too, and so end the run, in words that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerctl.errors import JudgeStoppedError, LayerctlError, MissingDependencyError
from layerctl_train.judge.credentials import variable
from layerctl_train.judge.wire import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerctl.judge_settings import JudgeSettings
    from layerctl_train.judge.wire import LostError, RefusedError

LONGEST_HOLD = 120.0
"""Seconds that a server may ask to wait; beyond that a person is to decide."""
KEPT = "what was answered is kept: the same command goes on from there"


def final(refused: RefusedError, host: str, settings: JudgeSettings, *, has_key: bool) -> LayerctlError | None:
    """What ends the run, None for a complaint that is about one request or may pass."""
    if refused.status == 401 or (refused.status == 403 and not refused.is_about_content):
        message = f"{host} {'does not accept the key' if has_key else 'wants a key'}, {refused}"
        hint = f"put the key into {variable(settings.judge_key_env)}, or into a file that you name with --judge-key-file"
        return MissingDependencyError(message, hint=hint)
    if refused.is_about_money:
        return JudgeStoppedError(f"{host} is out of credit, {refused}", hint=f"add credit there; {KEPT}")
    if 300 <= refused.status < 400:
        message = f"{host} sends requests elsewhere, to {refused.place or 'nowhere'}; pictures go only where judge_url says"
        return JudgeStoppedError(message, hint="if that is where they are meant to go, give its base as --judge-url")
    if refused.may_pass and refused.wait is not None and refused.wait > LONGEST_HOLD:
        message = f"{host} asks to wait {refused.wait:.0f} seconds, {refused}"
        return JudgeStoppedError(message, hint=f"try again then, or with fewer --judge-requests-per-minute; {KEPT}")
    return None


def no_such_model(refused: RefusedError, host: str, url: str, model: str, models: Sequence[str]) -> JudgeStoppedError:
    """For a server that has nothing where completions should be; `models`: which it lists."""
    if models and model not in models:
        return JudgeStoppedError(f"{host} has no model {model!r}, {refused}", hint=f"choose with --judge-model one of: {listed(models)}")
    message = f"there is nothing that completes chats at {url}, {refused}"
    return JudgeStoppedError(message, hint="give the base of an OpenAI-compatible endpoint, which often ends in /v1: --judge-url URL")


def no_models(trouble: LostError | RefusedError, host: str) -> JudgeStoppedError:
    hint = "see whether the server runs, or name the model with --judge-model, and the server with --judge-url"
    return JudgeStoppedError(f"{host} does not say which models it has: {trouble}", hint=hint)


def down(trouble: LostError | RefusedError, host: str, lost: int) -> JudgeStoppedError:
    """For `lost` questions in a row that were given up."""
    message = f"{host} answered none of {lost} questions in a row: {trouble}"
    return JudgeStoppedError(message, hint=f"see whether the server runs, or is asked too much (--judge-concurrency); {KEPT}")


def unwanted(refused: RefusedError, host: str, count: int) -> JudgeStoppedError:
    """For `count` requests in a row that the server would not have."""
    message = f"{host} refused {count} requests in a row, {refused}"
    hint = "mend what it complains of: --judge-model, judge_side and judge_grid_side (pixels), judge_extra; " + KEPT
    return JudgeStoppedError(message, hint=hint)


def closed() -> JudgeStoppedError:
    return JudgeStoppedError("the judge was closed", hint=f"open another; {KEPT}")


def spent(what: str) -> JudgeStoppedError:
    return JudgeStoppedError(f"the judge's budget is spent: {what}", hint=f"raise the limit; {KEPT}")
