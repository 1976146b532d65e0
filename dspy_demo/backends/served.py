"""A version behind a model server: ours, which streams, or a plain ``mlflow models serve``, which cannot."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import httpx
import orjson

from dspy_demo.backends.event_stream import EventStreamParser, EventTooLong
from dspy_demo.backends.remote_errors import (
    CUT,
    NOT_OURS,
    NOT_READABLE,
    NOT_RUNNING,
    error_of,
    reply_error,
    transport_error,
)
from dspy_demo.errors import DemoError, InvalidInput, MalformedReply, UpstreamCut, UpstreamUnavailable
from dspy_demo.events import (
    Channel,
    Event,
    FieldDelta,
    ServedTarget,
    Status,
    StatusState,
    TurnFailed,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    event_from_wire,
)
from dspy_demo.settings import Settings

CANNOT_STREAM = "This server cannot stream; the whole answer comes at once."
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
#: How long a server stays known as plain; then it is asked again whether it streams.
PLAIN_KNOWN_S = 60.0
#: Longest body that is read whole: a plain server's answer.
BODY_MAX_BYTES = 8 * 1024 * 1024
_ERROR_BODY_MAX_BYTES = 64 * 1024
_REASONING_FIELDS = ("reasoning", "rationale")
_CHANNELS, _STATES = get_args(Channel), get_args(StatusState)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers at an address.

    Attributes:
        kind: ``live`` is our own model server, ``plain`` is ``mlflow models serve``.
        version: The MLflow URI that it serves, where it tells.
        ready: Whether it can answer a question; if not, `reason` is why (a missing key).
        lm: The model string behind it, where it tells.
    """

    kind: Literal["live", "plain"]
    version: str | None = None
    ready: bool = True
    reason: str = ""
    lm: str | None = None


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
            max_connections=settings.lm_connections, max_keepalive_connections=50, keepalive_expiry=4
        )  # uvicorn closes an idle connection after 5 s
        self._client = httpx.AsyncClient(
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            headers={"Accept-Encoding": "identity"},
        )
        self._total_timeout_s = settings.total_timeout_s
        self._plain: dict[str, float] = {}

    async def stream(self, request: TurnRequest) -> AsyncIterator[Event]:
        target = request.target
        assert isinstance(target, ServedTarget)
        url = base_url(target.url)
        if time.monotonic() - self._plain.get(url, -PLAIN_KNOWN_S) >= PLAIN_KNOWN_S:
            self._plain.pop(url, None)
            try:
                async for event in self._live(url, request):
                    if isinstance(event, TurnStarted):
                        event = TurnStarted(self.name, target.version or event.model, event.incremental)
                    yield event
                return
            except _NoSuchRoute:
                self._plain[url] = time.monotonic()
        async for event in self._whole(url, target.version or url, request):
            yield event

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- our own model server ---

    async def _live(self, url: str, request: TurnRequest) -> AsyncIterator[Event]:
        """The events of ``POST /predict/stream``; the last one when the server is done, so that the connection
        can be used again."""
        answering, end = False, None
        try:
            async with self._client.stream(
                "POST", f"{url}/predict/stream", json=_predict_body(request)
            ) as reply:
                answering = True
                await _check_streams(reply)
                async for content in _contents(reply):
                    event = _event(content)
                    if isinstance(event, TurnFinished):
                        end = event
                    elif event is not None and end is None:
                        yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if end is None:
                raise transport_error(error, answering=answering) from error
        except EventTooLong as error:
            raise MalformedReply("The model server sent an answer that is too long to be shown.") from error
        if end is None:
            raise UpstreamCut(CUT)
        yield end

    # --- a plain MLflow server ---

    async def _whole(self, url: str, model: str, request: TurnRequest) -> AsyncIterator[Event]:
        """The one answer of ``POST /invocations``."""
        yield TurnStarted(self.name, model, incremental=False)
        yield Status(CANNOT_STREAM)
        body = {"messages": _messages(request)}
        answering = False
        try:
            async with self._client.stream(
                "POST", f"{url}/invocations", json=body, timeout=self._total_timeout_s + 5
            ) as reply:
                answering = True
                if reply.status_code != 200:
                    self._plain.pop(url, None)
                    raise reply_error(reply.status_code, await _bounded(reply, _ERROR_BODY_MAX_BYTES))
                answer = await _bounded(reply, BODY_MAX_BYTES)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._plain.pop(url, None)
            raise transport_error(error, answering=answering) from error
        yield TurnFinished(outputs_of(answer))

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
                return _live_info(body)
            reply, _ = await self._get(f"{url}/ping")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(error, answering=False) from error
        if reply.status_code == 200 and not reply.headers.get("content-type", "").startswith("text/html"):
            return ServerInfo("plain")
        raise reply_error(reply.status_code, b"") if reply.status_code != 200 else MalformedReply(NOT_OURS)

    async def _get(self, url: str) -> tuple[httpx.Response, bytes]:
        async with self._client.stream("GET", url, timeout=PROBE_TIMEOUT_S) as reply:
            return reply, await _bounded(reply, _ERROR_BODY_MAX_BYTES)


