"""The demo engine: a stand-in for a language model, which needs no key and no network.

It can calculate and tell the time, and says so to every other question. The adapter of the call writes the
reply, and the output fields of the calling predictor are filled from their types: it works with any program.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args
from zoneinfo import available_timezones

import dspy
from dspy import lm15
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from dspy_demo.dspy_bridge import calling_predictor
from dspy_demo.lm.choices import DEMO_MODEL, DEMO_TOKENS_PER_S
from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.programs.tools import NoResult, NotArithmetic, calculate, current_time, equals

UNKNOWN = "Demo engine: it can calculate and tell the time. Connect a model for more."
PREDICTORS_ONLY = "The demo engine answers DSPy predictors only. Connect a model for more."
#: How deep a value of nested types is filled; a type may hold itself.
DEPTH_MAX = 4
#: A token: a word with the space before it (long ones in parts), or one of DSPy's field markers, whole.
_TOKEN = re.compile(r"\s*(?:\[\[ ## \w+ ## \]\]|\S{1,12})|\s+")
_ARITHMETIC = re.compile(
    r"(?:\d[\d,.]*|[\s.,()+\-*/%^×÷−⋅²]|(?<=[\d ])x(?= ?\d)|\b(?:of|plus|minus|times|multiplied by"
    r"|divided by|squared|to the power of)\b)+",
    re.IGNORECASE,
)
_DAY = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_CLOCK = re.compile(
    r"\b(?:what|which) (?:time|day|date|weekday) is (?:it|today)\b|\bcurrent (?:time|date)\b"
    r"|\bwhat(?:'s|’s| is) (?:the )?(?:time|date|today['’]s date)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\b(?:in|at) ([\w/ .+-]+?)\W*$")


def demo_lm(tokens_per_s: float = DEMO_TOKENS_PER_S, **settings: Any) -> dspy.LM:
    """The engine as a `dspy.LM`, with its other settings. A pace of 0 streams without a pause."""
    engine, async_engine = DemoEngine(), AsyncDemoEngine(tokens_per_s)
    return dspy.LM(DEMO_MODEL, engine=engine, async_engine=async_engine, cache=False, **settings)


class DemoEngine:
    """The synchronous engine. Engines are plain data, since a version pickles them."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The whole reply, up to the bound of its tokens."""
        read = ["".join(getattr(part, "text", "") for part in message.parts) for message in request.messages]
        written = tokens(_reply(read[-1]))
        sent = written[: request.config.max_tokens]
        return lm15.Response(
            id=None,
            model=DEMO_MODEL,
            message=lm15.Message.assistant("".join(sent)),
            finish_reason="length" if len(sent) < len(written) else "stop",
            usage=lm15.Usage(input_tokens=sum(len(tokens(text)) for text in read), output_tokens=len(sent)),
        )


@dataclass(frozen=True, slots=True)
class AsyncDemoEngine:
    """The asynchronous engine. A cancellation stops it at the next token or in the pause before it."""

    tokens_per_s: float

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return DemoEngine().complete(request)

    async def stream(self, request: lm15.Request) -> AsyncIterator[lm15.StreamEvent]:
        response = DemoEngine().complete(request)
        yield lm15.StreamStartEvent(model=DEMO_MODEL)
        for token in tokens(response.message.text or ""):
            await asyncio.sleep(1 / (self.tokens_per_s or math.inf))
            yield lm15.StreamDeltaEvent(lm15.TextDelta(token))
        yield lm15.StreamEndEvent(finish_reason=response.finish_reason, usage=response.usage)


def tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _reply(prompt: str) -> Any:
    predictor, adapter = calling_predictor(), dspy.settings.adapter or dspy.ChatAdapter()
    if predictor is None or not isinstance(adapter, dspy.ChatAdapter):  # the JSON and XML ones are one too
        return PREDICTORS_ONLY
    values = _outputs(predictor, _inputs(adapter, predictor.signature, prompt))
    return adapter.format_assistant_message_content(predictor.signature, values)


