"""What is counted, in Prometheus' terms. Each `Metrics` has a registry of its own.

No label holds anybody's text, and each has few values: outcomes, error codes, backends, names of limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from dspy_demo import __version__
from dspy_demo.events import TurnRequest
from dspy_demo.observer import TurnEnd

#: From an answer out of the cache to the longest turn that the settings allow by default.
FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
TURN_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """A `ChatObserver` that counts. `exposition` is what ``GET /metrics`` answers."""

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
            "How often a limit was reached, by its setting.",
            ["limit"],
            registry=registry,
        )

    # --- `ChatObserver` ---

    def turn_started(self, request: TurnRequest) -> None:
        self._active.inc()

    def turn_ended(self, end: TurnEnd) -> None:
        self._turns.labels(end.backend, end.outcome, end.code).inc()
        if end.limit:
            self.limit_hit(end.limit)
        if end.outcome == "refused":
            return
        self._active.dec()
        self._turn_s.labels(end.backend, end.outcome).observe(end.elapsed_s)
        if end.first_delta_s is not None:
            self._first_token_s.labels(end.backend).observe(end.first_delta_s)
        self._tokens.labels(end.backend, "prompt").inc(end.usage.prompt_tokens)
        self._tokens.labels(end.backend, "completion").inc(end.usage.completion_tokens)
        self._cost_usd.inc(end.usage.cost_usd or 0.0)

    # --- what is no turn ---

    def limit_hit(self, limit: str) -> None:
        """Count a limit that was reached outside a turn. `limit` is the name of its setting."""
        self._limits.labels(limit).inc()

    def show_state(self, name: str, text: str, states: Iterable[str], read: Callable[[], str]) -> None:
        """A gauge ``dspy_demo_NAME`` with the label `state`: 1 for what `read` gives, 0 for all others.

        Args:
            read: Asked at each look, in the event loop.
        """
        gauge = Gauge(f"dspy_demo_{name}", text, ["state"], registry=self._registry)

        def is_now(state: str) -> Callable[[], float]:
            return lambda: float(read() == state)

        for state in states:
            gauge.labels(state).set_function(is_now(state))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All of it as text, and its content type: as `accept` asks for, else Prometheus' plain format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
