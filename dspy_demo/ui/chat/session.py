"""A running turn, the chats of the open pages in memory, and the copy of each that its browser keeps."""

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from itsdangerous import BadSignature, Signer
from pydantic import TypeAdapter

from dspy_demo.chat import ChatService
from dspy_demo.events import Message, TurnRequest, Visitor
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.render import WireMessage, footer, messages
from dspy_demo.ui.chat.turn_view import TurnView

#: Seconds between two redraws while the machine has time, and at most.
REDRAW_S, REDRAW_MAX_S = 0.1, 0.5
#: How much longer the next pause is for each second that this one ended late: the core is full.
LATE_FACTOR = 4.0
#: Turns that a page shows, since Gradio reads each message again at every redraw; older ones on demand.
WINDOW = 10
#: A browser's storage holds about 5 MB for a site.
SAVED_MAX_CHARS = 1_000_000
#: Pages that are kept, and how long all their chats may be together: about 0.5 GB where somebody means harm.
MAX_SESSIONS, MAX_CHARS = 2_000, 60_000_000
#: What `new_chat_id` makes. Who knows it can reload the chat, so nothing shorter is taken.
_CHAT_ID = re.compile(r"[A-Za-z0-9_-]{43}")
_TURNS = TypeAdapter(list[TurnView])

OnEnd = Callable[[TurnView], None]
new_chat_id = partial(secrets.token_urlsafe, 32)


class LiveTurn:
    """Runs a turn of a program and folds it in a task of its own, so that no event waits for the browser.

    `view` is the latest view; `on_end` gets the last one, exactly once, whoever ended the turn.
    """

    def __init__(
        self, service: ChatService, request: TurnRequest, spec: ProgramSpec, *, on_end: OnEnd = lambda _: None
    ) -> None:
        inputs = dict(request.inputs)
        shape: dict[str, Any] = {"expected": spec.outputs, "answer_field": spec.answer_field}
        shape |= {"turn_id": request.turn_id, "started_s": time.monotonic()}
        self.view = TurnView(inputs.pop(spec.chat_field), inputs, **shape)
        self._turn = service.turn(request)
        self._on_end = on_end
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="turn-reader")

    async def snapshots(self, delivered: Callable[[], bool] = lambda: True) -> AsyncIterator[TurnView]:
        """The view when it has changed and the last one was `delivered`; the last one has ended."""
        pause_s = REDRAW_S
        while not self._reader.done():
            await self._changed.wait()
            if self.view.running and delivered():
                self._changed.clear()
                yield self.view
            due = time.monotonic() + pause_s
            await asyncio.wait({self._reader}, timeout=pause_s)
            pause_s = min(REDRAW_S + LATE_FACTOR * max(0.0, time.monotonic() - due), REDRAW_MAX_S)
        yield self.view

    async def ended(self, timeout_s: float | None = None) -> None:
        """Wait for the end, or that long."""
        await asyncio.wait({self._reader}, timeout=timeout_s)

    async def stop(self) -> None:
        """End the turn: the upstream is closed when this returns."""
        await self._turn.stop()
        await self.ended()

    async def _read(self) -> None:
        try:
            async with self._turn as turn:
                async for event in turn:
                    self.view = self.view.apply(event, time.monotonic())
                    self._changed.set()
        finally:
            view = self.view.stopped(time.monotonic())
            self.view = replace(view, trace_id=view.trace_id or self._turn.trace_id)
            self._on_end(self.view)
            self._changed.set()


class FinishedTurn:
    """A turn that has ended, as messages and as JSON, which are made once."""

    def __init__(self, view: TurnView) -> None:
        self.view = view
        self.drawn = tuple(messages(view))
        self.saved = _TURNS.dump_json([view]).decode()[1:-1]
        self.chars = len(self.saved) + sum(len(message["content"][0]["text"]) for message in self.drawn)


Turns = tuple[FinishedTurn, ...]


def history(turns: Turns, max_chars: int) -> tuple[Message, ...]:
    """The latest turns with an answer that fit."""
    latest: list[Message] = []
    for turn in reversed(turns):
        if answer := turn.view.answer_text.strip():
            max_chars -= len(turn.view.user) + len(answer)
            if max_chars < 0:
                break
            latest += [Message("assistant", answer), Message("user", turn.view.user)]
    return tuple(reversed(latest))


