"""Ports of this machine: the one place where a server of ours takes its own."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from dspy_demo.errors import SettingsError

BACKLOG = 2048


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """Listen on the first of `ports` that is free; 0 is any free one.

    From then on the port is taken, so that it can be done before the slow imports, and no two starts get
    the same one.

    Raises:
        SettingsError: Each of the ports is in use, or `host` is no address of this machine.
    """
    tried = list(ports)
    for port in tried:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
            return listening
        except OSError as error:
            listening.close()
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise SettingsError(
                    f"--host: {host} is not an address of this machine. Choose 127.0.0.1, or 0.0.0.0 for all."
                ) from None
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or "it is refused"
                raise SettingsError(f"--port: port {port} of {host} cannot be used: {reason}.") from None
    which = f"Port {tried[0]}" if len(tried) == 1 else f"Each port from {tried[0]} to {tried[-1]}"
    raise SettingsError(f"{which} of {host} is in use. Choose another one with --port.")


def free_port(host: str = "127.0.0.1") -> int:
    """A port for a program that cannot be given a socket; another one may take it before."""
    with listen(host, [0]) as listening:
        return int(listening.getsockname()[1])
