"""No test leaves this machine: a connection to anything but loopback is refused and remembered."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

import pytest


class NetworkBlocked(OSError):
    """A test tried to reach another host."""


def address_of(host: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that is written so, if it is one."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    return None


def is_loopback(host: object) -> bool:
    address = address_of(host)
    return address.is_loopback if address else host in (None, "", "localhost", b"localhost")


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
        if not is_loopback(host) and not address_of(host):  # a number needs no lookup
            refuse(host)
        return real_lookup(host, *args, **kwargs)

    real_lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)
    guard("connect")
    guard("connect_ex")
    return refused
