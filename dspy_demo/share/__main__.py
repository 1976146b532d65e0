"""Gradio's tunnel in a process of its own: ``python -m dspy_demo.share HOST PORT [SERVER:PORT]``.

Gradio's `setup_tunnel` blocks, writes a certificate into the working folder, and goes on asking a tunnel
program that has died. All of that ends with this process, which `tunnel.Tunnel` gives a folder and a
deadline. It prints what the tunnel program prints, from the link on, or the error of a failure.

Gradio's modules `networking` and `tunneling` are not documented: tests/share/test_gradio.py looks for the
names that are used. Without them there is no public link, and the page says so.
"""

from __future__ import annotations

import secrets
import signal
import sys
from pathlib import Path
from typing import Any

#: Seconds in which what a program wrote before it died is still read.
LAST_LINES_S = 0.5


def main() -> int:
    host, port, *server = sys.argv[1:]
    from gradio import networking, tunneling

    signal.signal(signal.SIGCHLD, lambda *_: signal.setitimer(signal.ITIMER_REAL, LAST_LINES_S))
    signal.signal(signal.SIGALRM, _ended)
    try:
        name = secrets.token_hex(32)  # never like an option
        url = networking.setup_tunnel(host, int(port), name, server[0] if server else None, None)
    except Exception as error:
        if type(error).__name__ == "ChecksumMismatchError":
            Path(tunneling.BINARY_PATH).unlink(missing_ok=True)  # Gradio would run it the next time
        print(f"{type(error).__name__}: {error}. The tunnel program is {tunneling.BINARY_PATH}")
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    print(f"start proxy success: {url}", flush=True)
    program: Any = tunneling.CURRENT_TUNNELS[-1].proc
    for line in program.stdout:
        print(line.decode("utf-8", "replace"), end="", flush=True)
    return int(program.wait())


def _ended(*_: object) -> None:
    raise ChildProcessError("the tunnel program ended before there was a link")


if __name__ == "__main__":
    sys.exit(main())
