"""What DSPy's callbacks tell of a turn: which call a reply belongs to, which tool runs, what it cost.

They run where the program makes its calls: in the event loop, or in any thread that the program started.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_demo import dspy_bridge
from dspy_demo.adapters import adapter_name
from dspy_demo.events import RETRY_KEY, FinishReason, Status, StatusState, Usage
from dspy_demo.lm.chat_lm import call_observer, observing
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.tracing.record import Call, current_record

TOOL_TEXT_MAX_CHARS = 200
#: The name of a predictor that the program makes while it runs.
OTHER_STEP = "step"
#: Options of a model call that a trace shows. Others may be a key or a header.
RECORDED_OPTIONS = ("temperature", "max_tokens", "top_p", "reasoning_effort")


@dataclass(slots=True, eq=False)
class Step:
    """One call of a predictor: what it is named in the turn, and what it asks a model for.

    Attributes:
        name: The predictor's name in the program; from its second call on with a number, ``react#2``.
        answers: What it writes may be shown as the answer, see `reader.answering_predictor`.
        fields: The output fields, and `adapter` the name of the format in which they are asked for.
    """

    name: str
    answers: bool = False
    fields: tuple[str, ...] = ()
    adapter: str | None = None


@dataclass(slots=True, eq=False)
class ModelCall:
    """One call of a language model, and the receiver of the chunks of its reply.

    Each call has its own, because a chunk says at most which predictor it is for, and one predictor may be
    asked twice at once.

    Attributes:
        whole: The reply comes in one piece.
        whole_text: It, where no chunk of it came.
        received: A chunk of the reply has come; no answer from the cache has one.
        streamed: Text of the reply has come.
    """

    step: Step
    stream: TurnStream[Any]
    tokens: Any
    whole: bool = False
    whole_text: str = ""
    recorded: Call | None = None
    received: bool = False
    streamed: bool = False
    finish_reason: FinishReason = "stop"
    failed: bool = False
    usage: Usage = field(default_factory=Usage)

    async def send(self, chunk: Any) -> None:
        """Take a chunk (DSPy's side of a stream)."""
        self.received = True
        await self.stream.send((self, chunk))

    def note_end(self, finish_reason: str | None) -> None:
        """Note how the reply ended, in the words of DSPy or the provider."""
        if finish_reason in {"length", "content_filter"}:
            self.finish_reason = "length" if finish_reason == "length" else "content_filter"

    def use(self, usage: Usage) -> None:
        """Note what it used, for the trace too."""
        self.usage = usage
        if self.recorded is not None and not self.failed:
            self.recorded.usage = usage


_step: ContextVar[Step | None] = ContextVar("step", default=None)
_call: ContextVar[ModelCall | None] = ContextVar("call", default=None)


class TurnObserver(BaseCallback):
    """Gives each model call of one turn its stream, counts what it used, and records it for the trace.

    It puts into the stream: `Status` events, and pairs of a `ModelCall` and a chunk, or None at its end.

    Args:
        program: Whose predictors give the steps their names.
        answering: The predictor whose text is the answer, or None.
    """

    def __init__(self, stream: TurnStream[Any], program: dspy.Module, answering: dspy.Predict | None) -> None:
        self._stream = stream
        self._predictors = [(name.removesuffix(".predict"), p) for name, p in program.named_predictors()]
        self._answering = answering
        self._record = current_record.get()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: dict[str, ExitStack] = {}
        self._tools: dict[str, str] = {}
        self._calls: dict[str, ModelCall] = {}
        self._ended: list[ModelCall] = []

    # Programs and predictors

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._stream.check_open()
        stack = self._open[call_id] = ExitStack()
        if call_observer.get() is not self:  # a thread without the context of the turn's task
            stack.enter_context(observing(self))
        if isinstance(instance, dspy.Predict):
            step = self._new_step(self._name(instance), answers=instance is self._answering)
            stack.enter_context(_set(_step, step))

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._open.pop(call_id, ExitStack()).close()

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        step, signature = _step.get(), inputs.get("signature")
        # An adapter's subclass has this callback twice; the outer one does not name the arguments.
        if step is not None and signature is not None:
            step.fields, step.adapter = tuple(signature.output_fields), adapter_name(instance)

    def _new_step(self, name: str, *, answers: bool = False) -> Step:
        with self._lock:
            self._counts[name] += 1
            count = self._counts[name]
        return Step(name if count == 1 else f"{name}#{count}", answers)

    def knows(self, predictor: dspy.Predict) -> bool:
        """Whether it is one of the program's, or a copy of one."""
        return self._name(predictor) != OTHER_STEP

    def _name(self, predictor: dspy.Predict) -> str:
        """By the object, or for a copy (`dspy.BestOfN` makes them) by its signature."""
        asked = predictor.signature
        tests: list[Callable[[dspy.Predict], bool]] = [
            lambda known: known is predictor,
            lambda known: known.signature is asked,
            lambda known: list(known.signature.fields) == list(asked.fields),
        ]
        return next((name for test in tests for name, known in self._predictors if test(known)), OTHER_STEP)

    # Models

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._stream.check_open()
        stack = self._open[call_id] = ExitStack()
        step = replace(_step.get() or self._new_step("lm"))  # as it is now: DSPy may ask in another format
        call = ModelCall(step, self._stream, stack.enter_context(dspy_bridge.counting_tokens()))
        call.whole = not dspy_bridge.can_stream()
        stack.enter_context(dspy_bridge.streaming_into(None if call.whole else call))
        stack.enter_context(_set(_call, call))
        self._calls[call_id] = call
        if self._record:
            asked = inputs.get("messages") or inputs.get("prompt")
            options = {**instance.kwargs, **(inputs.get("kwargs") or {})}
            sampling = {name: options[name] for name in RECORDED_OPTIONS if options.get(name) is not None}
            self._record.lm_started(call_id, step.name, instance.model, asked, sampling)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        call.failed = exception is not None
        if self._record:
            call.recorded = self._record.call_ended(call_id, outputs, exception)
        counted = dspy_bridge.tokens_of(call.tokens)  # nothing for an answer from DSPy's cache
        cached = counted is None and not (call.received or call.whole or call.failed)
        call.use(Usage(*(counted or (0, 0)), cached=cached))
        self._open.pop(call_id).close()
        if call.finish_reason != "stop":
            dspy_bridge.ask_only_once()
        self._ended.append(call)
        _call.set(call)  # `ChatLM` tells the price after the end
        call.whole_text = "" if call.received else dspy_bridge.whole_text(outputs)
        self._stream.put((call, None))

    # Tools

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if instance.name == "finish":  # ReAct's way to say that it is done
            return
        arguments = inputs.get("kwargs", inputs)
        title = f"{instance.name}({_as_text(arguments)})"
        self._tools[call_id] = title
        if self._record:
            self._record.tool_started(call_id, instance.name, arguments)
        self._stream.put(Status(title, "pending", key=f"tool-{call_id}"))

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id not in self._tools:
            return
        title = self._tools.pop(call_id)
        if self._record:
            self._record.call_ended(call_id, outputs, exception)
        text = f"{title} failed" if exception else f"{title} → {_short(str(outputs))}"
        self._stream.put(Status(text, "failed" if exception else "done", key=f"tool-{call_id}"))

    # The model's side, see `lm.chat_lm.CallObserver`

    def in_turn(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any] | None:
        return self._stream.run(call)

    def call_retrying(self, wait_s: float, attempt: int, attempts: int) -> None:
        self.call_notice(f"No answer, retrying in {wait_s:g} s ({attempt}/{attempts})", "info", RETRY_KEY)

    def call_notice(self, text: str, state: StatusState, key: str) -> None:
        self._stream.put(Status(text, state, key=key))

    def call_ended(self, finish_reason: str | None) -> None:
        if call := _call.get():
            call.note_end(finish_reason)

    def call_priced(self, cost_usd: float) -> None:
        call = _call.get()
        if call and not call.usage.cached:
            call.use(replace(call.usage, cost_usd=cost_usd))

    # What came of it

    @property
    def last_call(self) -> ModelCall | None:
        """The model call that ended last."""
        return self._ended[-1] if self._ended else None

    def finish_reason(self, outputs: Collection[str]) -> FinishReason:
        """How the reply ended that made the program's `outputs`; of several the last one counts."""
        made = [call for call in self._ended if not call.failed and set(call.step.fields) & set(outputs)]
        return made[-1].finish_reason if made else "stop"

    def usage(self) -> Usage:
        """What the turn used. Its price is known only where that of every call is."""
        answered = [call.usage for call in self._ended if not call.failed]
        costs = [usage.cost_usd for usage in answered if not usage.cached]
        return Usage(
            sum(call.usage.prompt_tokens for call in self._ended),
            sum(call.usage.completion_tokens for call in self._ended),
            sum(cost or 0.0 for cost in costs) if costs and None not in costs else None,
            cached=bool(answered) and not costs,
        )


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _as_text(arguments: dict[str, Any]) -> str:
    values = {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in arguments.items()}
    return _short(", ".join(f"{name}={value}" for name, value in values.items()))


def _short(text: str) -> str:
    return text if len(text) <= TOOL_TEXT_MAX_CHARS else text[: TOOL_TEXT_MAX_CHARS - 1] + "…"
