"""A judge's server on localhost: it speaks the protocol of OpenAI-compatible endpoints, and says what a test's script says."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from layerctl.verdict import CRITERIA

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back.

    `cut`: the connection ends after so many bytes, headers included. `drip`: seconds between bytes of the body. `delay`: seconds before it.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    drip: float = 0.0
    delay: float = 0.0


Script = Callable[[Body, int], Reply]
"""From the body of a request for a completion, and how many came before it, to the reply; called by several threads."""


def completion(text: str | None, *, finish: str = "stop", usage: Any = None, **message: Any) -> Reply:
    """A completion with this text; `message`: more keys of the message, such as a refusal."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    tokens = {"prompt_tokens": 100, "completion_tokens": 20} if usage is None else usage
    return Reply(json.dumps({"id": "1", "object": "chat.completion", "model": "judge", "choices": [choice], "usage": tokens}).encode())


def scores(points: Mapping[str, float], evidence: str = "seen") -> str:
    """The JSON of an answer: points by criterion or by label."""
    return json.dumps({name: {"evidence": evidence, "points": value} for name, value in points.items()})


def alone(*points: float, evidence: str = "seen") -> Reply:
    """A good answer about one candidate; one number stands for all five criteria."""
    return completion(scores(dict(zip(CRITERIA, points if len(points) > 1 else points * 5, strict=True)), evidence))


def together(points: Mapping[str, float], evidence: str = "seen") -> Reply:
    """A good answer about several candidates, by label."""
    return completion(scores(points, evidence))


def refusal(status: int, message: str = "no", code: str = "", **headers: str) -> Reply:
    """A complaint in the usual form; `headers` have _ for -."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
    return Reply(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def in_turn(*replies: Reply) -> Script:
    """Each reply once, the last one for ever."""
    return lambda _body, count: replies[min(count, len(replies) - 1)]


PASSING = {
    "too many requests": refusal(429),
    "too many, wait a moment": refusal(429, Retry_After="3"),
    "server error": refusal(500),
    "request timeout": refusal(408),
    "conflict": refusal(409),
    "a proxy's page for a server error": Reply(b"<html>Bad Gateway</html>", 502),
    "cut before the headers": Reply(cut=0),
    "cut in the headers": replace(alone(1), cut=20),
    "cut in the body": replace(alone(1), cut=300),
    "slow drip": replace(alone(1), drip=0.05),
    "a page instead of a completion": Reply(b"<html>Log in to the hotel's network</html>"),
    "half a completion": Reply(alone(1).body[:100]),
    "garbage": Reply(bytes(range(256))),
    "JSON that is no completion": Reply(b'{"choices": []}'),
    "deeply nested JSON": Reply(b"[" * 100_000),
    "too long": Reply(b" " * (5 << 20)),
    "compressed, which may unfold to any length": Reply(gzip.compress(alone(1).body), headers={"Content-Encoding": "gzip"}),
}
"""What may be better next time."""

GOOD = dict.fromkeys(CRITERIA, 5.0)
USELESS = {
    "cut short": scores(GOOD)[:-9],
    "eleven of ten": scores(GOOD | {"alpha": 11}),
    "below nothing": scores(GOOD | {"alpha": -1}),
    "not a number": scores(GOOD | {"alpha": float("nan")}),
    "infinite": scores(GOOD).replace("5.0", "1e999"),
    "a number as text": scores(GOOD).replace("5.0", '"5"'),
    "a truth value": scores(GOOD).replace("5.0", "true"),
    "null": scores(GOOD).replace("5.0", "null"),
    "a criterion is missing": scores(dict.fromkeys(CRITERIA[1:], 5.0)),
    "other names": scores({"A": 5.0, "B": 5.0}),
    "a criterion twice": scores(GOOD)[:-1] + ', "alpha": {"evidence": "", "points": 10}}',
    "a list": f"[{scores(GOOD)}, {scores(GOOD)}]",
    "nested without end": '{"alpha":' * 50_000,
    "words": "I would give it a 7.",
    "nothing": "",
}
"""Answers that hold no scores of one candidate."""


def words_of(body: Body) -> str:
    """What the user is made to say in a request."""
    content = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return "\n".join(
        part if isinstance(part, str) else part["text"]
        for parts in content
        for part in ([parts] if isinstance(parts, str) else parts)
        if isinstance(part, str) or part["type"] == "text"
    )


def pictures_of(body: Body) -> list[bytes]:
    """The PNG files of a request, in their order."""
    parts = [part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]]
    return [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts if part["type"] == "image_url"]


@dataclass(slots=True)
class JudgeServer:
    """Serves from `__enter__` to `__exit__`.

    `bodies`: of requests for completions, oldest first. `headers`: theirs. `peak`: the most that were under way at a time.
    """

    script: Script
    models: Sequence[str] = ("judge",)
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    peak: int = 0
    _under_way: int = 0
    _lock: Lock = field(default_factory=Lock)
    _http: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"

    def arrived(self, body: Body, headers: dict[str, str]) -> int:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            return len(self.bodies) - 1

    def left(self) -> None:
        with self._lock:
            self._under_way -= 1


class _Quiet(ThreadingHTTPServer):
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up early are what tests are about."""


def _handler(server: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(Reply(json.dumps({"object": "list", "data": [{"id": name} for name in server.models]}).encode()))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._send(refusal(404, "Not Found"))
                return
            count = server.arrived(body, dict(self.headers))
            try:
                reply = server.script(body, count)
                time.sleep(reply.delay)
            finally:
                # Before the reply: whoever has it may send the next request.
                server.left()
            self._send(reply)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

        def _send(self, reply: Reply) -> None:
            lines = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
            head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
            sent = (head.encode() + reply.body)[: reply.cut]
            self.close_connection = reply.cut is not None
            if not reply.drip:
                self.wfile.write(sent)
                return
            self.wfile.write(sent[: len(head)])
            for place in range(len(head), len(sent)):
                time.sleep(reply.drip)
                self.wfile.write(sent[place : place + 1])

    return Handler
