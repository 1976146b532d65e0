"""What goes to a model server and what comes back, as bytes and as events."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote

import orjson

from dspy_demo.backends.remote_errors import NOT_OURS, NOT_READABLE, OTHER_VERSION, error_of
from dspy_demo.errors import DemoError, InvalidInput, MalformedReply, WrongServer
from dspy_demo.events import (
    Channel,
    Event,
    FieldDelta,
    ServedTarget,
    Status,
    StatusState,
    TurnFailed,
    TurnRequest,
    event_from_wire,
)
from dspy_demo.programs.spec import REASONING_FIELDS

#: A model server of ours names itself in every reply: which version it is, and which very process.
VERSION_HEADER, INSTANCE_HEADER = "X-Model-Version", "X-Model-Instance"

_CHANNELS, _STATES = get_args(Channel), get_args(StatusState)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers at an address.

    Attributes:
        kind: ``live`` is our own model server, ``plain`` is ``mlflow models serve``.
        version: The MLflow URI that it serves, where it tells.
        ready: Whether it can answer a question; if not, `reason` is why (a missing key).
        lm: The model string behind it, where it tells.
        program: The name of the program that it runs, where it tells.
    """

    kind: Literal["live", "plain"]
    version: str | None = None
    ready: bool = True
    reason: str = ""
    lm: str | None = None
    program: str = ""


def base_url(url: str) -> str:
    """The address of a server, also from one of its routes as somebody may have copied it.

    Raises:
        InvalidInput: It is not an http(s) address.
    """
    found = re.sub(r"/+(invocations|ping|model|predict|predict/stream)$", "", url.strip().rstrip("/"))
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", found):
        raise InvalidInput("This is not an address of a server. It looks like http://127.0.0.1:5001.")
    return found


def identity_headers(version: str, instance: str) -> dict[str, str]:
    """What a model server says of itself; the name of a version may be in any script."""
    headers = {VERSION_HEADER: quote(version, safe=":/"), INSTANCE_HEADER: instance}
    return {name: value for name, value in headers.items() if value}


def check_identity(headers: Mapping[str, str], target: ServedTarget) -> None:
    """Make sure that a reply comes from the server that is meant, before any of it is used.

    An address says little: when a server ends, its port may be taken by anything.

    Raises:
        WrongServer: It comes from another process, or from one that serves another version.
    """
    if target.instance and headers.get(INSTANCE_HEADER) != target.instance:
        raise WrongServer()
    serves = unquote(headers.get(VERSION_HEADER, ""))
    if target.version and serves and serves != target.version:
        raise WrongServer(OTHER_VERSION)


def predict_body(request: TurnRequest) -> dict[str, Any]:
    """One text goes to whatever the version calls its chat field; more inputs go by their names."""
    body: dict[str, Any] = {
        "history": [{"role": message.role, "content": message.text} for message in request.history]
    }
    values = list(request.inputs.values())
    if len(values) == 1 and isinstance(values[0], str):
        body["text"] = values[0]
    else:
        body["inputs"] = dict(request.inputs)
    if isinstance(request.target, ServedTarget) and request.target.max_tokens is not None:
        body["max_tokens"] = request.target.max_tokens
    if isinstance(request.target, ServedTarget) and not request.target.cache:
        body["cache"] = False
    if re.fullmatch(r"[\w.-]{1,128}", request.session_id):
        body["session_id"] = request.session_id
    return body


def chat_messages(request: TurnRequest) -> list[dict[str, str]]:
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


def json_object(data: bytes) -> Mapping[str, Any]:
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


def event_of(content: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None for a kind that a newer server may send.

    Raises:
        DemoError: It is an ``error``, or not what its kind must be.
    """
    try:
        event = event_from_wire(content)
        if isinstance(event, TurnFailed):
            failure = error_of(content)
            failure.from_server = True
            raise failure
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedReply(NOT_READABLE) from error
    if isinstance(event, FieldDelta) and event.channel not in _CHANNELS:
        return dataclasses.replace(event, channel="reasoning")
    if isinstance(event, Status) and event.state not in _STATES:
        return dataclasses.replace(event, state="info")
    return event


def outputs_of(answer: bytes) -> dict[str, Any]:
    """The output fields in a reply of ``/invocations``, the reasoning first.

    MLflow (3.17, `dspy/wrapper.py`) writes a prediction as a JSON string into the content of a chat message;
    a program that returns text is just that text.

    Raises:
        MalformedReply: It is no chat reply.
    """
    try:
        content = json_object(answer)["choices"][0]["message"]["content"]
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
    return dict(sorted(outputs.items(), key=lambda item: item[0] not in REASONING_FIELDS))


def server_info(body: bytes) -> ServerInfo:
    try:
        content = json_object(body)
        if content["server"] != "dspy-demo":
            raise MalformedReply(NOT_OURS)
        return ServerInfo(
            "live",
            str(content["version"]),
            bool(content["ready"]),
            str(content.get("reason") or "")[:400],
            str(content.get("lm") or "") or None,
            str(content.get("program") or "")[:200],
        )
    except (KeyError, DemoError):
        raise MalformedReply(NOT_OURS) from None
