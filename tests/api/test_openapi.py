"""``/openapi.json`` and ``/docs`` show our routes, truly, from this server alone."""

from __future__ import annotations

import re
from types import SimpleNamespace

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, assume, settings
from schemathesis.specs.openapi import checks

from dspy_demo.api.bodies import PredictBody
from dspy_demo.api.openai_chat import CompletionBody
from dspy_demo.api.ops import probes_router, versions_router
from dspy_demo.api.routes import build_api
from tests.api.conftest import LM, behind_guard, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER

ROUTES = {"/predict", "/predict/stream", "/health", "/ready", "/metrics", "/versions"}
ROUTES |= {"/v1/chat/completions", "/v1/models", "/v1/models/{model_id}"}


async def built() -> None: ...


SERVICE = make_service(ScriptedBackend(scripted_answer("4")))
PROBES = probes_router(SERVICE, built)
LOGGED = SimpleNamespace(name="dspy-demo", version=1, uri="models:/dspy-demo/1")
API = build_api(SERVICE, lambda: LM, PROBES, versions_router(lambda *_: LOGGED))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", behind_guard(API, OWNER))
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
    schema = API.openapi()
    assert set(schema["paths"]) == ROUTES
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(schema)))
    assert references <= set(schema["components"]["schemas"]) - {"HTTPValidationError"}
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert all(operation["summary"] and operation["description"] for operation in operations)
    for body in (PredictBody, CompletionBody):
        for example in schema["components"]["schemas"][body.__name__]["examples"]:
            body.model_validate(example)


async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(API), base_url="http://test") as client:
        text = (await client.get("/docs", headers={"Host": "<script>alert(1)</script>"})).text
    assert all(path in text for path in ROUTES)
    assert "curl -N" in text and "<li><code>delta</code>" in text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "<script" not in text
