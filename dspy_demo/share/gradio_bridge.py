"""Gradio's tunnel: what to start for `tunnel.Tunnel`, and what its output means.

What is started is this module, since Gradio's `setup_tunnel` blocks, and goes on asking a tunnel program that
has died. The program (huggingface/frp) prints ``start proxy success: URL`` for a link, and for another one
after it was cut off. Not documented by Gradio; tests/share/test_gradio.py opens a link with them:

- `networking.setup_tunnel` opens the link. Without it there is none, and the page says so.
- `tunneling.CURRENT_TUNNELS[-1].proc` is the program. Without it another link is not noticed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from dspy_demo.processes import plain_environment

#: Gradio's server ends a link after a week.
LINK_LASTS_S = 7 * 24 * 3600.0

#: What the output of a failed attempt says, and the sentence for it. The first that fits counts.
REASONS = (
    (
        r"login to (the )?server failed|\] start error:",
        "The share server cannot be reached, or it refused to open a link. Try again.",
    ),
    (
        r"Could not get share link",
        "Gradio's share service cannot be reached from here. Check the internet connection and try again, "
        "or name a server of your own with --share-server.",
    ),
    (
        r"Error: |Timeout: ",
        "The tunnel program could not be downloaded, or cannot run here. Try again, or copy Gradio's frpc "
        "for this machine to the place that the log names.",
    ),
)
ENDED = "The tunnel program ended before there was a link. Try again."


class GradioTunnel:
    """The tunnel to the user's own share `server`, ``HOST:PORT``, or to one that Gradio names."""

    def __init__(self, server: str | None) -> None:
        self._server = server
        self.lasts_s = LINK_LASTS_S if server is None else None

    def command(self, host: str, port: int) -> list[str]:
        own = [self._server] if self._server else []
        return [sys.executable, "-P", "-m", __name__, host, str(port), *own]

    def environment(self) -> dict[str, str]:
        """The way to the network and to Gradio's files; no key, token or password is in it."""
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {"PYTHONPATH": os.pathsep.join(path), "GRADIO_ANALYTICS_ENABLED": "False"}
        ours |= {name: os.environ[name] for name in ("HF_HOME", "XDG_CACHE_HOME") if name in os.environ}
        return plain_environment(os.environ) | ours

    def link(self, output: str) -> str:
        """The last link that the output names; empty where there is none."""
        link = ["", *re.findall(r"start proxy success: (https?://\S+)", output)][-1]
        # The program does not know of the TLS before Gradio's server.
        return link if self._server else re.sub("^http:", "https:", link)

    def why_ended(self, code: int, output: str) -> str:
        """The sentence for an attempt that ended without a link."""
        return next((sentence for pattern, sentence in REASONS if re.search(pattern, output)), ENDED)


def main() -> int:
    """``python -m dspy_demo.share.gradio_bridge HOST PORT [SERVER:PORT]``"""
    host, port, *server = sys.argv[1:]
    from gradio import networking, tunneling
    from huggingface_hub.constants import HF_HOME

    programs = Path(HF_HOME, "gradio", "frpc")  # where Gradio's own message says to copy it by hand
    try:
        name = secrets.token_hex(32)  # never like an option
        url = networking.setup_tunnel(host, int(port), name, server[0] if server else None, None)
    except Exception as error:
        if type(error).__name__ == "ChecksumMismatchError":
            shutil.rmtree(programs, ignore_errors=True)  # Gradio would run it the next time
        print(f"{type(error).__name__}: {error}. The tunnel program's place is {programs}")
        return 1
    print(f"start proxy success: {url}", flush=True)
    try:
        program: Any = tunneling.CURRENT_TUNNELS[-1].proc
    except (AttributeError, IndexError):
        return os.waitstatus_to_exitcode(os.wait()[1])
    for line in program.stdout:
        print(line.decode("utf-8", "replace"), end="", flush=True)
    return int(program.wait())


if __name__ == "__main__":
    sys.exit(main())
