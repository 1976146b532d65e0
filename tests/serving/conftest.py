"""One served world for all modules here, and what they ask it with."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import httpx
import pytest

from dspy_demo.events import FieldDelta, LMChoice
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.app import build_app
from dspy_demo.serving.loading import ServedVersion
from tests.backends.served_fixtures import served_session, served_world
from tests.services import played, settings_for

__all__ = ["served_session", "served_world"]

QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@pytest.fixture
async def client():
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as made:
        yield made


@pytest.fixture
def loaded_app(fake_openai, data_dir):
    """The application of a version that a model server has loaded, on the fake upstream."""

    def made(spec=None, lm=None):
        spec = spec or ProgramRegistry(SHIPPED).get("chain_of_thought")
        lm = lm or LMChoice("openai/fake", fake_openai.url, cache=False)
        version = ServedVersion("models:/served/1", spec, spec.build(), lm, own_lm=None, adapter="chat")
        return build_app(version, settings_for(data_dir, tracing=False))

    return made


@asynccontextmanager
async def in_process(app):
    """A model server's application without a process; a stream comes as a whole."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def heard(world, request, on_delta=lambda: None):
    """The events of a turn; `on_delta` is called at each delta."""
    events = []
    async with aclosing(world.backend()) as backend, played(backend.stream(request)) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, FieldDelta):
                on_delta()
    return events
