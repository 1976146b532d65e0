"""A record as the spans of an MLflow trace. Only the thread that writes imports this: it imports MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow.entities import Span, SpanType
from mlflow.tracing.constant import CostKey, TokenUsageKey, TraceTagKey
from mlflow.tracing.constant import SpanAttributeKey as Key
from pydantic_core import to_jsonable_python

from dspy_demo.events import LocalTarget, TurnFailed, TurnFinished, Usage
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.mlflow_bridge import span
from dspy_demo.tracing.record import Call, TurnRecord

#: Longer texts are cut.
TEXT_MAX_CHARS = 50_000
HIDDEN = "[hidden]"


def spans_of(record: TurnRecord, secrets: Sequence[str]) -> Iterator[Span]:
    """The root span, then its calls. A finished record gives the same spans every time."""
    end = record.end
    error = f"{end.code}: {end.public_message}" if isinstance(end, TurnFailed) else ""
    hidden = _Hider(secrets)
    yield span(
        record.trace_id,
        0,
        "turn",
        times_ns=(record.started_ns, record.ended_ns),
        outcome=record.outcome,
        error=hidden(error),
        attributes=hidden.json(_root_attributes(record)),
    )
    for number, call in enumerate(record.calls, 1):
        yield span(
            record.trace_id,
            number,
            hidden(call.name),
            times_ns=(call.started_ns, call.ended_ns),
            outcome="failed" if call.error else "stopped" if call.stopped else "finished",
            error=hidden(call.error),
            attributes=hidden.json(_call_attributes(call)),
        )


def _root_attributes(record: TurnRecord) -> dict[str, Any]:
    """The turn. MLflow makes the trace's session, user, tags and previews from these."""
    request, target = record.request, record.request.target
    inputs = dict(request.inputs)
    if request.history:
        inputs["history"] = [{"role": message.role, "content": message.text} for message in request.history]
    session = request.session_id[:250]  # what MLflow takes
    if isinstance(target, LocalTarget):
        program, model, version = target.program, target.lm.model, record.serves
    else:
        program, model, version = "", target.model, target.version or ""
    backend = "local" if program and not record.serves else "served"
    tags = {
        "turn.outcome": record.outcome,
        "turn_id": request.turn_id,
        "backend": backend,
        "program": program,
        "model": model,
        "version": version,
        "error": record.end.code if isinstance(record.end, TurnFailed) else "",
        TraceTagKey.TRACE_NAME: f"{program or backend} turn",
    }
    attributes: dict[str, Any] = {
        Key.SPAN_TYPE: SpanType.CHAIN,
        Key.INPUTS: inputs,
        Key.OUTPUTS: record.outputs or None,
        Key.SESSION_ID: session or None,
        Key.USER_ID: session.partition(".")[0] or None,  # sessions are VISITOR.CHAT
        "cached": record.usage.cached or None,
        **{f"{Key.TRACE_TAG_PREFIX}{name}": value for name, value in tags.items() if value},
    }
    if isinstance(record.end, TurnFinished):
        attributes["first_delta_s"] = record.end.first_delta_s
        attributes["finish_reason"] = record.end.finish_reason if record.end.finish_reason != "stop" else None
    # MLflow adds up the calls' tokens and cost; those of the root would be counted beside them by model.
    if not any(call.usage for call in record.calls):
        attributes |= _usage_attributes(record.usage)
    return attributes


def _call_attributes(call: Call) -> dict[str, Any]:
    if call.kind == "tool":
        return {Key.SPAN_TYPE: SpanType.TOOL, Key.INPUTS: call.inputs, Key.OUTPUTS: call.outputs}
    return {
        Key.SPAN_TYPE: SpanType.CHAT_MODEL,
        Key.MESSAGE_FORMAT: "openai",  # MLflow's page draws these inputs and outputs as a chat
        Key.INPUTS: {"messages": call.inputs},
        Key.OUTPUTS: {"choices": [{"message": _message(output)} for output in call.outputs or ()]},
        Key.MODEL: call.model,
        Key.MODEL_PROVIDER: call.model.partition("/")[0],
        "cached": call.usage.cached or None if call.usage else None,
        **call.settings,
        **_usage_attributes(call.usage or Usage(), free=call.model == DEMO_MODEL),
    }


def _message(output: Any) -> dict[str, Any]:
    """An output of DSPy's, a text or a dict with ``text``, as a message of OpenAI's."""
    rest = dict(output) if isinstance(output, Mapping) else {"text": str(output)}
    return {"role": "assistant", "content": rest.pop("text", None), **rest}


def _usage_attributes(usage: Usage, *, free: bool = False) -> dict[str, Any]:
    """Tokens and cost. Without a cost MLflow looks for one, and imports litellm, for seconds, to do so."""
    tokens = {
        TokenUsageKey.INPUT_TOKENS: usage.prompt_tokens,
        TokenUsageKey.OUTPUT_TOKENS: usage.completion_tokens,
        TokenUsageKey.TOTAL_TOKENS: usage.total_tokens,
    }
    cost = 0.0 if free else usage.cost_usd
    return {
        Key.CHAT_USAGE: tokens if usage.total_tokens else None,
        Key.LLM_COST: None if cost is None else {CostKey.TOTAL_COST: cost},
    }


class _Hider:
    """Writes texts without any secret, and without half surrogate pairs, which no database takes."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._words = [word for secret in secrets for word in {secret, json.dumps(secret)[1:-1]}]

    def __call__(self, text: str) -> str:
        for word in self._words:
            text = text.replace(word, HIDDEN)
        return text.encode("utf-8", "replace").decode("utf-8")

    def json(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Each value that is not None as JSON, long texts cut."""
        given = {key: value for key, value in values.items() if value is not None}
        return {key: self(json.dumps(_plain(value), ensure_ascii=False)) for key, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        dropped = len(value) - TEXT_MAX_CHARS
        return value if dropped <= 0 else f"{value[:TEXT_MAX_CHARS]}… [{dropped:,} characters more]"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return to_jsonable_python(value, serialize_unknown=True, fallback=str)
