"""Page and routes in one process, in Gradio's own server."""

from __future__ import annotations

import httpx
import pytest

from dspy_demo.api import build_routes
from tests.api.conftest import LM, SilentBackend, make_service
from tests.scripted_backend import ScriptedBackend, scripted_answer

gradio = pytest.importorskip("gradio")


@pytest.fixture
async def launch(monkeypatch, free_port):
    """Async, and so are the tests: without a running loop Gradio 6.31 makes one and never closes it."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pages = []

    def launch(backend) -> str:
        with gradio.Blocks() as page:
            gradio.Markdown("The page")
        pages.append(page)
        routes = build_routes(make_service(backend), lambda: LM)
        _, url, _ = page.launch(
            prevent_thread_lock=True, quiet=True, server_port=free_port(), app_kwargs={"routes": routes}
        )
        return url.rstrip("/")

    yield launch
    for page in pages:
        page.close(verbose=False)


async def test_page_and_routes_live_together(launch):
    url = launch(ScriptedBackend(scripted_answer("4")))
    assert "gradio" in httpx.get(url).text
    assert httpx.get(url + "/config").status_code == 200
    assert httpx.get(url + "/health").json()["status"] == "ok"
    assert httpx.post(url + "/predict", json={"text": "hi"}).json()["data"] == {"answer": "4"}
    assert httpx.get(url + "/v1/models").json()["data"][0]["id"] == "qa"
    refused = httpx.post(url + "/predict", json={})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    unknown = httpx.get(url + "/v1/models/nope")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    paths = httpx.get(url + "/openapi.json").json()["paths"]
    assert not any(path.startswith("/gradio_api") for path in paths)
    assert "/predict" in httpx.get(url + "/docs").text


async def test_hanging_up_reaches_the_turn_through_gradios_middleware(launch):
    backend = SilentBackend()
    url = launch(backend)
    with httpx.stream("POST", url + "/predict/stream", json={"text": "hi"}) as response:
        assert next(response.iter_lines()).startswith("data: ")
        assert backend.begun.wait(5)
    assert backend.closed.wait(0.5)
