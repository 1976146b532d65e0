"""Stand-ins for Gradio's tunnel program (frpc), as programs that can be run.

    install(home / "huggingface", "blocked")   # where Gradio looks for its program: HF_HOME
    stand_in(tmp_path)                         # a `GradioTunnel` without Gradio around it

The working one prints a link ``http://127.0.0.1:PORT``, and sends on to the local page who comes there.
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspy_demo.share.gradio_bridge import GradioTunnel

#: For settings: never asked, since the stand-in goes nowhere.
SHARE_SERVER = "share.example:7000"
#: Requests to the link that steer the stand-in: it comes back with another link, or ends.
ANOTHER, END = "/stand-in/another", "/stand-in/end"
_BLOCKED = (
    "echo '[W] [service.go:122] login to server failed: dial tcp 203.0.113.9:7000: i/o timeout'; exit 1"
)
_SCRIPTS = {
    "working": f'exec "{sys.executable}" -S "{Path(__file__).resolve()}" "$@"',
    "blocked": _BLOCKED,
    "stubborn": "trap '' TERM; while :; do sleep 0.2; done",
}


def write(program: Path, behaviour: str) -> Path:
    """An executable file that behaves so."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{_SCRIPTS[behaviour]}\n")
    program.chmod(0o755)
    return program


def install(hf_home: Path, behaviour: str = "working") -> Path:
    """Put one where Gradio keeps its program, under this ``HF_HOME``."""
    from gradio.tunneling import BINARY_FILENAME

    return write(hf_home / "gradio" / "frpc" / BINARY_FILENAME, behaviour)


def stand_in(folder: Path, behaviour: str = "working") -> GradioTunnel:
    """Runs one directly, and reads it as Gradio's."""
    from dspy_demo.share.gradio_bridge import GradioTunnel

    class StandIn(GradioTunnel):
        def command(self, host: str, port: int) -> list[str]:
            return [str(write(folder / "frpc", behaviour)), "http", "-n", "x", "-l", str(port), "-i", host]

    return StandIn(SHARE_SERVER)


class Visit(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        arguments = sys.argv
        host, port = (arguments[arguments.index(name) + 1] for name in ("-i", "-l"))
        self.send_response(302)
        self.send_header("Location", f"http://{host}:{port}{self.path}")
        self.end_headers()
        if self.path == ANOTHER:
            print(f"[I] start proxy success: http://localhost:{self.server.server_port}", flush=True)
        elif self.path == END:
            os._exit(0)

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    with HTTPServer(("127.0.0.1", 0), Visit) as server:
        print(f"[I] start proxy success: http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
