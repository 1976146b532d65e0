"""What we use of DSPy that it does not document. Without one of these parts the app works, but tells less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy import lm15

if TYPE_CHECKING:
    import dspy


class SilentRollouts:
    """A base of a `dspy.LM` whose ``rollout_id`` keeps servers apart in the cache: no wish to sample again.

    `dspy.LM` (3.4.1) warns once for each of its copies that it has no effect at a temperature of 0. Without
    this method the warning is printed.
    """

    def _warn_zero_temp_rollout(self, temperature: float | None, rollout_id: object) -> None:
        pass


def price_usd(reply: lm15.Response, client: str, model: str) -> float | None:
    """What a reply cost, from the price list that DSPy brings; None where it is unknown.

    DSPy prices the calls of its own engines only, and ours are not (DSPy 3.4.1, ``dspy.clients.costs``).
    Without it no price is shown, and guests are bound by tokens alone.

    Args:
        client: The name of DSPy's client for the provider's API.
        model: The model's name at its provider.
    """
    try:
        from dspy.clients.costs import estimate_cost

        price: float | None = estimate_cost(reply, provider=client, requested_model=model)[0]
        return price
    except (ImportError, TypeError, AttributeError):
        return None


def calling_predictor() -> Any:
    """The predictor that is calling a language model now; call it inside an engine.

    DSPy keeps the modules that are calling each other, the last one being the predictor (DSPy 3.4.1,
    ``settings.caller_modules``). None for a program that calls a model by itself. Without it the demo engine
    answers nothing, and a model on this machine runs without a grammar.
    """
    import dspy

    callers = getattr(dspy.settings, "caller_modules", None) or [None]
    return callers[-1] if hasattr(callers[-1], "signature") else None


def calling_signature() -> type[dspy.Signature] | None:
    """The signature of that predictor."""
    return getattr(calling_predictor(), "signature", None)
