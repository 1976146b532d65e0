"""Whose each session of Gradio is.

A page that is loaded makes up a short name for itself, the session hash, and sends it with all it asks.
Gradio gives whoever knows the name the events of that page. It stands in addresses, so in the logs of
proxies; here it belongs to the visitor who used it first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dspy_demo.errors import Forbidden, InvalidInput, NotFound, TooManyOpen
from dspy_demo.events import Visitor

#: Sessions that are remembered. The oldest one without an open stream makes room.
MOST_SESSIONS = 10_000
#: Gradio's own have 11 and 36 characters.
HASH_MAX_CHARS = 64
#: Pages that one visitor may keep alive.
MOST_HEARTBEATS = 20

OTHERS = "This page is another visitor's. Reload to get your own."
UNKNOWN = "This page is not known here any more. Reload it."


@dataclass(slots=True)
class _Session:
    visitor: Visitor
    streams: int = 0
    has_heartbeat: bool = False


class PageSessions:
    """The sessions of all pages, the owner's and the guests': Gradio finds their tasks by the hash alone."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def claim(self, session_hash: str, visitor: Visitor) -> None:
        """A visitor uses a session, and begins it where it is new.

        Raises:
            Forbidden: It is another visitor's.
            InvalidInput: No page has such a hash.
            TooManyOpen: There are too many sessions.
        """
        if len(session_hash) > HASH_MAX_CHARS:
            raise InvalidInput("This is no session hash.")
        if session_hash in self._sessions:
            self.check(session_hash, visitor)
            return
        if len(self._sessions) >= MOST_SESSIONS:
            self._forget_one()
        self._sessions[session_hash] = _Session(visitor)

    def check(self, session_hash: str, visitor: Visitor) -> None:
        """A visitor asks for a session that must have begun.

        Raises:
            Forbidden: It is another visitor's.
            NotFound: Nobody has begun it.
        """
        session = self._sessions.get(session_hash)
        if session is None:
            raise NotFound(UNKNOWN)
        if not _same(session.visitor, visitor):
            raise Forbidden(OTHERS)
        self._sessions.move_to_end(session_hash)

    @contextmanager
    def stream(self, session_hash: str, visitor: Visitor) -> Iterator[None]:
        """The events of a session, while they are sent. It is not forgotten meanwhile."""
        self.check(session_hash, visitor)
        session = self._sessions[session_hash]
        session.streams += 1
        try:
            yield
        finally:
            session.streams -= 1

    @contextmanager
    def heartbeat(self, session_hash: str, visitor: Visitor) -> Iterator[None]:
        """The stream that keeps a page alive; a page opens it before all else. Gradio ends a session with it,
        so that one more is refused and an open one left alone.

        Raises:
            Forbidden: The session is another visitor's.
            TooManyOpen: It has one already, or its visitor has too many.
        """
        self.claim(session_hash, visitor)
        session = self._sessions[session_hash]
        alive = sum(one.has_heartbeat for one in self._sessions.values() if _same(one.visitor, visitor))
        if session.has_heartbeat or alive >= MOST_HEARTBEATS:
            raise TooManyOpen("You have too many pages open. Close some, then reload this one.")
        session.has_heartbeat = True
        try:
            with self.stream(session_hash, visitor):
                yield
        finally:
            session.has_heartbeat = False

    def _forget_one(self) -> None:
        idle = next((name for name, session in self._sessions.items() if not session.streams), None)
        if idle is None:
            raise TooManyOpen()
        del self._sessions[idle]


def _same(one: Visitor, other: Visitor) -> bool:
    """The owner is one person, with a session or by being at this machine."""
    return one == other or one.role == other.role == "owner"
