"""DSPy's own clients for the providers' APIs, each for one model at one server with one key.

Nothing is looked up in the environment. Between a client and its connections stands a transport of ours: it
reads with `chat_replies` what the client does not understand.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import dspy
from dspy import lm15

from dspy_demo.dspy_bridge import price_usd
from dspy_demo.lm.chat_replies import EventLines, lines_of_whole, request_without, said_error

#: In place of a key where connections are made and nobody is asked.
NO_KEY = "none"
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

    def asked_over(self, transport: object) -> lm15.RouterConfig:
        """For DSPy's client of the model."""
        return lm15.RouterConfig(
            env={},
            api_keys={self.client: self.key} if self.key else None,
            base_urls={self.client: self.base} if self.base else None,
            transport=transport,
        )

    def connected(self) -> lm15.RouterConfig:
        """For one that only brings its connections."""
        return lm15.RouterConfig(
            env={},
            api_keys={self.client: NO_KEY},
            timeouts=lm15.Timeouts(read=self.timeout_s, write=self.timeout_s, pool=self.timeout_s),
            max_connections=self.connections,
        )

    def request(self, request: lm15.Request) -> lm15.Request:
        return replace(request, model=self.target)


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
        self._router = lm15.LMRouter(server.asked_over(self._transport))

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
            self._routers[loop] = lm15.AsyncLMRouter(self._server.asked_over(AsyncTransport(self._server)))
        return self._routers[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        router = self._routers.pop(asyncio.get_running_loop(), None)
        if router is not None:
            await router.aclose()


class Transport:
    """What DSPy's synchronous client sends its requests with: connections of DSPy's, which are read here."""

    def __init__(self, server: Server) -> None:
        self._owner = lm15.LMRouter(server.connected())
        self._inner = self._owner.lm(server.target).transport

    @contextmanager
    def stream(self, request: Any) -> Iterator[Reply]:
        """Send a request; again without a parameter that is refused.

        Args:
            request: As DSPy's client hands it over, with ``url``, ``headers`` and ``body``.
        """
        for left in reversed(range(REFUSALS_MAX + 1)):
            with self._inner.stream(request) as got:
                body = got.read() if left and may_refuse(request, got) else None
                other = request_without(request.body, body) if body is not None else None
                if other is None:
                    yield Reply(request, got, body)
                    return
                request = replace(request, body=other)

    def close(self) -> None:
        self._owner.close()


class AsyncTransport:
    """The same for DSPy's asynchronous client."""

    def __init__(self, server: Server) -> None:
        self._owner = lm15.AsyncLMRouter(server.connected())
        self._inner = self._owner.lm(server.target).transport

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncIterator[AsyncReply]:
        """Send a request; again without a parameter that is refused."""
        for left in reversed(range(REFUSALS_MAX + 1)):
            async with self._inner.stream(request) as got:
                body = await got.read() if left and may_refuse(request, got) else None
                other = request_without(request.body, body) if body is not None else None
                if other is None:
                    yield AsyncReply(request, got, body)
                    return
                request = replace(request, body=other)

    async def aclose(self) -> None:
        await self._owner.aclose()


def is_chat(request: Any) -> bool:
    """Whether it goes to OpenAI's chat API, at whatever server."""
    path: str = urlsplit(request.url).path
    return path.endswith("/chat/completions")


def may_refuse(request: Any, got: Any) -> bool:
    """Whether a reply may be the refusal of a parameter."""
    status: int = got.status
    return status in {400, 422} and is_chat(request)


class _Reply:
    """A reply, as DSPy's client reads it.

    Args:
        got: What its connection gives: ``status``, ``headers``, and the body in pieces.
        body: The whole body, where it has been read.
    """

    def __init__(self, request: Any, got: Any, body: bytes | None) -> None:
        self._got, self._body = got, body
        self._chat = is_chat(request)
        self._whole = self._chat and "json" in (got.header("content-type") or "")
        self.status, self.reason, self.http_version = got.status, got.reason, got.http_version
        self.headers = got.headers

    def _checked(self, body: bytes) -> bytes:
        error = said_error(body, self.status if self.status >= 400 else None) if self._chat else None
        if error is not None:
            raise error
        return body


class Reply(_Reply):
    def read(self) -> bytes:
        return self._checked(self._got.read() if self._body is None else self._body)

    def iter_lines(self) -> Iterator[bytes]:
        """The lines of a stream. After ``[DONE]`` the connection is closed: a thread cannot wait shortly."""
        if self._whole:
            yield from lines_of_whole(self._got.read())
            return
        lines = EventLines(chat=self._chat)
        for data in self._got:
            yield from lines.feed(data)
            if lines.done:
                return
        yield from lines.finish()


class AsyncReply(_Reply):
    async def read(self) -> bytes:
        return self._checked(await self._got.read() if self._body is None else self._body)

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream, up to ``[DONE]``, also where the server leaves it open."""
        if self._whole:
            for line in lines_of_whole(await self._got.read()):
                yield line
            return
        lines, pieces = EventLines(chat=self._chat), aiter(self._got)
        async for data in pieces:
            for line in lines.feed(data):
                yield line
            if lines.done:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_WAIT_S):
                        await anext(pieces, None)
                return
        for line in lines.finish():
            yield line
