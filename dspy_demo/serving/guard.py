"""Who may ask a model server. It has no sessions: what counts is the name it is asked by, or a token.

A page of another site can point its own name at this machine (DNS rebinding), and then asks as if it were
at home here; but a browser always says the name. So only known names are answered.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dspy_demo.api.errors import own_error
from dspy_demo.errors import DemoError, Forbidden, SettingsError, Unauthorized
from dspy_demo.events import failed_from
from dspy_demo.logs import log_failure
from dspy_demo.settings import ENV_PREFIX
from dspy_demo.web.auth import Asking, is_loopback_name
from dspy_demo.web.tokens import same

log = logging.getLogger(__name__)

#: What tells only whether the server is up: for those who watch it.
OPEN = frozenset({"/ping", "/health", "/ready"})
TOKEN_VARIABLE = f"{ENV_PREFIX}OWNER_TOKEN"

OTHER_NAME = "The model server is not asked by this name. Allow it with --allow-host NAME."
OTHER_SITE = "A page of another site may not ask the model server."
UNKNOWN_CLIENT = "Send the model server's token in the header “Authorization: Bearer …”."
NOBODY_NAMED = (
    "Beyond this machine somebody has to be named who may ask: the names that the server is asked by with "
    f"--allow-host NAME, or a token for its clients in the variable {TOKEN_VARIABLE}."
)


class Guard:
    """ASGI middleware around a whole model server.

    A request is addressed to loopback, to the address where the server listens, or to one of `allowed`.
    Beyond loopback it brings the token, where there is one, which stands for the names unless some are given.

    Args:
        host: Where the server listens.
        allowed: Further names that it is asked by.

    Raises:
        SettingsError: It listens beyond loopback, and neither names nor a token are given.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, allowed: Collection[str] = (), token: SecretStr | None = None
    ) -> None:
        address = f"[{host}]" if ":" in host else host
        beyond = not is_loopback_name(address)
        if beyond and not allowed and token is None:
            raise SettingsError(NOBODY_NAMED)
        self._app = app
        self._names = {_name(name) for name in (*allowed, address)}
        self._token = token if beyond else None
        self._any_name = self._token is not None and not allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                self._check(Asking(dict(Request(scope).headers)))
            except DemoError as error:
                log_failure(log, "request refused", error, route=scope["path"])
                await own_error(failed_from(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, asking: Asking) -> None:
        host = asking.headers.get("host", "").lower()
        origin = asking.headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
            raise Forbidden(OTHER_SITE)
        if self._token is not None and not same(asking.bearer, self._token.get_secret_value()):
            raise Unauthorized(UNKNOWN_CLIENT)
        if not (self._any_name or is_loopback_name(host) or _name(host) in self._names):
            raise Forbidden(OTHER_NAME)


def _name(host: str) -> str:
    """The name in a ``Host`` header, without its port; empty where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
