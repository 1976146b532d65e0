"""A model's reply, chunk by chunk, into increments of its output fields.

DSPy's own `StreamListener` (3.4.1) cuts text at ``[[`` and leaks markers where a chunk ends inside
one, so the chunks are split here, by one splitter for each adapter's format. A splitter is pure and
lossless: whatever the chunks, the pieces of a field join to what the adapter's ``parse`` makes of
a `str` field in a well-formed reply; for any other reply it does its best and never raises.
What DSPy parsed in the end is the truth; the pieces are for watching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, assert_never

from dspy_demo.streaming.chat_splitter import ChatSplitter
from dspy_demo.streaming.json_splitter import JSONSplitter
from dspy_demo.streaming.piece import Piece
from dspy_demo.streaming.xml_splitter import XMLSplitter

__all__ = ["AdapterKind", "Piece", "Splitter", "adapter_kind", "splitter_for"]

AdapterKind = Literal["chat", "json", "xml"]


class Splitter(Protocol):
    """Splits one reply of one predictor call; not reusable."""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after `text`, in the order of the reply."""
        ...

    def finish(self) -> list[Piece]:
        """What was held back and is text after all, at the end of the reply."""
        ...


def splitter_for(adapter_kind: AdapterKind, fields: Sequence[str]) -> Splitter:
    """A new splitter.

    Args:
        adapter_kind: The format of the reply.
        fields: The signature's output fields; text of anything else is dropped.
    """
    match adapter_kind:
        case "chat":
            return ChatSplitter(fields)
        case "json":
            return JSONSplitter(fields)
        case "xml":
            return XMLSplitter(fields)
    assert_never(adapter_kind)


def adapter_kind(adapter: object) -> AdapterKind | None:
    """The format that a DSPy adapter asks for, or None where it is not known: show the reply raw."""
    import dspy

    # JSONAdapter (with BAMLAdapter) and XMLAdapter are ChatAdapters too, so the order matters.
    if isinstance(adapter, dspy.JSONAdapter):
        return "json"
    if isinstance(adapter, dspy.XMLAdapter):
        return "xml"
    if isinstance(adapter, dspy.ChatAdapter):
        return "chat"
    return None
