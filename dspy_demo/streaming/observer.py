"""What DSPy's callbacks tell of a turn: which call a reply belongs to, which tool runs, what it cost.

They run where the program makes its calls: in the event loop, or in any thread that the program started.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Self

import dspy
from anyio.from_thread import check_cancelled
from dspy.utils.callback import BaseCallback

from dspy_demo.adapters import adapter_name, awaited
from dspy_demo.dspy_bridge import counting_tokens, tokens_of
from dspy_demo.events import FinishReason, Status, StatusState, Usage
from dspy_demo.lm.chat_lm import ChatLM, call_observer
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.tracing.record import Call, current_record

TOOL_TEXT_MAX_CHARS = 200
#: Options of a model call that a trace shows. Others may be a key or a header.
RECORDED_OPTIONS = ("temperature", "max_tokens", "top_p", "reasoning_effort")


@dataclass(slots=True, eq=False)
class Step:
    """One call of a predictor: ``react``, or from its second call on ``react#2``."""

    name: str
    answers: bool = False  #: What it writes may be shown as the answer.
    fields: tuple[str, ...] = ()
    adapter: str | None = None  #: The format in which it asks for `fields`.


@dataclass(slots=True, eq=False)
class ModelCall:
    """One call of a language model, and the receiver of the chunks of its reply."""

    step: Step
    stream: TurnStream[Any]
    open: ExitStack = field(default_factory=ExitStack)
    tokens: Any = None  #: What counts them.
    whole: bool = False  #: The reply comes in one piece, `whole_text`.
    whole_text: str = ""
    received: bool = False  #: A chunk has come; no answer from the cache has one.
    streamed: bool = False  #: Text has come.
    finish_reason: FinishReason = "stop"
    failed: bool = False
    cost_usd: float | None = None
    usage: Usage = field(default_factory=Usage)

    async def send(self, chunk: Any) -> None:
        """What DSPy calls with each chunk."""
        self.received = True
        await self.stream.send((self, chunk))

    def note_end(self, finish_reason: Any) -> None:
        if finish_reason in {"length", "content_filter"}:
            self.finish_reason = finish_reason


_step: ContextVar[Step | None] = ContextVar("step", default=None)
_call: ContextVar[ModelCall | None] = ContextVar("call", default=None)


