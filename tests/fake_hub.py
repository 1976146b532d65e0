"""A local stand-in for the model hub: the same addresses, redirects and headers, and what can go wrong."""

from __future__ import annotations

import hashlib
import random
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from dspy_demo.lm.local.files import KnownModel


def gguf_bytes(size: int = 200_000, architecture: str = "qwen2") -> bytes:
    """What looks like a model file from its first bytes on; nothing can be loaded from it."""
    key, value = b"general.architecture", architecture.encode()
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    head += struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    return head + random.Random(1).randbytes(size - len(head))


def known_for(content: bytes, name: str = "tiny-instruct") -> KnownModel:
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
    )


@dataclass
class FakeHub:
    """Set its attributes before a request comes, or while one runs.

    Attributes:
        status: Every request is refused with it.
        stalls_at: Place in the file from which nothing more comes; the connection stays open.
        ignores_range: Every answer is the whole file.
        ranges: What was asked of the store, of all `paths`.
    """

    content: bytes
    status: int | None = None
    stalls_at: int | None = None
    ignores_range: bool = False
    paths: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fake = self.fake
        fake.paths.append(self.path)
        if fake.status is not None:
            self._head(fake.status, {"Content-Length": "0"})
        elif self.path.startswith("/store"):
            self._file()
        else:  # to another origin, as the store behind the hub is one
            store = f"http://localhost:{fake.url.rpartition(':')[2]}/store?signature=secret"
            self._head(302, {"Location": store, "Content-Length": "0"})

    def log_message(self, *_: object) -> None: ...

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self) -> None:
        fake, total, asked = self.fake, len(self.fake.content), self.headers.get("Range")
        fake.ranges.append(asked)
        ranged = asked and not fake.ignores_range
        at = int((asked or "").removeprefix("bytes=").removesuffix("-")) if ranged else 0
        place = {"Content-Range": f"bytes {at}-{total - 1}/{total}"} if ranged else {}
        self._head(206 if ranged else 200, {"Content-Length": str(total - at), **place})
        self.close_connection = True
        stop = total if fake.stalls_at is None else max(at, fake.stalls_at)
        self.wfile.write(fake.content[at:stop])
        if stop < total:
            fake.closing.wait(120)
