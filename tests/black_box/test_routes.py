"""What a script meets: answers, streams, errors, OpenAI's routes, probes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fake_openai import FakeOpenAI, Reply
from tests.processes import ServerProcess

pytestmark = pytest.mark.integration
REPLY = "[[ ## reasoning ## ]]\nSix times seven.\n\n[[ ## answer ## ]]\nIt is 42.\n\n[[ ## completed ## ]]\n"


@pytest.fixture
def client(app: ServerProcess, upstream: FakeOpenAI) -> Iterator[httpx.Client]:
    upstream.reset()
    upstream.reply(Reply(text=REPLY))
    with httpx.Client(base_url=app.url, timeout=60) as client:
        yield client


def events(text: str) -> list[dict[str, Any]]:
    """The data of a stream of server-sent events."""
    lines = (line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_predict_gives_every_output_field(client: httpx.Client) -> None:
    reply = client.post("/predict", json={"text": "6 times 7?"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"] == {"reasoning": "Six times seven.", "answer": "It is 42."}
    assert reply.headers["x-turn-id"]


def test_a_stream_is_started_deltas_and_one_end(client: httpx.Client, upstream: FakeOpenAI) -> None:
    upstream.reset()
    upstream.reply(Reply(text=REPLY, tokens_per_second=40))
    reply = client.post("/predict/stream", json={"inputs": {"question": "6 times 7, streamed?"}})
    kinds = [event["type"] for event in events(reply.text)]
    assert kinds[0] == "started"
    assert kinds[-1] == "final"
    assert kinds.count("delta") > 2
    text = "".join(
        event["text"]
        for event in events(reply.text)
        if event["type"] == "delta" and event["field"] == "answer"
    )
    assert text.strip() == "It is 42."


def test_openai_clients_get_the_answer_and_the_reasoning(client: httpx.Client, upstream: FakeOpenAI) -> None:
    body = {"model": "chain_of_thought", "messages": [{"role": "user", "content": "6 times 7 for a client?"}]}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["content"] == "It is 42."
    assert message["reasoning_content"] == "Six times seven."
    upstream.reply(Reply(text=REPLY))
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True, "temperature": 0.5}).text
    deltas = [event["choices"][0]["delta"] for event in events(streamed) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == "It is 42."
    assert streamed.rstrip().endswith("data: [DONE]")


def test_what_answers_a_plain_request(client: httpx.Client) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/openapi.json", "/docs", "/"):
        assert client.get(path).status_code == 200, path
