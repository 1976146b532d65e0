"""A visitor's conversation: finished turns, what can be done with them, and their JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dspy_demo.events import Message
from dspy_demo.ui.render import WireMessage, messages
from dspy_demo.ui.turn_view import TurnView

#: The browser's storage holds about 5 MB for a site, encrypted text counts double.
SAVED_MAX_CHARS = 1_000_000

_TURN = TypeAdapter(TurnView)


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """A turn that has ended, and its messages, which never change again."""

    view: TurnView
    drawn: tuple[WireMessage, ...]

    @classmethod
    def of(cls, view: TurnView) -> FinishedTurn:
        return cls(view, tuple(messages(view)))


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

    def with_view(self, index: int, view: TurnView) -> Conversation:
        """With another view of the turn at `index`: a rating, a link."""
        return Conversation((*self.turns[:index], FinishedTurn.of(view), *self.turns[index + 1 :]))

    def linked(self, link: Callable[[TurnView], str]) -> Conversation:
        """With the links to the traces as they are now; turns whose link is the same stay the same."""
        changed = self
        for index, turn in enumerate(self.turns):
            if (url := link(turn.view)) != turn.view.trace_url:
                changed = changed.with_view(index, dataclasses.replace(turn.view, trace_url=url))
        return changed

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

    def turn_at(self, message_index: int, first: int) -> int:
        """Which turn the message at `message_index` of a page that starts at `first` belongs to."""
        for index, turn in enumerate(self.turns[first:], first):
            message_index -= len(turn.drawn)
            if message_index < 0:
                return index
        return len(self.turns) - 1


def to_json(conversation: Conversation, max_chars: int = SAVED_MAX_CHARS) -> list[dict[str, Any]]:
    """The latest turns that fit into `max_chars`, as JSON."""
    saved: list[dict[str, Any]] = []
    room = max_chars
    for turn in reversed(conversation.turns):
        data = _TURN.dump_json(turn.view)
        room -= len(data)
        if room < 0:
            break
        saved.append(_TURN.dump_python(turn.view, mode="json"))
    return saved[::-1]


def from_json(data: Any) -> Conversation:
    """The conversation that `to_json` wrote. A browser kept it, so turns that are not valid are left out."""
    turns = []
    for item in data if isinstance(data, list) else []:
        try:
            view = _TURN.validate_python(item)
        except ValidationError:
            continue
        turns.append(FinishedTurn.of(dataclasses.replace(view, state="stopped") if view.running else view))
    return Conversation(tuple(turns))
