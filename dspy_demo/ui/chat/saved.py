"""The copy of a chat that a browser keeps: as JSON, and back, believing none of it.

Anybody can send such a copy, and it costs nothing to make one. So what is not as the app itself writes it is
left out before it is drawn: a few bytes of it could otherwise become megabytes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dspy_demo.ui.chat.conversation import Conversation, FinishedTurn
from dspy_demo.ui.chat.tabs import Tab
from dspy_demo.ui.chat.turn_view import TurnView

#: The browser's storage holds about 5 MB for a site, encrypted text counts double.
SAVED_MAX_CHARS = 1_000_000
#: More than 100,000 characters of the shortest turns; drawing them takes about 50 ms.
SAVED_MAX_TURNS = 500
#: Markup makes a text longer when it is drawn; a chat that grows by more was not made by chatting.
DRAWN_MAX_CHARS = 4 * SAVED_MAX_CHARS
#: Thoughts, and tool calls, of one turn.
PARTS_MAX = 500
#: Each level of an output is drawn further to the right, so that depth costs its square.
DEPTH_MAX = 40

_TURN = TypeAdapter(TurnView)


def saved_copy(tab: Tab) -> dict[str, str]:
    """What the browser keeps of a tab, for a reload and for the next tab."""
    return {"chat": tab.chat, "turns": to_json(tab.conversation)}


def to_json(conversation: Conversation, max_chars: int = SAVED_MAX_CHARS) -> str:
    """The latest turns that fit into `max_chars`, as the text of a JSON list.

    As text, because Gradio downloads whatever looks like a file anywhere in a value that a page sends it
    (`processing_utils.async_move_files_to_cache`, 6.31), and a program's outputs can look like anything.
    """
    saved: list[str] = []
    max_chars -= len("[]")
    for turn in reversed(conversation.turns[-SAVED_MAX_TURNS:]):
        data = _TURN.dump_json(turn.view).decode()
        max_chars -= len(data) + len(",")
        if max_chars < 0:
            break
        saved.append(data)
    return f"[{','.join(reversed(saved))}]"


def from_json(data: Any) -> Conversation:
    """The conversation that `to_json` wrote; the latest turns of one that is too long.

    A browser kept it, so turns that are not valid are left out, and a text that is longer than any of ours
    is none. It takes up to 0.1 s: call it in a thread.
    """
    turns: list[FinishedTurn] = []
    room = DRAWN_MAX_CHARS
    for item in reversed(_items(data)[-SAVED_MAX_TURNS:]):
        turn = _turn(item)
        if turn is None:
            continue
        room -= turn.chars
        if room < 0:
            break
        turns.append(turn)
    return Conversation(tuple(reversed(turns)))


def _items(data: Any) -> list[Any]:
    if not isinstance(data, str) or len(data) > SAVED_MAX_CHARS:
        return []
    try:
        items = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return items if isinstance(items, list) else []


def _turn(item: Any) -> FinishedTurn | None:
    """One turn, drawn; None where it cannot be one of ours."""
    if _deeper(item, DEPTH_MAX):
        return None
    try:
        view = _TURN.validate_python(item)
    except ValidationError:
        return None
    if not _drawn_once(view):
        return None
    # Links to traces are for whoever looks now.
    view = dataclasses.replace(view, trace_url="", state="stopped" if view.running else view.state)
    return FinishedTurn.of(view)


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(one, levels - 1) for one in inner)


def _drawn_once(view: TurnView) -> bool:
    """Whether its parts are few, and each thought and line that `order` names is there, and named once."""
    names = {f"t{n}" for n in range(len(view.thoughts))} | {f"s{n}" for n in range(len(view.lines))}
    few = max(len(view.thoughts), len(view.lines), len(view.inputs), len(view.answers)) <= PARTS_MAX
    return few and names.issuperset(view.order) and len(set(view.order)) == len(view.order)
