"""What is counted of the turns, in Prometheus' terms. Each `Metrics` has a registry of its own.

No label holds anybody's text, and each has few values: outcomes, error codes, backends, names of limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from dspy_demo import __version__
from dspy_demo.events import LocalTarget, TurnRequest, Usage

Outcome = Literal["finished", "failed", "stopped", "refused"]
#: From an answer out of the cache to the longest turn that the settings allow by default.
TURN_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


@dataclasses.dataclass(frozen=True, slots=True)
class TurnEnd:
    """What became of a turn, without a word of what was asked or answered."""

    turn_id: str
    outcome: Outcome
    backend: Literal["local", "served"]
    program: str
    model: str  # the model string, or the served version
    visitor: str = ""
    code: str = ""  # of the error, where it failed or was refused
    limit: str = ""  # that was reached, where one was
    usage: Usage = dataclasses.field(default_factory=Usage)
    first_delta_s: float | None = None  # from its start
    elapsed_s: float = 0.0

    @classmethod
    def of(cls, request: TurnRequest, outcome: Outcome, **details: Any) -> TurnEnd:
        return cls(
            turn_id=request.turn_id,
            outcome=outcome,
            backend="local" if isinstance(request.target, LocalTarget) else "served",
            program=getattr(request.target, "program", ""),
            model=request.target.model[:100],  # somebody may have typed any text
            visitor=request.visitor.name,
            **details,
        )

    def fields(self) -> dict[str, Any]:
        """As the fields of a line in the log; what is not known is left out."""
        values = dataclasses.asdict(self)
        values |= values.pop("usage")
        values |= {name: round(values[name], 3) for name in ("first_delta_s", "elapsed_s") if values[name]}
        return {
            name: value for name, value in values.items() if value not in (None, "") and value is not False
        }


class Metrics:
    """Counts turns; called in the event loop."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._made(Gauge, "build_info", "The version of this app.", "version").labels(__version__).set(1)
        about = "Turns that ended: finished, failed by the error's code, stopped, or refused before a start."
        self._turns = self._made(Counter, "turns", about, "backend", "outcome", "code")
        self._active = self._made(Gauge, "active_turns", "Turns that run now.")
        about = "Time from the start of a turn to its first text."
        self._first_token_s = self._made(Histogram, "first_token_seconds", about, "backend", buckets=TURN_S)
        about = "Time from the start of a turn to its end."
        self._turn_s = self._made(Histogram, "turn_seconds", about, "backend", "outcome", buckets=TURN_S)
        self._tokens = self._made(Counter, "tokens", "Tokens of language models.", "backend", "kind")
        about = "Price of the tokens in US dollars, where it is known."
        self._cost_usd = self._made(Counter, "cost_usd", about)
        self._limits = self._made(Counter, "limits_hit", "Limits reached, by their name.", "limit")

    def _made(self, kind: Any, name: str, about: str, *labels: str, **more: Any) -> Any:
        return kind(f"dspy_demo_{name}", about, labels, registry=self._registry, **more)

    def turn_started(self, request: TurnRequest) -> None:
        self._active.inc()

    def turn_ended(self, end: TurnEnd) -> None:
        """A turn that was started has ended, exactly once; or one was refused, without a start."""
        self._turns.labels(end.backend, end.outcome, end.code).inc()
        if end.limit:
            self._limits.labels(end.limit).inc()
        if end.outcome == "refused":
            return
        self._active.dec()
        self._turn_s.labels(end.backend, end.outcome).observe(end.elapsed_s)
        if end.first_delta_s is not None:
            self._first_token_s.labels(end.backend).observe(end.first_delta_s)
        for kind in ("prompt", "completion"):
            tokens = getattr(end.usage, f"{kind}_tokens")
            self._tokens.labels(end.backend, kind).inc(max(0, tokens))  # a server may tell anything
        self._cost_usd.inc(max(0.0, end.usage.cost_usd or 0.0))

    def show_state(self, name: str, states: Iterable[str], read: Callable[[], str]) -> None:
        """A gauge ``dspy_demo_NAME`` with the label `state`: 1 for what `read` gives, 0 for all others."""
        gauge = self._made(Gauge, name, "1 for its state now, 0 for all others.", "state")
        for state in states:
            gauge.labels(state).set_function(partial(lambda name: float(read() == name), state))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What ``GET /metrics`` answers: text, and its content type, as `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
