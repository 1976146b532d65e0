"""The response headers that keep markup, should any get into the page, from running, loading and sending."""

from __future__ import annotations

import base64
import hashlib
import re

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
        """The page is taken whole and plain, since its scripts change with the address it is asked by."""
        is_page = scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET"
        if is_page:
            plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            scope = {**scope, "headers": plain}
        start: Message = {}
        body = b""

        async def answer(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                if not is_page:
                    await send(self._with_headers(start, []))
                return
            if is_page:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                own = [*script_hashes(body.decode("utf-8", "replace")), *self._own]
                await send(self._with_headers(start, own))
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self._app(scope, receive, answer)

    def _with_headers(self, start: Message, scripts: list[str]) -> Message:
        policy = self._policy | {"script-src": " ".join([POLICY["script-src"], *scripts])}
        header = "; ".join(f"{name} {value}" for name, value in policy.items())
        MutableHeaders(scope=start).update(OTHERS | {"content-security-policy": header})
        return start
