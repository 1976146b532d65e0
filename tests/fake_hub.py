"""A local stand-in for the model hub: the same addresses, redirects and headers, and what can go wrong.

with FakeHub(tiny_model()) as hub:
    hub.cuts = [1000]            # the first connection breaks after so many bytes
    settings_for(data_dir, hub_url=hub.url, models_dir=...)
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from dspy_demo.lm.local.files import KnownModel

PIECE = 8192
PORTAL = b"<!doctype html><h1>Sign in to the hotel's network</h1>"


def gguf_bytes(size: int = 200_000, architecture: str = "qwen2", seed: int = 1) -> bytes:
    """What looks like a model file from its first bytes on; nothing can be loaded from it."""
    key, value = b"general.architecture", architecture.encode()
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    head += struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    return head + random.Random(seed).randbytes(size - len(head))


def known_for(content: bytes, name: str = "tiny-instruct", package: str = "") -> KnownModel:
    """The pins of a file with this content."""
    return KnownModel(
        name=name,
        title=name.replace("-", " ").title(),
        note="Made for a test",
        repo="Tiny/Tiny-Instruct-GGUF",
        revision="0123456789abcdef0123456789abcdef01234567",
        file=f"{name}.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        licence="Apache-2.0",
        package=package,
    )


@dataclass
class Asked:
    """One request, and how much of the file went out for it."""

    method: str
    path: str
    range: str | None
    sent: int = 0
    client_left: bool = False


@dataclass
class FakeHub:
    """Set its attributes before a request comes, or while one runs.

    Attributes:
        status: Every request is refused with it.
        cuts: Bytes after which a connection breaks, one entry a connection; None lets it through.
        stalls_at: Place in the file from which nothing more comes; the connection stays open.
        bytes_per_s: The pace; 0 is as fast as possible.
        ignores_range: Every answer is the whole file.
        content_range: Said in place of the right header.
        linked: Whether the redirect tells checksum and size, as the real hub does and plain mirrors do not.
        portal: Everything is answered with a sign-in page.
        silent: Connections are taken and nothing is said.
        loops: The redirect leads to itself.
        says_length: Whether the file comes with its length.
    """

    content: bytes
    status: int | None = None
    cuts: list[int | None] = field(default_factory=list)
    stalls_at: int | None = None
    bytes_per_s: float = 0
    ignores_range: bool = False
    content_range: str | None = None
    linked: bool = True
    sha256: str | None = None
    knows_head: bool = True
    portal: bool = False
    silent: bool = False
    loops: bool = False
    says_length: bool = True
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            fake = hub

        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn_url(self) -> str:
        """Another origin, as the store behind the hub is one."""
        return f"http://localhost:{self._server.server_port}/store"

    @property
    def gets(self) -> list[Asked]:
        """The requests that reached the store."""
        return [asked for asked in self.asked if asked.method == "GET" and asked.path.startswith("/store")]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.asked
            time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        if not self.fake.knows_head:
            self.fake.asked.append(Asked("HEAD", self.path, None))
            self._plain(501, b"")
        else:
            self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        fake = self.fake
        asked = Asked(self.command, self.path, self.headers.get("Range"))
        fake.asked.append(asked)
        if fake.silent:
            fake.closing.wait(10)
            self.close_connection = True
        elif fake.status is not None:
            self._plain(fake.status, b"no")
        elif fake.portal:
            self._plain(200, PORTAL)
        elif self.path.startswith("/store"):
            self._file(asked)
        elif "/resolve/" in self.path:
            self._redirect()
        else:
            self._plain(404, b"no")

    def _plain(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _redirect(self) -> None:
        fake, name = self.fake, self.path.rpartition("/")[2]
        self.send_response(302)
        self.send_header("Location", self.path if fake.loops else f"{fake.cdn_url}/{name}?signature=secret")
        self.send_header("X-Repo-Commit", self.path.split("/")[-2])
        if fake.linked:
            digest = fake.sha256 or hashlib.sha256(fake.content).hexdigest()
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(fake.content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, asked: Asked) -> None:
        fake, start, total = self.fake, 0, len(self.fake.content)
        if asked.range and not fake.ignores_range:
            start = int(asked.range.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", fake.content_range or f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        if fake.says_length:
            self.send_header("Content-Length", str(total - start))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send(asked, start)

    def _send(self, asked: Asked, start: int) -> None:
        fake, body = self.fake, self.fake.content[start:]
        cut = fake.cuts.pop(0) if fake.cuts else None
        stop = None if fake.stalls_at is None else fake.stalls_at - start
        while asked.sent < len(body):
            if asked.sent == cut:
                self.close_connection = True
                return
            if stop is not None and asked.sent >= stop:
                fake.closing.wait(120)
                self.close_connection = True
                return
            ends = [len(body), asked.sent + PIECE, *(end for end in (cut, stop) if end is not None)]
            piece = body[asked.sent : min(end for end in ends if end > asked.sent)]
            try:
                self.wfile.write(piece)
            except OSError:
                asked.client_left, self.close_connection = True, True
                return
            asked.sent += len(piece)
            if fake.bytes_per_s:
                fake.closing.wait(len(piece) / fake.bytes_per_s)
