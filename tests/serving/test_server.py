"""``python -m dspy_demo.serving`` as a real process, beside a real ``mlflow models serve``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.backends.served import ServedBackend
from dspy_demo.errors import DemoError
from dspy_demo.events import Event, FieldDelta, Message, TurnFinished
from dspy_demo.streaming.turn_stream import TurnStream
from tests.backends.served_fixtures import (
    ServedWorld,
    served_session,
    served_world,
    start_model_server,
)
from tests.fake_openai import FAULTS, Reply
from tests.processes import ServerProcess

pytestmark = pytest.mark.integration

__all__ = ["served_session", "served_world"]

QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as made:
        yield made


@pytest.fixture
async def backend(served_world: ServedWorld) -> AsyncIterator[ServedBackend]:
    made = served_world.backend()
    yield made
    await made.aclose()


@pytest.fixture
def own_server(served_world: ServedWorld) -> Iterator[Any]:
    """A model server of this test's own."""
    with contextlib.ExitStack() as running:

        def start(version: str, *flags: str, env: dict[str, str] | None = None) -> ServerProcess:
            server = start_model_server(version, served_world.settings, served_world.home, *flags, env=env)
            running.callback(lambda: server.group_ended or server.stop())
            server.wait_until_healthy("/ping")
            return server

        yield start


async def heard(backend: ServedBackend, world: ServedWorld, **how: Any) -> list[Event]:
    async with TurnStream(backend.stream(world.request(world.live.url, **how))) as stream:
        return [event async for event in stream]


# --- the same contract as `mlflow models serve` ---

ALIKE: dict[str, Any] = {
    "one message": QUESTION,
    "a chat": {
        "messages": [
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "And times 3?"},
        ]
    },
    "a system message": {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION["messages"]]},
    "old messages that are not text": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
            {"role": "assistant", "content": None},
            {"role": "tool", "content": "20"},
            {"role": "user", "content": "What is 2 + 2?"},
        ]
    },
    "an OpenAI body": QUESTION | {"model": "gpt", "temperature": 0.3, "max_tokens": 50, "stream": False},
    "inputs": {"inputs": QUESTION},
    "inputs in a list": {"inputs": [QUESTION]},
    "instances": {"instances": QUESTION},
    "dataframe_split": {"dataframe_split": {"columns": ["messages"], "data": [[QUESTION["messages"]]]}},
    "dataframe_records": {"dataframe_records": [QUESTION]},
}


@pytest.mark.parametrize("name", ALIKE)
async def test_invocations_answers_like_mlflow(
    served_world: ServedWorld, client: httpx.AsyncClient, name: str
) -> None:
    served_world.fake.reply(fields={"reasoning": "π is “round”", "answer": "4\n\u2028"}, times=2)
    ours = await client.post(f"{served_world.live.url}/invocations", json=ALIKE[name])
    theirs = await client.post(f"{served_world.plain.url}/invocations", json=ALIKE[name])
    assert ours.status_code == theirs.status_code == 200
    assert ours.content == theirs.content
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
async def test_the_small_routes_are_mlflows(
    served_world: ServedWorld, client: httpx.AsyncClient, path: str
) -> None:
    ours = await client.get(served_world.live.url + path)
    theirs = await client.get(served_world.plain.url + path)
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)


async def test_the_upstream_gets_the_same_prompt_either_way(
    served_world: ServedWorld, client: httpx.AsyncClient
) -> None:
    fake = served_world.fake
    for url in (served_world.live.url, served_world.plain.url):
        await client.post(f"{url}/invocations", json=ALIKE["a chat"])
    ours, theirs = (request.json for request in fake.requests)
    assert ours["messages"] == theirs["messages"]
    assert "And times 3?" in json.dumps(ours["messages"])


BAD: dict[str, dict[str, Any]] = {
    "no JSON": {"content": b"{nope", "headers": {"Content-Type": "application/json"}},
    "a list": {"json": [1]},
    "an empty object": {"json": {}},
    "no messages": {"json": {"messages": []}},
    "messages of numbers": {"json": {"messages": [1, 2]}},
    "the last one is not the user's": {"json": {"messages": [{"role": "assistant", "content": "x"}]}},
    "a wrong role": {"json": {"messages": [{"role": "judge", "content": "x"}]}},
    "content of numbers": {"json": {"messages": [{"role": "user", "content": 5}]}},
    "inputs of nonsense": {"json": {"inputs": [[1, 2], [3]]}},
    "two rows": {"json": {"dataframe_records": [QUESTION, QUESTION]}},
    "dataframe of nonsense": {"json": {"dataframe_split": {"data": 5}}},
    "CSV": {"content": b"a,b\n1,2", "headers": {"Content-Type": "text/csv"}},
    "parquet": {"content": b"nope", "headers": {"Content-Type": "application/vnd.apache.parquet"}},
    "text": {"content": b"hello", "headers": {"Content-Type": "text/plain"}},
    "no type": {"content": b"hello"},
    "Latin-1": {"content": b'"\xff"', "headers": {"Content-Type": "application/json; charset=latin-1"}},
    "deep": {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}},
    "too long": {"json": {"messages": [{"role": "user", "content": "x" * 30_000}]}},
    "huge": {"content": b"x" * 1_000_000, "headers": {"Content-Type": "application/json"}},
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_body_is_refused_in_one_sentence(
    served_world: ServedWorld, client: httpx.AsyncClient, name: str
) -> None:
    reply = await client.post(f"{served_world.live.url}/invocations", **BAD[name])
    assert 400 <= reply.status_code < 500
    assert set(reply.json()) >= {"error_code", "message"}
    assert reply.json()["message"].endswith(".")
    for leak in ("Traceback", "stack_trace", "site-packages", "File \\", "hello"):
        assert leak not in reply.text
    assert not served_world.fake.requests


