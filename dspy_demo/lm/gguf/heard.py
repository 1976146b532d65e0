"""What the thread that generates tells the engine that waits for the reply."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_demo.errors import DemoError
from dspy_demo.events import StatusState


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user may want to know meanwhile; the same `key` is the same line. See `events.Status`."""

    text: str
    state: StatusState
    key: str


@dataclass(frozen=True, slots=True)
class Text:
    """More of the reply, whole characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The reply is over. Where its limit `cut` it, its format may still have been completed."""

    read_tokens: int
    written_tokens: int
    cached_tokens: int
    cut: bool


@dataclass(frozen=True, slots=True)
class TooLong:
    """The chat does not fit into the model's context, even without its older turns."""

    tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no reply, or no more of it."""

    error: DemoError


Heard = Notice | Text | Ended | TooLong | Failed
