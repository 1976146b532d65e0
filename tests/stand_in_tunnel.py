"""Stand-ins for Gradio's tunnel program (frpc) and its share server, as programs that can be run.

    install(home / "huggingface", "blocked")   # where Gradio looks for its program: HF_HOME
    stand_in(tmp_path)                         # a `TunnelProgram` without Gradio around it

The working one prints a link ``http://127.0.0.1:PORT``, and passes on to the local page what comes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

#: Absolute, and known before a test changes the working folder.
_SELF = Path(__file__).resolve()
#: For settings: never asked, since the stand-in goes nowhere.
SHARE_SERVER = "share.example:7000"
#: Requests to the link that steer the stand-in itself.
STEER = "/stand-in/"

LINES = {
    "blocked": "[W] [service.go:122] login to server failed: dial tcp 203.0.113.9:7000: i/o timeout",
    "untrusted": "[W] [service.go:122] login to server failed: x509: certificate signed by unknown authority",
    "full": "[W] [control.go:179] [abc] start error: new proxy [abc] error",
    "dying": "panic: runtime error: index out of range",
}
#: What each does after its line, in words of the shell; the others end.
THEN = {
    "full": "sleep 600; exit 1",
    "silent": "sleep 600; exit 1",
    "stubborn": "trap '' TERM; while :; do sleep 0.2; done",
}


def write(folder: Path, behaviour: str = "working") -> Path:
    """An executable file that behaves so: ``working``, ``silent``, ``stubborn``, or one of `LINES`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"frpc-{behaviour}"
    script = f"echo '{LINES.get(behaviour, '')}'\n{THEN.get(behaviour, 'exit 1')}"
    if behaviour == "working":
        script = f'exec "{sys.executable}" -S "{_SELF}" "$@"'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def install(hf_home: Path, behaviour: str = "working") -> Path:
    """Put one where Gradio keeps its program, under this ``HF_HOME``."""
    from gradio.tunneling import BINARY_FILENAME

    folder = hf_home / "gradio" / "frpc"
    return write(folder, behaviour).replace(folder / BINARY_FILENAME)


def stand_in(folder: Path, behaviour: str = "working") -> Any:
    """A `TunnelProgram` that runs one directly, and reads it as Gradio's."""
    from dspy_demo.share.gradio_bridge import GradioTunnel

    class StandIn(GradioTunnel):
        def command(self, host: str, port: int) -> list[str]:
            return [str(write(folder, behaviour)), "http", "-n", "x", "-l", str(port), "-i", host]

    return StandIn(SHARE_SERVER)


def steer(url: str, what: str) -> None:
    """Let a working one be ``cut-off``, come ``back`` with another link, or be ended by its ``server``."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{url}{STEER}{what}", timeout=5).close()


class Proxy:
    """The program itself: one request a connection, its bytes passed on as they come."""

    def __init__(self, arguments: list[str]) -> None:
        self.local = arguments[arguments.index("-i") + 1], int(arguments[arguments.index("-l") + 1])

    async def link(self) -> None:
        server = await asyncio.start_server(self.visit, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        print(f"[I] [control.go:181] [p1] start proxy success: {url}", flush=True)

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            match head.split(b" ", 2)[1].decode().removeprefix(STEER):
                case "cut-off":
                    print("[W] [service.go:172] [r1] try to reconnect to server...", flush=True)
                case "back":
                    await self.link()
                case "server":
                    sys.exit(0)
                case _:
                    page, to_page = await asyncio.open_connection(*self.local)
                    to_page.write(re.sub(rb"(?im)^connection:[^\r]*", b"Connection: close", head))
                    while chunk := await page.read(65_536):
                        writer.write(chunk)
                        await writer.drain()
                    to_page.close()


async def run() -> None:
    await Proxy(sys.argv[1:]).link()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run())
