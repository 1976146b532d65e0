"""A version behind a model server: ours, which streams, or a plain ``mlflow models serve``, which cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
CONNECTIONS_MAX, CONNECT_TIMEOUT_S = 500, 5.0
#: Our server sends a comment at least every 15 s, however slow its model is.
SILENT_SERVER_S = 35.0
#: The last event of a turn holds all of its text; a real one has some kilobytes.
ERROR_BODY_MAX_BYTES, EVENT_MAX_BYTES = 64 * 1024, 8 * 1024 * 1024
TOO_LONG = "The model server sent an answer that is too long to be shown."


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
        """A server without ``/predict/stream`` may be a plain MLflow, with one answer on ``/invocations``."""
        target = request.target
        assert isinstance(target, ServedTarget)
        url = base_url(target.url)
        body = wire.predict_body(request, target)
        async with self._reply(f"{url}/predict/stream", request, body, self._live_timeout) as reply:
            wire.check_identity(reply.headers, target)
            if reply.status_code == 200:
                async for event in self._events(reply, target):
                    yield event
                return
            refusal = await _bounded(reply, ERROR_BODY_MAX_BYTES)
        if reply.status_code not in {404, 405} or b'"error_id"' in refusal:
            raise wire.reply_error(reply.status_code, refusal)
        if target.version or target.instance:  # a plain server does not tell its version
            raise WrongServer()
        yield TurnStarted(self.name, url, incremental=False)
        yield Status(CANNOT_STREAM)
        body = {"messages": wire.chat_messages(request)}
        async with self._reply(f"{url}/invocations", request, body, self._whole_timeout) as reply:
            if reply.status_code != 200:
                raise wire.reply_error(reply.status_code, await _bounded(reply, ERROR_BODY_MAX_BYTES))
            answer = await _bounded(reply, EVENT_MAX_BYTES)
        yield TurnFinished(wire.outputs_of(answer))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _events(self, reply: httpx.Response, target: ServedTarget) -> AsyncIterator[Event]:
        """The events up to the last one, by which the server has closed its turn."""
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            raise MalformedReply(wire.NOT_OURS)
        chars = 0
        async for data in event_data(reply.aiter_raw()):
            if data == b"[DONE]":
                break
            event = wire.event_of(wire.json_object(data))
            if isinstance(event, TurnStarted):
                event = dataclasses.replace(event, backend=self.name, model=target.version or event.model)
            elif isinstance(event, FieldDelta):
                chars += len(event.text)
                if chars > self._reply_max_chars:
                    raise ReplyTooLong.over(self._reply_max_chars)
            if event is not None:
                yield event
            if isinstance(event, TurnFinished):
                return
        raise UpstreamCut(wire.CUT)

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


async def event_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event as soon as its line is there: our server writes one for each."""
    buffer = bytearray()
    async for chunk in chunks:
        at = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", at)) >= 0:
            line, at = bytes(buffer[:end]), 0
            del buffer[: end + 1]
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(buffer) > EVENT_MAX_BYTES:
            raise ReplyTooLong(TOO_LONG)


async def _bounded(reply: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ReplyTooLong(TOO_LONG)
    return bytes(body)
