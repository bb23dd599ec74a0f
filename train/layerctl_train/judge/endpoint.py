"""Requests to an OpenAI-compatible endpoint: the only place that knows the library `openai`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from layerctl.errors import MissingDependencyError
from layerctl_train.judge import wire
from layerctl_train.judge.credentials import scrub
from layerctl_train.judge.replies import excerpt
from layerctl_train.judge.wire import Completion, LostError, Message

if TYPE_CHECKING:
    import openai

LARGEST_REPLY = 4 << 20
HEADERS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host", "user-agent"}
RAW = "x-stainless-raw-response"
"""By this header the library tells itself to leave replies alone."""
BODY = "layerctl_body"


class Endpoint:
    """A server, reached within one event loop: pictures go there and nowhere else, and a reply has a largest size and a latest moment.

    The methods raise RefusedError for a reply that is no success, LostError for none, or none that can be read.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self._url, self._key, self._timeout = url, key, timeout
        self._server: openai.AsyncOpenAI | None = None

    async def complete(self, model: str, messages: list[Message], body: dict[str, Any]) -> Completion:
        completions = self._connected().chat.completions.with_streaming_response
        # As a part of the body, messages are sent as they are; as an argument, they would be rebuilt part by part, at some cost.
        reply = await self._exchange(lambda: completions.create(model=model, messages=[], extra_body={**body, "messages": messages}))
        return wire.read_completion(reply, self._key)

    async def models(self) -> list[str]:
        return wire.read_models(await self._exchange(self._connected().models.with_streaming_response.list), self._key)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()

    def _connected(self) -> openai.AsyncOpenAI:
        """Made at first use, inside the event loop: follows no redirect, repeats nothing, takes no settings meant for other servers."""
        if self._server is None:
            try:
                import openai
            except ImportError as error:
                raise MissingDependencyError("the judge openai needs the package openai", hint="pip install 'layerctl[judge]'") from error
            key = self._key or "none"
            hooks: dict[str, list[Callable[..., Any]]] = {"request": [_keep_our_headers], "response": [self._read]}
            self._server = openai.AsyncOpenAI(
                api_key=key,
                base_url=self._url,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=self._timeout, event_hooks=hooks),
                default_headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
            )
        return self._server

    async def _exchange(self, request: Callable[[], Any]) -> bytes:
        import openai

        try:
            async with asyncio.timeout(self._timeout), request() as response:
                return bytes(response.http_response.extensions[BODY])
        except TimeoutError:
            raise LostError(f"no answer within {self._timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise LostError(f"the connection failed: {excerpt(scrub(str(cause) or type(cause).__name__, self._key))}") from None

    async def _read(self, response: Any) -> None:
        """Reads a reply of whatever status, before the library would, and not beyond the largest size."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise LostError("the reply is compressed, which was not asked for")
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > LARGEST_REPLY:
                raise LostError(f"the reply is longer than {LARGEST_REPLY >> 20} MB")
        if not response.is_success:
            raise wire.read_refusal(response.status_code, response.headers, bytes(body), self._key, datetime.now(UTC))
        response.extensions[BODY] = bytes(body)


async def _keep_our_headers(request: Any) -> None:
    """Organisations, projects and other headers that the environment holds for another server stay here."""
    for name in set(request.headers) - HEADERS - {RAW}:
        del request.headers[name]
