"""What the fake upstream saw, for tests to look at."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.fake_upstream.replies import Reply


@dataclass
class Request:
    """One request as it came over the wire. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    @property
    def api_key(self) -> str:
        """As OpenAI, Anthropic or Gemini take it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "") or self.headers.get("x-goog-api-key", "")


@dataclass
class Stream:
    """What happened to one chat completion, streamed or not. Times are `time.monotonic()`.

    Attributes:
        tokens_sent: Content and reasoning chunks that were written to the socket.
        text_sent: Their text, joined.
        closed_at: When it ended, for whatever reason; None while it is open.
        client_left: The client closed it before the reply was complete.
        completed: The whole reply was written.
    """

    request: Request
    reply: Reply
    tokens_sent: int = 0
    text_sent: str = ""
    first_token_at: float | None = None
    closed_at: float | None = None
    client_left: bool = False
    completed: bool = False
