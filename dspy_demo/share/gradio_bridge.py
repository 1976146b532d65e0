"""Gradio's tunnel: what to start for `tunnel.Tunnel`, and what its output means.

What is started is this module: ``python -m dspy_demo.share.gradio_bridge HOST PORT [SERVER:PORT]``. Gradio's
`setup_tunnel` blocks, writes into the working folder, and goes on asking a tunnel program that has died; all
of that ends with the process. The program, a fork of frpc (huggingface/frp), prints ``start proxy success:
URL`` when the link is there, also another one after it was cut off; ``login to server failed: WHY``;
``start error: WHY``.

Not documented by Gradio; tests/share/test_gradio.py opens a link with them:

- `networking.setup_tunnel` opens the link. Without it there is none, and the page says so.
- `tunneling.CURRENT_TUNNELS[-1].proc` is the program, whose output is read on. Without it the link opens,
  and it is not shown that it was cut off or has become another one.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_demo.processes import plain_environment

#: Gradio's server ends a link after a week.
LINK_LASTS_S = 7 * 24 * 3600.0

#: What the output of a failed attempt says, and the sentence for it. The first that fits counts.
REASONS = (
    (r"x509|certificate signed|tls:", "The share server's certificate is not the expected one."),
    (
        r"login to (the )?server failed.*(timeout|refused|no such host|unreachable|no route|reset|EOF)",
        "The share server cannot be reached: the network seems to block it, or the server is down.",
    ),
    (r"login to (the )?server failed|\] start error:", "The share server refused to open a link. Try again."),
    (
        r"Could not get share link",
        "Gradio's share service cannot be reached from here. Check the internet connection and try again, "
        "or name a server of your own with --share-server.",
    ),
    (
        r"(ChecksumMismatch|HTTPStatus|Connect|Read|Proxy|RemoteProtocol)Error: |Timeout: ",
        "The tunnel program could not be downloaded. Try again, or copy Gradio's frpc from another machine "
        "to the place that the log names.",
    ),
    (r"Error: ", "The tunnel program cannot be run on this machine. The log names its place."),
)
ENDED = "The tunnel program ended before there was a link. Try again."
_LINK = re.compile(r"start proxy success: (https?://\S+)")
_DOWN = re.compile(r"login to (?:the )?server failed|\] start error:|(re)?connect to server")


class GradioTunnel:
    """The tunnel to the user's own share `server`, ``HOST:PORT``, or to one that Gradio names."""

    def __init__(self, server: str | None) -> None:
        self._server = server
        self.lasts_s = LINK_LASTS_S if server is None else None

    def command(self, host: str, port: int) -> list[str]:
        own = [self._server] if self._server else []
        return [sys.executable, "-P", "-m", __name__, host, str(port), *own]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The way to the network and to Gradio's files; no key, token or password is in it."""
        path = [str(Path(__file__).parents[2]), *filter(None, [environ.get("PYTHONPATH")])]
        ours = {"PYTHONPATH": os.pathsep.join(path), "GRADIO_ANALYTICS_ENABLED": "False"}
        ours |= {name: environ[name] for name in ("HF_HOME", "XDG_CACHE_HOME") if name in environ}
        return plain_environment(environ) | ours

    def read(self, line: str) -> str | None:
        """The link in a line of the output; empty where it says that there is none; None for other lines."""
        if found := _LINK.search(line):
            # The program does not know of the TLS before Gradio's server.
            return found[1] if self._server else re.sub("^http:", "https:", found[1])
        return "" if _DOWN.search(line) else None

    def why_ended(self, code: int, log: str) -> str:
        """The sentence for an attempt that ended without a link."""
        return next((sentence for pattern, sentence in REASONS if re.search(pattern, log)), ENDED)


def main() -> int:
    host, port, *server = sys.argv[1:]
    from gradio import networking
    from huggingface_hub.constants import HF_HOME

    programs = Path(HF_HOME, "gradio", "frpc")  # where Gradio's own message says to copy it by hand
    # Gradio would wait for a program that has died; the second is for what it wrote before.
    signal.signal(signal.SIGCHLD, lambda *_: signal.alarm(1))
    try:
        name = secrets.token_hex(32)  # never like an option
        url = networking.setup_tunnel(host, int(port), name, server[0] if server else None, None)
    except Exception as error:
        if type(error).__name__ == "ChecksumMismatchError":
            shutil.rmtree(programs, ignore_errors=True)  # Gradio would run it the next time
        print(f"{type(error).__name__}: {error}. The tunnel program's place is {programs}")
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.alarm(0)
    print(f"start proxy success: {url}", flush=True)
    return _follow()


def _follow() -> int:
    """Print what the program prints until it ends; its exit code."""
    from gradio import tunneling

    try:
        program: Any = tunneling.CURRENT_TUNNELS[-1].proc
    except (AttributeError, IndexError):
        return os.waitstatus_to_exitcode(os.wait()[1])
    for line in program.stdout:
        print(line.decode("utf-8", "replace"), end="", flush=True)
    return int(program.wait())


if __name__ == "__main__":
    sys.exit(main())