class _NoSuchRoute(Exception):
    """The server has no ``/predict/stream``: it may be a plain one."""


def base_url(url: str) -> str:
    """The address of a server, also from one of its routes as somebody may have copied it.

    Raises:
        InvalidInput: It is not an http(s) address.
    """
    found = re.fullmatch(
        r"(https?://[^/?#\s]+(?:/[^?#\s]*?)?)/*(?:/(?:invocations|ping|predict(?:/stream)?))?/*", url.strip()
    )
    if found is None:
        raise InvalidInput("This is not an address of a server. It looks like http://127.0.0.1:5001.")
    return found.group(1)


def _predict_body(request: TurnRequest) -> dict[str, Any]:
    """One text goes to whatever the version calls its chat field; more inputs go by their names."""
    body: dict[str, Any] = {
        "history": [{"role": message.role, "content": message.text} for message in request.history]
    }
    values = list(request.inputs.values())
    if len(values) == 1 and isinstance(values[0], str):
        body["text"] = values[0]
    else:
        body["inputs"] = dict(request.inputs)
    if re.fullmatch(r"[\w.-]{1,128}", request.session_id):
        body["session_id"] = request.session_id
    return body


def _messages(request: TurnRequest) -> list[dict[str, str]]:
    """The chat and the question, as OpenAI writes them.

    Raises:
        InvalidInput: There are further inputs, which cannot be said in messages.
    """
    given = {name: value for name, value in request.inputs.items() if value not in (None, "")}
    if len(given) != 1:
        raise InvalidInput("A plain MLflow server takes one chat message only, not further input fields.")
    question = str(next(iter(given.values())))
    history = [{"role": message.role, "content": message.text} for message in request.history]
    return [*history, {"role": "user", "content": question}]


async def _check_streams(reply: httpx.Response) -> None:
    if reply.status_code != 200:
        body = await _bounded(reply, _ERROR_BODY_MAX_BYTES)
        if reply.status_code in {404, 405} and b'"error_id"' not in body:
            raise _NoSuchRoute
        raise reply_error(reply.status_code, body)
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise MalformedReply(NOT_OURS)


async def _contents(reply: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON objects of the stream."""
    parser = EventStreamParser()
    async for chunk in reply.aiter_raw():
        for data in parser.feed(chunk):
            if data != b"[DONE]":
                yield _object(data)


def _object(data: bytes) -> Mapping[str, Any]:
    """The JSON object of some bytes.

    Raises:
        MalformedReply: It is not one.
    """
    try:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = json.loads(data)  # half a surrogate pair, which models do write
        if isinstance(value, dict):
            return value
    except (ValueError, RecursionError):
        pass
    raise MalformedReply(NOT_READABLE)


def _event(content: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None for a kind that a newer server may send.

    Raises:
        DemoError: It is an ``error``, or not what its kind must be.
    """
    try:
        event = event_from_wire(content)
        if isinstance(event, TurnFailed):
            raise error_of(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedReply(NOT_READABLE) from error
    if isinstance(event, FieldDelta) and event.channel not in _CHANNELS:
        return dataclasses.replace(event, channel="reasoning")
    if isinstance(event, Status) and event.state not in _STATES:
        return dataclasses.replace(event, state="info")
    return event


async def _bounded(reply: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise MalformedReply("The model server sent an answer that is too long to be shown.")
    return bytes(body)


def outputs_of(answer: bytes) -> dict[str, Any]:
    """The output fields in a reply of ``/invocations``, the reasoning first.

    MLflow (3.17, `dspy/wrapper.py`) writes a prediction as a JSON string into the content of a chat message;
    a program that returns text is just that text.

    Raises:
        MalformedReply: It is no chat reply.
    """
    try:
        content = _object(answer)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise MalformedReply(
            "The model server did not answer as a chat. Was the version logged with task “llm/v1/chat”?"
        ) from error
    if not isinstance(content, str):
        raise MalformedReply(NOT_READABLE)
    try:
        outputs = json.loads(content)
    except (ValueError, RecursionError):
        outputs = None
    if not isinstance(outputs, dict):
        return {"answer": content}
    return dict(sorted(outputs.items(), key=lambda item: item[0] not in _REASONING_FIELDS))


def _live_info(body: bytes) -> ServerInfo:
    try:
        content = _object(body)
        if content["server"] != "dspy-demo":
            raise MalformedReply(NOT_OURS)
        return ServerInfo(
            "live",
            str(content["version"]),
            bool(content["ready"]),
            str(content.get("reason") or "")[:400],
            str(content.get("lm") or "") or None,
        )
    except (KeyError, DemoError):
        raise MalformedReply(NOT_OURS) from None


__all__ = ["NOT_RUNNING", "ServedBackend", "ServerInfo", "UpstreamUnavailable", "base_url", "outputs_of"]
