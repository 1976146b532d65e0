"""A local stand-in for the model hub: the same addresses, redirects and headers, and what can go wrong."""

import hashlib
import random
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dspy_demo.lm.local.files import KnownModel


def gguf_bytes(size=200_000):
    """What looks like a model file from its first bytes on; nothing can be loaded from it."""
    key, value = b"general.architecture", b"qwen2"
    head = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(key)) + key
    head += struct.pack("<IQ", 8, len(value)) + value
    return head + random.Random(1).randbytes(size - len(head))


def known_for(content, name="tiny-instruct"):
    """The pins of a file with this content."""
    return KnownModel(
        name, name.replace("-", " ").title(), "Made for a test", "Tiny/Tiny-Instruct-GGUF", f"{name}.gguf",
        hashlib.sha256(content).hexdigest(), len(content), revision="0123456789" * 4,
    )  # fmt: skip


class FakeHub:
    """A hub with one file: set its attributes before a request comes, or while one runs."""

    def __init__(self, content, stalls_at=None):
        self.content = content
        self.stalls_at = stalls_at  # from this place on nothing more comes; the connection stays open
        self.status = None  # every request is refused with it
        self.ignores_range = False  # every answer is the whole file
        self.paths, self.ranges = [], []  # what was asked: of all, and of the store

    def __enter__(self):
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.fake.paths.append(self.path)
        if self.fake.status is not None:
            self._head(self.fake.status, 0)
        elif self.path.startswith("/store"):
            self._file()
        else:  # to another origin, as the store behind the hub is one
            store = self.fake.url.replace("127.0.0.1", "localhost") + "/store?signature=secret"
            self._head(302, 0, "Location", store)

    def log_message(self, *_): ...

    def _head(self, status, length, *header):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if header:
            self.send_header(*header)
        self.end_headers()

    def _file(self):
        fake, total, asked = self.fake, len(self.fake.content), self.headers.get("Range")
        fake.ranges.append(asked)
        at = 0
        if asked and not fake.ignores_range:
            at = int(asked.removeprefix("bytes=").removesuffix("-"))
            self._head(206, total - at, "Content-Range", f"bytes {at}-{total - 1}/{total}")
        else:
            self._head(200, total)
        self.close_connection = True
        stop = total if fake.stalls_at is None else max(at, fake.stalls_at)
        self.wfile.write(fake.content[at:stop])
        if stop < total:
            fake.closing.wait(120)