def _inputs(adapter: dspy.Adapter, signature: type[dspy.Signature], prompt: str) -> dict[str, str]:
    """The inputs in a prompt: it is compared with one that the adapter writes around marks."""
    fields = [name for name, info in signature.input_fields.items() if info.annotation is not dspy.History]
    marks = {name: f"MARK_{name}_MARK" for name in fields}
    pattern = re.escape(adapter.format_user_message_content(signature, marks, main_request=True))
    for name, mark in marks.items():
        pattern = pattern.replace(mark, f"(?P<{name}>.*)")
    found = re.fullmatch(pattern, prompt, re.DOTALL)
    return found.groupdict() if found else {"question": prompt}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine has found out: a `value` fills fields that are numbers, the `tool` gives the same."""

    text: str = UNKNOWN
    reasoning: str = "This engine can only calculate and tell the time. The question asks for neither."
    value: float = 0.0
    tool: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


def answer_to(question: str) -> Answer | None:
    return _calculated(question) or (_clock(question) if _CLOCK.search(question) else None)


def _calculated(question: str) -> Answer | None:
    found = (text.strip(" \n,.").removesuffix(" of") for text in _ARITHMETIC.findall(_DAY.sub("", question)))
    for text in sorted(found, key=len, reverse=True):
        expression = text if text.count("(") == text.count(")") else text.strip("()")
        arguments = {"expression": expression}
        try:
            value, steps = calculate(expression)
        except NotArithmetic:
            continue
        except NoResult as error:
            text = f"Cannot calculate {expression}: {error}"
            return Answer(text, "This is arithmetic.", tool="calculator", arguments=arguments)
        if steps:
            reasoning = f"This is arithmetic. First, {'. Then '.join(steps)}."
            return Answer(f"{expression} {equals(value)}.", reasoning, float(value), "calculator", arguments)
    return None


def _clock(question: str) -> Answer:
    place = _PLACE.search(question)
    wanted = place[1] if place else "UTC"
    names = sorted(available_timezones())  # UTC after Etc/UTC
    zones = {name.rpartition("/")[2].replace("_", " ").casefold(): name for name in names}
    zone = zones.get(wanted.casefold(), wanted)
    now = current_time(zone)
    text = now if now.startswith("There") else f"It is {now} in {zone}."
    return Answer(text, "This asks for the time.", tool="current_time", arguments={"timezone": zone})


def _outputs(predictor: Any, inputs: Mapping[str, str]) -> dict[str, Any]:
    """A value for each output field of the predictor."""
    fields = predictor.signature.output_fields
    asked = sorted((name for name in inputs if name != "trajectory"), key=lambda name: "question" not in name)
    answer = next((found for name in asked if (found := answer_to(inputs[name]))), Answer())
    example = _nearest_example(predictor, " ".join(inputs.values()))
    values = {name: _value(info.annotation, answer, example.get(name)) for name, info in fields.items()}
    values |= dict.fromkeys(REASONING_FIELDS & fields.keys(), answer.reasoning)
    if "next_tool_name" in fields:  # of `dspy.ReAct`
        called = "tool_name_" in inputs.get("trajectory", "")
        helps = answer.tool in get_args(fields["next_tool_name"].annotation) and not called
        values["next_tool_name"] = answer.tool if helps else "finish"
        values["next_tool_args"] = answer.arguments if helps else {}
        values["next_thought"] = "The tool has answered the question." if called else answer.reasoning
    return values


def _nearest_example(predictor: Any, text: str) -> dict[str, Any]:
    """The example of the predictor that has most words in common with the inputs; empty without examples."""

    def words(of: object) -> set[str]:
        return set(re.findall(r"\w+", str(of).casefold()))

    return max(map(dict, predictor.demos), key=lambda demo: len(words(text) & words(demo)), default={})


def _value(annotation: Any, answer: Answer, example: Any) -> Any:
    """A value of a type: as in the example where nothing better is known, else by its JSON schema."""
    if annotation is dspy.ToolCalls:
        return dspy.ToolCalls(tool_calls=[])
    try:
        kind: TypeAdapter[Any] = TypeAdapter(annotation)
        schema = kind.json_schema()
        if example is not None and annotation is not str and ("enum" in schema or not answer.tool):
            return kind.validate_python(example)
        return kind.validate_python(_filled(schema, schema.get("$defs", {}), answer))
    except (PydanticUserError, ValidationError):  # a type without a schema, or with a rule that is not in it
        return answer.text


def _filled(schema: Mapping[str, Any], defs: Mapping[str, Any], answer: Answer, depth: int = 0) -> Any:
    """A JSON value of a schema."""

    def inner(part: Mapping[str, Any]) -> Any:
        return _filled(part, defs, answer, depth + 1)

    match schema:
        case {"const": value} | {"enum": [value, *_]}:
            return value
        case {"$ref": name}:
            return inner(defs[name.rpartition("/")[2]])
        case {"anyOf": [first, *rest]} | {"oneOf": [first, *rest]}:
            return None if depth > DEPTH_MAX and {"type": "null"} in rest else inner(first)
        case {"type": "integer" | "number" as kind}:
            value = min(max(answer.value, schema.get("minimum", -math.inf)), schema.get("maximum", math.inf))
            return int(value) if kind == "integer" else float(value)
        case {"type": "boolean"}:
            return False
        case {"type": "null"}:
            return None
        case {"type": "array"}:
            items = [schema.get("items", {})] * max(schema.get("minItems", 0), depth <= DEPTH_MAX)
            return [inner(item) for item in schema.get("prefixItems", items)]
        case {"type": "object"}:
            return {name: inner(schema["properties"][name]) for name in schema.get("required", ())}
    return answer.text[: schema.get("maxLength")]
