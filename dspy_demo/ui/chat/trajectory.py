"""The tool calls in a ReAct trajectory, for turns whose tools were not seen live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dspy_demo.ui.chat.values import plain_text

#: ReAct ends with a call of this name, which does nothing.
FINISH = "finish"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One round: why, what was called, what it gave."""

    key: str
    thought: str
    text: str


def tool_calls(trajectory: Mapping[str, Any]) -> Iterator[ToolCall]:
    """The rounds of a trajectory: ``thought_0``, ``tool_name_0``, ``tool_args_0``, ``observation_0``, ..."""
    for index in range(len(trajectory)):
        thought = plain_text(trajectory.get(f"thought_{index}"))
        name = plain_text(trajectory.get(f"tool_name_{index}"))
        if not thought and not name:
            return
        text = "" if not name or name == FINISH else _line(name, trajectory, index)
        yield ToolCall(f"{name}-{index}", thought, text)


def _line(name: str, trajectory: Mapping[str, Any], index: int) -> str:
    arguments = trajectory.get(f"tool_args_{index}")
    shown = ", ".join(map(plain_text, arguments.values())) if isinstance(arguments, Mapping) else ""
    observation = plain_text(trajectory.get(f"observation_{index}"))
    return f"{name}({shown}) → {observation}" if observation else f"{name}({shown})"
