"""What the served backend makes of every odd or broken model server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_demo.backends.served import CANNOT_STREAM, ServedBackend, event_data
from dspy_demo.backends.served_wire import ServerInfo, base_url, outputs_of
from dspy_demo.errors import DemoError
from dspy_demo.events import (
    QUEUE_KEY,
    FieldDelta,
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
HISTORY = conversation("Hi", "Hello")


@asynccontextmanager
async def serving(*replies):
    """Sends one reply a connection, the last one ever after; remembers what it was asked, and who left."""
    waiting, told = list(replies), SimpleNamespace(requests=[], left=asyncio.Event())

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = await reader.readexactly(int(length[1]) if length else 0)
        told.requests.append((head.split()[1].decode(), body))
        with suppress(ConnectionError):
            writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
            writer.write_eof()
            await reader.read()
        told.left.set()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield told
        server.close()


def reply(body, status="200 OK", kind="text/event-stream", **headers):
    """A reply over HTTP; with ``length`` it says another length than it has."""
    head = {"Content-Type": kind, "Content-Length": headers.pop("length", len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(value, status="200 OK"):
    return reply(json.dumps(value).encode(), status, "application/json")


def events(*contents, done=True):
    data = [content if isinstance(content, dict) else to_wire(content) for content in contents]
    lines = [json.dumps(content) for content in data] + ["[DONE]"] * done
    return "".join(f"data: {line}\n\n" for line in lines).encode()


@pytest.fixture
async def backend(tmp_path):
    made = ServedBackend(settings_for(tmp_path, idle_timeout_s=0.5, reply_max_chars=10_000))
    yield made
    await made.aclose()


async def heard(backend, target, inputs=None, history=(), session=""):
    request = TurnRequest(target, inputs or {"question": "2 + 2?"}, history, session)
    async with played(backend.stream(request)) as stream:
        return [event async for event in stream]


async def failure(backend, url, version=VERSION, **more):
    with pytest.raises(DemoError) as caught:
        await heard(backend, ServedTarget(url, version), **more)
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
        found = await heard(backend, ServedTarget(server.url, VERSION), {"topic": "peas"}, HISTORY, "a/b c")
        capped, inputs = ServedTarget(server.url, max_tokens=77), {"topic": "peas", "n": 3}
        await heard(backend, capped, inputs, session="ok-1")
    assert found == [waits, TurnStarted("served", VERSION), *expected]
    first, second = (json.loads(body) for _, body in server.requests)
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert first == {"text": "peas", "history": earlier}
    assert second == {"inputs": inputs, "history": [], "session_id": "ok-1", "max_tokens": 77}


def choices(content):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


NO_ROUTE = as_json({"detail": "Not Found"}, "404 Not Found")
PAGE = reply(b"<html>hello</html>", kind="text/html")
TRACE = {"stack_trace": "SECRET, Traceback"}
LONG_TEXT = [replace(DELTA, text="x" * 9000)] * 2
#: The replies of a broken server (one that is plain has no route first), and the error.
BROKEN = {
    "cut in the middle": ([reply(events(STARTED, DELTA, done=False), length=9_999)], "upstream_cut"),
    "ends without a terminal event": ([reply(events(STARTED, DELTA))], "upstream_cut"),
    "a line of 10 MB": ([reply(b"data: " + b"x" * 10_000_000)], "reply_too_long"),
    "no end": ([reply(events(*LONG_TEXT))], "reply_too_long"),
    "invalid UTF-8": ([reply(b'data: {"type": "\xff"}\n\n')], "malformed_reply"),
    "deep JSON": ([reply(b"data: " + b"[" * 100_000 + b"\n\n")], "malformed_reply"),
    "a final without fields": ([reply(events({"type": "final"}))], "malformed_reply"),
    "a page": ([PAGE], "malformed_reply"),
    "closed at once": ([b""], "upstream_unavailable"),
    "a redirect": ([reply(b"", "307 Moved", Location="http://127.0.0.1:1/")], "malformed_reply"),
    "500 with a trace": ([as_json(TRACE, "500 Oops")], "upstream"),
    "plain: no text": ([NO_ROUTE, as_json(choices(None))], "malformed_reply"),
    "plain: 9 MB": ([NO_ROUTE, reply(b"x" * 9_000_000)], "reply_too_long"),
    "plain: 400 with a trace": ([NO_ROUTE, as_json(TRACE, "400 Bad Request")], "upstream"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_every_broken_server_is_one_clear_sentence(backend, name):
    answers, code = BROKEN[name]
    async with serving(*answers) as server:
        error = await failure(backend, server.url, None if len(answers) > 1 else VERSION)
        if code == "reply_too_long":
            await asyncio.wait_for(server.left.wait(), 2)
    assert (error.code, error.public_message[-1]) == (code, ".")
    assert "SECRET" not in error.public_message and "Traceback" not in error.public_message


async def test_nothing_is_running_there(backend):
    url = f"http://127.0.0.1:{free_port()}"
    assert (await failure(backend, url)).code == "upstream_unavailable"
    with pytest.raises(DemoError, match="not running"):
        await backend.probe(url)
    for url in ("nonsense", "ftp://host/", "http://"):
        assert (await failure(backend, url)).code == "invalid_input"


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
            answer = heard(backend, ServedTarget(server.url, version, instance=instance))
            [end] = await asyncio.gather(answer, return_exceptions=True)
        assert (isinstance(end, DemoError) and end.code == "wrong_server") is refused, (headers, version)
        assert refused or end[-1] == FINISHED


async def test_an_error_of_our_server_is_the_same_error_here(backend):
    wire = {"message": "Wait 7 s.", "retryable": True, "error_id": "ab12cd34", "retry_after_s": 7}
    event = {"type": "error", "code": "upstream_rate_limited", **wire}
    async with serving(reply(events(STARTED, event))) as server:
        error = await failure(backend, server.url)
    assert (error.code, error.public_message) == ("upstream_rate_limited", "Wait 7 s.")
    assert (error.server_error_id, error.retry_after_s, error.http_status) == ("ab12cd34", 7.0, 429)
    async with serving(as_json({"status": "error", "code": "not_found", **wire}, "404 No")) as server:
        assert (await failure(backend, server.url)).code == "not_found"
    assert [path for path, _ in server.requests] == ["/predict/stream"], "it is no plain server"


async def test_a_plain_server_is_asked_for_the_whole_answer(backend):
    answer = as_json(choices('{"answer": "four", "reasoning": "sum"}'))
    async with serving(NO_ROUTE, answer, NO_ROUTE) as server:
        *first, end = await heard(backend, ServedTarget(server.url), history=HISTORY)
        error = await failure(backend, server.url, None, inputs={"q": "?", "style": "short"})
    assert first == [TurnStarted("served", server.url, incremental=False), Status(CANNOT_STREAM)]
    assert list(end.outputs.items()) == [("reasoning", "sum"), ("answer", "four")]
    assert [path for path, _ in server.requests[:2]] == ["/predict/stream", "/invocations"]
    messages = json.loads(server.requests[1][1])["messages"]
    assert [message["content"] for message in messages] == ["Hi", "Hello", "2 + 2?"]
    assert error.code == "invalid_input", "further inputs cannot be said to a plain server"
    for content in ("just text", "[1, 2]", "42"):
        assert outputs_of(json.dumps(choices(content)).encode()) == {"answer": content}


async def test_a_probe_tells_what_answers(backend):
    for typed in (" http://h:1/invocations ", "http://h:1/predict/stream", "http://h:1/ping//"):
        assert base_url(typed) == "http://h:1"
    info = {"server": "dspy-demo", "version": "models:/d/1", "ready": False, "reason": "No key.", "lm": "x/y"}
    live = ServerInfo("live", "models:/d/1", ready=False, reason="No key.", lm="x/y")
    ping = reply(b"\n", kind="application/json")
    for answers, found in (([as_json(info)], live), ([NO_ROUTE, ping], ServerInfo("plain"))):
        async with serving(*answers) as server:
            assert await backend.probe(server.url + "/invocations") == found
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

    async def chunks():
        for at in range(0, len(stream.encode()), size):
            yield stream.encode()[at : at + size]

    assert [data.decode() for data in [data async for data in event_data(chunks())]] == texts
