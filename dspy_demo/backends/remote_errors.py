"""What went wrong with a model server, in our terms. Of its replies only our own sentences are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx

from dspy_demo.errors import (
    DemoError,
    InvalidInput,
    MalformedReply,
    UpstreamAuth,
    UpstreamCut,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)

#: A sentence of ours is far shorter; another server's text is cut.
MESSAGE_MAX_CHARS = 400

NOT_RUNNING = "The model server is not running at this address. Start it again, or switch to Local."
CUT = "The model server ended in the middle of the answer. What arrived is kept; retry for the whole answer."
NOT_OURS = "What answers at this address is not a model server of this app or of MLflow. Check the address."
OTHER_VERSION = "The server at this address serves another version now. Connect to it again to ask that one."
NOT_READABLE = "The model server sent something that this app cannot read. Check its address and its version."


def transport_error(error: httpx.HTTPError | httpx.InvalidURL, *, answering: bool) -> DemoError:
    """The error of a connection. `answering`: the reply had begun."""
    match error:
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return InvalidInput("This is not an address of a server. It looks like http://127.0.0.1:5001.")
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return UpstreamUnavailable(NOT_RUNNING)
        case httpx.PoolTimeout():
            return UpstreamUnavailable(
                "All connections to the model server are in use. Try again in a moment."
            )
        case httpx.TimeoutException():
            return UpstreamTimeout("The model server was silent for too long. Try again, or restart it.")
        case _ if answering:
            return UpstreamCut(CUT)
    return UpstreamUnavailable("The model server closed the connection without an answer. Try again.")


def reply_error(status: int, body: bytes) -> DemoError:
    """The error of a reply other than 200: ours by its code, any other by its status alone."""
    try:
        content = json.loads(body)
        if isinstance(content, dict) and content.get("status") == "error":
            return error_of(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return status_error(status)


def status_error(status: int) -> DemoError:
    if status in {401, 403, 407}:
        return UpstreamAuth("The model server refused the request: it asks for a key or a login.")
    if status == 429:
        return UpstreamRateLimited("The model server is at its limit. Wait a moment and retry.")
    if status in {413, 422}:
        return UpstreamRejected(
            "The model server refused the request. Check that the version takes this input."
        )
    if status == 504:
        return UpstreamTimeout("The model server took too long. Try again.")
    if status in {502, 503}:
        return UpstreamUnavailable("The model server is not ready. Try again in a moment.")
    if 300 <= status < 400:
        return MalformedReply(
            "The address leads elsewhere, and redirects are not followed. Use the final one."
        )
    if status in {404, 405}:
        return MalformedReply(NOT_OURS)
    return UpstreamError("The model server failed to answer. Its log has the details.")


def error_of(content: Mapping[str, Any]) -> DemoError:
    """The error that an ``error`` event or body of our own server names.

    Raises:
        KeyError, TypeError, ValueError: It is not one.
    """
    made = _by_code(DemoError).get(str(content["code"]), UpstreamError)
    error = made(str(content["message"])[:MESSAGE_MAX_CHARS])
    error.retryable = bool(content["retryable"])
    if content.get("retry_after_s") is not None:
        error.retry_after_s = max(0.0, float(content["retry_after_s"]))
    error_id = str(content.get("error_id") or "")
    if re.fullmatch(r"[0-9a-f]{1,32}", error_id):
        error.server_error_id = error_id
    return error


def _by_code(root: type[DemoError]) -> dict[str, type[DemoError]]:
    found = {root.code: root}
    for made in root.__subclasses__():
        found = _by_code(made) | found
    return found
