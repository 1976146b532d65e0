"""The response headers that say what a browser may do with what this app sends, each with its reason.

If somebody's markup got into the page, they would keep it from running, loading and sending anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
#: What the page may load, run, talk to and be shown in: nothing of another host.
POLICY = {
    "default-src": "'self'",
    # The page's own inline scripts are added by their hash. `gr.HTML` compiles its template by eval.
    "script-src": "'self' 'unsafe-eval'",
    # Svelte and KaTeX set styles on elements. What such a style could fetch is bounded below.
    "style-src": "'self' 'unsafe-inline'",
    # No picture from elsewhere: its address could carry the chat away.
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "media-src": "'none'",
    "object-src": "'none'",
    "frame-src": "'none'",
    "worker-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",  # another site could lay the page under its own and steal clicks
}
OTHERS = {
    "x-content-type-options": "nosniff",  # JSON with markup in it is no page
    # The address may hold a one-time token. Not `no-referrer`: then the password form has “Origin: null”.
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), clipboard-write=(self)",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def script_hashes(html: str) -> list[str]:
    """The sources of a policy that allow just the inline scripts of `html`, by their SHA-256."""
    digests = [hashlib.sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(html)]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


class ResponseHeaders:
    """ASGI middleware that puts these headers on every answer.

    `head` is the HTML that Gradio adds to the page's head from a script; with `embed` any site may show it.
    """

    def __init__(self, app: ASGIApp, *, head: str, embed: bool) -> None:
        self._app = app
        self._own = script_hashes(head)
        self._policy = POLICY | ({"frame-ancestors": "'self' https:"} if embed else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            await self._page(scope, receive, send)
            return

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(message)
            await send(message)

        await self._app(scope, receive, sender)

    def _add(self, start: Message, hashes: Sequence[str] = ()) -> None:
        policy = self._policy | {"script-src": " ".join([POLICY["script-src"], *hashes])}
        header = "; ".join(f"{name} {value}" for name, value in policy.items())
        MutableHeaders(scope=start).update(OTHERS | {"content-security-policy": header})

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page whole and plain, since its scripts change with the address that it is asked by."""
        plain = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        start: Message = {}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(plain, receive, collect)
        if not start:  # who asked has gone
            return
        body = b"".join(parts)
        self._add(start, [*script_hashes(body.decode("utf-8", "replace")), *self._own])
        await send(start)
        await send({"type": "http.response.body", "body": body})
