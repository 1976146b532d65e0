"""What we use of DSPy that it does not document. Without one of these parts the app works, but tells less."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from anyio.from_thread import check_cancelled
from dspy import lm15
from dspy.utils.callback import BaseCallback

if TYPE_CHECKING:
    import dspy


class CallRecords:
    """A base of a `dspy.LM` that hears of each call where DSPy writes its history, and keeps none.

    DSPy calls ``update_history`` with the price and the response (3.4.1); without it neither is known.
    """

    def update_history(self, entry: dict[str, Any]) -> None:
        self.call_recorded(entry)

    def call_recorded(self, entry: dict[str, Any]) -> None:
        """A call has ended. The entry has ``response``, ``usage`` and ``cost``."""

    def _warn_zero_temp_rollout(self, temperature: float | None, rollout_id: object) -> None:
        """A ``rollout_id`` that keeps servers apart in the cache is no wish to sample again.

        Without this method `dspy.LM` (3.4.1) warns that it has no effect at a temperature of 0.
        """


@contextmanager
def stream_progress() -> Iterator[Any]:
    """Whether a chunk of a call in this block was streamed, as ``emitted``.

    DSPy notes it for its adapters' fall-backs (3.4.1, ``dspy.clients.call_context``). Without it a failed
    call is never made again.
    """
    try:
        from dspy.clients.call_context import adapter_fallback_scope
    except ImportError:
        yield SimpleNamespace(emitted=True)
        return
    with adapter_fallback_scope() as progress:
        yield progress


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


def connections_of(router: lm15.AsyncLMRouter, model: str) -> Any:
    """What the router's client for `model` sends its requests with: ``stream(request)`` (DSPy 3.4.1).

    A transport of ours passes its requests on to it. Without it no model of a provider can be asked.
    """
    return router.lm(model).transport


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


class ChunkPart(NamedTuple):
    """What one chunk of a model's reply adds to it."""

    content: str = ""
    thinking: str = ""
    tool_calls: str = ""
    finish_reason: str | None = None


def read_chunk(chunk: Any) -> ChunkPart:
    """A chunk as DSPy sends it to a stream: its own dict-like one, or litellm's (DSPy 3.4.1).

    Of a chunk in another shape nothing is shown while the reply arrives.
    """
    choices = getattr(chunk, "choices", None)
    if not choices:
        return ChunkPart()
    delta = getattr(choices[0], "delta", None) or {}
    found: Mapping[str, Any] = delta if hasattr(delta, "get") else vars(delta)
    calls = found.get("tool_calls")
    return ChunkPart(
        found.get("content") or "",
        found.get("reasoning_content") or "",
        str(calls) if calls else "",
        getattr(choices[0], "finish_reason", None),
    )


@contextmanager
def streaming_into(receiver: Any) -> Iterator[None]:
    """Have the chunks of the model calls in this block sent to ``receiver.send``, or nowhere for None.

    `dspy.streamify` sets the same setting (DSPy 3.4.1, ``send_stream``), with a stream that wakes its reader
    for each chunk. Without it replies come whole.
    """
    import dspy

    with dspy.context(send_stream=receiver):
        yield


def can_stream() -> bool:
    """Whether the model call can stream whose `on_lm_start` asks this.

    DSPy does not tell a callback whether the model was called or awaited, so the frame of its wrapper is
    looked at (DSPy 3.4.1). A call that blocks streams from a thread of AnyIO only. Where the frame is
    another, the reply comes whole.
    """
    import dspy

    if dspy.settings.send_stream is None:
        return False
    if sys._getframe(3).f_code.co_flags & inspect.CO_COROUTINE:
        return True
    try:
        check_cancelled()
    except RuntimeError:
        return False
    return True


@contextmanager
def counting_tokens() -> Iterator[Any]:
    """Count what the model calls in this block use; gives what `tokens_of` reads.

    The parts are those of ``track_usage=True``, whose total comes with a prediction only (DSPy 3.4.1).
    Without them no usage is known.
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


class ModuleCallback(BaseCallback):
    """A callback that stands in a program's predictors, and so is called in any thread.

    DSPy calls those of ``predictor.callbacks`` beside the ones of its settings
    and leaves them out of a pickle (3.4.1). Without it a thread that does not know its turn has no model.
    """

    def hear(self, program: dspy.Module) -> None:
        """Stand in the predictors of `program`, once."""
        for _, predictor in program.named_predictors():
            callbacks = getattr(predictor, "callbacks", None)
            if isinstance(callbacks, list) and self not in callbacks:
                callbacks.append(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def ask_only_once() -> None:
    """Keep DSPy's chat adapter from asking again in JSON because of the reply that has just ended.

    As if a chunk of it had been shown (DSPy 3.4.1, ``dspy.clients.call_context``). Without it a reply that
    was cut at the token limit is paid for twice.
    """
    with suppress(ImportError):
        from dspy.clients.call_context import stream_emitted

        stream_emitted()


def whole_text(outputs: Any) -> str:
    """The first of DSPy's outputs of a model call: a text, or a dict that has one."""
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    text = first.get("text") if isinstance(first, dict) else first
    return text if isinstance(text, str) else ""


def lacks_model(error: BaseException) -> bool:
    """Whether a predictor was called without a model; by DSPy's words for it (3.4.1).

    Where they are others, the failure is shown as a bug of ours.
    """
    return isinstance(error, ValueError) and "No LM is loaded" in str(error)
