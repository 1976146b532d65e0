"""A page of another origin that calls the routes, as OpenAI's SDK does in a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.browser.conftest import NewPage, Problems
from tests.processes import ServerProcess

SDK_HEADERS = {"authorization": "Bearer unused", "content-type": "application/json"}
SDK_HEADERS |= {
    f"x-stainless-{name}": "1"
    for name in ("arch", "lang", "os", "package-version", "retry-count", "runtime", "timeout")
}
FETCH = """async ([url, headers, body]) => {
    const reply = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
    const shown = ["x-turn-id", "x-should-retry"].map(name => reply.headers.get(name));
    return [reply.status, ...shown, await reply.text()];
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>Another site</title>")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    """A site whose page calls the app; to a browser, localhost is another site than 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def test_a_named_origin_may_call_with_the_headers_of_openais_sdk_and_no_other(
    new_page: NewPage, server_process: Callable[..., ServerProcess], port: int, problems: Problems
) -> None:
    named, other = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
    app = server_process("--cors-origins", named)
    problems.allow("status of 404")
    page = await new_page()
    await page.goto(named)

    async def call(**more: Any) -> Any:
        chat = {"model": "predict", "messages": [{"role": "user", "content": "What is 2 + 2?"}]} | more
        return await page.evaluate(FETCH, [f"{app.url}/v1/chat/completions", SDK_HEADERS, chat])

    status, turn_id, _, text = await call()
    assert (status, bool(turn_id), "4" in text) == (200, True, True)
    status, turn_id, _, text = await call(stream=True)
    assert (status, bool(turn_id), text.endswith("data: [DONE]\n\n")) == (200, True, True)
    assert (await call(model="no-such"))[:3] == [404, None, "false"]
    problems.allow("CORS policy|ERR_FAILED|status of 403")
    await page.goto(other)
    with pytest.raises(Exception, match="Failed to fetch"):
        await call()
    preflight = {"access-control-request-method": "POST", "access-control-request-private-network": "true"}
    preflight |= {"origin": named, "access-control-request-headers": ",".join(sorted(SDK_HEADERS))}
    reply = httpx.options(f"{app.url}/v1/chat/completions", headers=preflight)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, named)
