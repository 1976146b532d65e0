"""No file of the machine, no inner address and no upload by any way that Gradio knows, on a running app."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import REPO, ServerProcess, running_app

pytestmark = pytest.mark.integration

SECRET = "canary-7f3a"
API = "/gradio_api"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with something to steal: in the data folder, and in Gradio's own, also behind a link."""
    home = tmp_path_factory.mktemp("files")
    (home / "data").mkdir()
    (home / "data" / "secret.txt").write_text(SECRET)
    (home / "gradio" / "0").mkdir(parents=True)
    (home / "gradio" / "0" / "link.txt").symlink_to(home / "data" / "secret.txt")
    (home / "gradio" / "0" / "own.txt").write_text(SECRET)
    return home


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[ServerProcess]:
    env = {"GRADIO_TEMP_DIR": str(home / "gradio"), "DEMO_SECRET": SECRET}
    with running_app(data_dir=home / "data", home=home, env=env) as server:
        yield server


class Inner:
    """A server that nobody outside may reach through the app; it remembers who did."""

    def __init__(self) -> None:
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(SECRET)))
                self.end_headers()
                self.wfile.write(SECRET.encode())

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/inner.txt"


@pytest.fixture(scope="module")
def inner() -> Iterator[Inner]:
    inner = Inner()
    with inner.server as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield inner
        server.shutdown()


@pytest.fixture
def http(app: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url, timeout=20, follow_redirects=True) as client:
        yield client


def test_no_route_gives_a_file(http: httpx.Client, home: Path) -> None:
    files = [
        "/etc/passwd",
        "/proc/self/environ",
        str(home / "data" / "secret.txt"),
        str(home / "gradio" / "0" / "link.txt"),
        str(home / "gradio" / "0" / "own.txt"),
        str(REPO / "app.py"),
        str(REPO / "pyproject.toml"),
    ]
    up = "../" * 12
    ways = [
        API + "/file={0}",
        API + "/file/{0}",
        API + "/file=file://{0}",
        "/file={0}",
        "/static/{1}{0}",
        "/assets/{1}{0}",
        "/svelte/{1}{0}",
        "/static/{0}",
        "/assets/{0}",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{0}",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{0}",
        "/assets/..%252f..%252f..%252f..%252f{0}",
        "//gradio_api/file={0}",
        "/GRADIO_API/file={0}",
        "/gradio_api%2ffile={0}",
        "/gradio_api/./file={0}",
        "/gradio_api/heartbeat/../file={0}",
        "/?deep_link={1}{0}",
        "/config?deep_link={1}{0}",
    ]
    for way in ways:
        for file in files:
            answer = raw_get(http, way.format(file, up))
            assert not gives_away(answer), (way, file, answer[:300])


def test_no_address_is_fetched(http: httpx.Client, inner: Inner) -> None:
    for way in (f"{API}/file={inner.url}", f"{API}/proxy={inner.url}", f"/proxy={inner.url}"):
        for method in ("GET", "HEAD"):
            assert http.request(method, way).status_code in {403, 404}
    assert inner.asked == []


def test_no_upload_is_taken(http: httpx.Client, home: Path) -> None:
    before = set((home / "gradio").rglob("*"))
    for path in ("upload", "upload?upload_id=a", "process_recording", "component_server", "upload/"):
        sent = http.post(f"{API}/{path}", files={"files": ("a.txt", b"hello")})
        assert sent.status_code == 404, path
    for path in (f"{API}/component_server", f"{API}/stream/a", f"{API}/vibe-edit"):
        assert (
            http.post(path, json={"session_hash": "a", "component_id": 1, "fn_name": "ls"}).status_code == 404
        )
    assert set((home / "gradio").rglob("*")) == before


def test_no_value_of_an_event_makes_the_server_read_or_fetch(
    http: httpx.Client, inner: Inner, home: Path
) -> None:
    """Every event of the page, each of its inputs a file."""
    config = http.get("/config").json()
    before = set((home / "gradio").rglob("*"))
    for path in (inner.url, "/etc/passwd", str(home / "data" / "secret.txt")):
        file: Any = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
        for event in config["dependencies"]:
            number = event["id"]
            body = {
                "data": [file] * len(event["inputs"]),
                "fn_index": number,
                "session_hash": "a1b2c3",
                "event_data": file,
            }
            for way in ("run/predict", "queue/join"):
                answer = http.post(f"{API}/{way}", json=body)
                assert answer.status_code == 403, (way, number)
        for way in ("run/chat", "call/chat", "call/v2/chat"):
            answer = http.post(f"{API}/{way}", json={"data": [{"text": [file]}], "message": file})
            assert answer.status_code == 403, way
    assert inner.asked == []
    assert set((home / "gradio").rglob("*")) == before


def raw_get(http: httpx.Client, target: str) -> str:
    """The answer to just this target, which a client would tidy."""
    request = http.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=target.encode())
    return http.send(request, follow_redirects=False).text


def gives_away(answer: str) -> bool:
    return any(word in answer for word in (SECRET, "root:x:", "def main(", "[tool.ruff]"))
