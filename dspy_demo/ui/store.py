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

from dspy_demo.events import GUEST
from dspy_demo.events import Visitor as Asker
from dspy_demo.ui.conversation import Conversation
from dspy_demo.ui.live import LiveTurn
from dspy_demo.ui.turn_view import TurnView

#: What `secrets.token_urlsafe(32)` makes. Who knows it sees the chat, so nothing shorter is taken.
_VISITOR = re.compile(r"[A-Za-z0-9_-]{43}")


#: Who opened a tab, by the session that the guard knows; and Gradio's session hash, which alone is no proof.
TabKey = tuple[Asker, str]


@dataclass(slots=True, eq=False)
class Visitor:
    """One browser. Its tabs share the conversation.

    Attributes:
        id: Whoever knows it sees the chat; it is between this app and that browser.
        chat: Names the present chat in traces; a new chat gets another.
        restored_chars: The length of what came back from the browser, which costs nobody anything to make.
        answered: The traces of the turns that ran here, which alone a guest may rate.
        tabs: The keys of the tabs that are open.
    """

    id: str
    chat: str = field(default_factory=lambda: secrets.token_hex(4))
    conversation: Conversation = field(default_factory=Conversation)
    restored_chars: int = 0
    answered: set[str] = field(default_factory=set)
    tabs: set[TabKey] = field(default_factory=set)
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
        self.answered.clear()
        self.chat = secrets.token_hex(4)


@dataclass(slots=True, eq=False)
class Tab:
    """One open page.

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
        if view.trace_id is not None:
            self.visitor.answered.add(view.trace_id)
        self.live = None
        self.visitor.running.discard(self)
        if not self.visitor.running:
            self.visitor.idle.set()


class ConversationStore:
    """Visitors and tabs of one page, bounded in number, in size and in time.

    A page may be loaded by a program that never closes it, so the bounds hold for open tabs too. What was
    used longest ago leaves first, but nothing in which a turn runs; a page that was let go asks for a reload.

    Args:
        window: How many messages a new tab shows.
        max_visitors: How many are kept.
        max_tabs: How many open pages are kept.
        max_restored_chars: How long all chats together may be that came from browsers, as they came and
            as they are drawn; a character takes two bytes of memory, eight where somebody means harm.
        ttl_s: After this time without a visit, a conversation is only in its browser.
    """

    def __init__(
        self,
        *,
        window: int,
        max_visitors: int = 2_000,
        max_tabs: int = 4_000,
        max_restored_chars: int = 40_000_000,
        ttl_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._max_visitors = max_visitors
        self._max_tabs = max_tabs
        self._max_restored_chars = max_restored_chars
        self._ttl_s = ttl_s
        self._clock = clock
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._tabs: OrderedDict[TabKey, Tab] = OrderedDict()
        self._restored_chars = 0

    def __len__(self) -> int:
        return len(self._visitors)

    @property
    def open_tabs(self) -> int:
        return len(self._tabs)

    def tab(self, session_hash: str, asker: Asker = GUEST) -> Tab | None:
        """The tab that `asker` opened under this hash; None where there is none, as after a restart."""
        key = (asker, session_hash)
        tab = self._tabs.get(key)
        if tab is not None:
            self._tabs.move_to_end(key)
            self._touch(tab.visitor)
        return tab

    def would_restore(self, visitor_id: str) -> bool:
        """Whether `open` has a use for the browser's own copy of the chat."""
        return visitor_id not in self._visitors and _VISITOR.fullmatch(visitor_id) is not None

    def open(
        self,
        session_hash: str,
        visitor_id: str,
        saved: Conversation,
        *,
        saved_chars: int = 0,
        asker: Asker = GUEST,
    ) -> Tab:
        """The tab of a page that has just loaded.

        Args:
            visitor_id: What the browser kept, or anything else for a new visitor.
            saved: The browser's own copy of the chat; used where this process does not know the visitor.
            saved_chars: The length of that copy as it came.
            asker: Who opens it.
        """
        visitor = self._visitors.get(visitor_id)
        if visitor is None:
            visitor = Visitor(secrets.token_urlsafe(32))
            if self.would_restore(visitor_id):
                visitor = Visitor(visitor_id, conversation=saved)
                visitor.restored_chars = saved_chars + saved.chars
                self._restored_chars += visitor.restored_chars
            visitor.idle.set()
            self._visitors[visitor.id] = visitor
        self.close(session_hash, asker)
        key = (asker, session_hash)
        tab = self._tabs[key] = Tab(visitor, self._window)
        visitor.tabs.add(key)
        self._touch(visitor)
        self._forget_old()
        return tab

    def close(self, session_hash: str, asker: Asker = GUEST) -> Tab | None:
        """Forget a tab that was closed; its visitor's conversation stays."""
        return self._drop((asker, session_hash))

    def _drop(self, key: TabKey) -> Tab | None:
        tab = self._tabs.pop(key, None)
        if tab is not None:
            tab.visitor.tabs.discard(key)
        return tab

    def _touch(self, visitor: Visitor) -> None:
        visitor.last_seen_s = self._clock()
        if visitor.id in self._visitors:
            self._visitors.move_to_end(visitor.id)

    def _forget_old(self) -> None:
        """Down to the bounds; the newest visitor and tab, for which there must be room, are not looked at."""
        for visitor in list(self._visitors.values())[:-1]:
            too_many = (
                len(self._visitors) > self._max_visitors or self._restored_chars > self._max_restored_chars
            )
            late = visitor.last_seen_s < self._clock() - self._ttl_s
            if not (too_many or late):
                break
            if not visitor.running and (too_many or not visitor.tabs):
                self._forget(visitor)
        for key, tab in list(self._tabs.items())[: max(0, len(self._tabs) - self._max_tabs)]:
            if tab.live is None:
                self._drop(key)

    def _forget(self, visitor: Visitor) -> None:
        del self._visitors[visitor.id]
        self._restored_chars -= visitor.restored_chars
        for key in list(visitor.tabs):
            self._drop(key)
