"""A visitor's conversation: finished turns, and what can be done with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from dspy_demo.events import Message
from dspy_demo.ui.chat.render import WireMessage, messages
from dspy_demo.ui.chat.turn_view import TurnView


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """A turn that has ended, and its messages, which never change again.

    Attributes:
        frozen: The messages as JSON, which Gradio passes on unread. Through every dict of a value it walks
            three times an update (6.31: files, root URL, difference), and history is most of a value.
        chars: How long the messages are.
    """

    view: TurnView
    drawn: tuple[WireMessage, ...]
    frozen: tuple[orjson.Fragment, ...] = field(compare=False)
    chars: int = field(compare=False)

    @classmethod
    def of(cls, view: TurnView) -> FinishedTurn:
        drawn = tuple(messages(view))
        texts = [json.dumps(message) for message in drawn]
        return cls(view, drawn, tuple(orjson.Fragment(text) for text in texts), sum(map(len, texts)))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Finished turns, oldest first. Each operation gives a new conversation."""

    turns: tuple[FinishedTurn, ...] = ()

    def adding(self, view: TurnView) -> Conversation:
        """With one more turn, which has ended."""
        return Conversation((*self.turns, FinishedTurn.of(view)))

    def before(self, index: int) -> Conversation:
        """Up to the turn at `index`, without it: what retry, undo and edit leave standing."""
        return Conversation(self.turns[: max(0, index)])

    def index_of(self, turn_id: str) -> int | None:
        """Where the turn stands; None where it is not, or no more, part of this conversation."""
        ids = [turn.view.turn_id for turn in self.turns]
        return ids.index(turn_id) if turn_id in ids else None

    def with_view(self, index: int, view: TurnView) -> Conversation:
        """With another view of the turn at `index`: a rating, a link."""
        return Conversation((*self.turns[:index], FinishedTurn.of(view), *self.turns[index + 1 :]))

    def linked(self, link: Callable[[TurnView], str]) -> Conversation:
        """With the links to the traces as they are now; turns whose link is the same stay the same."""
        turns = list(self.turns)
        for index, turn in enumerate(turns):
            if (url := link(turn.view)) != turn.view.trace_url:
                turns[index] = FinishedTurn.of(dataclasses.replace(turn.view, trace_url=url))
        return Conversation(tuple(turns))

    def ratings(self, first: int) -> list[str | None]:
        """The thumbs of the turns from `first` on, by the chatbot's names for them."""
        names = {True: "Like", False: "Dislike", None: None}
        return [names[turn.view.rated] for turn in self.turns[first:]]

    def history(self, max_chars: int) -> tuple[Message, ...]:
        """The program's memory: the latest turns that fit. Those without an answer are not part of it."""
        latest: list[Message] = []
        for turn in reversed(self.turns):
            if answer := turn.view.answer_text.strip():
                max_chars -= len(turn.view.user) + len(answer)
                if max_chars < 0:
                    break
                latest += [Message("assistant", answer), Message("user", turn.view.user)]
        return tuple(reversed(latest))

    def answered(self) -> int:
        """How many turns have an answer, so that the program could remember them."""
        return sum(1 for turn in self.turns if turn.view.answer_text.strip())

    @property
    def chars(self) -> int:
        """How long all of it is, drawn."""
        return sum(turn.chars for turn in self.turns)

    # The window: only the latest messages are on the page

    def window(self, max_messages: int) -> int:
        """The index of the first turn to show, so that about `max_messages` are on the page."""
        count = 0
        for index in reversed(range(len(self.turns))):
            count += len(self.turns[index].drawn)
            if count > max_messages:
                return min(index + 1, len(self.turns) - 1)
        return 0

    def drawn(self, first: int) -> list[WireMessage]:
        """The messages of all turns from `first` on: the very dicts that were drawn before."""
        return [message for turn in self.turns[first:] for message in turn.drawn]

    def frozen(self, first: int) -> list[orjson.Fragment]:
        """`drawn` as JSON, for what stands before a turn that is running."""
        return [message for turn in self.turns[first:] for message in turn.frozen]