@pytest.mark.parametrize("name", ["one message", "inputs", "dataframe_records"])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("401", 502, "upstream_auth"),
        ("429", 429, "upstream_rate_limited"),
        ("malformed", 502, "malformed_reply"),
    ],
)
async def test_a_failing_model_is_one_sentence(
    served_world: ServedWorld, client: httpx.AsyncClient, name: str, fault: str, status: int, code: str
) -> None:
    served_world.fake.reply(FAULTS[fault])
    reply = await client.post(f"{served_world.live.url}/invocations", json=ALIKE[name])
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert "stack_trace" not in reply.text


async def test_48_calls_run_at_the_same_time(served_world: ServedWorld, client: httpx.AsyncClient) -> None:
    fake = served_world.fake
    fake.respond_with(lambda _: Reply(first_delay_s=1.0))
    begun = time.monotonic()
    asking = asyncio.gather(
        *(client.post(f"{served_world.live.url}/invocations", json=QUESTION) for _ in range(48))
    )
    await fake.await_for(lambda: fake.active_streams > 20)  # MLflow has 6 threads on two cores
    replies = await asking
    print(f"48 calls of a 1 s model: {time.monotonic() - begun:.2f} s")
    assert {reply.status_code for reply in replies} == {200}


async def test_a_client_that_leaves_invocations_stops_the_model(
    served_world: ServedWorld, client: httpx.AsyncClient
) -> None:
    fake = served_world.fake
    fake.reply(tokens_per_second=20, filler_chars=2_000)
    asking = asyncio.create_task(client.post(f"{served_world.live.url}/invocations", json=QUESTION))
    await fake.await_for(lambda: fake.streams[-1])
    asking.cancel()
    await fake.await_for(lambda: fake.streams[-1].client_left, 2)


# --- streaming ---


async def test_tokens_arrive_one_by_one_while_the_model_writes(
    served_world: ServedWorld, backend: ServedBackend
) -> None:
    served_world.fake.reply(
        tokens_per_second=50, fields={"reasoning": "one two three", "answer": "a b c d e f"}
    )
    arrivals = []
    async with TurnStream(backend.stream(served_world.request(served_world.live.url))) as stream:
        async for event in stream:
            if isinstance(event, FieldDelta):
                arrivals.append((time.monotonic(), event))
            sent = served_world.fake.streams[-1].tokens_sent if served_world.fake.streams else 0
            if len(arrivals) == 3:
                assert sent < 12
    times = [at for at, _ in arrivals]
    assert len(arrivals) >= 8
    assert times[-1] - times[0] > 0.1
    assert [event.channel for _, event in arrivals][:3] == ["reasoning"] * 3


async def test_the_chat_so_far_reaches_the_model(served_world: ServedWorld, backend: ServedBackend) -> None:
    history = (Message("user", "My name is Ada."), Message("assistant", "Hello Ada."))
    await heard(backend, served_world, question="Who am I?", history=history)
    assert "Hello Ada." in json.dumps(served_world.fake.requests[-1].json["messages"])


async def test_32_streams_each_get_their_own_text(served_world: ServedWorld, backend: ServedBackend) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        number = json.dumps(request["messages"][-1]).partition("number ")[2].partition("!")[0]
        return Reply(fields={"reasoning": "so", "answer": f"this is {number}"}, tokens_per_second=20)

    served_world.fake.respond_with(answer)
    begun = time.monotonic()
    turns = await asyncio.gather(*(heard(backend, served_world, question=f"number {n}!") for n in range(32)))
    print(f"32 streams of 20 tokens/s: {time.monotonic() - begun:.2f} s")
    for number, events in enumerate(turns):
        end = events[-1]
        assert isinstance(end, TurnFinished)
        assert end.outputs["answer"] == f"this is {number}"
        deltas = [e.text for e in events if isinstance(e, FieldDelta) and e.field == "answer"]
        assert "".join(deltas).strip() == f"this is {number}"


