"""A stand-in for Gradio's share service over real HTTP: the API that names a share server, and the download.

with StandInShareService(program) as gradio:
    gradio.api_fault = "hanging"
    Tunnel(settings, service=lambda: gradio.service(tmp_path))
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from dspy_demo.share.gradio_service import GradioService

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SERVER = {"host": "share.example", "port": 7000, "root_ca": CERTIFICATE}

#: Bodies that a share server cannot be read from.
NONSENSE = {
    "a page": b"<html>Please sign in to the guest network</html>",
    "nothing": b"",
    "no list": json.dumps(SERVER).encode(),
    "an empty list": b"[]",
    "no port": json.dumps([{**SERVER, "port": None}]).encode(),
    "a port of 0": json.dumps([{**SERVER, "port": 0}]).encode(),
    "an option as its name": json.dumps([{**SERVER, "host": "--log_file=/tmp/x"}]).encode(),
    "no certificate": json.dumps([{**SERVER, "root_ca": "none"}]).encode(),
    "bytes": b"\xff\xfe\x00",
    "no end": b"[" * 3_000_000,
}


class StandInShareService:
    """Serves until the end of its block.

    Attributes:
        api_fault: ``hanging``, a status such as ``500``, a key of `NONSENSE`, or empty.
        program_fault: ``hanging`` (in the middle), ``cut``, a status, ``other`` bytes, or empty.
        asked: The paths of all requests.
    """

    def __init__(self, program: Path | None = None) -> None:
        self.program = program.read_bytes() if program else b"#!/bin/sh\nexit 1\n"
        self.api_fault = self.program_fault = ""
        self.asked: list[str] = []
        self._over = threading.Event()

    def service(self, folder: Path) -> GradioService:
        """What Gradio would say of itself, with `folder` as its place for the program."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        checksum = hashlib.sha256(self.program).hexdigest()
        return GradioService(f"{url}/api", f"{url}/frpc", checksum, folder / "gradio" / "frpc_v0.3")

    def __enter__(self) -> Self:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.asked.append(self.path)
                stand_in._api(self) if self.path == "/api" else stand_in._download(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _api(self, request: BaseHTTPRequestHandler) -> None:
        if self.api_fault == "hanging":
            self._over.wait()
        elif self.api_fault.isdecimal():
            request.send_error(int(self.api_fault))
        else:
            _send(request, NONSENSE.get(self.api_fault, json.dumps([SERVER]).encode()))

    def _download(self, request: BaseHTTPRequestHandler) -> None:
        half = len(self.program) // 2
        match self.program_fault:
            case "":
                _send(request, self.program)
            case "other":
                _send(request, self.program + b"# changed\n")
            case "hanging" | "cut" as fault:
                _send(request, self.program[:half], claimed=len(self.program))
                if fault == "hanging":
                    self._over.wait()
            case status:
                request.send_error(int(status))


def _send(request: BaseHTTPRequestHandler, body: bytes, claimed: int | None = None) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    request.end_headers()
    try:
        request.wfile.write(body)
        request.wfile.flush()
    except ConnectionError:
        pass  # whoever asked has had enough
