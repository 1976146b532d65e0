"""The open pages, in memory: one tab of a browser is one conversation."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from dspy_demo.events import Visitor
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.turn_view import TurnView

#: What `secrets.token_urlsafe(32)` makes. Who knows it can reload the chat, so nothing shorter is taken.
_CHAT = re.compile(r"[A-Za-z0-9_-]{43}")


def new_chat_id() -> str:
    return secrets.token_urlsafe(32)


@dataclass(slots=True, eq=False)
class Tab:
    """One page and its conversation.

    Attributes:
        visitor: Who loaded the page. A session's hash alone is no proof.
        window: How many messages are on the page.
        chat: Names the chat between this app and that tab, also after a reload. It is a secret.
        restored_chars: The length of what came from the browser, which costs nobody anything to make.
        answered: The traces of the turns that ran here, which alone a guest may rate.
        live: The turn that is running, from the moment it was accepted.
        undrawn: The turn that was accepted and is not being drawn yet.
        unsettled: Whether a turn has been accepted since the composer was last set free.
        set_aside: What New chat or Undo took away, until the next question: the chat's id, the conversation.
        closed: Whether the page was closed. It is kept all the same, since a reload closes a page too.
    """

    visitor: Visitor
    window: int
    conversation: Conversation = field(default_factory=Conversation)
    chat: str = field(default_factory=new_chat_id)
    restored_chars: int = 0
    answered: set[str] = field(default_factory=set)
    live: LiveTurn | None = None
    undrawn: LiveTurn | None = None
    unsettled: bool = False
    set_aside: tuple[str, Conversation] | None = None
    closed: bool = False

    @property
    def session_id(self) -> str:
        """Visitor and chat, as `TurnRequest` and MLflow's sessions want them. No secret."""
        return f"{self.visitor.name}.{hashlib.sha256(self.chat.encode()).hexdigest()[:12]}"

    def begin(self, live: LiveTurn, conversation: Conversation) -> None:
        """A turn was accepted that goes on from `conversation`; it calls `end` when it has ended."""
        self.conversation, self.set_aside = conversation, None
        self.live = self.undrawn = live
        self.unsettled = True

    def end(self, view: TurnView) -> None:
        """The turn has ended: keep it, also when the page is gone by now and a reload looks for it."""
        self.conversation = self.conversation.adding(view)
        if view.trace_id is not None:
            self.answered.add(view.trace_id)
        self.live = None

    def start_over(self) -> None:
        """Empty the chat; what follows is another session. An empty chat has nothing to take back."""
        if self.conversation.turns:
            self.set_aside = self.chat, self.conversation
            self.chat, self.conversation = new_chat_id(), Conversation()

    def go_back(self, index: int) -> None:
        """Take back the turn at `index` and what follows it."""
        self.set_aside = self.chat, self.conversation
        self.conversation = self.conversation.before(index)

    def restore(self) -> None:
        """Bring back what `start_over` or `go_back` took away."""
        if self.set_aside is not None:
            (self.chat, self.conversation), self.set_aside = self.set_aside, None


class Tabs:
    """The tabs of one page of `ui.pages`, bounded in number and in size.

    A program may load pages and never close them, so open tabs are bounded as well. What was used longest ago
    leaves first, but nothing in which a turn runs; such a page asks for a reload, since its chat is in its
    browser too.

    Args:
        window: How many messages a new tab shows.
        max_tabs: How many are kept.
        max_restored_chars: How long all chats together may be that came from browsers, as they came and
            as they are drawn; a character takes two bytes of memory, eight where somebody means harm.
    """

    def __init__(self, *, window: int, max_tabs: int = 2_000, max_restored_chars: int = 40_000_000) -> None:
        self._window = window
        self._max_tabs = max_tabs
        self._max_restored_chars = max_restored_chars
        self._tabs: OrderedDict[tuple[Visitor, str], Tab] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tabs)

    def get(self, session_hash: str, visitor: Visitor) -> Tab | None:
        """The tab that `visitor` opened under this hash; None where there is none, as after a restart."""
        tab = self._tabs.get((visitor, session_hash))
        if tab is not None:
            tab.closed = False  # a page that was cut off for a moment is told of as closed, too
            self._tabs.move_to_end((visitor, session_hash))
        return tab

    def before_reload(self, chat: str, visitor: Visitor) -> Tab | None:
        """The latest tab of `visitor` that held this chat."""
        tabs = reversed(self._tabs.values())
        return next((tab for tab in tabs if tab.chat == chat and tab.visitor == visitor), None)

    def reopen(self, session_hash: str, before: Tab) -> Tab:
        """The tab of a page that was reloaded, or duplicated where `before` is still open."""
        if before.closed:
            self._tabs = OrderedDict((key, tab) for key, tab in self._tabs.items() if tab is not before)
        return self._keep(
            session_hash,
            Tab(
                before.visitor,
                self._window,
                before.conversation,
                before.chat,
                before.restored_chars,
                set(before.answered),
            ),
        )

    def open(
        self,
        session_hash: str,
        visitor: Visitor,
        chat: str = "",
        saved: Conversation | None = None,
        chars: int = 0,
    ) -> Tab:
        """The tab of a page that has just loaded.

        Args:
            chat: The id that the tab kept, or anything else for a new one.
            saved: The browser's own copy of the chat.
            chars: The length of that copy as it came.
        """
        tab = Tab(visitor, self._window)
        if _CHAT.fullmatch(chat):
            tab.chat = chat
        if saved is not None and saved.turns:
            tab.conversation, tab.restored_chars = saved, chars + saved.chars
        return self._keep(session_hash, tab)

    def _keep(self, session_hash: str, tab: Tab) -> Tab:
        self._tabs[tab.visitor, session_hash] = tab
        self._tabs.move_to_end((tab.visitor, session_hash))
        restored = sum(kept.restored_chars for kept in self._tabs.values())
        for key, old in list(self._tabs.items())[:-1]:
            if len(self._tabs) <= self._max_tabs and restored <= self._max_restored_chars:
                break
            if old.live is None:
                restored -= old.restored_chars
                del self._tabs[key]
        return tab
