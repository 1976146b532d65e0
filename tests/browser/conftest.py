"""A real Chromium. All pages share one browser and one event loop; each context is a visitor of its own."""

import json
import os
import re
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from tests.browser.chat_page import ChatPage
from tests.environment import is_loopback
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.processes import running_app
from tests.stand_in_tunnel import SHARE_SERVER

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
on_a_phone = pytest.mark.parametrize("viewport", [PHONE], ids=["phone"])
#: Another site, whose pages may call the app's routes.
FRIEND = "http://localhost:8123"

NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
CHROMIUM_ARGS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage", NO_NETWORK]


class Problems:
    """What the pages of one test reported, and patterns of what the test itself provokes."""

    def __init__(self):
        self.seen, self.foreign = [], []
        # A reload of the test itself aborts what is under way, and its app may end before the page.
        self.allowed = ["^request: .*net::ERR_ABORTED$", "net::ERR_CONNECTION_REFUSED"]

    def watch(self, page):
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"page error: {error}"))
        page.on("request", self._note_host)
        page.on("websocket", self._note_host)
        page.on("requestfailed", lambda it: self.seen.append(f"request: {it.method} {it.url}: {it.failure}"))

    def _console(self, message):
        if message.type == "error":
            self.seen.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _note_host(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and not is_loopback(parts.hostname):
            self.foreign.append(request.url)


def pytest_collection_modifyitems(items):
    """Every test of this folder is a browser test and runs in the loop that the browser lives in."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("browser")
            if pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@asynccontextmanager
async def launched_chromium():
    names = (os.environ.get("CHROMIUM"), "/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
    executable = next((found for name in names if name and (found := shutil.which(name))), None)
    if executable is None:
        reason = "no Chromium found; set CHROMIUM to its path"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium():
    async with launched_chromium() as browser:
        yield browser


@pytest.fixture
def viewport():
    return DESKTOP


@pytest.fixture
def problems():
    return Problems()


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(chromium, viewport, problems):
    """Open a page as a new visitor: ``await new_page(color_scheme="dark")``, any option of a context.

    At the end of the test none of its pages may have reported a problem or asked another host.
    """
    async with AsyncExitStack() as contexts:

        async def open_page(**options):
            options = {"viewport": viewport, "reduced_motion": "reduce"} | options
            context = await contexts.enter_async_context(await chromium.new_context(**options))
            context.on("page", problems.watch)
            return await context.new_page()

        yield open_page
    assert not problems.foreign, f"the page asked other hosts: {problems.foreign}"
    allowed = "|".join(problems.allowed)
    unexpected = [seen for seen in problems.seen if not re.search(allowed, seen)]
    assert not unexpected, f"the page reported: {unexpected}"


@pytest.fixture(scope="session")
def hub():
    """A hub with one model of 1 MB, whose file stalls on its way."""
    with FakeHub(gguf_bytes(1_000_000), stalls_at=400_000) as hub:
        yield hub


@pytest.fixture(scope="session")
def app(hub, tmp_path_factory):
    """The app with its demo engine, for tests that need no other; its hub and its tunnel are stand-ins."""
    home = tmp_path_factory.mktemp("app")
    models = home / "models.json"
    models.write_text(json.dumps([asdict(known_for(hub.content))]))
    flags = ["--lm-retries", "0", "--hub-url", hub.url, "--models-dir", str(home / "models")]
    flags += ["--share-server", SHARE_SERVER, "--cors-origins", FRIEND]
    script = ("-m", "tests.app_with_tiny_model", str(models))
    env = {"DSPY_DEMO_TRACING": "true", "HF_HOME": str(home)}
    with running_app(*flags, data_dir=home / "data", home=home, env=env, script=script) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page, app):
    return await ChatPage(await new_page()).open(app.url)
