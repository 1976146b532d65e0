"""What proves who somebody is: session cookies, the owner's one-time link, and tokens for scripts."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal, cast

from itsdangerous import BadSignature, TimestampSigner

from dspy_demo.errors import TooManyAttempts
from dspy_demo.events import Visitor

Role = Literal["owner", "guest"]

#: A session ends with the longest life of a Gradio link.
SESSION_S = 7 * 24 * 3600
KEY_BYTES = 32


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def stored_key(folder: Path) -> bytes:
    """The key that is kept in `folder`; a new one each time where none can be kept there."""
    path = folder / "session.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with NamedTemporaryFile(dir=folder) as made:  # for this user's eyes
                made.write(secrets.token_bytes(KEY_BYTES))
                made.flush()
                with contextlib.suppress(FileExistsError):  # another app was quicker
                    path.hardlink_to(made.name)
        key = path.read_bytes()
    except OSError:
        key = b""
    return key if len(key) == KEY_BYTES else secrets.token_bytes(KEY_BYTES)


class Sessions:
    """Signed cookies ``role.id``: a stranger without one costs no memory here.

    Args:
        key: The same key keeps sessions across a restart.
    """

    def __init__(self, key: bytes) -> None:
        self._signer = TimestampSigner(key, salt="dspy-demo session", digest_method=hashlib.sha256)

    def issue(self, role: Role) -> str:
        """A new session's cookie."""
        return self._signer.sign(f"{role}.{secrets.token_hex(16)}").decode()

    def visitor(self, cookie: str) -> Visitor | None:
        """Who holds this cookie; None where it is not ours, or too old."""
        try:
            role, _, identity = self._signer.unsign(cookie, max_age=SESSION_S).decode().partition(".")
        except (BadSignature, UnicodeError):
            return None
        return Visitor(cast(Role, role), _digest(identity).hex()[:12])


class OwnerLink:
    """The code in the link that makes a browser the owner's. It works once; then there is another.

    Args:
        on_used: Called after each use, to print the next link.
    """

    def __init__(self, on_used: Callable[[], None] = lambda: None) -> None:
        self.code = secrets.token_urlsafe(32)
        self.on_used = on_used

    def fits(self, code: str) -> bool:
        """Whether this is the code. It is not used up by that."""
        return same(code, self.code)

    def redeem(self, code: str) -> bool:
        if not self.fits(code):
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

    def fits(self, guess: str, password: str) -> bool:
        """Judge a guess and count it, in one step: nothing else can run between the two.

        Raises:
            TooManyAttempts: There were too many wrong ones; this one is not looked at.
        """
        self._wrong = [at for at in self._wrong if self._clock() - at < self._within_s]
        if len(self._wrong) >= self._most:
            raise TooManyAttempts()
        if same(guess, password):
            return True
        self._wrong.append(self._clock())
        return False
