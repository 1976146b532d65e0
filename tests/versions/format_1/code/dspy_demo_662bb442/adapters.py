"""The formats in which DSPy asks for the fields of a reply: one row of `ADAPTERS` each.

Everything that depends on the format is found here by its name: DSPy's class, the parser of a reply that is
still arriving, and the grammar for a model on this machine. A version is logged with its adapter's name. What
is named by a path is imported when it is needed: the settings, which offer the names, import no library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import dspy

#: Some servers leave what a model thinks in its reply, between these tags.
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINKING = re.compile(rf"\s*{THINK_OPEN}.*?(?:{THINK_CLOSE}\s*|\Z)", re.DOTALL)
#: Stands in a chat's history for what an earlier answer had beside its text, such as its reasoning.
NOT_KEPT = "Not kept in the history of this chat."


@dataclass(frozen=True, slots=True)
class Row:
    """One format.

    Attributes:
        dspy_class: The name of DSPy's adapter. Its subclasses have this format too.
        parser: Path of a `PrefixParser`; it is made with the output fields of a signature.
    """

    dspy_class: str
    parser: str


ADAPTERS = {
    "chat": Row("ChatAdapter", "dspy_demo_662bb442.streaming.chat_splitter:ChatSplitter"),
    "json": Row("JSONAdapter", "dspy_demo_662bb442.streaming.json_splitter:JSONSplitter"),
    "xml": Row("XMLAdapter", "dspy_demo_662bb442.streaming.xml_splitter:XMLSplitter"),
}


class PrefixParser(Protocol):
    """Finds the output fields in one reply of a model, while it arrives."""

    def feed(self, text: str) -> Sequence[Any]:
        """The pieces that are certain after `text`, in their order; each has a `field` and a `text`."""
        ...

    def finish(self) -> Sequence[Any]:
        """The rest, at the end of the reply."""
        ...


def adapter_for(name: str) -> dspy.Adapter:
    """A new adapter of that name."""
    return _adapter_class(name)()


def adapter_name(adapter: object) -> str | None:
    """The name of any adapter's format, or None where it is unknown. Needs no DSPy."""
    names = {row.dspy_class: name for name, row in ADAPTERS.items()}
    bases = [base.__name__ for base in type(adapter).__mro__ if base.__module__.startswith("dspy.")]
    return next((names[base] for base in bases if base in names), None)


def prefix_parser(name: str, fields: Sequence[str]) -> PrefixParser:
    """A new parser of one reply with these output fields."""
    parser: PrefixParser = resolve_name(ADAPTERS[name].parser)(fields)
    return parser


def without_thinking(text: str) -> str:
    """`text` without a block of thinking at its start; where that was cut off, it is all there is."""
    block = _THINKING.match(text)
    return text[block.end() :] if block else text


@cache
def _adapter_class(name: str) -> Any:
    """DSPy's class, with what it lacks for a chat with any model."""
    import dspy

    base = getattr(dspy, ADAPTERS[name].dspy_class)
    return type(base.__name__, (_Conversation, base), {"format_name": name})


class _Conversation:
    """What DSPy's adapters lack for a chat with any model.

    They take thinking between tags for a part of the reply. And the history of a chat has the answers only:
    DSPy writes the other output fields of an earlier turn as ``None``, and models then do the same.
    """

    format_name: str

    def __reduce__(self) -> Any:
        return adapter_for, (self.format_name,)

    def format_conversation_history(
        self, signature: Any, history_field_name: str, inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        import dspy

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


def _calls_tools(turn: dict[str, Any]) -> bool:
    import dspy

    return any(isinstance(value, dspy.ToolCalls) for value in turn.values())
