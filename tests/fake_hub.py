"""A local stand-in for the model hub: the same addresses, redirects and headers, and what can go wrong."""

import hashlib
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dspy_demo.lm.local.files import KnownModel


def gguf_bytes(size=200_000):
    """What looks like a model file from its first bytes on; nothing can be loaded from it."""
    return b"GGUF" + random.Random(1).randbytes(size - 4)


def known_for(content, name="tiny-instruct"):
    """The pins of a file with this content."""
    return KnownModel(
        name, name.replace("-", " ").title(), "Made for a test", "Tiny/Tiny-Instruct-GGUF", f"{name}.gguf",
        hashlib.sha256(content).hexdigest(), len(content), revision="0123456789" * 4,
    )  # fmt: skip


class FakeHub(ThreadingHTTPServer):
    """A hub with one file: set its attributes before a request comes, or while one runs."""

    daemon_threads = True

    def __init__(self, content, stalls_at=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content = content
        self.stalls_at = stalls_at  # from this place on nothing more comes; the connection stays open
        self.status = None  # every request is refused with it
        self.ignores_range = False  # every answer is the whole file
        self.paths, self.ranges = [], []  # what was asked: of all, and of the store
        self.closing = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        hub = self.server
        hub.paths.append(self.path)
        if hub.status is not None:
            self._head(hub.status, 0)
        elif self.path.startswith("/store"):
            self._file(hub, self.headers.get("Range"))
        else:  # to another origin, as the store behind the hub is one
            self._head(302, 0, "Location", f"http://localhost:{hub.server_port}/store?signature=secret")

    def log_message(self, *_): ...

    def _head(self, status, length, *header):
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if header:
            self.send_header(*header)
        self.end_headers()

    def _file(self, hub, asked):
        hub.ranges.append(asked)
        at, total = 0, len(hub.content)
        if asked and not hub.ignores_range:
            at = int(asked.removeprefix("bytes=").removesuffix("-"))
            self._head(206, total - at, "Content-Range", f"bytes {at}-{total - 1}/{total}")
        else:
            self._head(200, total)
        self.close_connection = True
        stop = total if hub.stalls_at is None else max(at, hub.stalls_at)
        self.wfile.write(hub.content[at:stop])
        if stop < total:
            hub.closing.wait(120)
