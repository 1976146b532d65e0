"""One served world for all modules here, and further model servers of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from dspy_demo.events import Event, FieldDelta, LMChoice, TurnRequest
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.loading import ServedVersion
from tests.backends.served_fixtures import (
    LIVE_ENV,
    ServedWorld,
    served_session,
    served_world,
    start_model_server,
)
from tests.environment import scrubbed
from tests.processes import REPO, ServerProcess
from tests.services import played

__all__ = ["served_session", "served_world"]

QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as made:
        yield made


@pytest.fixture
def loaded_version() -> ServedVersion:
    """A version as a model server has loaded it, whose parts each test exchanges."""
    spec = ProgramRegistry(SHIPPED).get("chain_of_thought")
    choice = LMChoice("openai/fake", "http://127.0.0.1:1/v1")
    return ServedVersion("models:/served/1", spec, spec.build(), choice, own_lm=None, adapter="chat")


@asynccontextmanager
async def in_process(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A model server's application without a process; a stream comes as a whole."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def own_server(served_world: ServedWorld) -> Iterator[Callable[..., ServerProcess]]:
    """A model server of this test's own."""
    with ExitStack() as running:

        def start(version: str, *flags: str, env: dict[str, str] | None = None) -> ServerProcess:
            server = start_model_server(version, served_world.settings, served_world.home, *flags, env=env)
            running.callback(lambda: server.group_ended or server.stop())
            server.wait_until_healthy("/ping")
            return server

        yield start


async def heard(
    world: ServedWorld, request: TurnRequest, on_delta: Callable[[], object] = lambda: None
) -> list[Event]:
    """The events of a turn; `on_delta` is called at each delta."""
    events: list[Event] = []
    async with aclosing(world.backend()) as backend, played(backend.stream(request)) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, FieldDelta):
                on_delta()
    return events


def run(world: ServedWorld, *arguments: str, **env: str) -> tuple[int, str]:
    """The exit code and the output of ``python -m dspy_demo.serving``."""
    command = [sys.executable, "-m", "dspy_demo.serving", *arguments]
    env = scrubbed(os.environ, world.home) | LIVE_ENV | env
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
