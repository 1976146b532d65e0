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
        texts = sum(len(message["content"][0]["text"]) for message in drawn)
        return cls(view, drawn, saved, len(saved) + texts)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Finished turns, oldest first. Each operation gives a new conversation."""

    turns: tuple[FinishedTurn, ...] = ()

    @property
    def chars(self) -> int:
        return sum(turn.chars for turn in self.turns)

    @property
    def drawn(self) -> list[WireMessage]:
        """The messages of all turns."""
        return [message for turn in self.turns for message in turn.drawn]

    @property
    def ratings(self) -> list[str | None]:
        """The thumbs, by the chatbot's names for them."""
        names = {True: "Like", False: "Dislike", None: None}
        return [names[turn.view.rated] for turn in self.turns]

    def adding(self, view: TurnView) -> Conversation:
        """With one more turn, which has ended."""
        return Conversation((*self.turns, FinishedTurn.of(view)))

    def before(self, turn: TurnView) -> Conversation:
        """Up to a turn, without it: what retry, undo and edit leave standing."""
        return Conversation(self.turns[: [one.view for one in self.turns].index(turn)])

    def latest(self, count: int) -> Conversation:
        """The latest turns alone."""
        return Conversation(self.turns[max(0, len(self.turns) - count) :])

    def find(self, turn_id: str) -> TurnView | None:
        """The turn of this id; None where it is not, or no more, part of this conversation."""
        return next((turn.view for turn in self.turns if turn.view.turn_id == turn_id), None)

    def changed(self, change: Callable[[TurnView], TurnView]) -> Conversation:
        """With each view as `change` gives it: a rating, a link. What stays equal is not drawn again."""
        views = ((turn, change(turn.view)) for turn in self.turns)
        return Conversation(
            tuple(turn if view == turn.view else FinishedTurn.of(view) for turn, view in views)
        )

    def history(self, max_chars: int) -> tuple[tuple[Message, ...], bool]:
        """The program's memory: the latest turns with an answer that fit, and whether these are all."""
        latest: list[Message] = []
        for turn in reversed(self.turns):
            if answer := turn.view.answer_text.strip():
                max_chars -= len(turn.view.user) + len(answer)
                if max_chars < 0:
                    break
                latest += [Message("assistant", answer), Message("user", turn.view.user)]
        return tuple(reversed(latest)), max_chars >= 0


def to_json(conversation: Conversation) -> str:
    """The latest turns that fit into what a browser stores, as the text of a JSON list."""
    saved: list[str] = []
    room = SAVED_MAX_CHARS - len("[]")
    for turn in reversed(conversation.turns[-SAVED_MAX_TURNS:]):
        room -= len(turn.saved) + len(",")
        if room < 0:
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
