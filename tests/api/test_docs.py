"""The documentation shows our routes, truly, from this server alone."""

from __future__ import annotations

import re

import pytest

from dspy_demo.api.bodies import PredictBody
from dspy_demo.api.openai_bodies import CompletionBody

ROUTES = {
    "/predict",
    "/predict/stream",
    "/health",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{model_id}",
}


@pytest.fixture
async def schema(make_client):
    client, _ = make_client()
    return (await client.get("/openapi.json")).json()


async def test_the_schema_has_our_routes_and_no_loose_ends(schema):
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == ROUTES
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(schema)))
    assert references <= set(schema["components"]["schemas"])
    assert "HTTPValidationError" not in references
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["description"] for operation in operations)


async def test_the_answers_are_described(schema):
    predict = schema["paths"]["/predict"]["post"]["responses"]
    assert {"200", "404", "413", "415", "422", "429", "502", "503", "504"} <= set(predict)
    assert predict["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    stream = schema["paths"]["/predict/stream"]["post"]["responses"]["200"]["content"]
    assert list(stream) == ["text/event-stream"]


@pytest.mark.parametrize("body", [PredictBody, CompletionBody])
async def test_the_examples_are_valid(schema, body):
    examples = schema["components"]["schemas"][body.__name__]["examples"]
    assert len(examples) >= 2
    for example in examples:
        body.model_validate(example)


async def test_the_page_loads_nothing_from_elsewhere(make_client):
    client, _ = make_client()
    response = await client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    for route in ROUTES:
        assert route in response.text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert "<script" not in response.text


async def test_a_hostile_host_header_stays_text(make_client):
    client, _ = make_client()
    response = await client.get("/docs", headers={"Host": "<script>alert(1)</script>"})
    assert "<script" not in response.text
