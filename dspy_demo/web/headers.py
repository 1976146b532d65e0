"""The response headers that say what a browser may do with what this app sends, each with its reason.

They are the second wall: `ui.chat.text` lets no markup of others into the page, and if some
got through, the policy keeps it from running, from loading anything and from sending anything away.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The one page of Gradio; no other answer of the app has scripts in it.
PAGE = "/"

_INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def response_headers(
    script_hashes: Iterable[str] = (), frame_ancestors: Sequence[str] = ()
) -> dict[str, str]:
    """The headers for an answer of the app.

    Args:
        script_hashes: The scripts that stand in the page itself; see `script_hashes`.
        frame_ancestors: Origins that may show the page in a frame, such as ``https://huggingface.co`` for a
            Space.
    """
    policy = _content_policy(script_hashes, frame_ancestors)
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        # An answer is what its type says, whatever it looks like: JSON with markup in it is no page.
        "x-content-type-options": "nosniff",
        # A followed link does not tell its host where it stood: the address may hold a one-time token. Not
        # `no-referrer`, with which a browser sends “Origin: null” with the password form.
        "referrer-policy": "same-origin",
        # The page needs none of the machine's senses; copying is allowed.
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), "
        "display-capture=(), clipboard-write=(self)",
        # A page that opened this one, or that this one opened, has no handle on it. Our links say
        # `noopener`, so nothing is lost. (Browsers take it over https and on localhost only.)
        "cross-origin-opener-policy": "same-origin",
        # Other sites cannot use our answers as their pictures or scripts, and so cannot read them by that.
        "cross-origin-resource-policy": "same-origin",
    }


def _content_policy(script_hashes: Iterable[str], frame_ancestors: Sequence[str]) -> dict[str, str]:
    """What the page may load, run, talk to and be shown in."""
    return {
        # Nothing from another host, of whatever kind, unless a line below says so.
        "default-src": "'self'",
        # Gradio's files, and those scripts in the page whose text we know. Not 'unsafe-inline': an `onerror=`
        # or a `<script>` that came in with a text cannot run. 'unsafe-eval' is for `gr.HTML`, which compiles
        # its template and our `actions.js` in the browser; eval needs a script that runs already.
        "script-src": " ".join(["'self'", "'unsafe-eval'", *script_hashes]),
        # Svelte and KaTeX set styles on elements. What such a style could fetch is bounded below.
        "style-src": "'self' 'unsafe-inline'",
        # No picture from elsewhere: its address could carry the chat away. Icons are data: URLs.
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        # The page talks to its own server and to nobody else.
        "connect-src": "'self'",
        # The page has none of these.
        "media-src": "'none'",
        "object-src": "'none'",
        "frame-src": "'none'",
        "worker-src": "'none'",
        # A `<base>` would turn every relative address of the page; a form would send its fields elsewhere.
        "base-uri": "'self'",
        "form-action": "'self'",
        # Another site could lay the page under its own and steal clicks (Serve, Promote).
        "frame-ancestors": " ".join(["'self'", *frame_ancestors]),
    }


def script_hashes(html: str) -> list[str]:
    """The sources of a policy that allow just the inline scripts of `html`, by their SHA-256."""
    return [f"'sha256-{_sha256(script)}'" for script in _INLINE_SCRIPT.findall(html)]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class ResponseHeaders:
    """ASGI middleware that puts `response_headers` on every answer. It has to be the outermost one.

    The page is taken whole and uncompressed, since the scripts in it change with the address that it is
    asked by: Gradio writes that into its configuration.

    Args:
        head: The HTML that Gradio adds to the page's head from a script (``launch(head=...)``).
    """

    def __init__(self, app: ASGIApp, *, head: str = "", frame_ancestors: Sequence[str] = ()) -> None:
        self._app = app
        self._own = script_hashes(head)
        self._frame_ancestors = tuple(frame_ancestors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == PAGE and scope["method"] == "GET":
            await self._page(scope, receive, send)
        else:
            await self._app(scope, receive, self._adding(send))

    def _adding(self, send: Send, hashes: Sequence[str] = ()) -> Send:
        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(response_headers(hashes, self._frame_ancestors))
            await send(message)

        return sender

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        zipped = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        plain = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        start: Message = {}
        parts: list[bytes] = []

        async def sender(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send_page(start, b"".join(parts), send, zipped=zipped)

        await self._app(plain, receive, sender)

    async def _send_page(self, start: Message, body: bytes, send: Send, *, zipped: bool) -> None:
        hashes = [*script_hashes(body.decode("utf-8", "replace")), *self._own]
        headers = MutableHeaders(scope=start)
        headers.add_vary_header("accept-encoding")
        if zipped and body and "content-encoding" not in headers:
            body = gzip.compress(body, 5)
            headers["content-encoding"] = "gzip"
        if body:
            headers["content-length"] = str(len(body))
        sender = self._adding(send, hashes)
        await sender(start)
        await sender({"type": "http.response.body", "body": body})
