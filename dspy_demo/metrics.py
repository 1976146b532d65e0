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
#: A typed model's name may be any text; in the log it is cut to this.
MODEL_MAX_CHARS = 100
#: From an answer out of the cache to the longest turn that the settings allow by default.
FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
TURN_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


@dataclasses.dataclass(frozen=True, slots=True)
class TurnEnd:
    """What became of a turn, without a word of what was asked or answered.

    Attributes:
        outcome: ``refused``: it never ran.
        backend: ``local`` or ``served``.
        model: The model string, or the served version.
        visitor: `events.Visitor.name`.
        code: Of the error, where it failed or was refused.
        limit: Which limit was reached, where one was.
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
    usage: Usage = dataclasses.field(default_factory=Usage)
    first_delta_s: float | None = None
    elapsed_s: float = 0.0

    @classmethod
    def of(cls, request: TurnRequest, outcome: Outcome, **details: Any) -> TurnEnd:
        local = isinstance(request.target, LocalTarget)
        return cls(
            turn_id=request.turn_id,
            outcome=outcome,
            backend="local" if local else "served",
            program=getattr(request.target, "program", ""),
            model=request.target.model[:MODEL_MAX_CHARS],
            visitor=request.visitor.name,
            **details,
        )

    def fields(self) -> dict[str, Any]:
        """As the fields of a line in the log; what is not known is left out."""
        values = dataclasses.asdict(self)
        values |= values.pop("usage")
        values["cached"] = values["cached"] or None
        for name in ("first_delta_s", "elapsed_s"):
            values[name] = None if values[name] is None else round(values[name], 3)
        return {
            name: value for name, value in values.items() if value not in (None, "") and value is not False
        }


class Metrics:
    """Counts turns; called in the event loop. `exposition` is what ``GET /metrics`` answers."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Gauge("dspy_demo_build_info", "The version of this app.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        self._turns = Counter(
            "dspy_demo_turns",
            "Turns that ended: finished, failed by the error's code, stopped, or refused before a start.",
            ["backend", "outcome", "code"],
            registry=registry,
        )
        self._active = Gauge("dspy_demo_active_turns", "Turns that run now.", registry=registry)
        self._first_token_s = Histogram(
            "dspy_demo_first_token_seconds",
            "Time from the start of a turn to its first text.",
            ["backend"],
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._turn_s = Histogram(
            "dspy_demo_turn_seconds",
            "Time from the start of a turn to its end.",
            ["backend", "outcome"],
            buckets=TURN_S,
            registry=registry,
        )
        self._tokens = Counter(
            "dspy_demo_tokens", "Tokens of language models.", ["backend", "kind"], registry=registry
        )
        self._cost_usd = Counter(
            "dspy_demo_cost_usd", "Price of the tokens in US dollars, where it is known.", registry=registry
        )
        self._limits = Counter(
            "dspy_demo_limits_hit",
            "Limits reached, by their name.",
            ["limit"],
            registry=registry,
        )

    def turn_started(self, request: TurnRequest) -> None:
        """A turn was accepted and runs now."""
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
        usage = end.usage  # a model server may tell anything
        self._tokens.labels(end.backend, "prompt").inc(max(0, usage.prompt_tokens))
        self._tokens.labels(end.backend, "completion").inc(max(0, usage.completion_tokens))
        self._cost_usd.inc(max(0.0, usage.cost_usd or 0.0))

    def show_state(self, name: str, text: str, states: Iterable[str], read: Callable[[], str]) -> None:
        """A gauge ``dspy_demo_NAME`` with the label `state`: 1 for what `read` gives, 0 for all others."""
        gauge = Gauge(f"dspy_demo_{name}", text, ["state"], registry=self._registry)
        for state in states:
            gauge.labels(state).set_function(partial(lambda name: float(read() == name), state))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All of it as text, and its content type: as `accept` asks for, else Prometheus' plain format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
