"""Conversations by visitor, in memory: what a reload finds again."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from dspy_demo.ui.conversation import Conversation
from dspy_demo.ui.live import LiveTurn
from dspy_demo.ui.turn_view import TurnView

#: What `secrets.token_urlsafe(32)` makes. Who knows it sees the chat, so nothing shorter is taken.
_VISITOR = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True, eq=False)
class Visitor:
    """One browser. Its tabs share the conversation.

    Attributes:
        id: Whoever knows it sees the chat; it is between this app and that browser.
        chat: Names the present chat in traces; a new chat gets another.
    """

    id: str
    chat: str = field(default_factory=lambda: secrets.token_hex(4))
    conversation: Conversation = field(default_factory=Conversation)
    running: set[Tab] = field(default_factory=set)
    last_seen_s: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The same visitor by a name that others may see, and that tells nothing of the id."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:12]

    @property
    def session_id(self) -> str:
        """Visitor and chat, as `TurnRequest` and MLflow's sessions want them."""
        return f"{self.name}.{self.chat}"

    def start_over(self) -> None:
        """Empty the chat; what follows is another session."""
        self.conversation = Conversation()
        self.chat = secrets.token_hex(4)


@dataclass(slots=True, eq=False)
class Tab:
    """One open page, known by Gradio's session hash.

    Attributes:
        live: The turn that is running in this tab, from the moment it was accepted.
        window: How many messages this tab shows.
    """

    visitor: Visitor
    window: int
    live: LiveTurn | None = None

    def begin(self, live: LiveTurn) -> None:
        """A turn was accepted; `end` is what it calls when it has ended."""
        self.live = live
        self.visitor.running.add(self)
        self.visitor.idle.clear()

    def end(self, view: TurnView) -> None:
        """The turn has ended: keep it, also when the tab is gone by now and a reload looks for it."""
        self.visitor.conversation = self.visitor.conversation.adding(view)
        self.live = None
        self.visitor.running.discard(self)
        if not self.visitor.running:
            self.visitor.idle.set()


class ConversationStore:
    """Visitors and tabs of one page, bounded in number and in time.

    Args:
        max_visitors: The one seen longest ago leaves first.
        ttl_s: After this time without a visit, a conversation is only in its browser.
        window: How many messages a new tab shows.
    """

    def __init__(
        self,
        *,
        window: int,
        max_visitors: int = 2_000,
        ttl_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._max_visitors = max_visitors
        self._ttl_s = ttl_s
        self._clock = clock
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._tabs: dict[str, Tab] = {}

    def __len__(self) -> int:
        return len(self._visitors)

    def tab(self, session_hash: str) -> Tab | None:
        """The tab of a Gradio session; None where this process has never seen it, as after a restart."""
        return self._tabs.get(session_hash)

    def open(self, session_hash: str, visitor_id: str, saved: Conversation) -> Tab:
        """The tab of a page that has just loaded.

        Args:
            visitor_id: What the browser kept, or anything else for a new visitor.
            saved: The browser's own copy of the chat; used where this process does not know the visitor.
        """
        visitor = self._visitors.get(visitor_id)
        if visitor is None:
            known = _VISITOR.fullmatch(visitor_id) is not None
            visitor = Visitor(visitor_id if known else secrets.token_urlsafe(32))
            visitor.conversation = saved if known else Conversation()
            visitor.idle.set()
            self._visitors[visitor.id] = visitor
        self._touch(visitor)
        tab = self._tabs[session_hash] = Tab(visitor, self._window)
        self._forget_old()
        return tab

    def close(self, session_hash: str) -> Tab | None:
        """Forget a tab that was closed; its visitor's conversation stays."""
        return self._tabs.pop(session_hash, None)

    def _touch(self, visitor: Visitor) -> None:
        visitor.last_seen_s = self._clock()
        self._visitors.move_to_end(visitor.id)

    def _forget_old(self) -> None:
        oldest_s = self._clock() - self._ttl_s
        open_now = {tab.visitor.id for tab in self._tabs.values()}
        for visitor in list(self._visitors.values()):
            if len(self._visitors) <= self._max_visitors and visitor.last_seen_s >= oldest_s:
                break
            if visitor.id not in open_now:
                del self._visitors[visitor.id]
