"""What servers of OpenAI's chat API really answer, read into what DSPy's client understands.

Many servers speak this API, and each in its own way: they refuse parameters that they do not know, say in
their own words that a chat is too long, report an error inside a stream that began well, or send the whole
reply at once. Nothing here touches the network, so that the clients for both kinds of call share it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dspy import lm15

DONE = b"data: [DONE]"
#: What is left out, or renamed, where a server refuses it: an answer without it is better than none.
OPTIONAL = ("stream_options", "max_tokens", "max_completion_tokens", "temperature")
#: OpenAI, vLLM, llama.cpp, LM Studio, Ollama and SGLang, in this order where their words differ.
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|too long to fit|maximum model length|maximum input length"
    r"|context the overflows|input length .{0,40}exceeds|prompt is too long",
    re.IGNORECASE,
)
_STATUS_ERRORS: Mapping[int, type[lm15.ProviderError]] = {
    401: lm15.AuthError,
    402: lm15.BillingError,
    403: lm15.AuthError,
    404: lm15.UnsupportedModelError,
    408: lm15.TimeoutError,
    429: lm15.RateLimitError,
    504: lm15.TimeoutError,
}
_WORD_ERRORS: tuple[tuple[str, type[lm15.ProviderError]], ...] = (
    ("rate_limit", lm15.RateLimitError),
    ("quota", lm15.BillingError),
    ("api_key", lm15.AuthError),
    ("authentication", lm15.AuthError),
    ("not_found", lm15.UnsupportedModelError),
    ("invalid_request", lm15.InvalidRequestError),
    ("badrequest", lm15.InvalidRequestError),
)
#: DSPy's client refuses a line of more than 64 KiB; a character may take six bytes of JSON.
_PIECE_CHARS = 8_000


def is_too_long(text: str) -> bool:
    """Whether a server's words say that the chat does not fit into the model's context."""
    return _TOO_LONG.search(text) is not None


def other_parameters(given: Mapping[str, Any], refusal: str) -> dict[str, Any] | None:
    """What to send instead of parameters of which one was refused; None where it was for something else.

    Args:
        given: The parameters that were sent.
        refusal: What the server said of them.
    """
    named = re.search(r'"param"\s*:\s*"(\w+)"', refusal)
    names = [named[1]] if named else []
    names += [name for name in OPTIONAL if re.search(rf"\b{name}\b", refusal)]
    names += ["max_completion_tokens"] if "max_tokens" in names else []  # the same bound by its new name
    name = next((name for name in names if name in OPTIONAL and given.get(name) is not None), None)
    if name is None:
        return None
    other = {key: value for key, value in given.items() if key != name}
    instead = re.search(r"[Uu]se ['\"`]?(max_tokens|max_completion_tokens)", refusal)
    if instead and instead[1] != name and name in {"max_tokens", "max_completion_tokens"}:
        other[instead[1]] = given[name]
    return other


def other_request(body: bytes, refusal: bytes) -> bytes | None:
    """The body to send instead of one that was refused for a parameter, or None."""
    other = other_parameters(json.loads(body), refusal.decode("utf-8", "replace"))
    return None if other is None else json.dumps(other).encode()


def said_error(body: bytes, status: int | None = None) -> lm15.ProviderError | None:
    """The error that a JSON object says, where it says one.

    Args:
        status: The reply's, where it is an error too; then only what the status does not tell is read.
    """
    text = body.decode("utf-8", "replace")
    if status is not None:
        return lm15.ContextLengthError(text, status=status) if is_too_long(text) else None
    try:
        content = json.loads(body)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    error = content if content.get("object") == "error" else content.get("error")
    return _error(error) if error else None


def _error(error: Any) -> lm15.ProviderError:
    """The class of an error object, by its own words."""
    detail = error if isinstance(error, dict) else {"message": str(error)}
    message = str(detail.get("message") or "")
    code, kind = str(detail.get("code") or ""), str(detail.get("type") or "")
    if is_too_long(f"{message} {code} {kind}"):
        return lm15.ContextLengthError(message, provider_code=code)
    if re.fullmatch(r"[45]\d\d", code):
        status = int(code)
        usual = lm15.ServerError if status >= 500 else lm15.InvalidRequestError
        return _STATUS_ERRORS.get(status, usual)(message, status=status)
    words = f"{code} {kind}".lower()
    found = next((made for word, made in _WORD_ERRORS if word in words), lm15.ServerError)
    overloaded = re.search(r"overload|unavailable|capacity", f"{words} {message.lower()}")
    return found(message, provider_code=code or kind, status=503 if overloaded else None)


class EventLines:
    """Cuts the body of a stream into lines, up to the one that ends the answer.

    Args:
        chat: It is OpenAI's chat API. The lines of any other are only cut.

    Attributes:
        done: ``[DONE]`` was there: nothing that follows belongs to the answer.
    """

    def __init__(self, *, chat: bool) -> None:
        self.done = False
        self._chat = chat
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now.

        Raises:
            lm15.ProviderError: One of them says an error.
        """
        self._rest += data
        if b"\n" not in data:
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return self._read(lines)

    def finish(self) -> list[bytes]:
        """What stands behind the last line's end."""
        return self._read([bytes(self._rest)]) if self._rest and not self.done else []

    def _read(self, lines: list[bytes]) -> list[bytes]:
        read = []
        for line in lines:
            read.append(line + b"\n")
            if self._chat and (b'"error"' in line or line.startswith(b"error:")):
                error = said_error(line.partition(b":")[2])
                if error is not None:
                    raise error
            if self._chat and line.rstrip() == DONE:
                self.done = True
                return [*read, b"\n"]
        return read


def lines_of_whole(body: bytes) -> Iterator[bytes]:
    """A reply that came whole, as the lines of a stream. What is no reply stays as it is.

    Raises:
        lm15.ProviderError: It says an error.
    """
    if error := said_error(body):
        raise error
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = dict(choice["message"])
    except (ValueError, LookupError, TypeError):
        yield body
        return
    for name in ("reasoning_content", "reasoning", "content"):
        text = message.pop(name, None) or ""
        for start in range(0, len(text), _PIECE_CHARS):
            yield from _event(reply, {"delta": {name: text[start : start + _PIECE_CHARS]}})
    calls = [{"index": number, **call} for number, call in enumerate(message.get("tool_calls") or ())]
    if calls:
        yield from _event(reply, {"delta": {"tool_calls": calls}})
    end: dict[str, Any] = {"delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
    yield from _event(reply, end, reply.get("usage"))
    yield from (DONE + b"\n", b"\n")


def _event(reply: Mapping[str, Any], choice: Mapping[str, Any], usage: Any = None) -> Iterator[bytes]:
    chunk = {"id": reply.get("id"), "model": reply.get("model"), "choices": [{"index": 0, **choice}]}
    yield b"data: " + json.dumps(chunk | ({"usage": usage} if usage else {})).encode() + b"\n"
    yield b"\n"
