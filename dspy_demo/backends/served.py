"""A version behind a model server: ours, which streams, or a plain ``mlflow models serve``, which cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from dspy_demo.backends import served_wire as wire
from dspy_demo.backends.served_wire import ServerInfo, base_url
from dspy_demo.errors import MalformedReply, ReplyTooLong, UpstreamCut, WrongServer
from dspy_demo.events import (
    TURN_ID_HEADER,
    Event,
    FieldDelta,
    ServedTarget,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
)
from dspy_demo.settings import Settings

CANNOT_STREAM = "This server cannot stream; the whole answer comes at once."
#: Connections that may be open to the model server.
CONNECTIONS_MAX = 500
CONNECT_TIMEOUT_S = 5.0
#: Our server sends a comment at least every 15 s, however slow its model is.
SILENT_SERVER_S = 35.0
#: How long the end of a reply is waited for after its last event.
END_WAIT_S = 0.5
ERROR_BODY_MAX_BYTES = 64 * 1024
#: Longest event. The last one of a turn holds all of its text; a real one has some kilobytes.
EVENT_MAX_BYTES = 8 * 1024 * 1024
TOO_LONG = "The model server sent an answer that is too long to be shown."
_LINE_END, _EVENT_END = re.compile(rb"\r\n|\r|\n"), re.compile(rb"\r?\n\r?\n|\r\r")


class ServedBackend:
    """Asks model servers over HTTP; an address comes with each turn.

    Cancelling a turn closes its connection, on which our server stops its model. A plain one runs to its end.
    """

    name = "served"

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # `chat` ends a silent turn first. No proxies from the environment: they break localhost.
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=4),  # uvicorn closes at 5 s
            trust_env=False,
            transport=transport,
            headers={"Accept-Encoding": "identity"},
        )
        silent_s = min(settings.idle_timeout_s + 5, SILENT_SERVER_S)
        self._live_timeout = httpx.Timeout(silent_s, connect=CONNECT_TIMEOUT_S)
        self._whole_timeout = httpx.Timeout(settings.total_timeout_s + 5)
        self._reply_max_chars = settings.reply_max_chars

    async def stream(self, request: TurnRequest) -> AsyncGenerator[Event, None]:
        target = request.target
        assert isinstance(target, ServedTarget)
        url = base_url(target.url)
        try:
            async for event in self._live(url, request, target):
                yield event
        except _NoSuchRoute:
            if target.version or target.instance:  # a plain server does not tell its version
                raise WrongServer() from None
            async for event in self._whole(url, request):
                yield event

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _live(
        self, url: str, request: TurnRequest, target: ServedTarget
    ) -> AsyncGenerator[Event, None]:
        """The events of ``POST /predict/stream``, the route of our own model server."""
        body, chars = wire.predict_body(request, target), 0
        async with self._reply(f"{url}/predict/stream", request, body, self._live_timeout) as reply:
            wire.check_identity(reply.headers, target)
            await _check_streams(reply)
            async for event in _events(reply):
                if isinstance(event, TurnStarted):
                    model = target.version or event.model
                    event = dataclasses.replace(event, backend=self.name, model=model)
                elif isinstance(event, FieldDelta):
                    chars += len(event.text)
                    if chars > self._reply_max_chars:
                        raise ReplyTooLong.over(self._reply_max_chars)
                yield event

    async def _whole(self, url: str, request: TurnRequest) -> AsyncGenerator[Event, None]:
        """The one answer of ``POST /invocations``, the route of a plain MLflow server."""
        yield TurnStarted(self.name, url, incremental=False)
        yield Status(CANNOT_STREAM)
        body = {"messages": wire.chat_messages(request)}
        async with self._reply(f"{url}/invocations", request, body, self._whole_timeout) as reply:
            if reply.status_code != 200:
                raise wire.reply_error(reply.status_code, await _bounded(reply, ERROR_BODY_MAX_BYTES))
            answer = await _bounded(reply, EVENT_MAX_BYTES)
        yield TurnFinished(wire.outputs_of(answer))

    @asynccontextmanager
    async def _reply(
        self, url: str, request: TurnRequest, body: Mapping[str, Any], timeout: httpx.Timeout
    ) -> AsyncIterator[httpx.Response]:
        """The reply to a turn's request; what breaks while it is read is an error of ours."""
        headers, answering = {TURN_ID_HEADER: request.turn_id}, False
        try:
            async with self._client.stream("POST", url, json=body, headers=headers, timeout=timeout) as reply:
                answering = True
                yield reply
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise wire.transport_error(error, answering=answering) from error

    async def probe(self, url: str) -> ServerInfo:
        """What answers at a typed address."""
        url = base_url(url)
        try:
            reply, body = await self._get(f"{url}/model")
            if reply.status_code == 200:
                return wire.server_info(body)
            reply, _ = await self._get(f"{url}/ping")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise wire.transport_error(error, answering=False) from error
        if reply.headers.get("content-type", "").startswith("text/html"):
            raise MalformedReply(wire.NOT_OURS)
        if reply.status_code == 200:
            return ServerInfo("plain")
        raise wire.reply_error(reply.status_code, b"")

    async def _get(self, url: str) -> tuple[httpx.Response, bytes]:
        async with self._client.stream("GET", url, timeout=CONNECT_TIMEOUT_S) as reply:
            return reply, await _bounded(reply, ERROR_BODY_MAX_BYTES)


class _NoSuchRoute(Exception):
    """The server has no ``/predict/stream``: it may be a plain one."""


async def _check_streams(reply: httpx.Response) -> None:
    if reply.status_code != 200:
        body = await _bounded(reply, ERROR_BODY_MAX_BYTES)
        if reply.status_code in {404, 405} and b'"error_id"' not in body:
            raise _NoSuchRoute
        raise wire.reply_error(reply.status_code, body)
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise MalformedReply(wire.NOT_OURS)


async def _events(reply: httpx.Response) -> AsyncIterator[Event]:
    """The events. The last one comes when the reply is read, so that the next turn has its connection."""
    chunks = reply.aiter_raw()
    async for data in event_data(chunks):
        if data == b"[DONE]":
            break
        event = wire.event_of(wire.json_object(data))
        if isinstance(event, TurnFinished):
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(END_WAIT_S):
                    async for _ in chunks:
                        pass
            yield event
            return
        if event is not None:
            yield event
    raise UpstreamCut(wire.CUT)


async def event_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event as soon as its empty line is there.

    Lines end in CR, LF or both; other lines than ``data`` are skipped; several of them are one text; what the
    end of the stream cuts off is dropped (html.spec.whatwg.org, 9.2.6).
    """
    buffer = bytearray()
    async for chunk in chunks:
        at = max(0, len(buffer) - 3)
        buffer += chunk
        while found := _EVENT_END.search(buffer, at):
            lines = _LINE_END.split(bytes(buffer[: found.start()]))
            del buffer[: found.end()]
            at = 0
            if data := [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]:
                yield b"\n".join(data)
        if len(buffer) > EVENT_MAX_BYTES:
            raise ReplyTooLong(TOO_LONG)


async def _bounded(reply: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ReplyTooLong(TOO_LONG)
    return bytes(body)