@dataclass(slots=True, eq=False)
class Session:
    """One page and its chat, of the visitor who loaded it; a session's hash alone is no proof.

    `chat` is a secret name between this app and that tab, also after a reload. `turns` have ended, oldest
    first; `window` of them are on the page, with the `live` one. `set_aside` is the chat and the turns that
    New chat or Undo took away, until the next question. `commented` is the turn that a comment is for.
    """

    visitor: Visitor
    chat: str = field(default_factory=new_chat_id)
    turns: Turns = ()
    window: int = WINDOW
    live: LiveTurn | None = None
    set_aside: tuple[str, Turns] | None = None
    commented: str = ""
    told: int = 0

    @property
    def session_id(self) -> str:
        """Visitor and chat, as `TurnRequest` and MLflow's sessions want them. No secret."""
        return f"{self.visitor.name}.{hashlib.sha256(self.chat.encode()).hexdigest()[:12]}"

    @property
    def shown(self) -> Turns:
        return self.turns[max(0, len(self.turns) - self.window + (self.live is not None)) :]

    def drawn(self, trace_url: Callable[[TurnView], str]) -> list[WireMessage]:
        drawn: list[WireMessage] = []
        for turn in self.shown:
            url = trace_url(turn.view)
            drawn += [*turn.drawn[:-1], footer(turn.view, url)] if url else turn.drawn
        return drawn + (messages(self.live.view) if self.live else [])

    def find(self, turn_id: str) -> TurnView | None:
        return next((turn.view for turn in self.turns if turn.view.turn_id == turn_id), None)

    def before(self, view: TurnView) -> Turns:
        return self.turns[: [turn.view for turn in self.turns].index(view)]

    def end(self, view: TurnView) -> None:
        """The turn has ended: keep it, also when the page is gone by now and a reload looks for it."""
        self.turns, self.live = (*self.turns, FinishedTurn(view)), None


class Sessions:
    """The tabs of a page by visitor and Gradio's session hash, bounded in number and in size.

    What was used longest ago leaves first, but nothing in which a turn runs. `key` signs what a browser
    keeps: anybody can send such a copy, and only one that this app wrote is read.
    """

    def __init__(self, key: bytes) -> None:
        self._signer = Signer(key, salt="dspy-demo chat", digest_method=hashlib.sha256)
        self._sessions: OrderedDict[tuple[Visitor, str], Session] = OrderedDict()

    def get(self, session_hash: str, visitor: Visitor) -> Session | None:
        """The tab that `visitor` opened under this hash; none after a restart."""
        key = visitor, session_hash
        if key in self._sessions:
            self._sessions.move_to_end(key)
        return self._sessions.get(key)

    def of_chat(self, chat: str, visitor: Visitor) -> Session | None:
        """The latest tab of `visitor` that held this chat: the page before a reload."""
        sessions = reversed(self._sessions.values())
        return next((one for one in sessions if one.chat == chat and one.visitor == visitor), None)

    def open(self, session_hash: str, visitor: Visitor, chat: str = "", turns: Turns = ()) -> Session:
        """A new tab for a page that has just loaded, with the `chat` that the browser kept, if it is one."""
        session = Session(visitor, chat if _CHAT_ID.fullmatch(chat) else new_chat_id(), turns)
        self._sessions[visitor, session_hash] = session
        self._sessions.move_to_end((visitor, session_hash))
        sizes = {key: sum(turn.chars for turn in one.turns) for key, one in self._sessions.items()}
        for key, one in list(self._sessions.items())[:-1]:
            if len(sizes) <= MAX_SESSIONS and sum(sizes.values()) <= MAX_CHARS:
                break
            if one.live is None:
                del self._sessions[key], sizes[key]
        return session

    def saved(self, session: Session) -> str:
        """What the page is told of a session, and its browser keeps: page.js (`follow`) acts on it.

        As text, because Gradio downloads whatever looks like a file in a value that a page sends it.
        """
        session.told += 1
        kept: list[str] = []
        room = SAVED_MAX_CHARS
        for turn in reversed(session.turns):
            room -= len(turn.saved) + len(",")
            if room < 0:
                break
            kept.append(turn.saved)
        turns = self._signer.sign(f"[{','.join(reversed(kept))}]").decode()
        live = session.live.view.turn_id if session.live else ""
        return json.dumps({"number": session.told, "chat": session.chat, "live": live, "turns": turns})

    def read(self, turns: Any) -> Turns:
        """The turns that `saved` gave to a browser; none where they are not ours. It takes up to 0.1 s."""
        try:
            views = _TURNS.validate_json(self._signer.unsign(turns))
        except (BadSignature, TypeError, ValueError, AttributeError):
            return ()
        return tuple(map(FinishedTurn, views))
