"""What we use of DSPy that it does not document, three parts: without one the app works, but tells less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dspy import lm15


def price_usd(reply: lm15.Response, client: str, model: str) -> float | None:
    """What a reply cost by DSPy's price list; None where it is unknown. `client` is as DSPy names it.

    DSPy prices the calls of its own engines only, and ours are not (3.4.1, ``dspy.clients.costs``). Without
    it no price is shown, and guests are bound by tokens alone.
    """
    try:
        from dspy.clients.costs import estimate_cost

        price: float | None = estimate_cost(reply, provider=client, requested_model=model)[0]
        return price
    except (ImportError, TypeError, AttributeError):
        return None


def connections_of(router: lm15.AsyncLMRouter, target: str) -> Any:
    """What sends the requests of a router for one model: its ``stream`` gives the reply as it came.

    DSPy's router takes a transport of one's own and documents none that it could lean on (3.4.1,
    ``lm().transport``). Without it DSPy's client reads the replies as it does by itself.
    """
    return getattr(router.lm(target), "transport", None)


def calling_predictor() -> Any:
    """For an engine: the predictor that is calling it; None where a program asks by itself.

    DSPy names ``settings.caller_modules`` as the modules that are calling each other. Without it the demo
    engine answers nothing, and a model on this machine runs without a grammar.
    """
    import dspy

    callers = getattr(dspy.settings, "caller_modules", None) or [None]
    return callers[-1] if hasattr(callers[-1], "signature") else None


@contextmanager
def counting_tokens() -> Iterator[Any]:
    """Count what the model calls in this block use; gives what `tokens_of` reads.

    DSPy documents ``track_usage=True``, whose total comes with a prediction only; this is what it counts with
    (3.4.1, ``dspy.utils.usage_tracker``). Without it no usage is known.
    """
    try:
        from dspy.utils.usage_tracker import track_usage
    except ImportError:
        yield None
        return
    with track_usage() as tracker:
        yield tracker


def tokens_of(tracker: Any) -> tuple[int, int] | None:
    """Prompt and completion tokens; None where DSPy counted nothing, as for an answer from its cache."""
    totals = list(tracker.get_total_tokens().values()) if hasattr(tracker, "get_total_tokens") else []
    if not totals:
        return None
    prompt = sum(total.get("prompt_tokens") or total.get("input_tokens") or 0 for total in totals)
    completion = sum(total.get("completion_tokens") or total.get("output_tokens") or 0 for total in totals)
    return int(prompt), int(completion)
