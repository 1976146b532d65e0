"""One tiny model for all tests of the engine; what is in memory ends with each module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dspy
import pytest

from dspy_demo.lm.chat_lm import call_observer
from dspy_demo.lm.gguf.engine import local_lm
from dspy_demo.lm.gguf.line import close_line
from dspy_demo.lm.local_models import LocalModel
from tests.tiny_gguf import Size, write_tiny_gguf

MakeLM = Callable[..., dspy.LM]


@dataclass
class Notices:
    """What a turn's observer would hear."""

    heard: list[tuple[str, str, str]] = field(default_factory=list)

    def call_notice(self, text: str, state: Any, key: str) -> None:
        self.heard.append((key, state, text))

    def call_retrying(self, wait_s: float, attempt: int, attempts: int) -> None:
        raise AssertionError("nothing is tried again here")

    def in_turn(self, call: Any) -> None:
        return None

    def call_ended(self, finish_reason: str | None) -> None: ...

    def call_priced(self, cost_usd: float) -> None:
        raise AssertionError("it costs nothing")

    def of(self, key: str) -> list[tuple[str, str]]:
        return [(state, text) for heard_key, state, text in self.heard if heard_key == key]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    path = write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", Size(end="never"))
    return LocalModel("tiny", path, size_bytes=path.stat().st_size, title="Tiny")


@pytest.fixture(scope="module", autouse=True)
def nothing_in_memory() -> Iterator[None]:
    yield
    close_line()


@pytest.fixture
def notices() -> Iterator[Notices]:
    """Of the calls that the test makes in its own context."""
    made = Notices()
    token = call_observer.set(made)
    yield made
    call_observer.reset(token)


@pytest.fixture
def make_lm(tiny: LocalModel) -> MakeLM:
    def make(model: LocalModel = tiny, **options: Any) -> dspy.LM:
        return local_lm(model, **({"cache": False, "context_tokens": 4096, "threads": 1} | options))

    return make
