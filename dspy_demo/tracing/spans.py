"""A record as MLflow's spans. What MLflow shows where is decided here (attribute names of mlflow 3.17)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspy_demo.events import TurnFailed, Usage
from dspy_demo.lm.choices import DEMO_MODEL
from dspy_demo.tracing.record import Call, TurnRecord

if TYPE_CHECKING:
    from mlflow.entities import Span

#: Longer texts (a tool that read a whole file, an image in a message) are cut.
TEXT_MAX_CHARS = 50_000
SESSION_MAX_CHARS = 250  # `trace_analytics.validate_session_id`
HIDDEN = "[hidden]"


def spans_of(record: TurnRecord, secrets: Sequence[str]) -> Iterator[Span]:
    """The root span, then its calls. Their ids follow from the trace's, so a second try changes nothing."""
    from opentelemetry.trace import Status, StatusCode

    def status(outcome: str, error: str = "") -> Status:
        # A stopped turn is neither: unset, which MLflow (3.17) shows as OK, beside the tag `turn.outcome`.
        codes = {"finished": StatusCode.OK, "failed": StatusCode.ERROR}
        return Status(codes.get(outcome, StatusCode.UNSET), _hidden(error, secrets) or None)

    build = _SpanBuilder(record.trace_id, secrets)
    end = record.end
    error = f"{end.code}: {end.public_message}" if isinstance(end, TurnFailed) else ""
    times = (record.started_ns, record.ended_ns)
    yield build(0, "turn", times, status(record.outcome, error), _root_attributes(record))
    for number, call in enumerate(record.calls, 1):
        outcome = "failed" if call.error else "stopped" if call.stopped else "finished"
        attributes = _model_attributes(call) if call.kind == "lm" else _tool_attributes(call)
        yield build(
            number, call.name, (call.started_ns, call.ended_ns), status(outcome, call.error), attributes
        )


class _SpanBuilder:
    """Makes MLflow's spans of one trace out of finished values."""

    def __init__(self, trace_id: str, secrets: Sequence[str]) -> None:
        self._mlflow_id = trace_id
        self._id = int(trace_id.removeprefix("tr-"), 16)
        self._secrets = secrets

    def __call__(
        self, number: int, name: str, times: tuple[int, int], status: Any, attributes: Mapping[str, Any]
    ) -> Span:
        from mlflow.entities import Span
        from mlflow.tracing.utils import dump_span_attribute_value
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan

        values = {"mlflow.traceRequestId": self._mlflow_id, **attributes}
        span = ReadableSpan(
            name=_hidden(name, self._secrets),
            context=self._context(number),
            parent=self._context(0) if number else None,
            start_time=times[0],
            end_time=max(times),
            attributes={
                key: _hidden(dump_span_attribute_value(_cut(value)), self._secrets)
                for key, value in values.items()
                if value is not None
            },
            status=status,
            resource=Resource.get_empty(),  # a made one costs more than the span
        )
        return Span(span)

    def _context(self, number: int) -> Any:
        from opentelemetry.trace import SpanContext, TraceFlags

        span_id = (self._id + number) % 2**64 or 2**63  # 0 is no span
        return SpanContext(self._id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _root_attributes(record: TurnRecord) -> dict[str, Any]:
    """The turn. MLflow makes the trace's session, user, tags and previews from these."""
    inputs = dict(record.inputs)
    if record.history:
        inputs["history"] = [{"role": message.role, "content": message.text} for message in record.history]
    tags = {
        "turn.outcome": record.outcome,
        "turn_id": record.turn_id,
        "backend": record.backend,
        "program": record.program,
        "model": record.model,
        "version": record.version,
        "error": record.end.code if isinstance(record.end, TurnFailed) else "",
        "mlflow.traceName": f"{record.program or record.backend} turn",
    }
    attributes: dict[str, Any] = {
        "mlflow.spanType": "CHAIN",
        "mlflow.spanInputs": inputs,
        "mlflow.spanOutputs": record.outputs or None,
        "session.id": record.session_id[:SESSION_MAX_CHARS] or None,
        "user.id": record.user[:SESSION_MAX_CHARS] or None,
        "first_delta_s": record.first_delta_s,
        "cached": record.usage.cached or None,
        "finish_reason": None if record.finish_reason == "stop" else record.finish_reason,
        **{f"mlflow.traceTag.{name}": value for name, value in tags.items() if value},
    }
    # MLflow adds up the calls' tokens and cost; those of the root would be counted beside them by model.
    if not any(call.usage for call in record.calls):
        attributes |= _usage_attributes(record.usage)
    return attributes


def _model_attributes(call: Call) -> dict[str, Any]:
    return {
        "mlflow.spanType": "CHAT_MODEL",
        "mlflow.message.format": "openai",  # the page draws these inputs and outputs as a chat
        "mlflow.spanInputs": {"messages": call.inputs} if isinstance(call.inputs, list) else call.inputs,
        "mlflow.spanOutputs": {"choices": [{"message": message} for message in _messages(call.outputs)]}
        if call.outputs
        else None,
        "mlflow.llm.model": call.model,
        "mlflow.llm.provider": call.model.partition("/")[0] if "/" in call.model else None,
        "cached": call.usage.cached or None if call.usage else None,
        **call.settings,
        **_usage_attributes(call.usage or Usage(), free=call.model == DEMO_MODEL),
    }


def _tool_attributes(call: Call) -> dict[str, Any]:
    return {"mlflow.spanType": "TOOL", "mlflow.spanInputs": call.inputs, "mlflow.spanOutputs": call.outputs}


def _messages(outputs: Any) -> Iterator[dict[str, Any]]:
    """DSPy's outputs of a call (3.4.1: a list of texts, or of dicts with ``text``) as OpenAI's messages."""
    for output in outputs if isinstance(outputs, list) else [outputs]:
        if isinstance(output, Mapping):
            rest = {key: value for key, value in output.items() if key != "text"}
            yield {"role": "assistant", "content": output.get("text"), **rest}
        else:
            yield {"role": "assistant", "content": str(output)}


def _usage_attributes(usage: Usage, *, free: bool = False) -> dict[str, Any]:
    """Tokens and cost. Without a cost MLflow looks for one, and imports litellm, for seconds, to do so."""
    attributes: dict[str, Any] = {}
    if usage.total_tokens:
        attributes["mlflow.chat.tokenUsage"] = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }
    if free or usage.cost_usd is not None:
        attributes["mlflow.llm.cost"] = {"total_cost": usage.cost_usd or 0.0}
    return attributes


def _cut(value: Any) -> Any:
    """`value` with long texts cut."""
    if isinstance(value, str):
        dropped = len(value) - TEXT_MAX_CHARS
        return value if dropped <= 0 else f"{value[:TEXT_MAX_CHARS]}… [{dropped:,} characters more]"
    if isinstance(value, Mapping):
        return {str(key): _cut(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item) for item in value]
    return value


def _hidden(text: str, secrets: Sequence[str]) -> str:
    """`text` without any secret, and without half surrogate pairs, which no database takes."""
    for secret in secrets:
        for written in {secret, json.dumps(secret)[1:-1]}:
            text = text.replace(written, HIDDEN)
    return text.encode("utf-8", "replace").decode("utf-8")
