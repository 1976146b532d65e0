"""Whatever is sent, the answer is as documented, with a reason, and never a server error."""

import asyncio
import json
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from dspy_demo.api.bodies import PredictBody
from dspy_demo.api.openai_chat import CompletionBody
from tests.api.conftest import Api

API = Api()

text = st.text(st.characters(exclude_categories=[]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
roles = st.sampled_from(["user", "assistant", "system", "tool"]) | values
message = st.fixed_dictionaries({"role": roles}, optional={"content": text | values, "name": values})
messages = st.lists(message, max_size=4)
fields = dict.fromkeys(("temperature", "max_tokens", "cache", "session_id"), values)
fields |= {"text": text, "messages": messages, "history": messages}
fields["inputs"] = st.dictionaries(st.just("question") | text, values, max_size=3)
fields["program"] = st.sampled_from(["qa", "report"])
own_bodies = st.fixed_dictionaries({}, optional={name: values | good for name, good in fields.items()})
OPENAI_FIELDS = "stream stream_options n tools functions temperature max_tokens max_completion_tokens"
OPENAI_FIELDS += " modalities audio logprobs response_format stop tool_choice function_call"
openai_bodies = st.fixed_dictionaries(
    {"model": st.just("qa") | values, "messages": messages | values},
    optional=dict.fromkeys(OPENAI_FIELDS.split(), values),
)
bodies = (values | own_bodies | openai_bodies).map(lambda body: json.dumps(body).encode())
ROUTES = {"/predict", "/predict/stream", "/health", "/ready", "/metrics", "/versions"}
ROUTES |= {"/v1/chat/completions", "/v1/models", "/v1/models/{model_id}"}


@pytest.mark.parametrize("path", ["/predict", "/predict/stream", "/v1/chat/completions"])
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
    response = asyncio.run(API.client.post(path, content=body, headers={"Content-Type": "application/json"}))
    assert response.status_code in {200, 400, 404, 413, 422}
    if response.status_code != 200:
        problem = response.json()
        message = problem["error"]["message"] if path.startswith("/v1") else problem["message"]
        assert message.endswith(".") and len(message) < 300


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", API.guarded)
#: A valid body may still be refused: which inputs a program needs is not in the schema. And schemathesis
#: takes null for a wrong type where the schema allows it; wrong bodies have tests of their own.
#: Under /v1 another method is answered as another address is.
NOT_PROMISED = [checks.positive_data_acceptance, checks.negative_data_rejection, checks.unsupported_method]


@SCHEMA.parametrize()
@settings(
    max_examples=20,
    derandomize=True,  # the same cases each time, so that only a change of ours can break it
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case):
    # A path with a line end in it is no path of the router's.
    assume("\n" not in str(case.path_parameters))
    # Documented as text, as OpenAPI 3.1 has it; schemathesis holds each event of it against that.
    streams = [checks.response_schema_conformance] if case.path == "/predict/stream" else []
    case.call_and_validate(excluded_checks=[*NOT_PROMISED, *streams])


def test_the_schema_has_our_routes_no_loose_ends_and_valid_examples():
    schema = API.app.openapi()
    assert set(schema["paths"]) == ROUTES
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(schema)))
    assert references <= set(schema["components"]["schemas"]) - {"HTTPValidationError"}
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert all(operation["summary"] and operation["description"] for operation in operations)
    for body in (PredictBody, CompletionBody):
        for shown in schema["components"]["schemas"][body.__name__]["examples"]:
            body.model_validate(shown)


async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing():
    page = (await API.client.get("/docs", headers={"Host": "<script>alert(1)</script>"})).text
    assert all(path in page for path in ROUTES)
    assert "curl -N" in page and "<li><code>delta</code>" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert "<script" not in page
