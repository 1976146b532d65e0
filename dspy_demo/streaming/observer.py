"""What DSPy tells us between the chunks: which reply is coming, which tool runs, what a call cost.

Its callbacks are plain functions that run inside the event loop, or in a program's thread. DSPy's own status
messages (3.4.1) enter the stream from a second thread and wait, for ever where it is full; ours never do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from dspy_demo.events import RETRY_KEY, Status, StatusState, Usage
from dspy_demo.streaming.splitter import AdapterKind, adapter_kind
from dspy_demo.tracing.record import Call, current_record

TOOL_TEXT_MAX_CHARS = 200
#: Options of a model call that a trace shows. Others may be a key or a header.
RECORDED_OPTIONS = ("temperature", "max_tokens", "top_p", "reasoning_effort")


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A predictor is about to ask the model for `fields`, written as `adapter` writes them."""

    predictor_id: int
    adapter: AdapterKind | None
    fields: tuple[str, ...]


Note = CallStarted | Status


class TurnObserver(BaseCallback):
    """Puts notes between the chunks of one turn, counts its calls, and records them for its trace.

    Args:
        note: Takes the notes, from any thread.
        steps: The names of the program's predictors, by their identity.
    """

    def __init__(self, note: Callable[[Note], None], steps: Mapping[int, str] | None = None) -> None:
        self._note = note
        self._steps = steps or {}
        self._record = current_record.get()
        self._counted: set[int] = set()
        self._last_call: Call | None = None
        self.calls = 0
        self.costs_usd: list[float] = []
        self._tools: dict[str, str] = {}

    # DSPy's side

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        predictor, signature = dspy.settings.caller_predict, inputs.get("signature")
        # XMLAdapter's method is wrapped twice (3.4.1): the outer call names no arguments.
        if predictor is not None and signature is not None:
            self._note(CallStarted(id(predictor), adapter_kind(instance), tuple(signature.output_fields)))

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if instance.name == "finish":  # ReAct's way to say that it is done
            return
        title = f"{instance.name}({_arguments(inputs)})"
        self._tools[call_id] = title
        if self._record:
            self._record.tool_started(call_id, instance.name, inputs.get("kwargs", inputs))
        self._note(Status(title, "pending", key=f"tool-{call_id}"))

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id not in self._tools:
            return
        title = self._tools.pop(call_id)
        if self._record:
            self._record.call_ended(call_id, outputs, exception)
        if exception is None:
            self._note(Status(f"{title} → {_short(str(outputs))}", "done", key=f"tool-{call_id}"))
        else:
            self._note(Status(f"{title} failed", "failed", key=f"tool-{call_id}"))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._record:
            step = self._steps.get(id(dspy.settings.caller_predict), "lm")
            asked = inputs.get("messages") or inputs.get("prompt")
            options = {**instance.kwargs, **(inputs.get("kwargs") or {})}
            sampling = {name: options[name] for name in RECORDED_OPTIONS if options.get(name) is not None}
            self._record.lm_started(call_id, step, instance.model, asked, sampling)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.calls += exception is None
        call = self._record.call_ended(call_id, outputs, exception) if self._record else None
        if call is not None and exception is None:
            call.usage, self._last_call = self._newly_used(call.model), call

    def _newly_used(self, model: str) -> Usage:
        """What DSPy counted for the call that just ended. An answer from the cache is not counted."""
        tracker = dspy.settings.usage_tracker
        for entry in reversed(tracker.usage_data.get(model, ()) if tracker else ()):
            if id(entry) not in self._counted:
                self._counted.add(id(entry))
                return Usage(
                    _count(entry, "prompt_tokens", "input_tokens"),
                    _count(entry, "completion_tokens", "output_tokens"),
                )
        return Usage(cached=True)

    # The model's side, see `lm.chat_lm.CallObserver`

    def call_retrying(self, wait_s: float, attempt: int, attempts: int) -> None:
        text = f"No answer, retrying in {wait_s:g} s ({attempt}/{attempts})"
        self._note(Status(text, "info", key=RETRY_KEY))

    def call_notice(self, text: str, state: StatusState, key: str) -> None:
        self._note(Status(text, state, key=key))

    def call_priced(self, cost_usd: float) -> None:
        self.costs_usd.append(cost_usd)
        call = self._last_call  # `ChatLM` tells the price right after the call's end
        if call is not None and call.usage is not None and not call.usage.cached:
            call.usage = replace(call.usage, cost_usd=cost_usd)

    def usage(self, tracker: UsageTracker, *, streamed: bool) -> Usage:
        """What the turn used. Its price is known only where that of every call is."""
        totals = tracker.get_total_tokens().values()
        prompt = sum(_count(total, "prompt_tokens", "input_tokens") for total in totals)
        completion = sum(_count(total, "completion_tokens", "output_tokens") for total in totals)
        priced = self.calls > 0 and len(self.costs_usd) == self.calls
        cached = self.calls > 0 and not totals and not streamed
        return Usage(prompt, completion, sum(self.costs_usd) if priced and not cached else None, cached)


def _count(total: dict[str, Any], *names: str) -> int:
    return next((int(total[name]) for name in names if total.get(name)), 0)


def _arguments(inputs: dict[str, Any]) -> str:
    given = inputs.get("kwargs", inputs)
    parts = [f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in given.items()]
    return _short(", ".join(parts))


def _short(text: str) -> str:
    return text if len(text) <= TOOL_TEXT_MAX_CHARS else text[: TOOL_TEXT_MAX_CHARS - 1] + "…"
