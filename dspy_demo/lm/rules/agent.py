"""Drives `dspy.ReAct`: reads the tools from the instructions, calls one that fits, and finishes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from dspy_demo.lm.rules.clock import find_zone
from dspy_demo.lm.rules.fields import value_text
from dspy_demo.lm.rules.prompt import Task
from dspy_demo.lm.rules.render import Jsonable
from dspy_demo.lm.rules.reply import Reply, Topic

_TOOL = re.compile(
    r"^\s*\(\d+\) (?P<name>\w+)(?:, whose description is <desc>(?P<description>.*?)</desc>)?\. "
    r"It takes arguments (?P<arguments>\{.*\})\.\s*$",
    re.MULTILINE,
)
_FITS: dict[Topic, str] = {
    "arithmetic": r"calc|arithmetic|math|expression",
    "units": r"unit|conver",
    "dates": r"date|calendar|week_?day",
    "time": r"time|clock|zone",
    "capitals": r"capital|countr|geograph",
    "text": r"text|string|letter|word",
}
_ABOUT_NOW = re.compile(r"\b(?:today|now|current|time is it|day is it)\b", re.I)
_TEXT_TASKS = re.compile(
    r"character|word|sentence|line|statistic|vowel|consonant|revers|sort|palindrome|case"
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the instructions list it: each argument with its JSON schema."""

    name: str
    description: str
    arguments: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One step of the trajectory."""

    tool: str
    arguments: str
    observation: str


def is_agent_step(task: Task) -> bool:
    return {"next_tool_name", "next_tool_args"} <= {wanted.name for wanted in task.outputs}


def next_step(task: Task, reply: Reply) -> dict[str, Jsonable]:
    """The next tool call: the one that fits once, then ``finish``."""
    thought, tool, arguments = _decide(task, reply)
    made: dict[str, Jsonable] = {"next_tool_name": tool, "next_tool_args": arguments}
    return {wanted.name: made.get(wanted.name, thought) for wanted in task.outputs}


def _decide(task: Task, reply: Reply) -> tuple[str, str, dict[str, Jsonable]]:
    made = read_trajectory(task.inputs.get("trajectory", ""))
    if made:
        last = made[-1]
        if last.observation.startswith("Execution error"):
            return f"{last.tool} failed, so I finish without it.", "finish", {}
        return f"{last.tool} answered {_shortened(last.observation)}, which is what I need.", "finish", {}
    if not reply.understood:
        return "None of my rules understands this, so no tool call would help.", "finish", {}
    for tool in _fitting(read_tools(task.instructions), reply):
        arguments = _arguments(tool, reply)
        if arguments is not None:
            given = ", ".join(str(value) for value in arguments.values())
            return (
                f"This needs {tool.name}, so I call it{f' with {given}' if given else ''}.",
                tool.name,
                arguments,
            )
    return "No tool here fits this question; my own rules answer it.", "finish", {}


def read_tools(instructions: str) -> list[Tool]:
    """The tools that ReAct's instructions list, without ``finish``."""
    tools = []
    for match in _TOOL.finditer(instructions):
        try:
            arguments = ast.literal_eval(match["arguments"])
        except (ValueError, SyntaxError):
            continue
        if match["name"] != "finish":
            tools.append(Tool(match["name"], match["description"] or "", arguments))
    return tools


def read_trajectory(text: str) -> list[ToolCall]:
    """The tool calls made so far, in the form of any adapter."""
    parts = dict(
        re.findall(
            r"^\[\[ ## (\w+_\d+) ## \]\]\n(.*?)(?=\n\n\[\[ ## \w+_\d+ ## \]\]\n|\Z)", text, re.M | re.S
        )
    )
    parts |= dict(re.findall(r"<(\w+_\d+)>\n?(.*?)\n?</\1>", text, re.S))
    calls: list[ToolCall] = []
    while f"tool_name_{len(calls)}" in parts:
        place = len(calls)
        calls.append(
            ToolCall(
                parts[f"tool_name_{place}"].strip(),
                parts.get(f"tool_args_{place}", "").strip(),
                parts.get(f"observation_{place}", "").strip(),
            )
        )
    return calls


