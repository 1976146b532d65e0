"""DSPy's own clients for the providers' APIs, over connections of ours.

An engine here asks one model at one server with one key: nothing is looked up in the environment. DSPy's
client writes the requests and reads the replies; `chat_replies` reads what it does not understand.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

import dspy
import httpx
from dspy import lm15

from dspy_demo.dspy_bridge import price_usd
from dspy_demo.lm.chat_replies import EventLines, lines_of_whole, request_without, said_error

CONNECT_TIMEOUT_S = 10.0
#: How often a request is sent again without a parameter that was refused.
REFUSALS_MAX = 5
#: How long the end of a stream is waited for after ``[DONE]``, so that the connection can be used again.
END_WAIT_S = 0.1


@dataclass(frozen=True)
class Server:
    """Which model is asked, where, and how.

    Attributes:
        model: As DSPy names it, for example ``openai/gpt-4o-mini``.
        client: The name of DSPy's client for the API of the model's provider, for example ``openai-chat``.
        base: Base URL; None for the provider's usual one.
        timeout_s: The longest silence.
        connections: How many may be open at a time.
    """

    model: str
    client: str
    base: str | None
    key: str | None = field(repr=False)
    timeout_s: float = 65.0
    connections: int = 100

    @property
    def name(self) -> str:
        """The model's name at its server."""
        return self.model.partition("/")[2] or self.model

    @property
    def target(self) -> str:
        """The model as DSPy's client names it."""
        return f"{self.client}:{self.name}"

    def options(self) -> dict[str, Any]:
        """Of httpx's clients."""
        return {
            "timeout": httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S),
            "limits": httpx.Limits(max_connections=self.connections),
            "verify": certificates() if urlsplit(self.base or "https:").scheme == "https" else False,
        }

    def config(self, transport: object) -> lm15.RouterConfig:
        return lm15.RouterConfig(
            env={},
            api_keys={self.client: self.key} if self.key else None,
            base_urls={self.client: self.base} if self.base else None,
            transport=transport,
        )

    def request(self, request: lm15.Request) -> lm15.Request:
        return replace(request, model=self.target)


@functools.cache
def certificates() -> ssl.SSLContext:
    """The system's certificates; reading them takes a while."""
    return httpx.create_ssl_context()


class NativeEngine:
    """The synchronous engine, for programs that run in threads.

    Attributes:
        supports_function_calling: As DSPy knows it of the model; so the other three.
    """

    def __init__(self, server: Server) -> None:
        known = dspy.LM(server.target, engine="lm15")
        self.supports_function_calling = known.supports_function_calling
        self.supports_reasoning = known.supports_reasoning
        self.supports_response_schema = known.supports_response_schema
        self.supported_params = known.supported_params
        self._server = server
        self._transport = Transport(server)
        self._router = lm15.LMRouter(server.config(self._transport))

    def complete(self, request: lm15.Request) -> lm15.Response:
        return self._router.complete(self._server.request(request))

    def stream(self, request: lm15.Request) -> Iterator[lm15.StreamEvent]:
        events: Iterator[lm15.StreamEvent] = self._router.stream(self._server.request(request))
        return events

    def price_usd(self, replied: lm15.Response | Sequence[lm15.Response]) -> float | None:
        """What a call cost, where the model's price is known."""
        replies = [replied] if isinstance(replied, lm15.Response) else replied
        prices = [price_usd(reply, self._server.client, self._server.name) for reply in replies]
        return sum(price for price in prices if price is not None) if None not in prices else None

    def close(self) -> None:
        self._transport.close()


