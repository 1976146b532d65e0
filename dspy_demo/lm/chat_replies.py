"""What servers of OpenAI's chat API really answer, read into what DSPy's client understands.

Many servers speak this API, and each in its own way: they refuse parameters that they do not know, say in
their own words that a chat is too long, report an error inside a stream that began well, or send the whole
reply at once. Nothing here touches the network, so that the clients for both kinds of call share it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from dspy import lm15

DONE = b"data: [DONE]"
#: How long the end of a stream is waited for after ``[DONE]``, so that the connection can be used again.
END_WAIT_S = 0.5
#: What is left out, or renamed, where a server refuses it: an answer without it is better than none.
OPTIONAL = ("stream_options", "max_tokens", "max_completion_tokens", "temperature")
#: OpenAI, vLLM, llama.cpp, LM Studio, Ollama and SGLang, in this order where their words differ.
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|too long to fit|maximum model length|maximum input length"
    r"|context the overflows|input length .{0,40}exceeds|prompt is too long",
    re.IGNORECASE,
)
#: In the code or the type of an error object.
_ERRORS: Mapping[str, type[lm15.ProviderError]] = {
    r"rate_limit|\b429\b": lm15.RateLimitError,
    r"quota|\b402\b": lm15.BillingError,
    r"api_key|authentication|\b40[13]\b": lm15.AuthError,
    r"not_found|\b404\b": lm15.UnsupportedModelError,
    r"\b(408|504)\b": lm15.TimeoutError,
    r"invalid_request|badrequest|\b4\d\d\b": lm15.InvalidRequestError,
}
#: DSPy's client refuses a line of more than 64 KiB; a character may take six bytes of JSON.
_PIECE_CHARS = 8_000


def is_too_long(text: str) -> bool:
    """Whether a server's words say that the chat does not fit into the model's context."""
    return _TOO_LONG.search(text) is not None


def without_refused(given: Mapping[str, Any], refusal: str) -> dict[str, Any] | None:
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


def error_in(body: bytes) -> lm15.ProviderError | None:
    """The error that a JSON object says, where it says one."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    error = content if content.get("object") == "error" else content.get("error")
    if not error:
        return None
    detail = error if isinstance(error, dict) else {"message": str(error)}
    message, code, kind = (str(detail.get(name) or "") for name in ("message", "code", "type"))
    if is_too_long(f"{message} {code} {kind}"):
        return lm15.ContextLengthError(message, provider_code=code)
    words = f"{code} {kind}".lower()
    found = next((made for pattern, made in _ERRORS.items() if re.search(pattern, words)), lm15.ServerError)
    overloaded = re.search(r"overload|unavailable|capacity|\b503\b", f"{words} {message.lower()}")
    return found(message, provider_code=code or kind, status=503 if overloaded else None)


async def checked(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream, up to the one that ends the answer, also where the server leaves it open.

    Raises:
        lm15.ProviderError: One of them says an error.
    """
    async for line in lines:
        if b'"error"' in line or line.startswith(b"error:"):
            error = error_in(line.partition(b":")[2])
            if error is not None:
                raise error
        yield line
        if line.rstrip() == DONE:
            yield b"\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WAIT_S):
                    await anext(lines, None)
            return


def lines_of_whole(body: bytes) -> Iterator[bytes]:
    """A reply that came whole, as the lines of a stream. What is no reply stays as it is.

    Raises:
        lm15.ProviderError: It says an error.
    """
    if error := error_in(body):
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
