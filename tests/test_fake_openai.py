"""The fake itself: it speaks what real clients understand, fails as told, and sees what clients do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import dspy
import httpx
import openai
import pytest

from tests.fake_openai import (
    FAULTS,
    ODDITIES,
    FakeOpenAI,
    Reply,
    cut_reply,
    error_reply,
    refused_url,
    stall_reply,
    tool_reply,
)

NOTICED_WITHIN_S = 0.1
# Chunks and an orderly end, though not the fields that DSPy wants: nothing for an HTTP client to notice.
COMPLETE = {"empty", "malformed", "html", "empty_body"}
SILENT = {"silent_before_headers", "silent_after_headers", "stall"}


def chat(text: str = "hello", *, stream: bool = True) -> dict[str, Any]:
    return {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
async def client(fake_openai: FakeOpenAI) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=fake_openai.url, limits=limits, timeout=30) as client:
        yield client


@pytest.fixture
async def sdk(fake_openai: FakeOpenAI) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=fake_openai.url, api_key="sdk-key", max_retries=0) as sdk:
        yield sdk


async def read_stream(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Every event of a stream, which must end with ``[DONE]``."""
    async with client.stream("POST", "/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(events: list[dict[str, Any]], key: str = "content") -> str:
    return "".join(event["choices"][0]["delta"].get(key, "") for event in events if event["choices"])


# --- raw ---


async def test_a_stream_has_the_shape_of_openai(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(chunks=["Hel", "lo"], reasoning_content="I think.")
    first, *_, last, usage = events = await read_stream(client, chat())
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(events) == "Hello"
    assert text_of(events, "reasoning_content") == "I think."
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    stream = fake_openai.streams[-1]
    assert (stream.tokens_sent, stream.text_sent) == (4, "I think.Hello")
    assert stream.completed
    assert not stream.client_left


async def test_a_whole_reply_has_the_shape_of_openai(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/chat/completions", json=chat("hi visitor-7", stream=False))).json()
    assert reply["object"] == "chat.completion"
    assert "visitor-7" in reply["choices"][0]["message"]["content"]
    assert reply["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_routes_work_with_and_without_the_prefix(
    fake_openai: FakeOpenAI, client: httpx.AsyncClient, prefix: str
) -> None:
    at = fake_openai.origin + prefix
    assert (await client.get(f"{at}/models")).json()["data"][0]["id"] == "fake"
    assert (await client.post(f"{at}/chat/completions", json=chat(stream=False))).status_code == 200


async def test_ollama_is_recognised(fake_openai: FakeOpenAI, client: httpx.AsyncClient) -> None:
    fake_openai.ollama_models = {"llama3.2:1b": ["completion"]}
    tags = (await client.get(f"{fake_openai.origin}/api/tags")).json()
    assert [model["name"] for model in tags["models"]] == ["llama3.2:1b"]


async def test_requests_are_recorded(fake_openai: FakeOpenAI, client: httpx.AsyncClient) -> None:
    await client.post("/chat/completions", json=chat(), headers={"Authorization": "Bearer secret-1"})
    request = fake_openai.requests[-1]
    assert (request.method, request.path, request.api_key) == ("POST", "/v1/chat/completions", "secret-1")
    assert request.json == chat()


async def test_a_wrong_key_is_refused(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.api_key = "right"
    assert (await client.post("/chat/completions", json=chat())).status_code == 401
    right = {"Authorization": "Bearer right"}
    assert (await client.post("/chat/completions", json=chat(), headers=right)).status_code == 200


async def test_the_queue_then_the_default(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(error_reply(500), times=2)
    fake_openai.reply(text="then this")
    statuses = [(await client.post("/chat/completions", json=chat())).status_code for _ in range(2)]
    assert statuses == [500, 500]
    assert text_of(await read_stream(client, chat())) == "then this"
    assert "hello" in text_of(await read_stream(client, chat()))


async def test_a_responder_sees_the_request(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.respond_with(lambda body: Reply(text=body["messages"][0]["content"].upper()))
    assert text_of(await read_stream(client, chat("abc"))) == "ABC"


async def test_reset_forgets_everything(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    await client.post("/chat/completions", json=chat())
    fake_openai.reply(error_reply(500))
    fake_openai.reset()
    assert (fake_openai.requests, fake_openai.streams) == ([], [])
    async with httpx.AsyncClient(base_url=fake_openai.url) as another:
        assert (await another.post("/chat/completions", json=chat())).status_code == 200


async def test_the_pace_is_kept(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(chunks=["x"] * 21, tokens_per_second=100)
    started = time.monotonic()
    await read_stream(client, chat())
    assert 0.2 <= time.monotonic() - started < 2


async def test_retry_after_is_sent(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(error_reply(429, retry_after_s=7))
    response = await client.post("/chat/completions", json=chat())
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_one_byte_at_a_time_loses_nothing(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(text="naïve 日本語 🙂", write_bytes=1)
    assert text_of(await read_stream(client, chat())) == "naïve 日本語 🙂"


async def test_invalid_utf8_is_on_the_wire(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(chunks=["bad \udcff byte"])
    body = (await client.post("/chat/completions", json=chat())).content
    assert b"bad \xff byte" in body


async def test_a_huge_reply_arrives(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(ODDITIES["huge"])
    assert len(text_of(await read_stream(client, chat()))) >= 10_000_000


@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_a_cut_stream_ends_after_its_tokens(
    client: httpx.AsyncClient, fake_openai: FakeOpenAI, after_tokens: int
) -> None:
    fake_openai.reply(cut_reply(after_tokens))
    with pytest.raises(httpx.RemoteProtocolError):
        await read_stream(client, chat("one two three four five"))
    stream = fake_openai.streams[-1]
    assert stream.tokens_sent == after_tokens
    assert not stream.completed
    assert not stream.client_left


# --- what it notices ---


@pytest.mark.parametrize(
    "reply",
    [
        Reply(chunks=["x"] * 10_000, tokens_per_second=50),
        FAULTS["silent_after_headers"],
        stall_reply(after_tokens=1),
    ],
    ids=["while streaming", "before the first token", "stalled"],
)
async def test_a_client_that_leaves_is_noticed_at_once(
    client: httpx.AsyncClient, fake_openai: FakeOpenAI, reply: Reply
) -> None:
    fake_openai.reply(reply)
    async with client.stream("POST", "/chat/completions", json=chat()) as response:
        assert response.status_code == 200
        if reply.fault != "silent_after_headers":
            await fake_openai.await_for(lambda: fake_openai.streams[-1].tokens_sent)
        assert fake_openai.active_streams == 1
        left_at = time.monotonic()
    closed_at = await fake_openai.await_for(lambda: fake_openai.streams[-1].closed_at)
    assert closed_at is not None
    assert closed_at - left_at < NOTICED_WITHIN_S
    assert fake_openai.streams[-1].client_left
    assert fake_openai.active_streams == 0


async def test_waiting_in_vain_says_what_was_seen(fake_openai: FakeOpenAI) -> None:
    with pytest.raises(TimeoutError, match="0 requests"):
        await fake_openai.await_for(lambda: fake_openai.streams[-1].closed_at, timeout=0.05)


async def test_200_streams_at_once_do_not_mix(client: httpx.AsyncClient, fake_openai: FakeOpenAI) -> None:
    fake_openai.tokens_per_second = 20
    started = asyncio.gather(*(read_stream(client, chat(f"I am visitor-{n}")) for n in range(200)))
    await fake_openai.await_for(lambda: fake_openai.active_streams == 200)
    texts = [text_of(events) for events in await started]
    own = [f"visitor-{n} " in text for n, text in enumerate(texts)]
    assert own == [True] * 200
    assert all(text.count("visitor-") == 2 for text in texts)  # the echo and the marker, nobody else's
    assert fake_openai.active_streams == 0


# --- the OpenAI SDK ---


async def test_the_sdk_streams(sdk: openai.AsyncOpenAI, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(text="Hello from the fake", reasoning_content="Hm.")
    stream = await sdk.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello from the fake"
    assert chunks[-1].usage is not None
    assert fake_openai.requests[-1].api_key == "sdk-key"


async def test_the_sdk_reads_tool_calls_and_models(sdk: openai.AsyncOpenAI, fake_openai: FakeOpenAI) -> None:
    fake_openai.reply(tool_calls=[{"name": "add", "arguments": {"a": 1}}])
    reply = await sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"a": 1}'
    assert [model.id async for model in sdk.models.list()] == ["fake"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_the_sdk_knows_each_status(
    sdk: openai.AsyncOpenAI, fake_openai: FakeOpenAI, status: int, error: type[Exception]
) -> None:
    fake_openai.reply(error_reply(status))
    with pytest.raises(error):
        await sdk.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])


async def test_nothing_listens_at_the_refused_url() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(refused_url())


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - COMPLETE))
async def test_each_fault_is_one_for_the_sdk(fake_openai: FakeOpenAI, name: str) -> None:
    timeout = 0.3 if name in SILENT else 10
    url = fake_openai.url
    fake_openai.reply(FAULTS[name])
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=timeout) as sdk:
        with pytest.raises((openai.OpenAIError, httpx.HTTPError, ValueError)):
            await _drain(sdk)
            _must_have_finished(fake_openai)
    await fake_openai.await_for(lambda: fake_openai.active_streams == 0)


async def _drain(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "a question of many more words"}], stream=True
    )
    async for _ in stream:
        pass


def _must_have_finished(fake: FakeOpenAI) -> None:
    """The SDK takes an orderly end without ``[DONE]`` for a complete reply."""
    if not fake.streams[-1].completed:
        raise ValueError("the stream was not complete")


# --- DSPy ---

ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}
PATHS = {"native": {}, "litellm": {"engine": "litellm"}}


def language_model(fake: FakeOpenAI, **options: Any) -> dspy.LM:
    settings = {"api_base": fake.url, "api_key": "k", "num_retries": 0} | options
    return dspy.LM("openai/fake", **settings)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_dspy_gets_every_field_it_asks_for(fake_openai: FakeOpenAI, adapter: str, path: str) -> None:
    program = dspy.ChainOfThought("question -> answer, score: float, tags: list[str]")
    lm = language_model(fake_openai, **PATHS[path])
    with dspy.context(lm=lm, adapter=ADAPTERS[adapter]()):
        prediction = await program.acall(question="I am visitor-123")
    assert "visitor-123" in prediction.reasoning
    assert "visitor-123" in prediction.answer
    assert prediction.reasoning != prediction.answer
    assert prediction.score == 0.5
    assert isinstance(prediction.tags, list)
    assert fake_openai.requests[-1].api_key == "k"


@pytest.mark.parametrize("path", PATHS)
async def test_dspy_streams(fake_openai: FakeOpenAI, path: str) -> None:
    program = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)
    with dspy.context(lm=language_model(fake_openai, **PATHS[path])):
        items = [item async for item in program(question="I am visitor-9")]
    assert isinstance(items[-1], dspy.Prediction)
    assert "visitor-9" in items[-1].answer
    assert len(items) > 10
    assert fake_openai.streams[-1].completed


@pytest.mark.parametrize("adapter", ["chat", "json"])
async def test_react_calls_the_scripted_tool_and_finishes(fake_openai: FakeOpenAI, adapter: str) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    fake_openai.reply(tool_reply("add", {"a": 2, "b": 3}))
    with dspy.context(lm=language_model(fake_openai), adapter=ADAPTERS[adapter]()):
        prediction = await dspy.ReAct("question -> answer", tools=[add]).acall(question="2 + 3?")
    assert prediction.trajectory["observation_0"] == 5
    assert prediction.trajectory["tool_name_1"] == "finish"


async def stream_once(fake: FakeOpenAI, **options: Any) -> Any:
    program = dspy.streamify(dspy.ChainOfThought("question -> answer"), is_async_program=True)
    with dspy.context(lm=language_model(fake, **options)):
        return [item async for item in program(question="why?")][-1]


@pytest.mark.parametrize("name", sorted(FAULTS))
async def test_each_fault_is_one_for_dspy(fake_openai: FakeOpenAI, name: str) -> None:
    fake_openai.reply(FAULTS[name])
    with pytest.raises(Exception):  # noqa: B017 - which one is the subject of the app's own tests
        await stream_once(fake_openai, timeout=0.3 if name in SILENT else 10)
    await fake_openai.await_for(lambda: fake_openai.active_streams == 0)


@pytest.mark.parametrize("name", sorted(ODDITIES))
async def test_each_oddity_is_a_good_answer_for_dspy(fake_openai: FakeOpenAI, name: str) -> None:
    fake_openai.reply(ODDITIES[name])
    prediction = await stream_once(fake_openai)
    assert prediction.reasoning
    assert prediction.answer


@pytest.mark.parametrize("turn", [1, 2])
async def test_no_answer_comes_from_the_cache_of_another_test(fake_openai: FakeOpenAI, turn: int) -> None:
    await stream_once(fake_openai)
    assert len(fake_openai.requests) == 1, f"run {turn} was answered from a cache"
