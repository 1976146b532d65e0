"""A real Chromium. All pages share one browser and one event loop; each context is a visitor of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.browser.chat_page import ChatPage
from tests.fake_hub import FakeHub, gguf_bytes, known_for
from tests.network_guard import is_loopback
from tests.processes import ServerProcess, running_app
from tests.stand_in_tunnel import SHARE_SERVER

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

CHROMIUM_ARGS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
CHROMIUM_ARGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"]
# Not problems: a reload of the test itself aborts what is under way, and its app may end before the page.
_ABORTED, _APP_ENDED = "net::ERR_ABORTED", "net::ERR_CONNECTION_REFUSED"

NewPage = Callable[..., Awaitable[Page]]


@dataclass
class Problems:
    """What went wrong in the pages of one test. `allow` names what the test provokes itself."""

    seen: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Problems whose text matches the regular expression are expected."""
        self.allowed.append(pattern)

    @property
    def unexpected(self) -> list[str]:
        return [p for p in self.seen if not any(re.search(pattern, p) for pattern in self.allowed)]

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"page error: {error}"))
        page.on("request", lambda request: self._note_host(request.url))
        page.on("websocket", lambda socket: self._note_host(socket.url))
        page.on("requestfailed", self._request_failed)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and _APP_ENDED not in message.text:
            self.seen.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _request_failed(self, request: Request) -> None:
        if request.failure not in (_ABORTED, _APP_ENDED):
            self.seen.append(f"request: {request.method} {request.url}: {request.failure}")

    def _note_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and not is_loopback(parts.hostname):
            self.foreign.append(url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a browser test and runs in the loop that the browser lives in."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("browser")
            if pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def find_chromium() -> str | None:
    names = (os.environ.get("CHROMIUM"), "/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    executable = find_chromium()
    if executable is None:
        reason = "no Chromium found; set CHROMIUM to its path"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest.fixture
def viewport() -> dict[str, int]:
    """Override with ``@pytest.mark.parametrize("viewport", [PHONE])``."""
    return DESKTOP


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(chromium: Browser, viewport: dict[str, int], problems: Problems) -> AsyncIterator[NewPage]:
    """Open a page as a new visitor: ``await new_page(color_scheme="dark")``, any option of a context.

    At the end of the test none of its pages may have reported a problem or asked another host.
    """
    async with AsyncExitStack() as contexts:

        async def open_page(**options: Any) -> Page:
            options = {"viewport": viewport, "reduced_motion": "reduce"} | options
            context = await contexts.enter_async_context(await chromium.new_context(**options))
            context.on("page", problems.watch)
            return await context.new_page()

        yield open_page
    assert not problems.foreign, f"the page asked other hosts: {problems.foreign}"
    assert not problems.unexpected, f"the page reported: {problems.unexpected}"


@pytest_asyncio.fixture(loop_scope="session")
async def page(new_page: NewPage) -> Page:
    return await new_page()


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    """A hub with one model of 1 MB, whose file stalls on its way."""
    with FakeHub(gguf_bytes(1_000_000), stalls_at=400_000) as hub:
        yield hub


@pytest.fixture(scope="session")
def app_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="session")
def app(app_home: Path, hub: FakeHub) -> Iterator[ServerProcess]:
    """The app with its demo engine, for tests that need no other; its hub and its tunnel are stand-ins."""
    models, home = app_home / "models.json", app_home
    models.write_text(json.dumps([asdict(known_for(hub.content))]))
    flags = ["--lm-retries", "0", "--hub-url", hub.url, "--models-dir", str(home / "models")]
    flags += ["--share-server", SHARE_SERVER]
    script = ("tests/app_with_tiny_model.py", str(models))
    env = {"DSPY_DEMO_TRACING": "true", "HF_HOME": str(home)}
    with running_app(*flags, data_dir=home / "data", home=home, env=env, script=script) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def chat(new_page: NewPage, app: ServerProcess) -> ChatPage:
    return await ChatPage(await new_page()).open(app.url)