async def test_stop_closes_the_model_behind_the_server(
    served_world: ServedWorld, backend: ServedBackend
) -> None:
    fake = served_world.fake
    fake.reply(tokens_per_second=50, filler_chars=5_000)
    async with TurnStream(backend.stream(served_world.request(served_world.live.url))) as stream:
        async for event in stream:
            if isinstance(event, FieldDelta):
                break
        tokens, stopped_at = fake.streams[-1].tokens_sent, time.monotonic()
        await stream.close()
    await fake.await_for(lambda: fake.streams[-1].client_left, 2)
    closed_at = fake.streams[-1].closed_at
    assert closed_at is not None and closed_at - stopped_at < 0.5
    assert fake.streams[-1].tokens_sent - tokens <= 5


async def test_a_turn_names_its_trace(served_world: ServedWorld, backend: ServedBackend) -> None:
    end = (await heard(backend, served_world))[-1]
    assert isinstance(end, TurnFinished)
    assert (end.trace_id or "").startswith("tr-")


async def test_killed_in_the_middle_of_a_stream(
    served_world: ServedWorld, backend: ServedBackend, own_server: Any
) -> None:
    server = own_server(served_world.second)
    fake = served_world.fake
    fake.reply(tokens_per_second=20, filler_chars=5_000)
    with pytest.raises(DemoError) as caught:
        async with TurnStream(
            backend.stream(served_world.request(server.url, version=served_world.second))
        ) as stream:
            async for event in stream:
                if isinstance(event, FieldDelta):
                    server.process.kill()
    assert caught.value.code == "upstream_cut"
    await asyncio.to_thread(server.process.wait, 20)
    with pytest.raises(DemoError, match="not running"):
        async with TurnStream(
            backend.stream(served_world.request(server.url, version=served_world.second))
        ) as stream:
            [event async for event in stream]
    await fake.await_for(lambda: fake.active_streams == 0)


# --- what it says of itself ---


async def test_it_tells_what_it_serves(
    served_world: ServedWorld, client: httpx.AsyncClient, backend: ServedBackend
) -> None:
    info = (await client.get(f"{served_world.live.url}/model")).json()
    assert info["version"] == served_world.version
    assert (info["lm"], info["program"], info["ready"], info["running"]) == (
        "openai/fake",
        "chain_of_thought",
        True,
        0,
    )
    assert (await backend.probe(served_world.live.url)).kind == "live"
    assert (await backend.probe(served_world.plain.url)).kind == "plain"
    assert (await client.get(f"{served_world.live.url}/ready")).status_code == 200


async def test_no_page_is_in_the_process(served_world: ServedWorld) -> None:
    maps = Path(f"/proc/{served_world.live.process.pid}/maps").read_text()
    rss_kb = (
        Path(f"/proc/{served_world.live.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    )
    print(f"model server: {int(rss_kb) // 1024} MB")
    assert "gradio" not in maps
    assert int(rss_kb) < 450_000


async def test_a_missing_key_is_said_before_the_first_question(
    served_world: ServedWorld, own_server: Any, client: httpx.AsyncClient, backend: ServedBackend
) -> None:
    server = own_server(served_world.keyless)
    ready = await client.get(f"{server.url}/ready")
    assert ready.status_code == 503
    assert "OPENAI_API_KEY" in ready.json()["reason"]
    info = await backend.probe(server.url)
    assert (info.ready, info.lm) == (False, "openai/gpt-4o-mini")
    reply = await client.post(f"{server.url}/invocations", json=QUESTION)
    assert (reply.status_code, reply.json()["code"]) == (400, "model_setup")
    assert "planted" not in server.log


async def test_sigterm_lets_running_answers_end_and_exits_with_0(
    served_world: ServedWorld, own_server: Any, backend: ServedBackend
) -> None:
    server = own_server(served_world.second)
    served_world.fake.reply(tokens_per_second=20, fields={"reasoning": "r", "answer": "a b c d e f g h i j"})
    events = []
    async with TurnStream(
        backend.stream(served_world.request(server.url, version=served_world.second))
    ) as stream:
        async for event in stream:
            if isinstance(event, FieldDelta) and not any(isinstance(e, FieldDelta) for e in events):
                server.process.send_signal(signal.SIGTERM)
            events.append(event)
    assert isinstance(events[-1], TurnFinished)
    assert await asyncio.to_thread(server.process.wait, 10) == 0
    assert server.log.startswith(f"Serving {served_world.second} at {server.url}\n")


async def test_sigterm_does_not_wait_for_an_endless_answer(
    served_world: ServedWorld, own_server: Any, backend: ServedBackend
) -> None:
    server = own_server(served_world.builtin)
    endless = served_world.request(server.url, f"What is {'1 + ' * 200}1?", version=None)
    with pytest.raises(DemoError):
        async with TurnStream(backend.stream(endless)) as stream:
            async for _ in stream:
                begun = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 14) == 0
    assert time.monotonic() - begun < 11
