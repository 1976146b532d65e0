"""What goes to a model server and what comes back. Of its texts only our own are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

import httpx

from dspy_demo import errors
from dspy_demo.errors import DemoError, InvalidInput, MalformedReply, WrongServer
from dspy_demo.events import Event, ServedTarget, TurnFailed, TurnRequest, event_from_wire
from dspy_demo.programs.spec import REASONING_FIELDS

#: A model server of ours names itself in every reply: which version it is, and which very process.
VERSION_HEADER, INSTANCE_HEADER = "X-Model-Version", "X-Model-Instance"
#: A sentence of ours is far shorter; another server's text is cut.
MESSAGE_MAX_CHARS = 400

NO_ADDRESS = "This is not an address of a server. It looks like http://127.0.0.1:5001."
CUT = "The model server ended in the middle of the answer. What arrived is kept; retry for the whole answer."
NOT_OURS = "What answers at this address is not a model server of this app or of MLflow. Check the address."
NOT_READABLE = "The model server sent something that this app cannot read. Check its address and its version."


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers at an address."""

    kind: Literal["live", "plain"]  #: Our own model server, or ``mlflow models serve``.
    version: str | None = None  #: The MLflow URI that it serves, where it tells.
    ready: bool = True
    reason: str = ""  #: Why it is not ready, such as a missing key.
    lm: str = ""
    program: str = ""


def base_url(url: str) -> str:
    """The address of a server, also from the address of one of its routes."""
    found = re.sub(r"/+(invocations|ping|model|predict|predict/stream)$", "", url.strip().rstrip("/"))
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", found):
        raise InvalidInput(NO_ADDRESS)
    return found


def identity_headers(version: str, instance: str) -> dict[str, str]:
    """What a model server says of itself."""
    headers = {VERSION_HEADER: quote(version, safe=":/"), INSTANCE_HEADER: instance}
    return {name: value for name, value in headers.items() if value}


def check_identity(headers: Mapping[str, str], target: ServedTarget) -> None:
    """Refuse another server's reply: a port that became free is anybody's."""
    if target.instance and headers.get(INSTANCE_HEADER) != target.instance:
        raise WrongServer()
    serves = unquote(headers.get(VERSION_HEADER, ""))
    if target.version and serves and serves != target.version:
        raise WrongServer("The server at this address serves another version now. Connect to it again.")


def predict_body(request: TurnRequest, target: ServedTarget) -> dict[str, Any]:
    """One text goes to whatever the version calls its chat field; more inputs go by their names."""
    values = list(request.inputs.values())
    one_text = len(values) == 1 and isinstance(values[0], str)
    return {
        "history": _history(request),
        **({"text": values[0]} if one_text else {"inputs": dict(request.inputs)}),
        **({} if target.max_tokens is None else {"max_tokens": target.max_tokens}),
        **({} if target.cache else {"cache": False}),
        **({"session_id": request.session_id} if re.fullmatch(r"[\w.-]{1,128}", request.session_id) else {}),
    }


def chat_messages(request: TurnRequest) -> list[dict[str, str]]:
    given = [value for value in request.inputs.values() if value not in (None, "")]
    if len(given) != 1:
        raise InvalidInput("A plain MLflow server takes one chat message only, not further input fields.")
    return [*_history(request), {"role": "user", "content": str(given[0])}]


def _history(request: TurnRequest) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in request.history]


def json_object(data: bytes | str) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        if isinstance(value, dict):
            return value
    raise MalformedReply(NOT_READABLE)


def event_of(content: Mapping[str, Any]) -> Event | None:
    """The event of a JSON object; None for a kind that a newer server may send. An error is raised."""
    try:
        event = event_from_wire(content)
        failure = _error_of(content) if isinstance(event, TurnFailed) else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedReply(NOT_READABLE) from error
    if failure is not None:
        failure.from_server = True
        raise failure
    return event


def outputs_of(answer: bytes) -> dict[str, Any]:
    """The output fields in a reply of ``/invocations``, the reasoning first.

    MLflow writes a prediction as a JSON string into the content of a chat message; other text is the answer.
    """
    try:
        content = json_object(answer)["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise MalformedReply(NOT_READABLE)
    try:
        outputs = json_object(content)
    except MalformedReply:
        return {"answer": content}
    return dict(sorted(outputs.items(), key=lambda item: item[0] not in REASONING_FIELDS))


def server_info(body: bytes) -> ServerInfo:
    """What ``GET /model`` tells."""
    with suppress(KeyError, DemoError):
        content = json_object(body)
        if content["server"] == "dspy-demo":
            told = (str(content.get(name) or "")[:MESSAGE_MAX_CHARS] for name in ("reason", "lm", "program"))
            return ServerInfo("live", str(content["version"]), bool(content["ready"]), *told)
    raise MalformedReply(NOT_OURS)


def transport_error(error: httpx.HTTPError | httpx.InvalidURL, *, answering: bool) -> DemoError:
    """The error of a connection. `answering`: a reply had begun."""
    match error:
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return InvalidInput(NO_ADDRESS)
        case httpx.ConnectError() | httpx.ConnectTimeout():
            text = "The model server is not running at this address. Start it again, or switch to Local."
            return errors.UpstreamUnavailable(text)
        case httpx.TimeoutException():
            return errors.UpstreamTimeout("The model server was silent for too long. Try again.")
    if answering:
        return errors.UpstreamCut(CUT)
    return errors.UpstreamUnavailable("The model server closed the connection without an answer. Try again.")


def reply_error(status: int, body: bytes) -> DemoError:
    """The error of a reply other than 200: ours by its code, any other by its status alone."""
    with suppress(DemoError, ValueError, KeyError, TypeError):
        content = json_object(body)
        if content.get("status") == "error":
            return _error_of(content)
    if status in {*range(300, 400), 404, 405}:
        return MalformedReply(NOT_OURS)
    return errors.UpstreamError(
        f"The model server answered with HTTP status {status}. Its log has the details."
    )


def _error_of(content: Mapping[str, Any]) -> DemoError:
    """The error that an ``error`` event or body of our own server names."""
    kinds: dict[str, type[DemoError]] = {k.code: k for k in vars(errors).values() if hasattr(k, "code")}
    error = kinds.get(str(content["code"]), errors.UpstreamError)(str(content["message"])[:MESSAGE_MAX_CHARS])
    error.retryable = bool(content["retryable"])
    if content.get("retry_after_s") is not None:
        error.retry_after_s = max(0.0, float(content["retry_after_s"]))
    error_id = str(content.get("error_id") or "")
    if re.fullmatch(r"[0-9a-f]{1,32}", error_id):
        error.server_error_id = error_id
    return error
