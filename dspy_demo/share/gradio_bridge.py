"""Gradio's tunnel as a process: ``python -m dspy_demo.share.gradio_bridge HOST PORT [SERVER:PORT]``.

Gradio's `setup_tunnel` blocks, writes a certificate into the working folder, and goes on asking a tunnel
program that has died. All of that ends with this process, which `tunnel.Tunnel` gives a folder and a
deadline. It prints what the tunnel program prints, from the link on, or the error of a failure.

What is used of Gradio without being documented (6.31); tests/share/test_gradio.py looks for it:

- `networking.setup_tunnel` opens the link. Without it there is none, and the page says so.
- `tunneling.CURRENT_TUNNELS[-1].proc` is the program, whose output is read on. Without it the link opens,
  and a way that is cut for a while is not shown.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

#: Seconds in which what a program wrote before it died is still read.
LAST_LINES_S = 0.5


def main() -> int:
    host, port, *server = sys.argv[1:]
    from gradio import networking
    from huggingface_hub.constants import HF_HOME

    programs = Path(HF_HOME, "gradio", "frpc")  # where Gradio's own message says to copy it by hand
    signal.signal(signal.SIGCHLD, lambda *_: signal.setitimer(signal.ITIMER_REAL, LAST_LINES_S))
    signal.signal(signal.SIGALRM, _ended)
    try:
        name = secrets.token_hex(32)  # never like an option
        url = networking.setup_tunnel(host, int(port), name, server[0] if server else None, None)
    except Exception as error:
        if type(error).__name__ == "ChecksumMismatchError":
            shutil.rmtree(programs, ignore_errors=True)  # Gradio would run it the next time
        print(f"{type(error).__name__}: {error}. The tunnel program's place is {programs}")
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
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


def _ended(*_: object) -> None:
    raise ChildProcessError("the tunnel program ended before there was a link")


if __name__ == "__main__":
    sys.exit(main())
