"""Decides who a request is from. Never by its network address: a tunnel arrives from loopback."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import SecretStr

from dspy_demo.events import Visitor
from dspy_demo.settings import Settings
from dspy_demo.web.tokens import KEY_BYTES, Attempts, OwnerLink, Sessions, same, stored_key

#: Headers that a proxy or a tunnel adds. Behind one, a visitor is not the person at this machine.
FORWARDING = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

LOCAL_OWNER = Visitor("owner", "owner")


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request says of itself. Header names are lower case."""

    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)

    @property
    def bearer(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def at_this_machine(self) -> bool:
        """Addressed to loopback by name, and by nobody in between. A page of another site that points its
        own name at 127.0.0.1 (DNS rebinding) still sends that name.
        """
        forwarded = any(name in self.headers for name in FORWARDING)
        return not forwarded and is_loopback_name(self.headers.get("host", ""))


class Gate:
    """Tells owner from guest.

    - While the app is not public, whoever reaches it at this machine's loopback address is the owner.
    - Else the owner has a session from the one-time link, or the owner's token.
    - A guest has a session from the page (after the password, where there is one), or the guests' token.

    Args:
        port: Where the app listens; cookies are shared by all ports of a host, so it is in their name.

    Attributes:
        on_outside: Called when a page is opened through a proxy or by another name, while the app is not
            public. Whoever did so is a guest, and perhaps the owner.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.owner_token = settings.owner_token or SecretStr(secrets.token_urlsafe(32))
        self.link = OwnerLink()
        self.on_outside: Callable[[], None] = lambda: None
        self._attempts = Attempts()
        self.cookie_name = f"dspy-demo-{port}"
        self._always_public = settings.public or not is_loopback_name(settings.host)
        self._shared = False
        self.sessions = Sessions(_session_key(settings))

    @property
    def public(self) -> bool:
        """Whether strangers can reach the app, so that being here proves nothing."""
        return self._always_public or self._shared

    def share(self, shared: bool) -> None:
        """A public link is about to open, or has closed.

        Who was the owner by being here stays it by the session of the page.
        """
        self._shared = shared

    def visitor(self, asking: Asking) -> Visitor | None:
        """Who asks, or None for a stranger without session or token."""
        if asking.bearer and (known := self._by_token(asking.bearer)):
            return known
        session = self.sessions.visitor(asking.cookies.get(self.cookie_name, ""))
        is_owner = session is not None and session.role == "owner"
        if not is_owner and not self.public and asking.at_this_machine:
            return LOCAL_OWNER
        return session

    def _by_token(self, token: str) -> Visitor | None:
        if same(token, self.owner_token.get_secret_value()):
            return Visitor("owner", "owner-token")
        guests = self.settings.guest_token
        if guests is not None and same(token, guests.get_secret_value()):
            return Visitor("guest", "guest-token")
        return None

    @property
    def asks_password(self) -> bool:
        return self.settings.guest_password is not None

    def password_fits(self, text: str) -> bool:
        """Whether a guest may come in.

        Raises:
            TooManyAttempts: Too many wrong ones were tried.
        """
        password = self.settings.guest_password
        return password is not None and self._attempts.fits(text, password.get_secret_value())

    def owner_link(self, base_url: str) -> str:
        """The link that makes the next browser that uses it the owner's."""
        return f"{base_url.rstrip('/')}/?token={self.link.code}"


def is_loopback_name(host: str) -> bool:
    """Whether a host, with or without a port, means this machine and nothing else."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _session_key(settings: Settings) -> bytes:
    """Sessions outlive a restart where the owner fixed a token; another token or password ends them all.

    Those two are not enough for a key: whoever holds a cookie could try words on it for as long as they like.
    """
    if settings.owner_token is None:
        return secrets.token_bytes(KEY_BYTES)
    password = settings.guest_password.get_secret_value() if settings.guest_password else ""
    fixed = f"{settings.owner_token.get_secret_value()} {password}"
    return stored_key(settings.data_dir) + fixed.encode("utf-8", "surrogatepass")
