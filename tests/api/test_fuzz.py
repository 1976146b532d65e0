"""Whatever is sent, the answer is JSON with a reason, and never a server error."""

import asyncio
import json

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dspy_demo.api.routes import build_api
from tests.api.conftest import LM, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer

API = build_api(make_service(ScriptedBackend(scripted_answer("4"))), lambda: LM)
PATHS = ["/predict", "/predict/stream", "/v1/chat/completions"]

text = st.text(st.characters(exclude_categories=[]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values},
        optional={"content": text | json_values, "name": json_values},
    ),
    max_size=4,
)
own_bodies = st.fixed_dictionaries(
    {},
    optional={
        "text": text | json_values,
        "messages": messages | json_values,
        "inputs": st.dictionaries(st.just("question") | text, json_values, max_size=3) | json_values,
        "history": messages | json_values,
        "program": st.sampled_from(["qa", "report"]) | json_values,
        **dict.fromkeys(("temperature", "max_tokens", "cache", "session_id"), json_values),
    },
)
OPENAI_FIELDS = "stream stream_options n tools functions temperature max_tokens max_completion_tokens"
OPENAI_FIELDS += " modalities audio logprobs response_format stop tool_choice function_call"
openai_bodies = st.fixed_dictionaries(
    {"model": st.just("qa") | json_values, "messages": messages | json_values},
    optional=dict.fromkeys(OPENAI_FIELDS.split(), json_values),
)
bodies = (json_values | own_bodies | openai_bodies).map(lambda body: json.dumps(body).encode())


def post(path, body):
    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(API), base_url="http://test") as client:
            return await client.post(path, content=body, headers={"Content-Type": "application/json"})

    return asyncio.run(send())


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies | st.binary(max_size=40))
@example(body=b"[" * 100_000)
@example(body=b'{"text":' + b"9" * 10_000 + b"}")
@example(body=b'{"text":"\\u0000"}')
@example(body=b'{"text":"\\ud800"}')
@example(body=b'{"text":"a","temperature":1e308}')
@example(body=b'{"inputs":{"question":' + b"[" * 60 + b"]" * 60 + b"}}")
@example(body=b'{"inputs":{"question":{"a":18446744073709551615}}}')
@example(body=b"\xef\xbb\xbf{}")
def test_no_body_is_a_server_error(path, body):
    response = post(path, body)
    assert response.status_code in {200, 400, 404, 413, 422}
    if response.status_code != 200:
        problem = response.json()
        message = problem["error"]["message"] if path.startswith("/v1") else problem["message"]
        assert message.endswith(".")
        assert len(message) < 300
