"""The seam: whatever can run a turn, in this process, behind a model server, or from a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from dspy_demo.events import Event, TurnRequest


class Backend(Protocol):
    """Runs a turn and yields its events. One test suite checks this contract for every backend:

    - `TurnStarted` is first, but for a `Status` while the turn waits in line, here or in the app asked.
    - Exactly one `TurnFinished` is last, or the iterator raises a `errors.DemoError`, of which
      `chat.ChatService` makes the `TurnFailed`.
    - Zero deltas is legal. `TurnFinished.outputs` replace what the deltas accumulated.
    - The iterator is consumed by one task that owns it. Cancelling that task closes everything
      upstream before the cancellation is done, and no terminal event is sent.
    """

    name: str

    def stream(self, request: TurnRequest) -> AsyncGenerator[Event, None]: ...

    async def aclose(self) -> None: ...
