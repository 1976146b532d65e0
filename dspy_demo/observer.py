"""What the chat tells of its turns to whoever counts them; and the one who does not listen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dspy_demo.events import LocalTarget, TurnRequest, Usage

Outcome = Literal["finished", "failed", "stopped", "refused"]
#: A typed model's name may be any text; in the log it is cut to this.
MODEL_MAX_CHARS = 100


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What became of a turn, without a word of what was asked or answered.

    Attributes:
        outcome: ``refused``: it never ran.
        backend: ``local`` or ``served``.
        model: The model string, or the served version.
        visitor: `events.Visitor.name`.
        code: Of the error, where it failed or was refused.
        limit: The setting whose limit was reached, where one was.
        first_delta_s, elapsed_s: Seconds from its start.
    """

    turn_id: str
    outcome: Outcome
    backend: str
    program: str
    model: str
    visitor: str = ""
    code: str = ""
    limit: str = ""
    usage: Usage = field(default_factory=Usage)
    first_delta_s: float | None = None
    elapsed_s: float = 0.0

    @classmethod
    def of(cls, request: TurnRequest, outcome: Outcome, **details: Any) -> TurnEnd:
        target = request.target
        local = isinstance(target, LocalTarget)
        return cls(
            request.turn_id,
            outcome,
            "local" if local else "served",
            target.program if isinstance(target, LocalTarget) else "",
            target.model[:MODEL_MAX_CHARS],
            request.visitor.name,
            **details,
        )

    def fields(self) -> dict[str, Any]:
        """As the fields of a line in the log; what is not known is left out."""
        values = {
            "turn_id": self.turn_id,
            "outcome": self.outcome,
            "code": self.code,
            "limit": self.limit,
            "backend": self.backend,
            "program": self.program,
            "model": self.model,
            "visitor": self.visitor,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cost_usd": self.usage.cost_usd,
            "cached": self.usage.cached or None,
            "first_delta_s": None if self.first_delta_s is None else round(self.first_delta_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
        }
        return {name: value for name, value in values.items() if value not in (None, "")}


class ChatObserver(Protocol):
    """Hears of turns in the event loop; it neither waits nor raises."""

    def turn_started(self, request: TurnRequest) -> None:
        """A turn was accepted and runs now."""

    def turn_ended(self, end: TurnEnd) -> None:
        """A turn that was started has ended, exactly once; or one was refused, without a start."""


class NoObserver:
    """Nobody counts."""

    def turn_started(self, request: TurnRequest) -> None: ...

    def turn_ended(self, end: TurnEnd) -> None: ...
