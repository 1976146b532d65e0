"""What the served backend makes of every odd or broken model server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.backends.served import CANNOT_STREAM, ServedBackend, event_data
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
from tests.services import conversation, played, settings_for

STARTED = TurnStarted("local", "openai/fake")
DELTA = FieldDelta("answer", "answer", "four", "predict")
FINISHED = TurnFinished({"reasoning": "sum", "answer": "four"})
VERSION = "models:/demo/3"


@asynccontextmanager
async def serving(*replies: bytes, closes: bool = False) -> AsyncIterator[Any]:
    """Sends one reply after the other, the last one ever after; remembers what it was asked."""
    waiting, told = list(replies), SimpleNamespace(requests=[], left=asyncio.Event())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = await reader.readexactly(int(length[1])) if length else b""
                told.requests.append((head.split(b" ")[1].decode(), body))
                writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
                await writer.drain()
                if closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            told.left.set()
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield told
        server.close()


def reply(body: bytes, status: str = "200 OK", kind: str = "text/event-stream", **headers: Any) -> bytes:
    """A reply over HTTP; with ``length`` it says another length than it has."""
    head = {"Content-Type": kind, "Content-Length": headers.pop("length", len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(value: Any, status: str = "200 OK") -> bytes:
    return reply(json.dumps(value).encode(), status, "application/json")


def events(*contents: Event | dict[str, Any], done: bool = True) -> bytes:
    data = [content if isinstance(content, dict) else to_wire(content) for content in contents]
    lines = [json.dumps(content) for content in data] + ["[DONE]"] * done
    return "".join(f"data: {line}\n\n" for line in lines).encode()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[ServedBackend]:
    made = ServedBackend(settings_for(tmp_path, idle_timeout_s=0.5, reply_max_chars=10_000))
    yield made
    await made.aclose()


def request(url: str, *, version: str | None = VERSION, **inputs: Any) -> TurnRequest:
    return TurnRequest(ServedTarget(url, version), inputs or {"question": "What is 2 + 2?"})


async def heard(backend: ServedBackend, request: TurnRequest) -> list[Event]:
    async with played(backend.stream(request)) as stream:
        return [event async for event in stream]


async def failure(backend: ServedBackend, request: TurnRequest) -> DemoError:
    with pytest.raises(DemoError) as caught:
        await heard(backend, request)
    return caught.value


async def test_the_inputs_go_there_and_the_events_come_back_under_the_name_of_the_version(backend):
    waits = Status("You are 2nd in the queue.", "pending", QUEUE_KEY)
    half = FieldDelta("a", "answer", "\ud83d")  # of a surrogate pair, which models do write
    newer = [
        {"type": "picture", "data": 1},
        {"type": "status", "text": "hm", "state": "wavy"},
        {"type": "delta", "field": "f", "channel": "music", "text": "la"},
    ]
    expected = [Status("hm"), FieldDelta("f", "reasoning", "la"), DELTA, half, FINISHED]
    async with serving(reply(events(waits, STARTED, *newer, DELTA, half, FINISHED))) as server:
        asked = TurnRequest(ServedTarget(server.url, VERSION), {"topic": "peas"}, HISTORY, "a/b c")
        assert await heard(backend, asked) == [waits, TurnStarted("served", VERSION), *expected]
        capped = ServedTarget(server.url, max_tokens=77)
        await heard(backend, TurnRequest(capped, {"topic": "peas", "n": 3}, (), "ok-1"))
    first, second = (json.loads(body) for _, body in server.requests)
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert first == {"text": "peas", "history": earlier}
    inputs = {"topic": "peas", "n": 3}
    assert second == {"inputs": inputs, "history": [], "session_id": "ok-1", "max_tokens": 77}


def choices(content: Any) -> Any:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


HISTORY: tuple[Message, ...] = conversation("Hi", "Hello")
NO_ROUTE = as_json({"detail": "Not Found"}, "404 Not Found")
PAGE = reply(b"<html>hello</html>", kind="text/html")
TRACE = {"stack_trace": "SECRET, Traceback"}
SECRET = b"SECRET, Traceback"
#: The replies of a broken server (one that is plain has no route first), the error, and whether it hangs up.
BROKEN: dict[str, tuple[list[bytes], str, bool]] = {
    "cut in the middle": ([reply(events(STARTED, DELTA, done=False), length=9_999)], "upstream_cut", True),
    "ends without a terminal event": ([reply(events(STARTED, DELTA))], "upstream_cut", False),
    "a line of 10 MB": ([reply(b"data: " + b"x" * 10_000_000)], "reply_too_long", False),
    "no end": ([reply(events(*[replace(DELTA, text="x" * 9000)] * 2))], "reply_too_long", False),
    "JSON that is no object": ([reply(b"data: [1]\n\n")], "malformed_reply", False),
    "invalid UTF-8": ([reply(b'data: {"type": "\xff"}\n\n')], "malformed_reply", False),
    "deep JSON": ([reply(b"data: " + b"[" * 100_000 + b"\n\n")], "malformed_reply", False),
    "a final without fields": ([reply(events({"type": "final"}))], "malformed_reply", False),
    "a page": ([PAGE], "malformed_reply", False),
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.6\r\n"], "upstream_unavailable", True),
    "closed at once": ([b""], "upstream_unavailable", True),
    "a redirect": ([reply(b"", "307 Moved", Location="http://127.0.0.1:1/")], "malformed_reply", False),
    "500 with a trace": ([as_json(TRACE, "500 Oops")], "upstream", False),
    "401": ([reply(SECRET, "401 No")], "upstream_auth", False),
    "429": ([reply(SECRET, "429 No")], "upstream_rate_limited", False),
    "plain: a page": ([NO_ROUTE, PAGE], "malformed_reply", False),
    "plain: no text": ([NO_ROUTE, as_json(choices(None))], "malformed_reply", False),
    "plain: 9 MB": ([NO_ROUTE, reply(b"x" * 9_000_000)], "reply_too_long", False),
    "plain: 400 with a trace": ([NO_ROUTE, as_json(TRACE, "400 Bad Request")], "upstream", False),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_every_broken_server_is_one_clear_sentence(backend, name):
    answers, code, closes = BROKEN[name]
    async with serving(*answers, closes=closes) as server:
        error = await failure(backend, request(server.url, version=None if len(answers) > 1 else VERSION))
        if code == "reply_too_long":
            await asyncio.wait_for(server.left.wait(), 2)
    assert (error.code, error.public_message[-1]) == (code, ".")
    assert "SECRET" not in error.public_message and "Traceback" not in error.public_message


async def test_nothing_is_running_there(backend):
    error = await failure(backend, request(url := f"http://127.0.0.1:{free_port()}"))
    assert error.code == "upstream_unavailable"
    with pytest.raises(DemoError, match="not running"):
        await backend.probe(url)
    for url in ("nonsense", "ftp://host/", "http://"):
        assert (await failure(backend, request(url))).code == "invalid_input"


async def test_only_the_server_that_is_meant_is_listened_to(backend):
    named = {"X_Model_Version": VERSION, "X_Model_Instance": "abc"}
    for headers, version, instance, refused in (
        (named, VERSION, "abc", False),
        (named, None, "", False),
        ({}, VERSION, "", False),
        (named, VERSION, "abd", True),
        (named, "models:/demo/4", "", True),
        ({}, VERSION, "abc", True),
    ):
        async with serving(reply(events(STARTED, FINISHED), **headers)) as server:
            asked = TurnRequest(ServedTarget(server.url, version, instance=instance), {"question": "?"})
            if refused:
                assert (await failure(backend, asked)).code == "wrong_server"
            else:
                assert (await heard(backend, asked))[-1] == FINISHED


async def test_an_error_of_our_server_is_the_same_error_here(backend):
    wire = {"message": "Wait 7 s.", "retryable": True, "error_id": "ab12cd34", "retry_after_s": 7}
    event = {"type": "error", "code": "upstream_rate_limited", **wire}
    async with serving(reply(events(STARTED, event))) as server:
        error = await failure(backend, request(server.url))
    assert (error.code, error.public_message) == ("upstream_rate_limited", "Wait 7 s.")
    assert (error.server_error_id, error.retry_after_s, error.http_status) == ("ab12cd34", 7.0, 429)
    async with serving(as_json({"status": "error", "code": "not_found", **wire}, "404 No")) as server:
        assert (await failure(backend, request(server.url))).code == "not_found"
    assert [path for path, _ in server.requests] == ["/predict/stream"], "it is no plain server"


async def test_a_plain_server_is_asked_for_the_whole_answer(backend):
    answer = as_json(choices('{"answer": "four", "reasoning": "sum"}'))
    async with serving(NO_ROUTE, answer, NO_ROUTE) as server:
        *first, end = await heard(backend, TurnRequest(ServedTarget(server.url), {"q": "2 + 2?"}, HISTORY))
        error = await failure(backend, request(server.url, version=None, q="?", style="short"))
    assert first == [TurnStarted("served", server.url, incremental=False), Status(CANNOT_STREAM)]
    assert isinstance(end, TurnFinished)
    assert list(end.outputs.items()) == [("reasoning", "sum"), ("answer", "four")]
    assert [path for path, _ in server.requests[:2]] == ["/predict/stream", "/invocations"]
    messages = json.loads(server.requests[1][1])["messages"]
    assert [message["content"] for message in messages] == ["Hi", "Hello", "2 + 2?"]
    assert error.code == "invalid_input", "further inputs cannot be said to a plain server"
    for content in ("just text", "[1, 2]", "42"):
        assert outputs_of(json.dumps(choices(content)).encode()) == {"answer": content}
    for typed in (" http://h:1/invocations ", "http://h:1/predict/stream", "http://h:1/ping//"):
        assert base_url(typed) == "http://h:1"


async def test_a_probe_tells_what_answers(backend):
    info = {"server": "dspy-demo", "version": "models:/d/1", "ready": False, "reason": "No key.", "lm": "x/y"}
    async with serving(as_json(info)) as server:
        found = await backend.probe(server.url + "/invocations")
    assert found == ServerInfo("live", "models:/d/1", ready=False, reason="No key.", lm="x/y")
    async with serving(NO_ROUTE, reply(b"\n", kind="application/json")) as server:
        assert (await backend.probe(server.url)).kind == "plain"
    for answer in (PAGE, NO_ROUTE, as_json({}), reply(b"[]")):
        async with serving(answer) as server:
            with pytest.raises(DemoError) as caught:
                await backend.probe(server.url)
        assert caught.value.code == "malformed_reply"


LINE = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


@given(st.lists(LINE.map(str.strip), max_size=5), st.sampled_from(["\n", "\r\n"]), st.integers(1, 7))
async def test_any_events_in_any_chunking(texts, end, size):
    """Comments are skipped, and so is an event that never ended."""
    stream = "".join(f": alive{end}id: 1{end}{end}data: {text}{end}{end}" for text in texts) + "data: cut"

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(stream.encode()), size):
            yield stream.encode()[at : at + size]

    assert [data.decode() for data in [data async for data in event_data(chunks())]] == texts
