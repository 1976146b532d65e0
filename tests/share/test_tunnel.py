"""The public link: every way to open, to fail and to end, with real programs and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dspy_demo.share import gradio_bridge, tunnel
from dspy_demo.share.tunnel import Tunnel
from tests.services import until
from tests.stand_in_tunnel import ANOTHER, END, stand_in

#: The port of the page; nothing listens there.
PAGE = 9
Make = Callable[..., Tunnel]
#: What the tunnel told about being public, and how many of its processes ran then.
Told = list[tuple[bool, int]]


@pytest.fixture
def told():
    return []


@pytest.fixture
async def make(tmp_path, data_dir, told):
    made: list[Tunnel] = []

    def new(behaviour="working"):
        def on_public(public):
            told.append((public, len(processes())))

        program, address = stand_in(tmp_path, behaviour), ("0.0.0.0", PAGE)
        made.append(Tunnel(program, address, data_dir, on_public=on_public, on_link=lambda _: None))
        return made[-1]

    yield new
    await asyncio.gather(*(tunnel.close() for tunnel in made))


async def opened(share):
    share.begin()
    await until(lambda: share.state().phase == "open")
    return share.state().url


def processes():
    """The tunnel's program, and its warden."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f" -l {PAGE} -i 127.0.0.1" in path.read_text().replace("\0", " "):
                found.add(int(path.parent.name))
    return found


async def test_the_link_leads_to_the_page_and_is_public_only_while_its_program_runs(make, told):
    share = make()
    share.begin()
    await share.close()  # before it has begun
    assert (share.state().phase, told) == ("off", [])
    url = await opened(share)
    assert (share.state().url, share.state().expires_at) == (url, None)
    assert httpx.get(f"{url}/x").headers["Location"] == f"http://127.0.0.1:{PAGE}/x"
    closing = asyncio.create_task(share.close())
    await until(lambda: share.state().phase == "closing")
    await share.close()  # a second click
    await closing
    assert (share.state().phase, told) == ("off", [(True, 0), (False, 0)])
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


async def test_a_link_becomes_another_and_its_end_is_noticed(make, told):
    share = make()
    url = await opened(share)
    await asyncio.to_thread(httpx.get, url + ANOTHER)
    await until(lambda: share.state().url not in {"", url})
    with contextlib.suppress(httpx.HTTPError):
        await asyncio.to_thread(httpx.get, url + END)
    await until(lambda: share.state().phase == "failed")
    assert await opened(share) != url, "and can be opened again"
    for pid in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: share.state().phase == "failed")
    assert share.state().reason == tunnel.ENDED and told == [(True, 0), (False, 0)] * 2


async def test_a_program_that_gives_no_link(make, told, monkeypatch):
    monkeypatch.setattr(tunnel, "TIMEOUT_S", 1.5)
    sentences = {"stubborn": "gave no link within 1.5 seconds", "blocked": gradio_bridge.REASONS[0][1]}
    for behaviour, sentence in sentences.items():
        share = make(behaviour)
        share.begin()
        await until(lambda share=share: share.state().phase == "failed")
        state = share.state()
        assert sentence in state.reason and not state.url
        assert ("i/o timeout" in state.log_tail) == (behaviour == "blocked")
    assert [public for public, _ in told] == [True, False] * 2 and not processes()
