"""Where pictures go and with which key; a key is in no message, log or file that is written."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from layerctl.errors import ConfigError, MissingDependencyError
from layerctl.judge_settings import KEY_VARIABLE

if TYPE_CHECKING:
    from layerctl.judge_settings import JudgeSettings

LARGEST_KEY_FILE = 1 << 16


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
        return _checked(_first_line(Path(settings.judge_key_file).expanduser()), f"the file {settings.judge_key_file}")
    key = environment.get(settings.judge_key_env, "").strip()
    if not key and settings.judge_key_env == KEY_VARIABLE:
        return None
    return _checked(key, f"the variable {settings.judge_key_env}")


def scrub(text: str, key: str | None) -> str:
    """The text without the key, which some servers send back in their complaints."""
    return text.replace(key, "[key]") if key else text


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_KEY_FILE)
    except OSError as error:
        message = f"the key cannot be read from {path}: {error.strerror}"
        raise MissingDependencyError(message, hint="name a file whose first line is the key: --judge-key-file FILE") from error
    return content.decode("utf-8-sig", errors="replace").partition("\n")[0].strip()


def _checked(key: str, where: str) -> str:
    if not key:
        raise MissingDependencyError(f"{where} holds no key", hint="its first line has to be the key of the judge's server")
    if not (key.isascii() and key.isprintable()) or set(key) & set(' "\\'):
        raise MissingDependencyError(f"what {where} holds is no key: it has characters that no key has", hint="it has to be the key alone")
    return key
