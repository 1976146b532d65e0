"""DSPy's adapters as this app asks with them: the format of a prompt and of its reply.

A version is logged with one of them, so that any server of it asks as the page did.
"""

from __future__ import annotations

import re
from typing import Any

import dspy

from dspy_demo.programs.spec import AdapterName

#: Some servers leave what a model thinks in its reply, between these tags.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINKING = re.compile(rf"\s*{THINK_OPEN}.*?(?:{THINK_CLOSE}\s*|\Z)", re.DOTALL)
#: Stands in a chat's history for what an earlier answer had beside its text, such as its reasoning.
NOT_KEPT = "Not kept in the history of this chat."


class _Conversation:
    """What DSPy's adapters lack for a chat with any model.

    They take thinking between tags for a part of the reply. And the history of a chat has the answers only:
    DSPy writes the other output fields of an earlier turn as ``None``, and models then do the same.
    """

    def format_conversation_history(
        self, signature: Any, history_field_name: str, inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        history = inputs.get(history_field_name)
        if history is not None:
            missing = dict.fromkeys(signature.output_fields, NOT_KEPT)
            turns = [turn if _calls_tools(turn) else {**missing, **turn} for turn in history.messages]
            inputs[history_field_name] = dspy.History(messages=turns)
        messages: list[dict[str, Any]]
        messages = super().format_conversation_history(signature, history_field_name, inputs)  # type: ignore[misc]
        return messages

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        fields = super().parse(signature, without_thinking(completion))  # type: ignore[misc]
        return {
            name: without_thinking(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }


class ChatAdapter(_Conversation, dspy.ChatAdapter):
    """Fields below ``[[ ## name ## ]]``."""


class JSONAdapter(_Conversation, dspy.JSONAdapter):
    """One JSON object."""


class XMLAdapter(_Conversation, dspy.XMLAdapter):
    """One element a field."""


def adapter_for(name: AdapterName) -> dspy.Adapter:
    """A new adapter of that format."""
    kinds = {"chat": ChatAdapter, "json": JSONAdapter, "xml": XMLAdapter}
    return kinds[name]()


def without_thinking(text: str) -> str:
    """`text` without a block of thinking at its start; where that was cut off, it is all there is."""
    block = _THINKING.match(text)
    return text[block.end() :] if block else text


def _calls_tools(turn: dict[str, Any]) -> bool:
    return any(isinstance(value, dspy.ToolCalls) for value in turn.values())