class AsyncNativeEngine:
    """The asynchronous engine. Each event loop has connections of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._routers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, lm15.AsyncLMRouter] = (
            weakref.WeakKeyDictionary()
        )

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await self._router().complete(self._server.request(request))

    def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        events: AsyncIterator[lm15.StreamEvent] = self._router().stream(self._server.request(request))
        return events

    def _router(self) -> lm15.AsyncLMRouter:
        loop = asyncio.get_running_loop()
        if loop not in self._routers:
            self._routers[loop] = lm15.AsyncLMRouter(self._server.config(AsyncTransport(self._server)))
        return self._routers[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        router = self._routers.pop(asyncio.get_running_loop(), None)
        if router is not None:
            await router.aclose()


class Sent(Protocol):
    """A request as DSPy's client hands it over."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Transport:
    """What DSPy's synchronous client sends its requests with."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.Client(**server.options())

    @contextmanager
    def stream(self, request: Sent) -> Iterator[Reply]:
        """Send a request; again without a parameter that is refused."""
        body = request.body
        with failures():
            for left in reversed(range(REFUSALS_MAX + 1)):
                with self._client.stream(request.method, request.url, **_content(request, body)) as got:
                    refused = left and _may_refuse(request, got)
                    other = request_without(body, got.read()) if refused else None
                    if other is None:
                        yield Reply(request, got)
                        return
                    body = other

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """What DSPy's asynchronous client sends its requests with."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.AsyncClient(**server.options())

    @asynccontextmanager
    async def stream(self, request: Sent) -> AsyncIterator[AsyncReply]:
        """Send a request; again without a parameter that is refused."""
        body = request.body
        with failures():
            for left in reversed(range(REFUSALS_MAX + 1)):
                sending = self._client.stream(request.method, request.url, **_content(request, body))
                async with sending as got:
                    refused = left and _may_refuse(request, got)
                    other = request_without(body, await got.aread()) if refused else None
                    if other is None:
                        yield AsyncReply(request, got)
                        return
                    body = other

    async def aclose(self) -> None:
        await self._client.aclose()


def _content(request: Sent, body: bytes) -> dict[str, Any]:
    lengthless = [(name, value) for name, value in request.headers if name.lower() != "content-length"]
    return {"headers": lengthless, "content": body}


def _is_chat(request: Sent) -> bool:
    return urlsplit(request.url).path.endswith("/chat/completions")


def _may_refuse(request: Sent, got: httpx.Response) -> bool:
    return got.status_code in {400, 422} and _is_chat(request)


@contextmanager
def failures() -> Iterator[None]:
    """DSPy's errors for httpx's. Their text names no address."""
    try:
        yield
    except httpx.PoolTimeout as error:
        raise lm15.TransportError("no connection is free") from error
    except httpx.TimeoutException as error:
        raise lm15.TransportError("timed out") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise lm15.TransportError(type(error).__name__) from error


class _Reply:
    """The head of a reply, as DSPy's client reads it."""

    def __init__(self, request: Sent, got: httpx.Response) -> None:
        self._got = got
        self._chat = _is_chat(request)
        self.status, self.reason, self.http_version = got.status_code, got.reason_phrase, got.http_version
        self.headers = list(got.headers.multi_items())

    @property
    def _whole(self) -> bool:
        return self._chat and "json" in self._got.headers.get("content-type", "")

    def _checked(self, body: bytes) -> bytes:
        if self._chat:
            failed = self.status >= 400
            error = said_error(body, self.status if failed else None)
            if error is not None:
                raise error
        return body


class Reply(_Reply):
    def read(self) -> bytes:
        return self._checked(self._got.read())

    def iter_lines(self) -> Iterator[bytes]:
        """The lines of a stream. After ``[DONE]`` the connection is closed: a thread cannot wait shortly."""
        if self._whole:
            yield from lines_of_whole(self._got.read())
            return
        lines = EventLines(chat=self._chat)
        for data in self._got.iter_bytes():
            yield from lines.feed(data)
            if lines.done:
                return
        yield from lines.finish()


class AsyncReply(_Reply):
    async def read(self) -> bytes:
        return self._checked(await self._got.aread())

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream, up to ``[DONE]``, also where the server leaves it open."""
        if self._whole:
            for line in lines_of_whole(await self._got.aread()):
                yield line
            return
        lines, body = EventLines(chat=self._chat), self._got.aiter_bytes()
        async for data in body:
            for line in lines.feed(data):
                yield line
            if lines.done:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_WAIT_S):
                        await anext(body, None)
                return
        for line in lines.finish():
            yield line