class TurnObserver(BaseCallback):
    """Gives each model call of one turn its stream, counts what it used, and records it for the trace.

    It puts into the stream: `Status` events, and pairs of a `ModelCall` and a chunk, or None at its end.
    """

    def __init__(self, stream: TurnStream[Any], program: dspy.Module, answering: dspy.Predict | None) -> None:
        self._stream, self.in_turn = stream, stream.run
        self._predictors = [(name.removesuffix(".predict"), p) for name, p in program.named_predictors()]
        self._answering = answering
        self._record = current_record.get()
        self._counts: Counter[str] = Counter()
        self._modules: dict[str, ExitStack] = {}
        self._tools: dict[str, str] = {}
        self._calls: dict[str, ModelCall] = {}
        self.ended: list[ModelCall] = []  #: The model calls, in the order of their ends.
        self.lost_thread = False  #: A thread of the program may be of another turn, so its call failed.

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._stream.check_open()
        stack = self._modules[call_id] = ExitStack()
        if call_observer.get() is not self:  # a thread without the context of the turn's task
            stack.callback(call_observer.reset, call_observer.set(self))
        if isinstance(instance, dspy.Predict):
            step = self._new_step(self._name(instance), answers=instance is self._answering)
            stack.callback(_step.reset, _step.set(step))

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._modules.pop(call_id).close()

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        step, signature = _step.get(), inputs.get("signature")
        # An adapter's subclass has this callback twice; the outer one does not name the arguments.
        if step is not None and signature is not None:
            step.fields, step.adapter = tuple(signature.output_fields), adapter_name(instance)

    def _new_step(self, name: str, *, answers: bool = False) -> Step:
        self._counts[name] += 1
        return Step(name if self._counts[name] == 1 else f"{name}#{self._counts[name]}", answers)

    def _name(self, predictor: dspy.Predict) -> str:
        """By the object, or for a copy (`dspy.BestOfN` makes them) by its fields."""
        fields = list(predictor.signature.fields)
        same = [name for name, known in self._predictors if known is predictor]
        alike = [name for name, known in self._predictors if list(known.signature.fields) == fields]
        return next(iter(same + alike), "step")

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._stream.check_open()
        step = replace(_step.get() or self._new_step("lm"))  # as it is now: DSPy may ask in another format
        call = self._calls[call_id] = ModelCall(step, self._stream)
        call.tokens = call.open.enter_context(counting_tokens())
        call.whole = dspy.settings.send_stream is None or not _can_stream(instance)
        call.open.enter_context(dspy.context(send_stream=None if call.whole else call))
        _call.set(call)
        if self._record:
            asked = inputs.get("messages") or inputs.get("prompt")
            options = {**instance.kwargs, **(inputs.get("kwargs") or {})}
            sampling = {name: options[name] for name in RECORDED_OPTIONS if options.get(name) is not None}
            self._record.call_started(call_id, Call("lm", step.name, asked, instance.model, sampling))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = self._calls.pop(call_id)
        call.failed = exception is not None
        counted = tokens_of(call.tokens)  # nothing for an answer from DSPy's cache
        cached = counted is None and not (call.received or call.whole or call.failed)
        call.usage = Usage(*(counted or (0, 0)), None if cached else call.cost_usd, cached)
        if self._record:
            self._record.call_ended(call_id, outputs, exception, usage=None if exception else call.usage)
        call.open.close()
        self.ended.append(call)
        call.whole_text = "" if call.received else _text_of(outputs)
        self._stream.put((call, None))

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if instance.name == "finish":  # ReAct's way to say that it is done
            return
        arguments = inputs.get("kwargs", inputs)
        values = (f"{name}={json.dumps(v, ensure_ascii=False, default=str)}" for name, v in arguments.items())
        title = self._tools[call_id] = f"{instance.name}({_short(', '.join(values))})"
        if self._record:
            self._record.call_started(call_id, Call("tool", instance.name, arguments))
        self.call_notice(title, "pending", f"tool-{call_id}")

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if (title := self._tools.pop(call_id, None)) is None:
            return
        if self._record:
            self._record.call_ended(call_id, outputs, exception)
        text = f"{title} failed" if exception else f"{title} → {_short(str(outputs))}"
        self.call_notice(text, "failed" if exception else "done", f"tool-{call_id}")

    # What `lm.chat_lm.CallObserver` asks for.

    def call_notice(self, text: str, state: StatusState, key: str) -> None:
        self._stream.put(Status(text, state, key=key))

    def call_recorded(self, finish_reason: str | None, cost_usd: float | None) -> None:
        if call := _call.get():
            call.note_end(finish_reason)
            call.cost_usd = cost_usd

    def call_streamed(self) -> bool:
        call = _call.get()
        return call is not None and call.received

    def finish_reason(self, outputs: Collection[str]) -> FinishReason:
        """How the last reply ended that made some of the program's `outputs`."""
        made = [call for call in self.ended if not call.failed and set(call.step.fields) & set(outputs)]
        return made[-1].finish_reason if made else "stop"

    def usage(self) -> Usage:
        """What the turn used. Its price is known only where that of every call is."""
        answered = [call.usage for call in self.ended if not call.failed]
        costs = [usage.cost_usd for usage in answered if not usage.cached]
        return Usage(
            sum(call.usage.prompt_tokens for call in self.ended),
            sum(call.usage.completion_tokens for call in self.ended),
            sum(cost or 0.0 for cost in costs) if costs and None not in costs else None,
            cached=bool(answered) and not costs,
        )


class OwnThreads(BaseCallback):
    """Gives a turn's settings to a thread without them, such as one of a plain `ThreadPoolExecutor`.

    Stands in the predictors of the program while the turn runs. Of two turns, whose thread it is is unknown.
    """

    def __init__(self, observer: TurnObserver, settings: Callable[[], AbstractContextManager[None]]) -> None:
        self._observer, self._settings = observer, settings
        self._open: dict[str, ExitStack] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if call_observer.get() is not None:
            return
        if sum(isinstance(callback, OwnThreads) for callback in instance.callbacks) > 1:
            self._observer.lost_thread = True
            return
        stack = self._open[call_id] = ExitStack()
        stack.enter_context(self._settings())
        self._observer.on_module_start(call_id, instance, inputs)
        stack.callback(self._observer.on_module_end, call_id, None)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._open.pop(call_id, ExitStack()).close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # in a program's copy of a predictor (`dspy.BestOfN`) it is still of this turn


def _can_stream(lm: dspy.LM) -> bool:
    """Whether this call can stream. One that blocks does from a thread of AnyIO only, unless it is ours."""
    with suppress(RuntimeError):
        return isinstance(lm, ChatLM) or awaited.get() or check_cancelled() is None
    return False


def _text_of(outputs: Any) -> str:
    """The first of DSPy's outputs of a model call: a text, or a dict that has one."""
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    text = first.get("text") if isinstance(first, dict) else first
    return text if isinstance(text, str) else ""


def _short(text: str) -> str:
    return text if len(text) <= TOOL_TEXT_MAX_CHARS else text[: TOOL_TEXT_MAX_CHARS - 1] + "…"
