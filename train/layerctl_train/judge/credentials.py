"""Where pictures go and with which key; a key is in no message, log or file that is written."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from layerctl.errors import ConfigError, MissingDependencyError
from layerctl.judge_settings import EVALUATION_KEY_VARIABLE, KEY_VARIABLE

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings

LARGEST_KEY_FILE = 1 << 16
SHORTEST_KEY = 8
"""What is shorter is no secret, but a dummy such as `none` or `x`, which ordinary words hold."""
NAME = re.compile("[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{0,15})*")
"""How variables are named and keys are not."""


def host_of(url: str) -> str:
    """The host and port behind an endpoint's address.

    Raises ConfigError for an address that is not plainly http or https, or that holds a password.
    """
    hint = "give the base of an OpenAI-compatible endpoint: --judge-url http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"judge_url is no address: {error}", hint=hint) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "judge_url holds a user name or a password", hint="leave it out, and put the key into a variable or --judge-key-file"
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ConfigError(f"judge_url {url!r} is no http or https address of an endpoint", hint=hint)
    return f"{f'[{host}]' if ':' in host else host}:{port or (443 if parts.scheme == 'https' else 80)}"


def is_exposed(url: str) -> bool:
    """Whether what is sent there travels unencrypted over a network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def find_key(settings: JudgeSettings, environment: Mapping[str, str]) -> str | None:
    """The key, None if none is set: a server of one's own needs none.

    Raises MissingDependencyError for a file or a variable that was named and holds no key.
    """
    if settings.judge_key_file is not None:
        hint = "name a file whose first line is the key of the judge's server: --judge-key-file FILE"
        return _checked(_first_line(Path(settings.judge_key_file).expanduser(), hint), f"the file {settings.judge_key_file}", hint)
    key = environment.get(settings.judge_key_env, "").strip()
    if not key and settings.judge_key_env in (KEY_VARIABLE, EVALUATION_KEY_VARIABLE):
        return None
    where = variable(settings.judge_key_env)
    return _checked(key, where, f"set {where} to the key of the judge's server, or name a file: --judge-key-file FILE")


def variable(name: str) -> str:
    """The variable, in words that do not repeat a key in the place of its name."""
    return f"the variable {name}" if NAME.fullmatch(name) else "the variable that judge_key_env names"


def scrub(text: str, key: str | None) -> str:
    """The text without the key, which some servers send back in their complaints."""
    return text.replace(key, "[key]") if key and len(key) >= SHORTEST_KEY else text


def _first_line(path: Path, hint: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_KEY_FILE)
    except OSError as error:
        shown = path if os.path.lexists(path) or _is_path(str(path)) else "the file that judge_key_file names"
        raise MissingDependencyError(f"the key cannot be read from {shown}: {error.strerror}", hint=hint) from None
    return content.decode("utf-8-sig", errors="replace").partition("\n")[0].strip()


def _is_path(text: str) -> bool:
    """Whether it looks like one, and not like a key in its place: keys are long and have few dots and slashes."""
    words = re.split(r"[/\\.]", text)
    return max(map(len, words)) < (40 if len(words) > 1 else SHORTEST_KEY)


def _checked(key: str, where: str, hint: str) -> str:
    if not key:
        raise MissingDependencyError(f"{where} holds no key", hint=hint)
    if not (key.isascii() and key.isprintable()) or set(key) & set(' "\\'):
        raise MissingDependencyError(f"what {where} holds is no key: it has characters that no key has", hint=hint)
    return key
