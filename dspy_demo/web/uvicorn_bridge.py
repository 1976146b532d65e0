"""The connections of a server of ours, bounded in number and in the time to their first request.

`H11Protocol` is undocumented, its methods are asyncio's own. Without this the app works, and a client that
opens connections and sends nothing uses up the file descriptors: tests/web/test_attacks.py fails.
"""

from __future__ import annotations

import asyncio
import re
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol

FIRST_HEAD_S = 15.0  # for the first head of a connection to arrive
#: Seconds in which a client takes nothing of what was sent; then the kernel (Linux) ends its connection.
STALLED_S = 60.0


def bounded_protocol(max_connections: int) -> type[asyncio.Protocol]:
    """What ``uvicorn.Config(http=...)`` takes. The oldest connection without a request makes room."""
    places: set[asyncio.Transport] = set()
    silent: dict[asyncio.Transport, asyncio.TimerHandle] = {}  # without a whole head so far, oldest first

    def leave(transport: asyncio.Transport) -> None:
        places.discard(transport)
        if timer := silent.pop(transport, None):
            timer.cancel()

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._mine, self._head = transport, b""
            if len(places) >= max_connections:
                (last := next(iter(silent), transport)).abort()
                leave(last)
                if last is transport:
                    return
            places.add(transport)
            silent[transport] = asyncio.get_running_loop().call_later(FIRST_HEAD_S, transport.abort)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
                transport.get_extra_info("socket").setsockopt(*option)

        def data_received(self, data: bytes) -> None:
            if self._mine in silent:
                self._head = self._head[-2:] + data
                if re.search(rb"\n\r?\n", self._head):
                    silent.pop(self._mine).cancel()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            leave(self._mine)
            super().connection_lost(exc)

    return BoundedProtocol
