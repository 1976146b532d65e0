"""DSPy's own client for a provider's API, for one model at one server with one key.

Servers of OpenAI's chat API refuse parameters, have words of their own, or report an error inside a stream. A
transport reads all that into what the client understands.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import dspy
from dspy import lm15

from dspy_demo.dspy_bridge import connections_of, price_usd

#: Connections that may be open to one model server.
CONNECTIONS_MAX = 500
#: How long the end of a stream is waited for after ``[DONE]``, so that the connection can be used again.
END_WAIT_S = 0.5
#: What is left out, or renamed, where a server refuses it: an answer without it is better than none.
OPTIONAL = ("stream_options", "max_tokens", "max_completion_tokens", "temperature")
_DONE = b"data: [DONE]"
#: DSPy's client refuses a line of more than 64 KiB; a character may take six bytes of JSON.
_PIECE_CHARS = 8_000
#: OpenAI, vLLM, llama.cpp, LM Studio, Ollama and SGLang, in this order where their words differ.
TOO_LONG = re.compile(
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


@dataclass(eq=False)
class NativeEngine:
    """Asks one model. Each event loop has connections of its own; the environment is not looked at."""

    model: str
    client: str  # the name of DSPy's client for the provider's API, for example openai-chat
    base: str | None  # base URL; None for the provider's usual one
    key: str | None = field(repr=False)
    timeout_s: float  # the longest silence
    _routers: dict[asyncio.AbstractEventLoop, lm15.AsyncLMRouter] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> str:
        return f"{self.client}:{self.model}"  # as DSPy's client names it

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await self._router().complete(replace(request, model=self.target))

    def stream(self, request: lm15.Request) -> Any:
        return self._router().stream(replace(request, model=self.target))

    def _router(self) -> lm15.AsyncLMRouter:
        loop = asyncio.get_running_loop()
        if loop not in self._routers:
            transport = Transport(self)
            config = lm15.RouterConfig(
                env={},
                api_keys={self.client: self.key} if self.key else None,
                base_urls={self.client: self.base} if self.base else None,
                transport=transport if transport.connections else None,
            )
            self._routers[loop] = lm15.AsyncLMRouter(config)
        return self._routers[loop]

    async def aclose(self) -> None:  # of the running loop
        if router := self._routers.pop(asyncio.get_running_loop(), None):
            await router.aclose()


class Abilities:
    """The engine's other half: what DSPy knows of the model, and what a call of it cost."""

    def __init__(self, engine: NativeEngine) -> None:
        known = dspy.LM(engine.target, engine="lm15")
        for name in ("function_calling", "reasoning", "response_schema"):
            setattr(self, f"supports_{name}", getattr(known, f"supports_{name}"))
        self.supported_params = known.supported_params
        self._engine = engine

    def complete(self, request: lm15.Request) -> lm15.Response:
        raise NotImplementedError("a ChatLM asks over `NativeEngine` only")

    def price_usd(self, replied: lm15.Response | Sequence[lm15.Response]) -> float | None:
        """What a call cost, where the model's price is known."""
        replies = [replied] if isinstance(replied, lm15.Response) else replied
        prices = [price_usd(reply, self._engine.client, self._engine.model) for reply in replies]
        return sum(price for price in prices if price is not None) if None not in prices else None


class Transport:
    """What DSPy's client sends its requests with: connections of DSPy's, whose replies are read here."""

    def __init__(self, engine: NativeEngine) -> None:
        wait_s = engine.timeout_s
        config = lm15.RouterConfig(
            env={},
            api_keys={engine.client: "none"},  # it makes the connections and asks nobody
            timeouts=lm15.Timeouts(read=wait_s, write=wait_s, pool=wait_s),
            max_connections=CONNECTIONS_MAX,
        )
        self._owner = lm15.AsyncLMRouter(config)
        self.connections = connections_of(self._owner, engine.target)

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Send a request of DSPy's client; again without a parameter that is refused."""
        chat = urlsplit(request.url).path.endswith("/chat/completions")
        for left in reversed(range(len(OPTIONAL) + 1)):
            async with self.connections.stream(request) as got:
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
    """A reply of OpenAI's chat API, as DSPy's client reads it; of a refusal the body has been read."""

    def __init__(self, got: Any, body: bytes) -> None:
        self._got, self._body = got, body
        self.status, self.reason, self.http_version = got.status, got.reason, got.http_version
        self.headers = got.headers

    async def read(self) -> bytes:
        body: bytes = self._body or await self._got.read()
        error = error_in(body)
        if self.status >= 400:
            text = body.decode("utf-8", "replace")
            error = lm15.ContextLengthError(text, status=self.status) if TOO_LONG.search(text) else None
        if error is not None:
            raise error
        return body

    async def aiter_lines(self) -> AsyncIterator[bytes]:
        """The lines up to the one that ends the answer, also where the server leaves the stream open."""
        if "json" in (self._got.header("content-type") or ""):
            for line in _lines_of_whole(await self.read()):
                yield line
            return
        lines = self._got.aiter_lines()
        async for line in lines:
            if b'"error"' in line or line.startswith(b"error:"):
                error = error_in(line.partition(b":")[2])
                if error is not None:
                    raise error
            if line.rstrip() == _DONE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(END_WAIT_S):
                        while await anext(lines, None) is not None:
                            pass
                yield line
                yield b"\n"
                return
            yield line


def without_refused(given: Mapping[str, Any], refusal: str) -> dict[str, Any] | None:
    """What to send instead of parameters of which one was refused; None where it was for something else."""
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
    if TOO_LONG.search(f"{message} {code} {kind}"):
        return lm15.ContextLengthError(message, provider_code=code)
    words = f"{code} {kind}".lower()
    found = next((made for pattern, made in _ERRORS.items() if re.search(pattern, words)), lm15.ServerError)
    overloaded = re.search(r"overload|unavailable|capacity|\b503\b", f"{words} {message.lower()}")
    return found(message, provider_code=code or kind, status=503 if overloaded else None)


def _lines_of_whole(body: bytes) -> Iterator[bytes]:
    """A reply that came whole, as the lines of a stream. What is no reply stays as it is."""
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = dict(choice["message"])
    except (ValueError, LookupError, TypeError):
        yield body
        return
    deltas: list[dict[str, Any]] = []
    for name in ("reasoning_content", "reasoning", "content"):
        text = message.pop(name, None) or ""
        deltas += [{name: text[at : at + _PIECE_CHARS]} for at in range(0, len(text), _PIECE_CHARS)]
    calls = [{"index": number, **call} for number, call in enumerate(message.get("tool_calls") or ())]
    deltas += [{"tool_calls": calls}] if calls else []
    end: dict[str, Any] = {"delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
    for chosen in (*({"delta": delta} for delta in deltas), end):
        chunk = {name: reply.get(name) for name in ("id", "model", "usage")[: 3 if chosen is end else 2]}
        chunk["choices"] = [{"index": 0, **chosen}]
        yield from (b"data: " + json.dumps(chunk).encode() + b"\n", b"\n")
    yield from (_DONE + b"\n", b"\n")
