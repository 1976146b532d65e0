"""The routes keep to what ``/openapi.json`` says of them, whatever is sent, allowed by it or not."""

from __future__ import annotations

from dataclasses import dataclass

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, assume, settings
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from dspy_demo.api import build_router, with_docs
from dspy_demo.api.probes import Readiness, probes_router
from dspy_demo.api.versions import versions_router
from dspy_demo.events import Visitor
from dspy_demo.metrics import Metrics
from tests.api.conftest import LM, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer
from tests.visitors import OWNER, STRANGER


@dataclass(frozen=True)
class Logged:
    name: str
    version: int = 1
    uri: str = "models:/dspy-demo/1"


async def built() -> None: ...


def whole_api() -> FastAPI:
    """Every route that `app.py` documents."""
    service = make_service(ScriptedBackend(scripted_answer("4")))
    router = build_router(service, lambda: LM)
    router.include_router(versions_router(lambda name, *_: Logged(name)))
    router.include_router(probes_router(Metrics(), Readiness(service, built)))
    return FastAPI(routes=with_docs(router), docs_url=None, redoc_url=None, openapi_url=None)


API = whole_api()


def api_of(visitor: Visitor) -> ASGIApp:
    """The routes as this visitor meets them behind the guard."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["visitor"] = visitor
        await API(scope, receive, send)

    return guarded


owners_schema = schemathesis.openapi.from_asgi("/openapi.json", api_of(OWNER))
guests_schema = schemathesis.openapi.from_asgi("/openapi.json", api_of(STRANGER))
#: A valid body may still be refused: which inputs a program needs is not in the schema. And schemathesis 4.32
#: takes null for a wrong type where the schema allows it; wrong bodies have tests of their own.
NOT_PROMISED = [positive_data_acceptance, negative_data_rejection]


FUZZED = settings(
    max_examples=30,
    derandomize=True,  # the same cases each time, so that only a change of ours can break it
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@owners_schema.parametrize()
@FUZZED
def test_every_answer_is_as_documented(case: schemathesis.Case) -> None:
    # A path with a line end in it is no path of the router's.
    assume("\n" not in str(case.path_parameters))
    # Documented as text, as OpenAPI 3.1 has it; schemathesis 4.32 holds each event of it against that.
    streams = [response_schema_conformance] if case.path == "/predict/stream" else []
    case.call_and_validate(excluded_checks=[*NOT_PROMISED, *streams])


@guests_schema.include(path="/versions").parametrize()
@FUZZED
def test_a_guest_is_refused_as_documented(case: schemathesis.Case) -> None:
    assert case.call_and_validate(excluded_checks=NOT_PROMISED).status_code >= 400


def test_it_is_the_whole_schema() -> None:
    paths = {operation.ok().path for operation in owners_schema.get_all_operations()}
    assert {"/predict", "/v1/chat/completions", "/versions", "/ready", "/metrics", "/health"} <= paths
