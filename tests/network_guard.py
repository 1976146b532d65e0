"""No test leaves this machine: a connection to anything but loopback is refused and remembered."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest


class NetworkBlocked(OSError):
    """A test tried to reach another host."""


def is_loopback(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    return _is_address(str(host)) and ipaddress.ip_address(str(host)).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Guard `socket`, and with it asyncio, httpx, requests and urllib. Returns the refused hosts."""
    refused: list[str] = []

    def refuse(host: object) -> None:
        refused.append(str(host))
        raise NetworkBlocked(f"tests must not leave this machine: {host}")

    def guard(name: str) -> None:
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and not is_loopback(address[0]):
                refuse(address[0])
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host) and not _is_address(str(host)):  # a number needs no lookup
            refuse(host)
        return real_lookup(host, *args, **kwargs)

    real_lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)
    guard("connect")
    guard("connect_ex")
    return refused
