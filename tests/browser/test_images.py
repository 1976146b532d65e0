"""A program that takes pictures: from a file, a paste or an address, and by the API."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.conftest import PHONE, NewPage
from tests.fake_openai import FakeOpenAI
from tests.processes import ServerProcess, running_app

CASE = Path(__file__).parents[1] / "cases" / "describes_images.py"
#: One red pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
#: Pastes a large picture of noise.
PASTE = """async field => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 2000, height: 1500 });
  const pen = canvas.getContext("2d"), noise = pen.createImageData(2000, 1500);
  for (let at = 0; at < noise.data.length; at++) noise.data[at] = (at * 7919) % 251 ^ (at >> 3);
  pen.putImageData(noise, 0, 0);
  const png = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([png], "noise.png", { type: "image/png" }));
  field.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""
ADDRESS = "https://pictures.example/cat.png"


@pytest.fixture(scope="module")
def app(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("images")
    options = ("--program", str(CASE), "--api-base", upstream.url, "--no-cache", "--lm-retries", "0")
    with running_app(*options, data_dir=home / "data", home=home) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page: NewPage, app: ServerProcess, upstream: FakeOpenAI) -> ChatPage:
    upstream.reset()
    return await ChatPage(await new_page()).open(app.url)


def seen(upstream: FakeOpenAI) -> list[str]:
    """The images that the model got with the last question."""
    messages = upstream.streams[-1].request.json["messages"]
    parts = [
        part for message in messages if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


@pytest.mark.parametrize("viewport", [PHONE], ids=["phone"])
async def test_an_image_is_a_file_a_paste_made_smaller_or_an_address_and_nothing_else(
    chat: ChatPage, upstream: FakeOpenAI
) -> None:
    field = chat.image_field("Image")
    await field.fill("/etc/passwd")
    await chat.composer.fill("What is it?")
    await chat.is_refused("This is no image", lambda: chat.composer.press("Enter"))
    await expect(chat.composer).to_have_value("What is it?")
    assert upstream.streams == []

    await chat.choose_file("Image", "red.png", PNG)
    await chat.ask("What is it?")
    await chat.done()
    await expect(chat.page.locator(".turn-error")).to_have_count(0)
    (chosen,) = seen(upstream)
    assert chosen.startswith("data:image/jpeg;base64,")
    await expect(chat.page.locator(".turn-inputs")).to_have_text("Image: a picture of 1 kB")

    await field.evaluate(PASTE)
    await chat.page.wait_for_function(
        "([field, chosen]) => field.value !== chosen", arg=[await field.element_handle(), chosen]
    )
    await chat.image_field("Other").fill(ADDRESS)
    await chat.ask("What are they?")
    await chat.done(2)
    pasted, address = seen(upstream)
    assert pasted.startswith("data:image/jpeg;base64,")
    assert len(pasted) <= 150_000
    assert address == ADDRESS


def test_an_image_comes_by_the_api(app: ServerProcess, upstream: FakeOpenAI) -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for image in ({"url": url}, url):
        body = {"inputs": {"question": "What is it?", "image": image}}
        assert httpx.post(f"{app.url}/predict", json=body, timeout=30).status_code == 200
        assert seen(upstream) == [url]
