"""What a script meets: answers, streams, OpenAI's routes, probes."""

import json

import httpx
import pytest

from tests.black_box.conftest import REPLY

pytestmark = pytest.mark.integration


@pytest.fixture
def client(app, upstream):
    upstream.reset()
    upstream.reply(text=REPLY, tokens_per_second=40, times=2)
    with httpx.Client(base_url=app.url, timeout=60) as client:
        yield client


def events(text):
    """The data of a stream of server-sent events."""
    lines = (line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_predict_gives_every_output_field(client):
    reply = client.post("/predict", json={"text": "6 times 7?"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"] == {"reasoning": "Six times seven.", "answer": "It is 42."}
    assert reply.headers["x-turn-id"]


def test_a_stream_is_started_deltas_and_one_end(client):
    reply = client.post("/predict/stream", json={"inputs": {"question": "6 times 7, streamed?"}})
    first, *between, last = events(reply.text)
    assert (first["type"], last["type"]) == ("started", "final")
    deltas = [event for event in between if event["type"] == "delta"]
    assert len(deltas) > 2
    assert "".join(it["text"] for it in deltas if it["field"] == "answer").strip() == "It is 42."


def test_openai_clients_get_the_answer_and_the_reasoning(client):
    body = {"model": "chain_of_thought", "messages": [{"role": "user", "content": "6 times 7 for a client?"}]}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["content"] == "It is 42."
    assert message["reasoning_content"] == "Six times seven."
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True, "temperature": 0.5}).text
    deltas = [event["choices"][0]["delta"] for event in events(streamed) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == "It is 42."
    assert streamed.rstrip().endswith("data: [DONE]")


def test_what_answers_a_plain_request(client):
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/openapi.json", "/docs", "/"):
        assert client.get(path).status_code == 200, path
