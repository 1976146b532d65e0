"""A version behind a model server: ours, which streams, or a plain ``mlflow models serve``, which cannot."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, assert_never

import httpx

from dspy_demo.backends import served_wire as wire
from dspy_demo.backends.event_stream import EventStreamParser, EventTooLong
from dspy_demo.backends.served_wire import NOT_OURS, ServerInfo, base_url, transport_error
from dspy_demo.errors import MalformedReply, ReplyTooLong, UpstreamCut, WrongServer
from dspy_demo.events import (
    TURN_ID_HEADER,
    Event,
    FieldDelta,
    ServedTarget,
    Status,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
)
from dspy_demo.settings import Settings

__all__ = ["CANNOT_STREAM", "ServedBackend", "ServerInfo", "base_url"]

CANNOT_STREAM = "This server cannot stream; the whole answer comes at once."
TOO_LONG = "The model server sent an answer that is too long to be shown."
#: Connections that may be open to the model server.
CONNECTIONS_MAX = 500
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
#: Our server sends a comment at least every 15 s (`api.router.KEEP_ALIVE_S`), however slow its model is.
SILENT_SERVER_S = 35.0
#: How long the end of a reply is waited for after its last event.
END_WAIT_S = 0.5
#: How long a server stays known as plain; then it is asked again whether it streams.
PLAIN_KNOWN_S = 60.0
#: Longest body that is read whole: a plain server's answer.
BODY_MAX_BYTES = 8 * 1024 * 1024
_ERROR_BODY_MAX_BYTES = 64 * 1024


class ServedBackend:
    """Asks model servers over HTTP. Addresses come with each turn.

    Cancelling the task that iterates a turn closes its connection, on which our server stops its model; a
    plain MLflow server runs its model to the end, unheard.
    """

    name = "served"

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # `chat` ends a silent turn first. No proxies from the environment: they break localhost.
        timeout = httpx.Timeout(settings.idle_timeout_s + 5, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(
            max_connections=CONNECTIONS_MAX, max_keepalive_connections=50, keepalive_expiry=4
        )  # uvicorn closes an idle connection after 5 s
        self._client = httpx.AsyncClient(
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            headers={"Accept-Encoding": "identity"},
        )
        silent_s = min(settings.idle_timeout_s + 5, SILENT_SERVER_S)
        self._live_timeout = httpx.Timeout(silent_s, connect=CONNECT_TIMEOUT_S)
        self._total_timeout_s = settings.total_timeout_s
        self._reply_max_chars = settings.reply_max_chars
        self._plain: dict[str, float] = {}

    async def stream(self, request: TurnRequest) -> AsyncGenerator[Event, None]:
        target = request.target
        assert isinstance(target, ServedTarget)
        url = base_url(target.url)
        ours = bool(target.version or target.instance)  # a plain server does not tell its version
        if ours or time.monotonic() - self._plain.get(url, -PLAIN_KNOWN_S) >= PLAIN_KNOWN_S:
            self._plain.pop(url, None)
            try:
                async for event in self._live(url, request, target):
                    yield event
                return
            except _NoSuchRoute:
                if ours:
                    raise WrongServer() from None
                self._plain[url] = time.monotonic()
        async for event in self._whole(url, request):
            yield event

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- our own model server ---

    async def _live(
        self, url: str, request: TurnRequest, target: ServedTarget
    ) -> AsyncGenerator[Event, None]:
        """The events of ``POST /predict/stream``; the last one when the reply is read to its end."""
        answering, end, chars = False, None, 0
        try:
            async with self._client.stream(
                "POST",
                f"{url}/predict/stream",
                json=wire.predict_body(request, target),
                headers={TURN_ID_HEADER: request.turn_id},
                timeout=self._live_timeout,
            ) as reply:
                answering = True
                wire.check_identity(reply.headers, target)
                await _check_streams(reply)
                async for content in _contents(reply):
                    event = wire.event_of(content)
                    match event:
                        case TurnStarted():
                            model = target.version or event.model
                            event = dataclasses.replace(event, backend=self.name, model=model)
                        case FieldDelta():
                            chars += len(event.text)
                            if chars > self._reply_max_chars:
                                raise ReplyTooLong.over(self._reply_max_chars)
                        case TurnFinished():
                            end = event
                        case Status() | TurnFailed() | None:
                            pass
                        case _:
                            assert_never(event)
                    if event is not None and end is None:
                        yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if end is None:
                raise transport_error(error, answering=answering) from error
        except EventTooLong as error:
            raise ReplyTooLong(TOO_LONG) from error
        if end is None:
            raise UpstreamCut(wire.CUT)
        yield end

    # --- a plain MLflow server ---

    async def _whole(self, url: str, request: TurnRequest) -> AsyncGenerator[Event, None]:
        """The one answer of ``POST /invocations``."""
        yield TurnStarted(self.name, url, incremental=False)
        yield Status(CANNOT_STREAM)
        body = {"messages": wire.chat_messages(request)}
        answering = False
        try:
            async with self._client.stream(
                "POST",
                f"{url}/invocations",
                json=body,
                headers={TURN_ID_HEADER: request.turn_id},
                timeout=self._total_timeout_s + 5,
            ) as reply:
                answering = True
                if reply.status_code != 200:
                    self._plain.pop(url, None)
                    raise wire.reply_error(reply.status_code, await _bounded(reply, _ERROR_BODY_MAX_BYTES))
                answer = await _bounded(reply, BODY_MAX_BYTES)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._plain.pop(url, None)
            raise transport_error(error, answering=answering) from error
        yield TurnFinished(wire.outputs_of(answer))

    # --- a typed address ---

    async def probe(self, url: str) -> ServerInfo:
        """What answers at a typed address.

        Raises:
            DemoError: Nothing does, or something else.
        """
        url = base_url(url)
        try:
            reply, body = await self._get(f"{url}/model")
            if reply.status_code == 200:
                return wire.server_info(body)
            reply, _ = await self._get(f"{url}/ping")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(error, answering=False) from error
        if reply.status_code == 200 and not reply.headers.get("content-type", "").startswith("text/html"):
            return ServerInfo("plain")
        raise (
            wire.reply_error(reply.status_code, b"") if reply.status_code != 200 else MalformedReply(NOT_OURS)
        )

    async def _get(self, url: str) -> tuple[httpx.Response, bytes]:
        async with self._client.stream("GET", url, timeout=PROBE_TIMEOUT_S) as reply:
            return reply, await _bounded(reply, _ERROR_BODY_MAX_BYTES)


class _NoSuchRoute(Exception):
    """The server has no ``/predict/stream``: it may be a plain one."""


async def _check_streams(reply: httpx.Response) -> None:
    if reply.status_code != 200:
        body = await _bounded(reply, _ERROR_BODY_MAX_BYTES)
        if reply.status_code in {404, 405} and b'"error_id"' not in body:
            raise _NoSuchRoute
        raise wire.reply_error(reply.status_code, body)
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise MalformedReply(NOT_OURS)


async def _contents(reply: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON objects of the stream."""
    parser, chunks, done = EventStreamParser(), reply.aiter_raw(), False
    async for chunk in chunks:
        for data in parser.feed(chunk):
            done = data == b"[DONE]"
            if not done:
                yield wire.json_object(data)
        if done:
            break
    # A reply that was read to its end leaves its connection to the next turn.
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(END_WAIT_S):
            async for _ in chunks:
                pass


async def _bounded(reply: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ReplyTooLong(TOO_LONG)
    return bytes(body)
