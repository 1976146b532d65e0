"""What proves who somebody is: session cookies, the owner's one-time link, and tokens for scripts."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Literal, cast

from dspy_demo.events import Visitor

Role = Literal["owner", "guest"]

#: A session ends with the longest life of a Gradio link.
SESSION_S = 7 * 24 * 3600.0


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Sessions:
    """Signed cookies ``role.id.issued.signature``: a stranger without one costs no memory here.

    Args:
        seed: What the key is made of: the same seed keeps sessions across a restart, none at all ends them.
        clock: Seconds since the epoch.
    """

    def __init__(self, seed: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self._key = _digest(f"dspy-demo session {seed}") if seed else secrets.token_bytes(32)
        self._clock = clock

    def issue(self, role: Role) -> str:
        """A new session's cookie."""
        body = f"{role}.{secrets.token_hex(16)}.{int(self._clock())}"
        return f"{body}.{self._signature(body)}"

    def visitor(self, cookie: str) -> Visitor | None:
        """Who holds this cookie; None where it is not ours, or too old."""
        body, _, signature = cookie.rpartition(".")
        if not same(signature, self._signature(body)):
            return None
        role, identity, issued = body.split(".")  # ours, so it has these parts
        if not 0 <= self._clock() - int(issued) + 60 <= SESSION_S:
            return None
        return Visitor(cast(Role, role), _digest(identity).hex()[:12])

    def _signature(self, body: str) -> str:
        return hmac.new(self._key, body.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


class OwnerLink:
    """The code in the link that makes a browser the owner's. It works once; then there is another.

    Args:
        on_used: Called after each use, to print the next link.
    """

    def __init__(self, on_used: Callable[[], None] = lambda: None) -> None:
        self.code = secrets.token_urlsafe(32)
        self.on_used = on_used

    def redeem(self, code: str) -> bool:
        if not same(code, self.code):
            return False
        self.code = secrets.token_urlsafe(32)
        self.on_used()
        return True


class Attempts:
    """Bounds how often a password may be guessed, by everybody together."""

    def __init__(
        self, *, most: int = 20, within_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._wrong: list[float] = []

    @property
    def exhausted(self) -> bool:
        self._wrong = [at for at in self._wrong if self._clock() - at < self._within_s]
        return len(self._wrong) >= self._most

    def failed(self) -> None:
        self._wrong.append(self._clock())
