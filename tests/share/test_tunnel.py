"""The public link: every way to open, to fail and to end, with real programs and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from dspy_demo.errors import ShareFailed
from dspy_demo.share import gradio, tunnel
from dspy_demo.share.gradio import LINK_LASTS_S
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.processes import REPO, wait_until
from tests.services import settings_for, until
from tests.stand_in_tunnel import PUBLIC_HOST, VISITOR, stand_in, steer

#: For what meets it, and for what must not on a busy machine.
DEADLINE_S, AMPLE_S = 1.5, 30
#: What the machine may be late.
LATE_S = 5.0

Make = Callable[..., Tunnel]


@pytest.fixture
def page() -> Iterator[int]:
    """The local page: it answers with the headers that it got. Gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def gate() -> list[bool]:
    """What the tunnel told about being public, in order."""
    return []


@pytest.fixture
async def make(tmp_path: Path, data_dir: Path, page: int, gate: list[bool]) -> AsyncIterator[Make]:
    made: list[Tunnel] = []

    def tunnel(behaviour: str = "working", *, timeout_s: float = AMPLE_S, program: Any = None) -> Tunnel:
        program = program or stand_in(tmp_path, behaviour)
        settings = settings_for(data_dir)
        made.append(Tunnel(settings, on_public=gate.append, program=program, timeout_s=timeout_s))
        made[-1].listening_at("0.0.0.0", page)
        return made[-1]

    yield tunnel
    await asyncio.gather(*(tunnel.close() for tunnel in made))


