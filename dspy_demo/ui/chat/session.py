"""The open pages, in memory: one tab of a browser is one conversation."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial

from dspy_demo.events import Visitor
from dspy_demo.ui.chat.conversation import Conversation, to_json
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.turn_view import TurnView

#: Turns that a page shows, since Gradio reads each message again at every redraw; older ones come in as many
#: at a time.
WINDOW = 10
#: Tabs that are kept, and how long all their chats may be together: about 0.5 GB where somebody means harm.
MAX_SESSIONS, MAX_CHARS = 2_000, 60_000_000
#: What `secrets.token_urlsafe(32)` makes. Who knows it can reload the chat, so nothing shorter is taken.
_CHAT = re.compile(r"[A-Za-z0-9_-]{43}")


new_chat_id = partial(secrets.token_urlsafe, 32)


@dataclass(slots=True, eq=False)
class Session:
    """One page and its conversation.

    Attributes:
        visitor: Who loaded the page. A session's hash alone is no proof.
        chat: Names the chat between this app and that tab, also after a reload. It is a secret.
        conversation: Its turns that have ended.
        window: How many turns are on the page.
        answered: The traces of the turns that ran here, which alone a guest may rate.
        live: The turn that is running, from the moment it was accepted.
        undrawn: The turn that was accepted and is not being drawn yet.
        unsettled: Whether a turn has been accepted since the composer was last set free.
        set_aside: What New chat or Undo took away, until the next question: the chat's id, the conversation.
    """

    visitor: Visitor
    chat: str = field(default_factory=new_chat_id)
    conversation: Conversation = field(default_factory=Conversation)
    window: int = WINDOW
    answered: set[str] = field(default_factory=set)
    live: LiveTurn | None = None
    undrawn: LiveTurn | None = None
    unsettled: bool = False
    set_aside: tuple[str, Conversation] | None = None

    @property
    def session_id(self) -> str:
        """Visitor and chat, as `TurnRequest` and MLflow's sessions want them. No secret."""
        return f"{self.visitor.name}.{hashlib.sha256(self.chat.encode()).hexdigest()[:12]}"

    @property
    def shown(self) -> Conversation:
        """The turns on the page but for the running one."""
        return self.conversation.latest(self.window - (self.live is not None))

    @property
    def saved(self) -> str:
        """What the browser keeps of it, for a reload and for the next tab.

        As text, because Gradio downloads whatever looks like a file anywhere in a value that a page sends it,
        and a program's outputs can look like anything.
        """
        return json.dumps({"chat": self.chat, "turns": to_json(self.conversation)})

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
        self.window = WINDOW
        if self.conversation.turns:
            self.set_aside = self.chat, self.conversation
            self.chat, self.conversation = new_chat_id(), Conversation()

    def go_back(self, turn: TurnView) -> None:
        """Take back a turn and what follows it."""
        self.set_aside = self.chat, self.conversation
        self.conversation = self.conversation.before(turn)

    def restore(self) -> None:
        """Bring back what `start_over` or `go_back` took away."""
        if self.set_aside is not None:
            (self.chat, self.conversation), self.set_aside = self.set_aside, None


class Sessions:
    """The tabs of a page by visitor and Gradio's session hash, bounded in number and in size.

    What was used longest ago leaves first, but nothing in which a turn runs; such a page asks for a reload,
    since its chat is in its browser too.
    """

    def __init__(self, max_sessions: int = MAX_SESSIONS, max_chars: int = MAX_CHARS) -> None:
        self._max_sessions, self._max_chars = max_sessions, max_chars
        self._sessions: OrderedDict[tuple[Visitor, str], Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_hash: str, visitor: Visitor) -> Session | None:
        """The tab that `visitor` opened under this hash; None where there is none, as after a restart."""
        key = visitor, session_hash
        if key in self._sessions:
            self._sessions.move_to_end(key)
        return self._sessions.get(key)

    def of_chat(self, chat: str, visitor: Visitor) -> Session | None:
        """The latest tab of `visitor` that held this chat: the page before a reload."""
        sessions = reversed(self._sessions.values())
        return next((one for one in sessions if one.chat == chat and one.visitor == visitor), None)

    def open(self, session_hash: str, visitor: Visitor, chat: str = "") -> Session:
        """A new tab for a page that has just loaded.

        Args:
            chat: The id that the browser kept, or anything else for a new one.
        """
        session = Session(visitor, chat if _CHAT.fullmatch(chat) else new_chat_id())
        self._sessions[visitor, session_hash] = session
        self._sessions.move_to_end((visitor, session_hash))
        return session

    def make_room(self) -> None:
        """Let go of the tabs that are too many or too long, but of the latest."""
        chars = sum(session.conversation.chars for session in self._sessions.values())
        for key, session in list(self._sessions.items())[:-1]:
            if len(self._sessions) <= self._max_sessions and chars <= self._max_chars:
                break
            if session.live is None:
                chars -= session.conversation.chars
                del self._sessions[key]
