"""Server-sent events out of bytes, however they are cut."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dspy_demo.errors import ReplyTooLong

#: Longest event. The last one of a turn holds all of its text; a real one has some kilobytes.
EVENT_MAX_BYTES = 8 * 1024 * 1024
TOO_LONG = "The model server sent an answer that is too long to be shown."
_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventStreamParser:
    """Gives the data of each event as soon as its empty line is there.

    By the standard (html.spec.whatwg.org, 9.2.6): lines end in CR, LF or both; lines of comments and of
    fields other than ``data`` are skipped; several data lines are one text; what the end of the stream cuts
    off is dropped.
    """

    def __init__(self, *, event_max_bytes: int = EVENT_MAX_BYTES) -> None:
        self._event_max_bytes = event_max_bytes
        self._begun: list[bytes] = []  # pieces of a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._size = 0  # of both
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that `chunk` completes.

        Raises:
            ReplyTooLong: Before more than the limit is kept.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a line end
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        for piece in ended:
            line = b"".join([*self._begun, piece])
            self._begun.clear()
            if line.startswith(b"data:"):
                self._grow(len(line))
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                data, self._data, self._size = self._data, [], 0
                if data:
                    yield b"\n".join(data)
        if rest:
            self._begun.append(rest)
            self._grow(len(rest))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._event_max_bytes:
            raise ReplyTooLong(TOO_LONG)
