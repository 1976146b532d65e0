"""Downloading a model in the page: from the button to the picker, with a stop in between."""

from __future__ import annotations

import json
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
SEEN_MS = 15_000


def app_with_tiny_model(hub: FakeHub, tmp_path: Path) -> ServerProcess:
    """An app that offers one model, of 1 MB."""
    models, port = tmp_path / "models.json", free_port()
    models.write_text(json.dumps([asdict(known_for(CONTENT))]))
    flags = ["--port", str(port), "--no-open", "--data-dir", str(tmp_path / "data"), "--hub-url", hub.url]
    flags += ["--models-dir", str(tmp_path / "models")]
    return start_process(["tests/app_with_tiny_model.py", str(models), *flags], port=port, home=tmp_path)


@pytest.mark.skipif(not runtime_installed(), reason="a model can be picked where its runtime is installed")
async def test_download_cancel_resume_use(new_page: NewPage, tmp_path: Path) -> None:
    with FakeHub(CONTENT, stalls_at=400_000) as hub:
        app = app_with_tiny_model(hub, tmp_path)
        try:
            app.wait_until_healthy()
            await story(await ChatPage(await new_page()).open(app.url), hub)
        finally:
            app.stop()


async def story(chat: ChatPage, hub: FakeHub) -> None:
    listed, active = chat.page.locator("#model-list"), chat.page.locator("#active")

    async def says(text: str) -> None:
        await expect(listed).to_contain_text(text, timeout=SEEN_MS)

    await says("1 MB · Apache-2.0 · Source")
    await chat.page.get_by_role("button", name="Download Tiny Instruct").click()
    await says("0.4 MB of 1 MB")
    await chat.reload()
    await says("0.4 MB of 1 MB")
    await chat.page.get_by_role("button", name="Cancel Tiny Instruct").click()
    await says("Stopped at 0.4 MB of 1 MB")
    hub.stalls_at = None
    await chat.page.get_by_role("button", name="Resume Tiny Instruct").click()
    await says("On this machine")
    assert hub.gets[-1].range == "bytes=400000-"

    await chat.pick("model", "Tiny Instruct")  # without a reload
    await expect(active).to_contain_text("Tiny Instruct")
    await says("Picked above")
    await expect(chat.page.locator("#banner")).to_be_hidden()
    await chat.pick("model", "Demo engine")
    await chat.page.get_by_role("button", name="Use Tiny Instruct").click()
    await expect(active).to_contain_text("Tiny Instruct")
