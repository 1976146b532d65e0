"""What the served backend makes of every odd or broken model server, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dspy_demo.backends.served import CANNOT_STREAM, ServedBackend
from dspy_demo.backends.served_wire import ServerInfo, base_url, outputs_of
from dspy_demo.errors import DemoError
from dspy_demo.events import (
    QUEUE_KEY,
    Event,
    FieldDelta,
    Message,
    ServedTarget,
    Status,
    TurnFinished,
    TurnRequest,
    TurnStarted,
    to_wire,
)
from tests.fake_openai import free_port
from tests.services import played, settings_for

STARTED = TurnStarted("local", "openai/fake")
DELTA = FieldDelta("answer", "answer", "four", "predict")
FINISHED = TurnFinished({"reasoning": "sum", "answer": "four"})

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Answers each request with whatever bytes a test wants; remembers what it was asked."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self.requests: list[tuple[str, bytes]] = []
        self.url = ""
        self.closed_by_client = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [
                    line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                ]
                body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b""
                self.requests.append((head.split(b" ")[1].decode(), body))
                await self._handle(body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[RawServer]:
    raw = RawServer(handle)
    server = await asyncio.start_server(raw.answer, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()


def reply(
    body: bytes,
    *,
    status: str = "200 OK",
    kind: str = "text/event-stream",
    length: int | None = None,
    headers: str = "",
) -> bytes:
    size = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{headers}\r\n".encode()
        + body
    )


def sent(*replies: bytes, then_close: bool = False) -> Handler:
    """Send one reply after the other, the last one ever after."""
    waiting = list(replies)

    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
        await writer.drain()
        if then_close:
            writer.transport.abort() if not waiting else writer.close()
            raise ConnectionError

    return handle


def events(*contents: Event | dict[str, Any], done: bool = True) -> bytes:
    data = [content if isinstance(content, dict) else to_wire(content) for content in contents]
    stream = b"".join(b"data: " + json.dumps(content).encode() + b"\n\n" for content in data)
    return stream + (b"data: [DONE]\n\n" if done else b"")


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[ServedBackend]:
    made = ServedBackend(settings_for(tmp_path, idle_timeout_s=0.5))
    yield made
    await made.aclose()


def request(url: str, *, version: str | None = "models:/demo/3", **inputs: Any) -> TurnRequest:
    return TurnRequest(ServedTarget(url, version), inputs or {"question": "What is 2 + 2?"})


async def heard(backend: ServedBackend, request: TurnRequest) -> list[Event]:
    async with played(backend.stream(request)) as pump:
        return [event async for event in pump]


async def failure(backend: ServedBackend, request: TurnRequest) -> DemoError:
    with pytest.raises(DemoError) as caught:
        await heard(backend, request)
    return caught.value


async def test_the_events_come_through_under_the_name_of_the_version(backend: ServedBackend) -> None:
    waits = Status("You are 2nd in the queue.", "pending", QUEUE_KEY)
    async with serving(sent(reply(events(waits, STARTED, DELTA, FINISHED)))) as server:
        heard_events = await heard(backend, request(server.url))
    assert heard_events == [waits, TurnStarted("served", "models:/demo/3"), DELTA, FINISHED]


async def test_a_connection_is_used_again(backend: ServedBackend) -> None:
    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(events(STARTED, FINISHED)))
        peers.add(writer.get_extra_info("peername"))

    peers: set[Any] = set()
    async with serving(handle) as server:
        for _ in range(3):
            await heard(backend, request(server.url))
    assert len(peers) == 1


async def test_one_text_goes_to_whatever_the_version_calls_its_chat_field(backend: ServedBackend) -> None:
    history = (Message("user", "Hi"), Message("assistant", "Hello"))
    async with serving(sent(reply(events(STARTED, FINISHED)))) as server:
        await heard(backend, TurnRequest(ServedTarget(server.url), {"topic": "peas"}, history, "a/b c"))
        capped = ServedTarget(server.url, max_tokens=77)
        await heard(backend, TurnRequest(capped, {"topic": "peas", "n": 3}, (), "ok-1"))
    first, second = (json.loads(body) for _, body in server.requests)
    assert first["text"] == "peas"
    assert first["history"] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert "session_id" not in first
    assert second["inputs"] == {"topic": "peas", "n": 3}
    assert second["session_id"] == "ok-1"
    assert (first.get("max_tokens"), second["max_tokens"]) == (None, 77)


LONG = b"data: " + b"x" * 10_000_000
BROKEN: dict[str, tuple[bytes, str, bool]] = {
    "cut in the middle": (reply(events(STARTED, DELTA, done=False), length=9_999), "upstream_cut", True),
    "ends without a terminal event": (reply(events(STARTED, DELTA)), "upstream_cut", False),
    "empty body": (reply(b""), "upstream_cut", False),
    "a line of 10 MB": (reply(LONG), "reply_too_long", False),
    "no JSON": (reply(b"data: {nope}\n\n"), "malformed_reply", False),
    "JSON that is no object": (reply(b"data: [1]\n\n"), "malformed_reply", False),
    "invalid UTF-8": (reply(b'data: {"type": "\xff"}\n\n'), "malformed_reply", False),
    "deep JSON": (reply(b"data: " + b"[" * 100_000 + b"\n\n"), "malformed_reply", False),
    "a delta without text": (reply(events({"type": "delta", "field": "a"})), "malformed_reply", False),
    "a final without fields": (reply(events({"type": "final"})), "malformed_reply", False),
    "an event without a type": (reply(events({"a": 1})), "malformed_reply", False),
    "a page": (reply(b"<html>hello</html>", kind="text/html"), "malformed_reply", False),
    "JSON instead of a stream": (reply(b"{}", kind="application/json"), "malformed_reply", False),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "upstream_unavailable", True),
    "closed at once": (b"", "upstream_unavailable", True),
    "a redirect": (
        reply(b"", status="307 Temporary Redirect", headers="Location: http://127.0.0.1:1/\r\n"),
        "malformed_reply",
        False,
    ),
    "500 with a trace": (
        reply(b'{"stack_trace": "Traceback: SECRET"}', status="500 Oops", kind="application/json"),
        "upstream",
        False,
    ),
    "401": (reply(b"SECRET", status="401 No"), "upstream_auth", False),
    "503": (reply(b"SECRET", status="503 No"), "upstream_unavailable", False),
    "504": (reply(b"SECRET", status="504 No"), "upstream_timeout", False),
    "429": (reply(b"SECRET", status="429 No"), "upstream_rate_limited", False),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_every_broken_server_is_one_clear_sentence(backend: ServedBackend, name: str) -> None:
    answer, code, closes = BROKEN[name]
    async with serving(sent(answer, then_close=closes)) as server:
        error = await failure(backend, request(server.url))
    assert error.code == code
    assert error.public_message.endswith((".", "!"))
    assert "SECRET" not in error.public_message
    assert "Traceback" not in error.public_message


async def test_nothing_is_running_there(backend: ServedBackend) -> None:
    error = await failure(backend, request(f"http://127.0.0.1:{free_port()}"))
    assert error.code == "upstream_unavailable"
    assert "model server is not running" in error.public_message
    with pytest.raises(DemoError, match="not running"):
        await backend.probe(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("url", ["nonsense", "h:1", "ftp://host/", "http://", "file:///etc/passwd"])
async def test_no_address(backend: ServedBackend, url: str) -> None:
    assert (await failure(backend, request(url))).code == "invalid_input"


NAMED = "X-Model-Version: models:/demo/3\r\nX-Model-Instance: abc\r\n"


@pytest.mark.parametrize(
    ("headers", "version", "instance", "refused"),
    [
        (NAMED, "models:/demo/3", "abc", False),
        (NAMED, "models:/demo/3", "", False),
        (NAMED, None, "", False),
        ("", "models:/demo/3", "", False),  # an older model server of ours
        (NAMED, "models:/demo/3", "abd", True),
        (NAMED, "models:/demo/4", "", True),
        ("", "models:/demo/3", "abc", True),
    ],
)
async def test_only_the_server_that_is_meant_is_listened_to(
    backend: ServedBackend, headers: str, version: str | None, instance: str, refused: bool
) -> None:
    async with serving(sent(reply(events(STARTED, FINISHED), headers=headers))) as server:
        asked = TurnRequest(ServedTarget(server.url, version, instance=instance), {"question": "?"})
        if refused:
            assert (await failure(backend, asked)).code == "wrong_server"
        else:
            assert (await heard(backend, asked))[-1] == FINISHED


async def test_deltas_without_end_are_ended(tmp_path: Path) -> None:
    endless = events(STARTED, *[FieldDelta("answer", "answer", "x" * 1000)] * 100, done=False)
    backend = ServedBackend(settings_for(tmp_path, reply_max_chars=10_000))
    async with serving(sent(reply(endless, length=len(endless) + 1))) as server:
        assert (await failure(backend, request(server.url))).code == "reply_too_long"
        await asyncio.wait_for(server.closed_by_client.wait(), 2)
    await backend.aclose()


async def test_an_error_event_is_the_same_error_here(backend: ServedBackend) -> None:
    wire = {
        "type": "error",
        "code": "upstream_rate_limited",
        "message": "Wait 7 seconds.",
        "retryable": True,
        "error_id": "ab12cd34",
        "retry_after_s": 7,
    }
    async with serving(sent(reply(events(STARTED, wire)))) as server:
        error = await failure(backend, request(server.url))
    assert (error.code, error.public_message) == (wire["code"], wire["message"])
    assert (error.server_error_id, error.retry_after_s, error.http_status) == ("ab12cd34", 7.0, 429)


async def test_a_missing_program_of_our_server_is_not_taken_for_a_plain_server(
    backend: ServedBackend,
) -> None:
    body = (
        b'{"status":"error","code":"not_found","message":"No such.","retryable":false,"error_id":"ab12cd34"}'
    )
    async with serving(sent(reply(body, status="404 No", kind="application/json"))) as server:
        assert (await failure(backend, request(server.url))).code == "not_found"
    assert [path for path, _ in server.requests] == ["/predict/stream"]


async def test_unknown_events_and_values_of_a_newer_server_do_no_harm(backend: ServedBackend) -> None:
    newer = [
        {"type": "picture", "data": 1},
        {"type": "status", "text": "hm", "state": "wavy"},
        {"type": "delta", "field": "f", "channel": "music", "text": "la"},
    ]
    async with serving(sent(reply(events(STARTED, *newer, FINISHED)))) as server:
        _, status, delta, end = await heard(backend, request(server.url))
    assert isinstance(status, Status) and status.state == "info"
    assert isinstance(delta, FieldDelta) and delta.channel == "reasoning"
    assert end == FINISHED


async def test_half_a_surrogate_pair_comes_through(backend: ServedBackend) -> None:
    async with serving(sent(reply(events(STARTED, FieldDelta("a", "answer", "\ud83d"), FINISHED)))) as server:
        heard_events = await heard(backend, request(server.url))
    assert heard_events[1] == FieldDelta("a", "answer", "\ud83d")


NO_ROUTE = reply(b'{"detail":"Not Found"}', status="404 Not Found", kind="application/json")


def choices(content: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return json.dumps(body).encode()


async def test_a_plain_server_is_asked_for_the_whole_answer(backend: ServedBackend) -> None:
    answer = reply(choices('{"answer": "four", "reasoning": "sum"}'), kind="application/json")
    async with serving(sent(NO_ROUTE, answer, NO_ROUTE, answer)) as server:
        history = (Message("user", "Hi"), Message("assistant", "Hello"))
        first = await heard(backend, TurnRequest(ServedTarget(server.url), {"q": "2 + 2?"}, history))
        await heard(backend, request(server.url, version=None))
    assert first == [TurnStarted("served", server.url, incremental=False), Status(CANNOT_STREAM), first[-1]]
    assert isinstance(first[-1], TurnFinished)
    assert list(first[-1].outputs.items()) == [("reasoning", "sum"), ("answer", "four")]
    assert [path for path, _ in server.requests] == ["/predict/stream", "/invocations"] * 2
    messages = json.loads(server.requests[1][1])["messages"]
    assert [message["content"] for message in messages] == ["Hi", "Hello", "2 + 2?"]


async def test_further_inputs_cannot_be_said_to_a_plain_server(backend: ServedBackend) -> None:
    async with serving(sent(NO_ROUTE)) as server:
        assert (
            await failure(backend, request(server.url, version=None, q="?", style="short"))
        ).code == "invalid_input"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(b"<html>", kind="text/html"), "malformed_reply"),
        (reply(b'{"predictions": [1]}', kind="application/json"), "malformed_reply"),
        (reply(choices(None), kind="application/json"), "malformed_reply"),
        (reply(b"x" * 9_000_000), "reply_too_long"),
        (NO_ROUTE, "malformed_reply"),
        (reply(b'{"stack_trace": "SECRET"}', status="400 Bad Request"), "upstream"),
    ],
)
async def test_a_broken_plain_server_is_one_clear_sentence(
    backend: ServedBackend, answer: bytes, code: str
) -> None:
    async with serving(sent(NO_ROUTE, answer)) as server:
        error = await failure(backend, request(server.url, version=None))
    assert (error.code, "SECRET" in error.public_message) == (code, False)


@pytest.mark.parametrize(
    ("content", "outputs"),
    [
        ("just text", {"answer": "just text"}),
        ("[1, 2]", {"answer": "[1, 2]"}),
        ("42", {"answer": "42"}),
        ('{"a": 1}', {"a": 1}),
    ],
)
def test_the_content_of_a_choice(content: str, outputs: dict[str, Any]) -> None:
    assert outputs_of(choices(content)) == outputs


# --- a typed address ---


@pytest.mark.parametrize(
    "typed", ["http://h:1", " http://h:1/invocations ", "http://h:1/predict/stream", "http://h:1/ping//"]
)
def test_the_address_of_a_server_from_one_of_its_routes(typed: str) -> None:
    assert base_url(typed) == "http://h:1"
    assert base_url("https://h/models/a/") == "https://h/models/a"


async def test_a_probe_tells_a_live_server(backend: ServedBackend) -> None:
    info = {"server": "dspy-demo", "version": "models:/d/1", "ready": False, "reason": "No key.", "lm": "x/y"}
    body = json.dumps(info).encode()
    async with serving(sent(reply(body, kind="application/json"))) as server:
        found = await backend.probe(server.url + "/invocations")
    assert found == ServerInfo("live", "models:/d/1", ready=False, reason="No key.", lm="x/y")


async def test_a_probe_tells_a_plain_server(backend: ServedBackend) -> None:
    async with serving(sent(NO_ROUTE, reply(b"\n", kind="application/json"))) as server:
        assert (await backend.probe(server.url)).kind == "plain"


@pytest.mark.parametrize(
    "answer",
    [reply(b"<html>", kind="text/html"), NO_ROUTE, reply(b"{}", kind="application/json"), reply(b"[]")],
)
async def test_a_probe_tells_what_is_no_model_server(backend: ServedBackend, answer: bytes) -> None:
    async with serving(sent(answer)) as server:
        with pytest.raises(DemoError) as caught:
            await backend.probe(server.url)
    assert caught.value.code == "malformed_reply"
