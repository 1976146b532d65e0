"""DSPy's own client for a provider's API, for one model at one server with one key.

Nothing is looked up in the environment. Between the client and its connections stands a transport of ours: it
reads with `chat_replies` what the client does not understand.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import dspy
from dspy import lm15

from dspy_demo.dspy_bridge import price_usd
from dspy_demo.lm.chat_replies import (
    OPTIONAL,
    checked,
    error_in,
    is_too_long,
    lines_of_whole,
    without_refused,
)

#: Connections that may be open to one model server.
CONNECTIONS_MAX = 500


@dataclass(frozen=True)
class Server:
    """Which model is asked, and where.

    Attributes:
        model: The model's name at its server.
        client: The name of DSPy's client for the API of the model's provider, for example ``openai-chat``.
        base: Base URL; None for the provider's usual one.
        timeout_s: The longest silence.
    """

    model: str
    client: str
    base: str | None
    key: str | None = field(repr=False)
    timeout_s: float = 65.0

    @property
    def target(self) -> str:
        """The model as DSPy's client names it."""
        return f"{self.client}:{self.model}"


class Abilities:
    """What DSPy knows of the model, and what a call of it cost. `ChatLM` asks over `NativeEngine` only."""

    def __init__(self, server: Server) -> None:
        known = dspy.LM(server.target, engine="lm15")
        self.supports_function_calling = known.supports_function_calling
        self.supports_reasoning = known.supports_reasoning
        self.supports_response_schema = known.supports_response_schema
        self.supported_params = known.supported_params
        self._server = server

    def complete(self, request: lm15.Request) -> lm15.Response:
        raise NotImplementedError

    def price_usd(self, replied: lm15.Response | Sequence[lm15.Response]) -> float | None:
        """What a call cost, where the model's price is known."""
        replies = [replied] if isinstance(replied, lm15.Response) else replied
        prices = [price_usd(reply, self._server.client, self._server.model) for reply in replies]
        return sum(price for price in prices if price is not None) if None not in prices else None


class NativeEngine:
    """Asks the model. Each event loop has connections of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._routers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, lm15.AsyncLMRouter] = (
            weakref.WeakKeyDictionary()
        )

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await self._router().complete(replace(request, model=self._server.target))

    def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        events: AsyncIterator[lm15.StreamEvent]
        events = self._router().stream(replace(request, model=self._server.target))
        return events

    def _router(self) -> lm15.AsyncLMRouter:
        loop, server = asyncio.get_running_loop(), self._server
        if loop not in self._routers:
            config = lm15.RouterConfig(
                env={},
                api_keys={server.client: server.key} if server.key else None,
                base_urls={server.client: server.base} if server.base else None,
                transport=Transport(server),
            )
            self._routers[loop] = lm15.AsyncLMRouter(config)
        return self._routers[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        router = self._routers.pop(asyncio.get_running_loop(), None)
        if router is not None:
            await router.aclose()


class Transport:
    """What DSPy's client sends its requests with: connections of DSPy's, whose replies are read here."""

    def __init__(self, server: Server) -> None:
        wait_s = server.timeout_s
        config = lm15.RouterConfig(
            env={},
            api_keys={server.client: "none"},  # it makes the connections and asks nobody
            timeouts=lm15.Timeouts(read=wait_s, write=wait_s, pool=wait_s),
            max_connections=CONNECTIONS_MAX,
        )
        self._owner = lm15.AsyncLMRouter(config)
        self._inner: Any = self._owner.lm(server.target).transport

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Send a request; again without a parameter that is refused.

        Args:
            request: As DSPy's client hands it over, with ``url``, ``headers`` and ``body``.
        """
        chat = urlsplit(request.url).path.endswith("/chat/completions")
        for left in reversed(range(len(OPTIONAL) + 1)):
            async with self._inner.stream(request) as got:
                if not chat:
                    yield got
                    return
                refusal = await got.read() if got.status in {400, 422} else b""
                words = refusal.decode("utf-8", "replace")
                other = without_refused(json.loads(request.body), words) if left and refusal else None
                if other is None:
                    yield ChatReply(got, refusal)
                    return
                request = replace(request, body=json.dumps(other).encode())

    async def aclose(self) -> None:
        await self._owner.aclose()


class ChatReply:
    """A reply of OpenAI's chat API, as DSPy's client reads it.

    Args:
        got: What its connection gives: ``status``, ``headers``, and the body in lines.
        body: The body, where it has been read.
    """

    def __init__(self, got: Any, body: bytes) -> None:
        self._got, self._body = got, body
        self.status, self.reason, self.http_version = got.status, got.reason, got.http_version
        self.headers = got.headers

    async def read(self) -> bytes:
        body: bytes = self._body or await self._got.read()
        if self.status >= 400:
            text = body.decode("utf-8", "replace")
            error = lm15.ContextLengthError(text, status=self.status) if is_too_long(text) else None
        else:
            error = error_in(body)
        if error is not None:
            raise error
        return body

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        if "json" in (self._got.header("content-type") or ""):
            for line in lines_of_whole(await self._got.read()):
                yield line
            return
        async for line in checked(self._got.aiter_lines()):
            yield line
