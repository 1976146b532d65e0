"""What the app knows of a program: how to build it, what it takes, what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import dspy

#: Output fields that hold how an answer was reached, by the names that DSPy's modules give them.
REASONING_FIELDS = frozenset({"reasoning", "rationale", "thought", "next_thought"})
#: Output fields that record the steps of a program.
TRACE_FIELDS = frozenset({"trajectory"})

InputKind = Literal["text", "integer", "number", "boolean", "choice", "image", "json"]


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a program, as a form draws it; `annotation` is the type that the program gets.

    The kind ``json`` is any type without a kind of its own; ``choice`` is a `typing.Literal` of texts.
    """

    name: str
    kind: InputKind = "text"
    description: str = ""
    choices: tuple[str, ...] = ()
    required: bool = True
    default: Any = None
    annotation: Any = str


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program of the registry."""

    name: str
    title: str
    description: str
    build: Callable[[], dspy.Module]  # called once per process; modules hold no state between turns
    inputs: tuple[InputField, ...]  # without the history
    chat_field: str  # the input that the chat box fills
    outputs: tuple[str, ...] = ()  # in order, without the reasoning; empty where only running it tells
    history_field: str | None = None  # the `dspy.History` input
    answer_field: str | None = None  # stands for the answer in the history, where known
    examples: tuple[str, ...] = ()
    adapter: str | None = None  # the name of the format it was made for; None for the app's setting

    @property
    def form_fields(self) -> tuple[InputField, ...]:
        """The inputs beside the chat box."""
        return tuple(field for field in self.inputs if field.name != self.chat_field)
