"""One database for these tests: making it takes seconds. Each test has turns and sessions of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.settings import Settings
from dspy_demo.tracing.tracer import Tracer
from dspy_demo.versions.tracking import Tracking

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def trace_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="session")
def tracking(trace_settings: Settings) -> Tracking:
    tracking = Tracking(trace_settings)
    tracking.prepare()
    return tracking


@pytest.fixture
def tracer(trace_settings: Settings, tracking: Tracking) -> Iterator[Tracer]:
    tracer = Tracer(trace_settings, tracking)
    yield tracer
    assert tracer.close(15)


@pytest.fixture
def session() -> str:
    return f"visitor-{next(_numbers)}.chat"


@pytest.fixture
def stored(tracking: Tracking, tracer: Tracer) -> Callable[[str], Any]:
    """The trace with an id, as MLflow gives it back."""

    def read(trace_id: str) -> Any:
        assert tracer.flush(15)
        return tracking.client.get_trace(trace_id)

    return read


def request_of(
    question: str = "What is 2 + 2?", *, session: str = "v.c", key: str | None = None
) -> TurnRequest:
    choice = LMChoice("openai/fake", api_key=SecretStr(key) if key else None)
    return TurnRequest(LocalTarget("chain_of_thought", choice), {"question": question}, session_id=session)