def _fitting(tools: list[Tool], reply: Reply) -> list[Tool]:
    """The tools for the topic, those whose name says so first."""
    topic: Topic = "time" if reply.topic == "dates" and _ABOUT_NOW.search(reply.question) else reply.topic
    pattern = re.compile(_FITS.get(topic, r"(?!)"), re.I)
    fitting = [tool for tool in tools if pattern.search(f"{tool.name} {tool.description}")]
    if reply.topic == "text":
        fitting = [tool for tool in fitting if _does(tool, reply.question)]
    return sorted(fitting, key=lambda tool: pattern.search(tool.name) is None)


def _does(tool: Tool, question: str) -> bool:
    """Whether a text tool does what the question asks, going by the words they share."""
    described = f"{tool.name} {tool.description}".lower()
    return any(task in described for task in _TEXT_TASKS.findall(question.lower()))


def _arguments(tool: Tool, reply: Reply) -> dict[str, Jsonable] | None:
    """A value for every argument without a default, or None where one cannot be filled."""
    arguments: dict[str, Jsonable] = {}
    for name, schema in tool.arguments.items():
        value = _argument(name, schema, reply)
        if value:
            arguments[name] = value
        elif "default" not in schema:
            return None
    return arguments


def _argument(name: str, schema: Mapping[str, object], reply: Reply) -> str:
    if schema.get("type", "string") != "string":
        return ""
    if re.search(r"zone|^tz$|city|location|place", name):
        return find_zone(reply.question) or ("UTC" if _ABOUT_NOW.search(reply.question) else "")
    if re.search(r"question|query|request|prompt|^q$", name):
        return reply.question
    if re.search(r"expr|formula|calculation|equation|math", name):
        return reply.subject if reply.topic == "arithmetic" else ""
    if re.search(r"date|day", name):
        return reply.subject if reply.topic == "dates" else ""
    return reply.subject or reply.question


def with_observations(task: Task, reply: Reply) -> Reply:
    """The reply in the light of what the tools said, for the step that writes the answer."""
    calls = [
        call
        for call in read_trajectory(task.inputs.get("trajectory", ""))
        if call.tool != "finish" and not call.observation.startswith("Execution error")
    ]
    if not calls:
        return reply
    last = calls[-1]
    observed = _shortened(last.observation).rstrip(".")
    told = f"I called {last.tool} with {_given(last.arguments)}, and it answered: {observed}."
    if reply.topic == "time" or not reply.understood or _ABOUT_NOW.search(reply.question):
        sentence = f"{last.tool} says: {last.observation.rstrip('.')}."
        return replace(reply, sentence=sentence, steps=(told,), value=reply.value or last.observation)
    if _agrees(last.observation, reply) or reply.topic == "text":
        return replace(reply, steps=(told, f"So: {reply.sentence}"))
    sentence = f"{last.tool} says {_shortened(last.observation)}; by my own rules, {reply.sentence}"
    return replace(reply, sentence=sentence, steps=(told, f"My own rules say: {reply.sentence}"))


def _agrees(observation: str, reply: Reply) -> bool:
    if isinstance(reply.value, Fraction) and not isinstance(reply.value, bool):
        return any(_close(number, reply.value) for number in _NUMBER.findall(observation.replace(",", "")))
    return reply.value is None or value_text(reply).lower() in observation.lower()


def _close(text: str, value: Fraction) -> bool:
    try:
        return abs(Fraction(text) - value) <= abs(value) / 10**9
    except ZeroDivisionError:
        return False


def _given(arguments: str) -> str:
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments or "no arguments"
    if not isinstance(values, dict) or not values:
        return "no arguments"
    return ", ".join(str(value) for value in values.values())


def _shortened(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 200 else f"{text[:197]}..."
