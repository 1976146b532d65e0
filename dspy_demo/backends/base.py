"""The seam: whatever can run a turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from dspy_demo.events import Event, TurnRequest


class Backend(Protocol):
    """Runs a turn and yields its events.

    The contract, which one test suite checks for every backend:

    - `TurnStarted` is first, but for a `Status` while the turn waits in line: before `chat.ChatService`
      asks the backend, or in another app that the backend asks.
    - Exactly one `TurnFinished` or `TurnFailed` is last.
    - Zero deltas is legal. `TurnFinished.outputs` replace what the deltas accumulated.
    - A failure is a `errors.DemoError` raised from the iterator; `chat.ChatService` turns it into
      the terminal event, so that there is one place for that.
    - The iterator is consumed by one task that owns it. Cancelling that task closes everything
      upstream before the cancellation is done, and no terminal event is sent.
    """

    name: str

    def stream(self, request: TurnRequest) -> AsyncGenerator[Event, None]: ...

    async def aclose(self) -> None: ...
