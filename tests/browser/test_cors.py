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

SDK_HEADERS = {
    "authorization": "Bearer unused",
    "content-type": "application/json",
    "x-stainless-arch": "unknown",
    "x-stainless-lang": "js",
    "x-stainless-os": "Unknown",
    "x-stainless-package-version": "6.1.0",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "browser:chrome",
    "x-stainless-timeout": "600",
}
FETCH = """async ([url, headers, body]) => {
    const reply = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
    const shown = ["x-turn-id", "x-should-retry", "retry-after"].map(name => reply.headers.get(name));
    return [reply.status, shown, await reply.text()];
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>Another site</title>")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def other_site() -> Iterator[str]:
    """A site whose page calls the app; to a browser, localhost is another site than 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_named_origin_may_call_with_the_headers_of_openais_sdk(
    new_page: NewPage, server_process: Callable[..., ServerProcess], other_site: str, problems: Problems
) -> None:
    app = server_process("--cors-origins", other_site)
    problems.allow("status of 404")
    page = await new_page()
    await page.goto(other_site)

    async def call(body: dict[str, Any]) -> tuple[int, list[str | None], str]:
        reply: Any = await page.evaluate(FETCH, [f"{app.url}/v1/chat/completions", SDK_HEADERS, body])
        return reply

    chat = {"model": "predict", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
    status, (turn_id, *_), text = await call(chat)
    assert (status, bool(turn_id)) == (200, True)
    assert "4" in text
    status, (turn_id, *_), text = await call(chat | {"stream": True})
    assert (status, bool(turn_id)) == (200, True)
    assert text.endswith("data: [DONE]\n\n")
    status, (_, should_retry, _), text = await call(chat | {"model": "no-such"})
    assert (status, should_retry) == (404, "false")


async def test_an_origin_that_is_not_named_may_not(
    new_page: NewPage, server_process: Callable[..., ServerProcess], other_site: str, problems: Problems
) -> None:
    app = server_process("--cors-origins", "https://friend.example")
    problems.allow("CORS policy|ERR_FAILED")
    page = await new_page()
    await page.goto(other_site)
    chat = {"model": "predict", "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(Exception, match="Failed to fetch"):
        await page.evaluate(FETCH, [f"{app.url}/v1/chat/completions", SDK_HEADERS, chat])
    for origin, status in (("https://friend.example", 200), (other_site, 400)):
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": ",".join(sorted(SDK_HEADERS)),
            "access-control-request-private-network": "true",
        }
        preflight = httpx.options(f"{app.url}/v1/chat/completions", headers=asked)
        assert preflight.status_code == status, preflight.text
        allowed = preflight.headers.get("access-control-allow-headers", "")
        assert (status == 400) or set(SDK_HEADERS) <= set(allowed.split(","))
        assert preflight.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
