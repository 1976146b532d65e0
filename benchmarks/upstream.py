"""The local OpenAI-compatible server, the same one for us and for every peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fake_openai import FakeOpenAI


@contextmanager
def upstream(tokens_per_second: float = 0.0) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(tokens_per_second=tokens_per_second) as fake:
        yield fake