def processes(page: int) -> set[int]:
    """The tunnel's program to that port, and its warden."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f" -l {page} " in path.read_text().replace("\0", " "):
                found.add(int(path.parent.name))
    return found


async def fails(tunnel: Tunnel, sentence: str) -> None:
    """Opening ends in time, with the sentence, and leaves nothing."""
    begun = time.monotonic()
    with pytest.raises(ShareFailed) as failure:
        await tunnel.open()
    assert time.monotonic() - begun < tunnel._timeout_s + LATE_S
    assert sentence in failure.value.public_message
    assert (tunnel.state().phase, tunnel.state().reason) == ("failed", failure.value.public_message)
    assert not tunnel.state().url
    assert failure.value.public_message.count("\n") == 0
    assert tunnel._local is None or processes(tunnel._local[1]) == set()


# --- it works ---


async def test_the_link_leads_to_the_page(make: Make, gate: list[bool]) -> None:
    share = make()
    assert share.state().phase == "off"
    url = await share.open()
    assert gate == [True]
    state = share.state()
    assert (state.phase, state.url, state.expires_at) == ("open", url, None)
    assert abs(state.since - time.time()) < 5
    async with httpx.AsyncClient() as visitor:
        seen = (await visitor.get(f"{url}/", headers={"Origin": url})).json()
    assert (seen["host"], seen["x-forwarded-for"]) == (PUBLIC_HOST, VISITOR)
    assert seen["origin"] == f"https://{PUBLIC_HOST}"
    await share.close()
    assert share.state().phase == "off"
    assert gate == [True, False]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


async def test_the_app_is_public_before_the_program_runs_and_until_it_is_gone(
    make: Make, gate: list[bool], page: int
) -> None:
    share = make()
    running: list[tuple[bool, int]] = []
    share._on_public = lambda public: running.append((public, len(processes(page))))
    await share.open()
    assert processes(page)
    await share.close()
    assert running == [(True, 0), (False, 0)]


# --- it cannot be opened ---


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("silent", "gave no link within 1.5 seconds"),
        ("stubborn", "gave no link within 1.5 seconds"),
        ("dying", gradio.ENDED),
        ("refused", gradio.REFUSED),
        ("blocked", gradio.CUT),
        ("untrusted", gradio.NOT_TRUSTED),
        ("full", gradio.REFUSED),
        ("odd", "not a web address"),
    ],
)
async def test_a_program_that_does_not_do_it(
    make: Make, gate: list[bool], behaviour: str, sentence: str
) -> None:
    share = make(behaviour, timeout_s=DEADLINE_S if "within" in sentence else AMPLE_S)
    await fails(share, sentence)
    assert gate == [True, False]
    assert share.state().log_tail == stand_in_tunnel.LINES.get(behaviour, "")


async def test_a_data_folder_that_cannot_be_written_to(make: Make, data_dir: Path) -> None:
    data_dir.mkdir(exist_ok=True)
    (data_dir / "share").write_text("in the way")
    await fails(make(), tunnel.NOT_WRITABLE)


async def test_before_the_page_is_up(data_dir: Path, gate: list[bool]) -> None:
    share = Tunnel(settings_for(data_dir), on_public=gate.append)
    await fails(share, tunnel.NOT_LISTENING)
    assert gate == []


# --- it ends ---


async def test_a_program_that_dies_is_noticed(make: Make, gate: list[bool], page: int) -> None:
    share = make()
    url = await share.open()
    for pid in processes(page):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: share.state().phase == "failed")
    assert (share.state().reason, gate) == (tunnel.BROKE_OFF, [True, False])
    assert await share.open() != url, "and can be opened again"


async def test_the_share_server_ends_the_link(make: Make) -> None:
    share = make()
    await asyncio.to_thread(steer, await share.open(), "server")
    await until(lambda: share.state().phase == "failed")
    assert share.state().reason == tunnel.ENDED_BY_SERVER


async def test_a_link_that_is_cut_off_and_comes_back_as_another(make: Make) -> None:
    share = make()
    url = await share.open()
    await asyncio.to_thread(steer, url, "cut-off")
    await until(lambda: share.state().interrupted)
    assert (share.state().phase, share.state().url) == ("open", url)
    await asyncio.to_thread(steer, url, "back")
    await until(lambda: not share.state().interrupted)
    assert (share.state().phase, share.state().url != url) == ("open", True)


async def test_a_link_ends_after_its_week(make: Make, gate: list[bool]) -> None:
    share = make()
    share._program.lasts_s = LINK_LASTS_S
    now = [1_000_000.0]
    share._clock = lambda: now[0]
    await share.open()
    now[0] += LINK_LASTS_S - 1
    await asyncio.sleep(2 * tunnel.OPEN_LOOK_S)
    assert share.state().phase == "open"
    now[0] += 1
    await until(lambda: share.state().phase == "failed")
    assert (share.state().reason, gate) == (tunnel.EXPIRED, [True, False])


# --- clicks in any order ---


async def test_two_who_open_get_one_link(make: Make, gate: list[bool]) -> None:
    share = make()
    assert len(set(await asyncio.gather(share.open(), share.open()))) == 1
    share.begin()
    assert gate == [True]


async def test_opening_while_it_closes_opens_again(make: Make, gate: list[bool]) -> None:
    share = make()
    first = await share.open()
    closing = asyncio.create_task(share.close())
    await until(lambda: share.state().phase == "closing")
    assert await share.open() != first
    await closing
    assert gate == [True, False, True]


# --- what the program gets, and what is left of it ---


APP = f"""
import asyncio, sys
sys.path.insert(0, {str(REPO)!r})
from pathlib import Path
from dspy_demo.share.tunnel import Tunnel
from tests.services import settings_for
from tests.stand_in_tunnel import stand_in
async def main():
    tunnel = Tunnel(settings_for(Path(sys.argv[1])), program=stand_in(Path(sys.argv[1])))
    tunnel.listening_at("127.0.0.1", int(sys.argv[2]))
    print(await tunnel.open(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_the_tunnel_ends_with_a_killed_app(data_dir: Path, page: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APP, str(data_dir), str(page)], stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout is not None
        url = await asyncio.to_thread(app.stdout.readline)
        assert httpx.get(url.strip()).status_code == 200
        app.kill()
        app.wait(5)
    await asyncio.to_thread(wait_until, lambda: not processes(page), 5.0, "the tunnel ends")
