"""What the splitters share: their result, and where they write it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of one field: an increment, never cumulative and never empty."""

    field: str
    text: str


class Sink:
    """Collects the text of the fields that were asked for, of each its first occurrence.

    Args:
        fields: The signature's output fields.
        strip: Stream ``str.strip`` of each field: white space waits until something else follows it.

    Attributes:
        field: The open field; None between fields and inside one that nobody wants.
    """

    __slots__ = ("_out", "_pieces", "_space", "_started", "_strip", "_unseen", "field")

    def __init__(self, fields: Iterable[str], *, strip: bool) -> None:
        self._unseen = set(fields)
        self._strip = strip
        self.field: str | None = None
        self._started = False
        self._space: list[str] = []
        self._out: list[str] = []
        self._pieces: list[Piece] = []

    def open(self, name: str) -> None:
        """Whatever is written from here on belongs to `name`."""
        self.close()
        if name in self._unseen:
            self._unseen.discard(name)
            self.field = name

    def close(self) -> None:
        """The open field is complete; the white space at its end is dropped."""
        if self.field is not None and self._out:
            self._pieces.append(Piece(self.field, "".join(self._out)))
            self._out.clear()
        self.field = None
        self._started = False
        self._space.clear()

    def write(self, text: str) -> None:
        """Adds to the open field, if any."""
        if self.field is None or not text:
            return
        if self._strip:
            body = text.rstrip()
            if not body:
                if self._started:
                    self._space.append(text)
                return
            tail = text[len(body) :]
            if not self._started:
                self._started = True
                body = body.lstrip()
            elif self._space:
                self._out += self._space
                self._space.clear()
            if tail:
                self._space.append(tail)
            text = body
        self._out.append(text)

    def send(self, text: str) -> list[Piece]:
        """`write` and `take` at once, where nothing is left to take: a short way for the common chunk."""
        if self._started and self.field is not None and not self._space and text and not text[-1].isspace():
            return [Piece(self.field, text)]
        self.write(text)
        return self.take()

    def drop_space(self) -> None:
        """Forget the white space that waits."""
        self._space.clear()

    def take(self) -> list[Piece]:
        """The pieces since the last call."""
        out = self._out
        if out:
            # Outside a field there is no text, so this is its owner.
            self._pieces.append(Piece(self.field or "", out[0] if len(out) == 1 else "".join(out)))
            out.clear()
        elif not self._pieces:
            return []
        pieces, self._pieces = self._pieces, []
        return pieces
