"""The finished turns of a chat, what can be done with them, and the copy that a browser keeps.

Anybody can send such a copy, and it costs nothing to make one. So what is not as the app itself writes it is
left out before it is drawn: a few bytes of it could otherwise become megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from dspy_demo.events import Message
from dspy_demo.ui.chat.render import WireMessage, messages
from dspy_demo.ui.chat.turn_view import TurnView

#: A browser's storage holds about 5 MB for a site.
SAVED_MAX_CHARS = 1_000_000
#: More than 100,000 characters of the shortest turns; drawing them takes about 50 ms.
SAVED_MAX_TURNS = 500
#: Markup makes a text longer when it is drawn; a chat that grows by more was not made by chatting.
DRAWN_MAX_CHARS = 4 * SAVED_MAX_CHARS
#: Thoughts and tool calls of one turn, its answers, its inputs.
PARTS_MAX = 500
#: Each level of an output is drawn further to the right, so that depth costs its square.
DEPTH_MAX = 40

_TURNS = TypeAdapter(list[TurnView])


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """A turn that has ended, as messages and as JSON, which are made once.

    Attributes:
        chars: How long the messages and the JSON are.
    """

    view: TurnView
    drawn: tuple[WireMessage, ...] = field(compare=False)
    saved: str = field(compare=False)
    chars: int = field(compare=False)

    @classmethod
    def of(cls, view: TurnView) -> FinishedTurn:
        drawn, saved = tuple(messages(view)), _TURNS.dump_json([view]).decode()[1:-1]
        return cls(
            view, drawn, saved, len(saved) + sum(len(message["content"][0]["text"]) for message in drawn)
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """Finished turns, oldest first. Each operation gives a new conversation."""

    turns: tuple[FinishedTurn, ...] = ()

    @property
    def chars(self) -> int:
        return sum(turn.chars for turn in self.turns)

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
        conversation = self
        for index, turn in enumerate(self.turns):
            if (url := link(turn.view)) != turn.view.trace_url:
                conversation = conversation.with_view(index, replace(turn.view, trace_url=url))
        return conversation

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
        return sum(bool(turn.view.answer_text.strip()) for turn in self.turns)

    def window(self, max_messages: int) -> int:
        """The index of the first turn to show, so that about `max_messages` are on the page."""
        count = 0
        for index in reversed(range(len(self.turns))):
            count += len(self.turns[index].drawn)
            if count > max_messages:
                return min(index + 1, len(self.turns) - 1)
        return 0

    def drawn(self, first: int) -> list[WireMessage]:
        """The messages of all turns from `first` on."""
        return [message for turn in self.turns[first:] for message in turn.drawn]


def to_json(conversation: Conversation, max_chars: int = SAVED_MAX_CHARS) -> str:
    """The latest turns that fit into `max_chars`, as the text of a JSON list."""
    saved: list[str] = []
    max_chars -= len("[]")
    for turn in reversed(conversation.turns[-SAVED_MAX_TURNS:]):
        max_chars -= len(turn.saved) + len(",")
        if max_chars < 0:
            break
        saved.append(turn.saved)
    return f"[{','.join(reversed(saved))}]"


def from_json(text: Any) -> Conversation:
    """The conversation that `to_json` wrote; empty for anything else. It takes up to 0.1 s."""
    if not isinstance(text, str) or len(text) > SAVED_MAX_CHARS:
        return Conversation()
    try:
        items = json.loads(text)
        latest = items[-SAVED_MAX_TURNS:] if isinstance(items, list) else []
        views = _TURNS.validate_python([item for item in latest if not _deeper(item, DEPTH_MAX)])
    except (ValueError, RecursionError):
        return Conversation()
    turns: list[FinishedTurn] = []
    room = DRAWN_MAX_CHARS
    for view in reversed(views):
        if max(len(view.work), len(view.answers), len(view.inputs)) <= PARTS_MAX:
            # Links to traces are for whoever looks now.
            state = "stopped" if view.running else view.state
            turns.append(FinishedTurn.of(replace(view, trace_url="", state=state)))
            room -= turns[-1].chars
        if room < 0:
            turns.pop()
            break
    return Conversation(tuple(reversed(turns)))


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(one, levels - 1) for one in inner)
