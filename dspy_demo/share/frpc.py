"""How to speak to the tunnel program and how to read what it prints.

It is Gradio's fork of frpc (huggingface/frp, 0.3): ``start proxy success: URL`` when the link is there, also
with another link after it was cut off and came back; ``login to server failed: WHY``; ``start error: WHY``.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dspy_demo.share.share_server import ShareServer

CUT = "The share server cannot be reached: the network seems to block it, or the server is down."
REFUSED = "The share server refused to open a link. Try again in a moment."
NOT_TRUSTED = "The share server did not prove who it is: its certificate is not the expected one."
NOT_RUNNABLE = "The tunnel program cannot be run on this machine. Name one that can with --share-binary."
ENDED = "The tunnel program ended before there was a link. Try again."

_SUCCESS = re.compile(r"start proxy success: (\S+)")
_FAILED = re.compile(r"login to (?:the )?server failed|\] start error:")
_INTERRUPTED = re.compile(r"try to reconnect to server|reconnect to server error|connect to server error")
_NETWORK = re.compile(
    r"timeout|refused|no such host|unreachable|no route|connection reset|EOF|dial tcp|lookup", re.IGNORECASE
)
_CERTIFICATE = re.compile(r"x509|certificate|tls:", re.IGNORECASE)


def command(program: Path, server: ShareServer, local_host: str, local_port: int) -> list[str]:
    """What to run: the arguments of gradio 6.31 (`Tunnel._start_tunnel`). None of them is a secret."""
    trusted = server.certificate
    tls = [] if trusted is None else ["--tls_enable", "--tls_trusted_ca_file", f"{trusted}"]
    return [
        *(f"{program}", "http"),
        *("-n", secrets.token_hex(32)),  # a name for the server's books; never like an option
        *("-l", f"{local_port}", "-i", local_host),
        *("--uc", "--sd", "random", "--ue"),
        *("--server_addr", f"{server.host}:{server.port}"),
        "--disable_log_color",
        *tls,
    ]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a line of the program means; `text` is the link, or the sentence of a failure."""

    kind: Literal["link", "failed", "interrupted"]
    text: str = ""


def notice(line: str) -> Notice | None:
    """The meaning of a line; None where it has none for us."""
    if success := _SUCCESS.search(line):
        return Notice("link", success.group(1))
    if _FAILED.search(line):
        return Notice("failed", _why(line))
    return Notice("interrupted") if _INTERRUPTED.search(line) else None


def why_ended(code: int, log: str) -> str:
    """The sentence for a program that ended before it gave a link."""
    if code in {126, 127}:  # what a shell answers too: there, but not for this machine; not there
        return NOT_RUNNABLE
    failures = [found.text for line in log.splitlines() if (found := notice(line)) and found.kind == "failed"]
    return failures[-1] if failures else ENDED


def _why(line: str) -> str:
    if _CERTIFICATE.search(line):
        return NOT_TRUSTED
    return CUT if _NETWORK.search(line) else REFUSED


class LogReader:
    """The complete lines that were added to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                added = file.read(LOOK_MAX_BYTES)
        except FileNotFoundError:
            return []
        self._read_to += len(added)
        *lines, rest = (self._rest + added).split(b"\n")
        self._rest = rest[-LINE_MAX_BYTES:]
        return [line.decode("utf-8", "replace") for line in lines]


#: A program that prints without end must not fill the memory.
LOOK_MAX_BYTES = 1_000_000
LINE_MAX_BYTES = 10_000
