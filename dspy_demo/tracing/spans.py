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

TEXT_MAX_CHARS = 50_000  # longer texts are cut
HIDDEN = "[hidden]"


def spans_of(record: TurnRecord, secrets: Sequence[str]) -> Iterator[Span]:
    """The root span, then its calls, without any of `secrets`. The same record gives the same every time."""
    words = [word for secret in secrets for word in {secret, json.dumps(secret)[1:-1]}]

    def clean(text: str) -> str:
        for word in words:
            text = text.replace(word, HIDDEN)
        return text.encode("utf-8", "replace").decode("utf-8")  # no database takes half a surrogate pair

    def as_json(values: Mapping[str, Any]) -> dict[str, str]:
        given = {key: _plain(value) for key, value in values.items() if value is not None}
        return {key: clean(json.dumps(value, ensure_ascii=False)) for key, value in given.items()}

    end = record.end
    error = f"{end.code}: {end.public_message}" if isinstance(end, TurnFailed) else ""
    ids, times = (record.trace_id, 0), (record.started_ns, record.ended_ns)
    attributes = as_json(_root_attributes(record))
    yield span(ids, "turn", times, outcome=record.outcome, error=clean(error), attributes=attributes)
    for number, call in enumerate(record.calls, 1):
        ids, times = (record.trace_id, number), (call.started_ns, call.ended_ns)
        attributes = as_json(_call_attributes(call))
        name = clean(call.name)
        yield span(ids, name, times, outcome=call.outcome, error=call.error, attributes=attributes)


def _root_attributes(record: TurnRecord) -> dict[str, Any]:
    """The turn. MLflow makes the trace's session, user, tags and previews from these."""
    request, target, end = record.request, record.request.target, record.end
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
        "error": end.code if isinstance(end, TurnFailed) else "",
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
    if isinstance(end, TurnFinished):
        attributes |= {"first_delta_s": end.first_delta_s, "finish_reason": end.finish_reason}
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


def _plain(value: Any) -> Any:
    """`value` as JSON has it, long texts cut."""
    if isinstance(value, str):
        dropped = len(value) - TEXT_MAX_CHARS
        return value if dropped <= 0 else f"{value[:TEXT_MAX_CHARS]}… [{dropped:,} characters more]"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return to_jsonable_python(value, serialize_unknown=True, fallback=str)
