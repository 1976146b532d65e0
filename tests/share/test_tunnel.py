"""The public link: every way to open, to fail and to end, with real programs and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from dspy_demo.errors import ShareFailed
from dspy_demo.share import gradio_bridge, tunnel
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.services import until
from tests.stand_in_tunnel import stand_in, steer

Make = Callable[..., Tunnel]
#: What the tunnel told about being public, and how many of its processes ran then.
Told = list[tuple[bool, int]]


@pytest.fixture
async def page() -> AsyncIterator[int]:
    """The local page, which says that it is there. Gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe page")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
async def make(tmp_path: Path, data_dir: Path, page: int, told: Told) -> AsyncIterator[Make]:
    made: list[Tunnel] = []

    def new(behaviour: str = "working") -> Tunnel:
        program, address = stand_in(tmp_path, behaviour), ("0.0.0.0", page)

        def on_public(public: bool) -> None:
            told.append((public, len(processes(page))))

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
    make: Make, told: Told, page: int
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
        ("stubborn", "gave no link within 1.5 seconds"),
        ("dying", gradio_bridge.ENDED),
        ("full", "refused to open a link"),
    ],
)
async def test_a_program_that_does_not_do_it(
    make: Make, told: Told, monkeypatch: pytest.MonkeyPatch, behaviour: str, sentence: str
) -> None:
    if behaviour == "stubborn":
        monkeypatch.setattr(tunnel, "TIMEOUT_S", 1.5)
    share, begun = make(behaviour), time.monotonic()
    with pytest.raises(ShareFailed, match=sentence):
        await share.open()
    assert time.monotonic() - begun < 8
    state = share.state()
    assert state.phase == "failed" and sentence in state.reason and not state.url
    assert state.log_tail.strip() == stand_in_tunnel.LINES.get(behaviour, "")
    assert [public for public, _ in told] == [True, False]
    await until(lambda: not processes(page))


async def test_a_program_that_dies_is_noticed(make: Make, told: Told, page: int) -> None:
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


async def test_clicks_in_any_order(make: Make, told: Told) -> None:
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
