"""``POST /versions``: what the owner's script sends and gets, without MLflow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from dspy_demo.api.versions import versions_router
from dspy_demo.errors import InvalidInput, TrackingUnavailable
from dspy_demo.events import Visitor
from tests.visitors import OWNER, STRANGER


@dataclass(frozen=True)
class Made:
    name: str
    version: int
    uri: str


class Logger:
    """Stands for the app's own: notes what it is asked for, or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None

    def __call__(self, name: str, program: str | None, description: str, tags: dict[str, str]) -> Made:
        if self.error is not None:
            raise self.error
        self.asked.append((name, program, description, tags))
        return Made(name, 3, f"models:/{name}/3")


class As:
    """Stands for the guard around the app."""

    def __init__(self, app: ASGIApp, visitor: Visitor) -> None:
        self.app = app
        self.visitor = visitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["visitor"] = self.visitor
        await self.app(scope, receive, send)


@pytest.fixture
def visitor() -> Visitor:
    return OWNER


@pytest.fixture
def logger() -> Logger:
    return Logger()


@pytest.fixture
async def client(logger: Logger, visitor: Visitor) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(middleware=[Middleware(As, visitor=visitor)])
    app.include_router(versions_router(logger))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        yield client


async def test_a_version_is_logged(client: httpx.AsyncClient, logger: Logger) -> None:
    body = {"name": "demo", "description": "New", "tags": {"team": "search"}, "program": "react"}
    reply = await client.post("/versions", json=body)
    assert (reply.status_code, reply.json()) == (201, {"name": "demo", "version": 3, "uri": "models:/demo/3"})
    assert logger.asked == [("demo", "react", "New", {"team": "search"})]


async def test_only_the_name_is_needed(client: httpx.AsyncClient, logger: Logger) -> None:
    assert (await client.post("/versions", json={"name": "demo"})).status_code == 201
    assert logger.asked == [("demo", None, "", {})]


@pytest.mark.parametrize(
    "body", [{}, {"name": 3}, {"name": "demo", "tags": {"a": 1}}, {"name": "demo", "lm": "x"}]
)
async def test_a_body_that_is_not_valid_is_refused(
    client: httpx.AsyncClient, logger: Logger, body: Any
) -> None:
    reply = await client.post("/versions", json=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_input")
    assert logger.asked == []


async def test_a_form_of_another_site_is_refused(client: httpx.AsyncClient, logger: Logger) -> None:
    reply = await client.post("/versions", content='{"name": "demo"}', headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415
    assert logger.asked == []


@pytest.mark.parametrize("visitor", [STRANGER])
async def test_a_guest_is_refused(client: httpx.AsyncClient, logger: Logger) -> None:
    reply = await client.post("/versions", json={"name": "demo"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert logger.asked == []


@pytest.mark.parametrize(("error", "status"), [(InvalidInput(), 422), (TrackingUnavailable(), 503)])
async def test_a_refusal_is_a_sentence(
    client: httpx.AsyncClient, logger: Logger, error: Exception, status: int
) -> None:
    logger.error = error
    reply = await client.post("/versions", json={"name": "demo"})
    assert (reply.status_code, reply.json()["status"]) == (status, "error")
