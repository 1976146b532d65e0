"""The connections of a server of ours: none of them is held open by a client that does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol

from dspy_demo.settings import Settings

#: For a route to say itself that a body came too slowly.
GRACE_S = 1.0
#: Uvicorn's own 5 s are also what httpx keeps a connection for, so that a call in just that moment is reset.
IDLE_S = 20


def bounded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """What ``uvicorn.Config(http=...)`` takes: its own protocol, with an end for slow and stalled clients.

    Uvicorn (0.54) closes an idle connection, but waits for ever for the rest of a request's head, and for a
    client that reads nothing: even a response that was given up stays until its buffer is empty, which is
    never. A body that comes too slowly is refused by the routes that want one; a moment later the connection
    ends for all others, such as those of the page.
    """

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.timeout_keep_alive = IDLE_S
            self._head = _Deadline(settings.request_timeout_s, transport.abort)
            self._body = _Deadline(settings.request_timeout_s + GRACE_S, transport.abort)
            self._reading = _Deadline(settings.stalled_client_timeout_s, self._end_if_stalled)
            self._unread = 0
            self._head.set()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._body.call_off()
                self._head.set()  # or it is the rest of a body that nobody reads
            else:
                self._head.call_off()
                (self._body.set if self.cycle.more_body else self._body.call_off)()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = _unread_bytes(self.transport)
            self._reading.set()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._reading.call_off()

        def _end_if_stalled(self) -> None:
            """A slow line takes long to empty a buffer of megabytes, but some of it all the time."""
            before, self._unread = self._unread, _unread_bytes(self.transport)
            if self._unread < before:
                self._reading.set()
            else:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.call_off()
            self._body.call_off()
            self._reading.call_off()
            super().connection_lost(exc)

    return BoundedProtocol


def _unread_bytes(transport: asyncio.Transport) -> int:
    """What the client's machine has not acknowledged, ours and the kernel's."""
    unread = transport.get_write_buffer_size()
    with contextlib.suppress(OSError):  # not every kernel tells
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        unread += int.from_bytes(queued, sys.byteorder)
    return unread


class _Deadline:
    """Calls `end` after some seconds, unless it is called off."""

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self._seconds = seconds
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._over)

    def _over(self) -> None:
        self._timer = None
        self._end()

    def call_off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
