"""The public link: every way to open, to fail and to end, with real programs and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from dspy_demo.errors import ShareFailed
from dspy_demo.share import gradio_bridge, tunnel
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.services import until
from tests.stand_in_tunnel import stand_in, steer

Make = Callable[..., Tunnel]


@pytest.fixture
def page() -> Iterator[int]:
    """The local page, which says that it is there. Gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe page")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def told(page: int) -> list[tuple[bool, int]]:
    """What the tunnel told about being public, and how many of its processes ran then."""
    return []


@pytest.fixture
async def make(
    tmp_path: Path, data_dir: Path, page: int, told: list[tuple[bool, int]]
) -> AsyncIterator[Make]:
    made: list[Tunnel] = []

    def new(behaviour: str = "working") -> Tunnel:
        def on_public(public: bool) -> None:
            told.append((public, len(processes(page))))

        program, address = stand_in(tmp_path, behaviour), ("0.0.0.0", page)
        made.append(Tunnel(program, address, data_dir, on_public=on_public))
        return made[-1]

    yield new
    await asyncio.gather(*(tunnel.close() for tunnel in made))


def processes(page: int) -> set[int]:
    """The tunnel's program to that port, and its warden."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f" -l {page} " in path.read_text().replace("\0", " "):
                found.add(int(path.parent.name))
    return found


async def test_the_link_leads_to_the_page_and_is_public_only_while_its_program_runs(
    make: Make, told: list[tuple[bool, int]], page: int
) -> None:
    share = make()
    url, again = await asyncio.gather(share.open(), share.open())
    state = share.state()
    assert (state.phase, state.url, state.expires_at, again) == ("open", url, None, url)
    async with httpx.AsyncClient() as visitor:
        assert (await visitor.get(url)).text == "the page"
    assert processes(page)
    await share.close()
    assert (share.state().phase, told) == ("off", [(True, 0), (False, 0)])
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("silent", "gave no link within 1.5 seconds"),
        ("stubborn", "gave no link within 1.5 seconds"),
        ("dying", gradio_bridge.ENDED),
        ("refused", "refused to open a link"),
        ("full", "refused to open a link"),
    ],
)
async def test_a_program_that_does_not_do_it(
    make: Make,
    told: list[tuple[bool, int]],
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    sentence: str,
) -> None:
    if "within" in sentence:
        monkeypatch.setattr(tunnel, "TIMEOUT_S", 1.5)
    share, begun = make(behaviour), time.monotonic()
    with pytest.raises(ShareFailed, match=sentence):
        await share.open()
    assert time.monotonic() - begun < 8
    state = share.state()
    assert state.phase == "failed" and sentence in state.reason and not state.url
    assert state.log_tail.strip() == stand_in_tunnel.LINES.get(behaviour, "")
    assert told == [(True, 0), (False, 0)], "its program is gone before the page is not public any more"


async def test_a_program_that_dies_is_noticed(make: Make, told: list[tuple[bool, int]], page: int) -> None:
    share = make()
    url = await share.open()
    for pid in processes(page):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: share.state().phase == "failed")
    assert share.state().reason == tunnel.BROKE_OFF and told[-1] == (False, 0)
    assert await share.open() != url, "and can be opened again"


async def test_a_link_that_is_cut_off_comes_back_as_another_and_is_ended_by_its_server(make: Make) -> None:
    share = make()
    url = await share.open()
    await asyncio.to_thread(steer, url, "cut-off")
    await until(lambda: share.state().interrupted)
    assert (share.state().phase, share.state().url) == ("open", url)
    await asyncio.to_thread(steer, url, "back")
    await until(lambda: not share.state().interrupted)
    assert share.state().phase == "open" and share.state().url != url
    await asyncio.to_thread(steer, share.state().url, "server")
    await until(lambda: share.state().phase == "failed")
    assert share.state().reason == tunnel.ENDED_BY_SERVER


async def test_a_link_ends_after_its_time(make: Make) -> None:
    share = make()
    share._program.lasts_s = 1.0
    await share.open()
    assert share.state().expires_at == pytest.approx(time.time() + 1, abs=1)
    await until(lambda: share.state().phase == "failed")
    assert share.state().reason == tunnel.EXPIRED


async def test_clicks_in_any_order(make: Make, told: list[tuple[bool, int]]) -> None:
    share = make()
    share.begin()
    await share.close()  # before it has begun
    assert (share.state().phase, told) == ("off", [])
    first = await share.open()
    closing = asyncio.create_task(share.close())
    await until(lambda: share.state().phase == "closing")
    assert await share.open() != first
    await closing
    assert [public for public, _ in told] == [True, False, True]
