"""Gradio's tunnel, as `tunnel.Tunnel` runs it: what to start, and what its output means.

Its program is a fork of frpc (huggingface/frp): ``start proxy success: URL`` when the link is there, also
with another one after it was cut off; ``login to server failed: WHY``; ``start error: WHY``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dspy_demo.errors import ShareFailed
from dspy_demo.processes import plain_environment
from dspy_demo.share.tunnel import NOT_WRITABLE, Notice

#: Gradio's server ends a link after a week.
LINK_LASTS_S = 7 * 24 * 3600.0

_TRY = "Check the internet connection and try again, or name a server of your own with --share-server."
_BY_HAND = "Or copy Gradio's frpc from another machine to the place that the log names."
UNREACHABLE = f"Gradio's share service cannot be reached from here. {_TRY}"
CUT = "The share server cannot be reached: the network seems to block it, or the server is down."
REFUSED = "The share server refused to open a link. Try again in a moment."
NOT_TRUSTED = "The share server did not prove who it is: its certificate is not the expected one."
NOT_DOWNLOADED = f"The tunnel program could not be downloaded. Try again. {_BY_HAND}"
DAMAGED = (
    f"The tunnel program that was downloaded is not the one that Gradio published. Try again. {_BY_HAND}"
)
NO_PROGRAM = "Gradio has no tunnel program for this kind of machine. Use a proxy of your own with --public."
NOT_RUNNABLE = f"The tunnel program cannot be run. Remove it from the place that the log names. {_BY_HAND}"
ENDED = "The tunnel program ended before there was a link. Try again."
NO_ADDRESS = "The share server gave a link that is not a web address. Try again."

#: What the output of a failed attempt says, and the sentence for it. The first that fits counts.
_REASONS = (
    (r"x509|certificate signed|tls:", NOT_TRUSTED),
    (
        r"login to (the )?server failed.*"
        r"(timeout|refused|no such host|unreachable|no route|connection reset|EOF|dial tcp|lookup)",
        CUT,
    ),
    (r"login to (the )?server failed|\] start error:", REFUSED),
    (r"Could not get share link", UNREACHABLE),
    (r"ChecksumMismatchError", DAMAGED),
    (r"ShareCertificateWriteError", NOT_WRITABLE),
    (r"platform is incompatible", NO_PROGRAM),
    (r"(HTTPStatus|Connect|Read|Proxy|RemoteProtocol)Error:|Timeout: ", NOT_DOWNLOADED),
    (r"(Permission|OS|FileNotFound)Error:", NOT_RUNNABLE),
)
_SUCCESS = re.compile(r"start proxy success: (\S+)")
_FAILED = re.compile(r"login to (?:the )?server failed|\] start error:")
_INTERRUPTED = re.compile(r"try to reconnect to server|reconnect to server error|connect to server error")


class GradioTunnel:
    """The tunnel to Gradio's share server, or to one of the user's own.

    Args:
        server: ``HOST:PORT`` of an own server; None for one that Gradio names.
    """

    def __init__(self, server: str | None) -> None:
        self._server = server
        self.lasts_s = LINK_LASTS_S if server is None else None

    def command(self, host: str, port: int) -> list[str]:
        own = [self._server] if self._server else []
        return [sys.executable, "-P", "-m", "dspy_demo.share.gradio_bridge", host, str(port), *own]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The way to the network and to Gradio's files; no key, token or password is in it."""
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, environ.get("PYTHONPATH", "")]))
        ours = {"PYTHONPATH": path, "GRADIO_ANALYTICS_ENABLED": "False"}
        ours |= {name: environ[name] for name in ("HF_HOME", "XDG_CACHE_HOME") if name in environ}
        return plain_environment(environ) | ours

    def read(self, line: str) -> Notice | None:
        """The meaning of a line of the output; None where it has none.

        Raises:
            ShareFailed: The link in it is none.
        """
        if success := _SUCCESS.search(line):
            return Notice("link", self._public(success[1]))
        if _FAILED.search(line):
            return Notice("failed", self.why_ended(1, line))
        return Notice("interrupted") if _INTERRUPTED.search(line) else None

    def why_ended(self, code: int, log: str) -> str:
        """The sentence for an attempt that ended without a link."""
        return next((sentence for pattern, sentence in _REASONS if re.search(pattern, log)), ENDED)

    def _public(self, printed: str) -> str:
        """The link as visitors need it: the program does not know of the TLS before Gradio's server."""
        try:
            parts = urlsplit(printed)
            named = parts.scheme in {"http", "https"} and parts.hostname
        except ValueError:
            named = None
        if not named:
            raise ShareFailed(NO_ADDRESS)
        return parts._replace(scheme="http" if self._server else "https").geturl()
