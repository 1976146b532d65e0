"""Who a request is from: the owner or a guest. Never by its address: a tunnel arrives from loopback."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner
from pydantic import SecretStr
from starlette.requests import Request

from dspy_demo.errors import Forbidden, TooManyAttempts
from dspy_demo.events import Visitor
from dspy_demo.settings import Settings

Role = Literal["owner", "guest"]

#: Headers that a proxy or a tunnel adds. Behind one, a visitor is not the person at this machine.
FORWARDING = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
LOCAL_OWNER = Visitor("owner", "owner")
#: A session ends with the longest life of a Gradio link.
SESSION_S = 7 * 24 * 3600
KEY_BYTES = 32


class Auth:
    """Tells owner from guest: each has a session, from the one-time link or the page, or a token.

    While the app is not public, whoever reaches it at this machine's loopback address is the owner too.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.owner_token = settings.owner_token or SecretStr(secrets.token_urlsafe(32))
        self.cookie_name = f"dspy-demo-{port}"  # all ports of a host share their cookies
        self.link_code = secrets.token_urlsafe(32)  # in the owner's link, which works once
        self.on_link_used: Callable[[], None] = lambda: None  # there is another one now
        self.on_outside: Callable[[], None] = lambda: None  # a stranger opens the page
        self.shared = False  # a public link is about to open; the owner's open pages have sessions
        self._wrong_passwords: list[float] = []
        key = _session_key(settings)
        self._signer = TimestampSigner(key, salt="dspy-demo session", digest_method=hashlib.sha256)

    @property
    def public(self) -> bool:
        """Whether strangers can reach the app, so that being here proves nothing."""
        return self.shared or self.settings.public or not is_loopback_name(self.settings.host)

    def visitor(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Visitor | None:
        """Who asks, or None for a stranger without session or token. Header names are lower case."""
        token = bearer(headers)
        if token and same(token, self.owner_token):
            return Visitor("owner", "owner-token")
        if token and same(token, self.settings.guest_token):
            return Visitor("guest", "guest-token")
        session = self.session(cookies)
        if self.public or is_owner(session) or any(name in headers for name in FORWARDING):
            return session
        # A page of another site that points its own name at 127.0.0.1 (DNS rebinding) still sends that name.
        return LOCAL_OWNER if is_loopback_name(headers.get("host", "")) else session

    def new_session(self, role: Role) -> str:
        """A signed cookie, so that a stranger without one costs no memory."""
        return self._signer.sign(f"{role}.{secrets.token_hex(16)}").decode()

    def session(self, cookies: Mapping[str, str]) -> Visitor | None:
        """Who holds the cookie; None where it is not ours, or too old."""
        try:
            cookie = self._signer.unsign(cookies.get(self.cookie_name, ""), max_age=SESSION_S)
        except (BadSignature, UnicodeError):
            return None
        role, _, identity = cookie.decode().partition(".")
        return Visitor(cast(Role, role), hashlib.sha256(identity.encode()).hexdigest()[:12])

    def password_fits(self, guess: str) -> bool:
        """Judge a guess and count it in one step, unless there were `TooManyAttempts`."""
        now = time.monotonic()
        self._wrong_passwords = [at for at in self._wrong_passwords if now - at < 60]
        if len(self._wrong_passwords) >= 20:  # of everybody together
            raise TooManyAttempts()
        if same(guess, self.settings.guest_password):
            return True
        self._wrong_passwords.append(now)
        return False

    def owner_link(self, base_url: str) -> str:
        return f"{base_url.rstrip('/')}/?token={self.link_code}"

    def use_link(self, code: str) -> bool:
        """Whether this is the code of the owner's link, which it is for the last time."""
        if fits := same(code, self.link_code):
            self.link_code = secrets.token_urlsafe(32)
            self.on_link_used()
        return fits


def is_owner(visitor: Visitor | None) -> bool:
    return visitor is not None and visitor.role == "owner"


def asked_by_owner(request: Request) -> bool:
    """A model server knows no guests: whoever gets in there is the owner."""
    return is_owner(getattr(request.state, "visitor", LOCAL_OWNER))


def owner_only(request: Request) -> None:
    if not asked_by_owner(request):
        raise Forbidden()


def bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def same(given: str, expected: str | SecretStr | None) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    if expected is None:
        return False
    secret = expected if isinstance(expected, str) else expected.get_secret_value()
    return secrets.compare_digest(*(text.encode("utf-8", "surrogatepass") for text in (given, secret)))


def is_loopback_name(host: str) -> bool:
    """Whether a host, with or without a port, means this machine and nothing else."""
    name = host_name(host)
    with suppress(ValueError):
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    return False


def host_name(host: str) -> str:
    """The name in a ``Host`` header, without its port; empty where there is none."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def _session_key(settings: Settings) -> bytes:
    """Sessions outlive a restart where the owner fixed a token; another token or password ends them all.

    Those two alone would be no key: whoever holds a cookie could try words on it.
    """
    if settings.owner_token is None:
        return secrets.token_bytes(KEY_BYTES)
    fixed = [one and one.get_secret_value() for one in (settings.owner_token, settings.guest_password)]
    return stored_key(settings.data_dir) + repr(fixed).encode()


def stored_key(folder: Path) -> bytes:
    """The key that is kept in `folder`; a new one each time where none can be kept there."""
    path, key = folder / "session.key", secrets.token_bytes(KEY_BYTES)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.touch(0o600, exist_ok=False)
            path.write_bytes(key)
        kept = path.read_bytes()
        return kept if len(kept) == KEY_BYTES else key
    return key
