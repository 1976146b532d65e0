"""Stand-ins for Gradio's tunnel program (frpc) and its share server, as programs that can be run.

    install(home / "huggingface", "blocked")      # where Gradio looks for its program: HF_HOME
    Tunnel(settings, program=stand_in(tmp_path))  # without Gradio around it, which takes seconds to start

The working one prints a link ``http://127.0.0.1:PORT``. What comes there goes to the local page as it would
come from the share server: from loopback, with the link's name as ``Host`` and ``Origin``, and with the
visitor's address in ``X-Forwarded-For``. For a real browser, which needs the page's own idea of its address
to lead back to it, ``host=None`` leaves the names alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

#: Absolute, and known before a test changes the working folder.
_SELF = Path(__file__).resolve()
#: For settings: never asked, since the stand-in goes nowhere.
SHARE_SERVER = "share.example:7000"
PUBLIC_HOST = "abc123.gradio.live"
VISITOR = "203.0.113.7"
#: Requests to the link that steer the stand-in itself.
STEER = "/stand-in/"

LINES = {
    "refused": "[W] [service.go:122] login to server failed: authorization failed",
    "blocked": "[W] [service.go:122] login to server failed: dial tcp 203.0.113.9:7000: i/o timeout",
    "untrusted": "[W] [service.go:122] login to server failed: x509: certificate signed by unknown authority",
    "full": "[W] [control.go:179] [abc] start error: new proxy [abc] error",
    "odd": "[I] [control.go:181] [abc] start proxy success: nowhere",
    "dying": "panic: runtime error: index out of range",
}
#: What each does after its line, in words of the shell; the others end.
THEN = {
    "full": "sleep 600; exit 1",
    "odd": "sleep 600; exit 1",
    "silent": "sleep 600; exit 1",
    "stubborn": "trap '' TERM; while :; do sleep 0.2; done",
}


def write(folder: Path, behaviour: str = "working", *, host: str | None = PUBLIC_HOST) -> Path:
    """An executable file that behaves so: ``working``, ``silent``, ``stubborn``, or one of `LINES`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"frpc-{behaviour}"
    if behaviour == "working":
        script = f'exec "{sys.executable}" -S "{_SELF}" "{host or ""}" "$@"'
    else:
        line = LINES.get(behaviour, "")
        script = f"printf '%s' '{line}{chr(10) if line else ''}'\n{THEN.get(behaviour, 'exit 1')}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def install(hf_home: Path, behaviour: str = "working", *, host: str | None = PUBLIC_HOST) -> Path:
    """Put one where Gradio keeps its program, under this ``HF_HOME``."""
    from gradio.tunneling import BINARY_FILENAME

    folder = hf_home / "gradio" / "frpc"
    return write(folder, behaviour, host=host).replace(folder / BINARY_FILENAME)


def stand_in(folder: Path, behaviour: str = "working") -> Any:
    """A `TunnelProgram` that runs one directly, and reads it as Gradio's."""
    from dspy_demo.share.gradio import GradioTunnel

    class StandIn(GradioTunnel):
        def command(self, host: str, port: int) -> list[str]:
            options = f"http -n x -l {port} -i {host} --sd random --server_addr {SHARE_SERVER}"
            return [str(write(folder, behaviour)), *options.split()]

    return StandIn(SHARE_SERVER)


def steer(url: str, what: str) -> None:
    """Let a working one be ``cut-off``, come ``back`` with another link, or be ended by its ``server``."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{url}{STEER}{what}", timeout=5).close()


# --- the program itself ---


def main(host: str, arguments: list[str]) -> None:
    options = parse(arguments)
    asyncio.run(Proxy(options.local_ip, options.local_port, host).run())


def parse(arguments: list[str]) -> argparse.Namespace:
    """frpc's command line; anything else on it ends the program, as the real one does."""
    parser = argparse.ArgumentParser(prog="frpc")
    parser.add_argument("type", choices=["http"])
    parser.add_argument("-n", dest="name", required=True)
    parser.add_argument("-l", dest="local_port", type=int, required=True)
    parser.add_argument("-i", dest="local_ip", default="127.0.0.1")
    parser.add_argument("--uc", action="store_true")
    parser.add_argument("--ue", action="store_true")
    parser.add_argument("--sd", choices=["random"], required=True)
    parser.add_argument("--server_addr", required=True)
    parser.add_argument("--disable_log_color", action="store_true")
    parser.add_argument("--tls_enable", action="store_true")
    parser.add_argument("--tls_trusted_ca_file", type=argparse.FileType())
    return parser.parse_args(arguments)


class Proxy:
    """One request a connection, its bytes passed on as they come, so that streams stay streams."""

    def __init__(self, local_host: str, local_port: int, host: str) -> None:
        self.local = local_host, local_port
        self.host = host
        self.names = itertools.count(1)

    async def run(self) -> None:
        await self.link()
        await asyncio.Event().wait()

    async def link(self) -> None:
        server = await asyncio.start_server(self.visit, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        print("[I] [service.go:295] [r1] login to server success, get run id [r1]", flush=True)
        say = f"[I] [control.go:181] [p{next(self.names)}] start proxy success: http://127.0.0.1:{self.port}"
        print(say, flush=True)

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path.startswith(STEER):
                await self.steered(path.removeprefix(STEER))
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            to_page = await asyncio.open_connection(*self.local)
            with contextlib.closing(to_page[1]):
                to_page[1].write(self.renamed(head))
                await asyncio.wait(
                    {
                        asyncio.create_task(pass_on(reader, to_page[1])),
                        asyncio.create_task(pass_on(to_page[0], writer)),
                    },
                    return_when=asyncio.FIRST_COMPLETED,
                )

    async def steered(self, what: str) -> None:
        if what == "cut-off":
            print("[W] [service.go:172] [r1] try to reconnect to server...", flush=True)
        elif what == "back":
            await self.link()
        elif what == "server":
            sys.exit(0)

    def renamed(self, head: bytes) -> bytes:
        """The head of a request as the share server passes it on."""
        own = f"http://127.0.0.1:{self.port}".encode()
        if self.host:
            head = re.sub(rb"(?im)^host:[^\r]*", b"Host: " + self.host.encode(), head, count=1)
            link = b"https://" + self.host.encode()
            head = re.sub(rb"(?im)^(origin|referer):([^\r]*)", lambda m: m[0].replace(own, link), head)
        if not re.search(rb"(?im)^upgrade:", head):
            head = re.sub(rb"(?im)^connection:[^\r]*\r\n", b"", head)
            head = head[:-2] + b"Connection: close\r\n\r\n"
        return head[:-2] + f"X-Forwarded-For: {VISITOR}\r\n\r\n".encode()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
