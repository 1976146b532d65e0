"""Downloading a model in the page: from the button to the picker, with a stop in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from playwright.async_api import expect

from dspy_demo.lm.local.runtime import runtime_installed
from tests.browser.chat_page import ChatPage
from tests.browser.conftest import NewPage
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.fake_openai import free_port
from tests.processes import ServerProcess, start_process

CONTENT = gguf_bytes(1_000_000)
MODEL = known_for(CONTENT)
SEEN_MS = 15_000


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(CONTENT, stalls_at=400_000) as fake:
        yield fake


@pytest.fixture
def app(hub: FakeHub, data_dir: Path, tmp_path: Path, home: Path) -> Iterator[ServerProcess]:
    models, port = tmp_path / "models.json", free_port()
    models.write_text(json.dumps([asdict(MODEL)]))
    flags = ["--port", str(port), "--no-open", "--data-dir", str(data_dir), "--hub-url", hub.url]
    flags += ["--models-dir", str(tmp_path / "models")]
    server = start_process(["tests/app_with_tiny_model.py", str(models), *flags], port=port, home=home)
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


@pytest.mark.skipif(not runtime_installed(), reason="a model can be picked where its runtime is installed")
async def test_download_cancel_resume_use(app: ServerProcess, new_page: NewPage, hub: FakeHub) -> None:
    chat = await ChatPage(await new_page()).open(app.url)
    listed = chat.page.locator("#model-list")
    await expect(listed).to_contain_text("1 MB · Apache-2.0 · Source", timeout=SEEN_MS)

    await chat.page.get_by_role("button", name="Download Tiny Instruct").click()
    await expect(listed).to_contain_text("0.4 MB of 1 MB", timeout=SEEN_MS)
    await chat.reload()
    await expect(listed).to_contain_text("0.4 MB of 1 MB", timeout=SEEN_MS)

    await chat.page.get_by_role("button", name="Cancel Tiny Instruct").click()
    await expect(listed).to_contain_text("Stopped at 0.4 MB of 1 MB", timeout=SEEN_MS)

    hub.stalls_at = None
    await chat.page.get_by_role("button", name="Resume Tiny Instruct").click()
    await expect(listed).to_contain_text("On this machine", timeout=SEEN_MS)
    assert hub.gets[-1].range == "bytes=400000-"

    await chat.pick("model", "Tiny Instruct")  # without a reload
    await expect(chat.page.locator("#active")).to_contain_text("Tiny Instruct")
    await expect(listed).to_contain_text("Picked above", timeout=SEEN_MS)
    await expect(chat.page.locator("#banner")).to_be_hidden()
    await chat.pick("model", "Demo engine")
    await chat.page.get_by_role("button", name="Use Tiny Instruct").click()
    await expect(chat.page.locator("#active")).to_contain_text("Tiny Instruct")
