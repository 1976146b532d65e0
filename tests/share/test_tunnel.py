"""The public link: every way to open, to fail and to end, with real programs and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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
from dspy_demo.share import frpc, program, share_server, tunnel
from dspy_demo.share.gradio_service import LINK_LASTS_S, gradio_service
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.fake_openai import free_port
from tests.processes import REPO, wait_until
from tests.services import settings_for, until
from tests.stand_in_share_service import CERTIFICATE, NONSENSE, StandInShareService
from tests.stand_in_tunnel import PUBLIC_HOST, SHARE_SERVER, VISITOR, steer

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

    def tunnel(
        behaviour: str = "working", *, clock: Any = time.time, service: Any = None, **settings: Any
    ) -> Tunnel:
        settings = {"share_server": SHARE_SERVER, "share_timeout_s": AMPLE_S, **settings}
        if "share_binary" not in settings:
            settings["share_binary"] = stand_in_tunnel.write(tmp_path, behaviour)
        own = {"service": service} if service else {}
        made.append(Tunnel(settings_for(data_dir, **settings), on_public=gate.append, clock=clock, **own))
        made[-1].listening_at("0.0.0.0", page)
        return made[-1]

    yield tunnel
    await asyncio.gather(*(tunnel.close() for tunnel in made))


@pytest.fixture
def gradio(tmp_path: Path) -> Iterator[StandInShareService]:
    with StandInShareService(stand_in_tunnel.write(tmp_path)) as service:
        yield service


@pytest.fixture
def gradio_tunnel(make: Make, gradio: StandInShareService, tmp_path: Path) -> Callable[..., Tunnel]:
    """A tunnel through Gradio's own service."""

    def tunnel(**settings: Any) -> Tunnel:
        settings = {"share_server": None, "share_binary": None} | settings
        return make(service=lambda: gradio.service(tmp_path), **settings)

    return tunnel


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
    assert time.monotonic() - begun < tunnel._settings.share_timeout_s + LATE_S
    assert sentence in failure.value.public_message
    assert (tunnel.state().phase, tunnel.state().reason) == ("failed", failure.value.public_message)
    assert not tunnel.state().url
    assert failure.value.public_message.count("\n") == 0
    assert tunnel._local is None or processes(tunnel._local[1]) == set()


# --- it works ---


def test_no_name_of_a_tunnel_is_taken_for_an_option(tmp_path: Path) -> None:
    server = share_server.ShareServer("share.example", 7000, None, "http", None)
    for _ in range(500):
        arguments = frpc.command(tmp_path, server, "127.0.0.1", 7860)[1:]
        assert stand_in_tunnel.parse(arguments).name == arguments[2]


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


async def test_the_gate_is_shut_before_the_program_runs_and_until_it_is_gone(
    make: Make, gate: list[bool], page: int
) -> None:
    share = make()
    running: list[tuple[bool, int]] = []
    share._on_public = lambda public: running.append((public, len(processes(page))))
    await share.open()
    assert processes(page)
    await share.close()
    assert running == [(True, 0), (False, 0)]


async def test_a_gate_that_does_not_shut_lets_nobody_in(make: Make, data_dir: Path) -> None:
    share = make()

    def broken(public: bool) -> None:
        if public:
            raise RuntimeError("no")

    share._on_public = broken
    with pytest.raises(ShareFailed):
        await share.open()
    assert share.state().phase == "failed"
    assert "RuntimeError" not in share.state().reason


async def test_the_page_sees_each_step(gradio_tunnel: Callable[..., Tunnel]) -> None:
    share = gradio_tunnel()
    steps: list[str] = []
    share.begin()
    while share.state().phase == "opening":
        if share.state().step not in steps:
            steps.append(share.state().step)
        await asyncio.sleep(0.001)
    assert share.state().phase == "open", share.state()
    assert steps[:2] == ["Starting", "Asking Gradio for a share server"]
    assert steps[-1] == "Opening the tunnel"


async def test_gradios_service_gives_server_certificate_and_program(
    gradio_tunnel: Callable[..., Tunnel],
    gradio: StandInShareService,
    data_dir: Path,
    monkeypatch: Any,
    home: Path,
) -> None:
    monkeypatch.chdir(home)
    share = gradio_tunnel()
    url = await share.open()
    assert url.startswith("https://127.0.0.1:"), "TLS ends at Gradio's server, whatever the program prints"
    state = share.state()
    assert state.expires_at == state.since + LINK_LASTS_S == state.since + 604_800
    assert (data_dir / "share" / "certificate.pem").read_text() == CERTIFICATE
    assert not list(home.iterdir()), "Gradio's own way writes its certificate into the working folder"
    await share.close()
    await share.open()
    assert gradio.asked.count("/frpc") == 1, "the download is kept"


async def test_the_program_that_gradio_has_is_used(
    gradio_tunnel: Callable[..., Tunnel], gradio: StandInShareService, tmp_path: Path
) -> None:
    place = gradio.service(tmp_path).program_path
    place.parent.mkdir()
    place.write_bytes(gradio.program)
    place.chmod(0o755)
    await gradio_tunnel().open()
    assert "/frpc" not in gradio.asked


async def test_a_damaged_program_of_gradios_is_passed_over(
    gradio_tunnel: Callable[..., Tunnel], gradio: StandInShareService, tmp_path: Path
) -> None:
    place = gradio.service(tmp_path).program_path
    place.parent.mkdir()
    place.write_bytes(gradio.program[:20])
    place.chmod(0o755)
    await gradio_tunnel().open()
    assert "/frpc" in gradio.asked


def test_gradio_still_has_what_is_taken_from_it() -> None:
    service = gradio_service()
    assert service.api_url.startswith("https://api.gradio.app/")
    assert service.program_url.startswith("https://")
    assert len(service.program_sha256) == 64
    assert service.program_path.name.startswith("frpc_")


# --- it cannot be opened ---


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("silent", "gave no link within 1.5 seconds"),
        ("stubborn", "gave no link within 1.5 seconds"),
        ("dying", frpc.ENDED),
        ("refused", frpc.REFUSED),
        ("blocked", frpc.CUT),
        ("untrusted", frpc.NOT_TRUSTED),
        ("full", frpc.REFUSED),
        ("odd", "not a web address"),
    ],
)
async def test_a_program_that_does_not_do_it(
    make: Make, gate: list[bool], behaviour: str, sentence: str
) -> None:
    share = make(behaviour, share_timeout_s=DEADLINE_S if "within" in sentence else AMPLE_S)
    before = time.process_time()
    await fails(share, sentence)
    assert time.process_time() - before < 0.4, "waiting costs no processor"
    assert gate == [True, False]
    assert share.state().log_tail == stand_in_tunnel.LINES.get(behaviour, "")


async def test_a_silent_program_costs_no_processor(make: Make, page: int) -> None:
    """A second of waiting, or of being open, takes a few milliseconds; a busy loop would take all of it."""
    share = make("silent", share_timeout_s=AMPLE_S)
    share.begin()
    await until(lambda: share.state().step == "Opening the tunnel" and len(processes(page)) == 2)
    await asyncio.sleep(0.5)  # Python itself starts in the meantime
    assert await _processor_share(page, 1.0) < 0.2
    await share.close()

    share = make("working")
    await share.open()
    assert await _processor_share(page, 1.0) < 0.2


async def _processor_share(page: int, seconds: float) -> float:
    """The part of one processor that this process and the tunnel's take."""

    def used() -> float:
        ticks = os.sysconf("SC_CLK_TCK")
        total = time.process_time()
        for pid in processes(page):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
        return total

    before = used()
    await asyncio.sleep(seconds)
    return (used() - before) / seconds


async def test_the_program_must_be_there_and_runnable(make: Make, tmp_path: Path) -> None:
    await fails(make(share_binary=tmp_path / "none"), "no tunnel program at")
    file = stand_in_tunnel.write(tmp_path)
    file.chmod(0o644)
    await fails(make(share_binary=file), "not executable")
    file.write_bytes(b"\x7fELF of another machine")
    file.chmod(0o755)
    await fails(make(share_binary=file), frpc.NOT_RUNNABLE)


async def test_the_certificate_of_an_own_server_must_be_there(make: Make, tmp_path: Path) -> None:
    await fails(make(share_server_certificate=tmp_path / "none.pem"), "--share-server-certificate")
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    url = await make(share_server_certificate=tmp_path / "ca.pem", share_server_protocol="https").open()
    assert url.startswith("https://")


@pytest.mark.parametrize("fault", ["hanging", "403", "500", *NONSENSE])
async def test_a_faulty_share_service(
    gradio_tunnel: Callable[..., Tunnel], gradio: StandInShareService, gate: list[bool], fault: str
) -> None:
    gradio.api_fault = fault
    expected = {"hanging": "did not answer within", "403": "HTTP 403", "500": "HTTP 500"}
    share = gradio_tunnel(share_timeout_s=DEADLINE_S if fault == "hanging" else AMPLE_S)
    await fails(share, expected.get(fault, share_server.NOT_UNDERSTOOD))
    assert gate == [], "no stranger could have come"


async def test_a_share_service_that_is_down(make: Make, tmp_path: Path, gradio: StandInShareService) -> None:
    down = dataclasses.replace(gradio.service(tmp_path), api_url=f"http://127.0.0.1:{free_port()}/api")
    await fails(make(share_server=None, service=lambda: down), share_server.UNREACHABLE)


async def test_a_machine_without_network(
    make: Make, tmp_path: Path, gradio: StandInShareService, blocked_connections: list[str]
) -> None:
    offline = dataclasses.replace(
        gradio.service(tmp_path), api_url="https://api.gradio.app/v3/tunnel-request"
    )
    await fails(make(share_server=None, service=lambda: offline), share_server.UNREACHABLE)
    assert all("api.gradio.app" in host for host in blocked_connections)
    blocked_connections.clear()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("hanging", "could not be downloaded within"),
        ("cut", program.NOT_DOWNLOADED),
        ("403", program.NOT_DOWNLOADED),
        ("other", program.DAMAGED),
    ],
)
async def test_a_faulty_download(
    gradio_tunnel: Callable[..., Tunnel],
    gradio: StandInShareService,
    data_dir: Path,
    fault: str,
    sentence: str,
) -> None:
    gradio.program_fault = fault
    await fails(gradio_tunnel(share_timeout_s=DEADLINE_S if fault == "hanging" else AMPLE_S), sentence)
    assert [path.name for path in (data_dir / "share").iterdir()] == ["certificate.pem"], "no half of a file"


async def test_a_machine_that_gradio_has_no_program_for(
    make: Make, tmp_path: Path, gradio: StandInShareService
) -> None:
    unknown = dataclasses.replace(gradio.service(tmp_path), program_sha256="")
    await fails(make(share_binary=None, service=lambda: unknown), program.NO_PROGRAM)


async def test_a_data_folder_that_cannot_be_written_to(
    gradio_tunnel: Callable[..., Tunnel], data_dir: Path
) -> None:
    (data_dir / "share").write_text("in the way")
    await fails(gradio_tunnel(), "data folder cannot be written to")


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


async def test_a_link_ends_after_its_week(gradio_tunnel: Callable[..., Tunnel], gate: list[bool]) -> None:
    share = gradio_tunnel()
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


@pytest.mark.parametrize("behaviour", ["silent", "stubborn"])
async def test_closing_while_it_opens(make: Make, gate: list[bool], page: int, behaviour: str) -> None:
    share = make(behaviour, share_timeout_s=AMPLE_S)
    opening = asyncio.create_task(share.open())
    await until(lambda: processes(page))
    await asyncio.gather(share.close(), share.close())
    with pytest.raises(ShareFailed, match="closed before"):
        await opening
    assert (share.state().phase, gate) == ("off", [True, False])
    assert processes(page) == set()


async def test_closing_at_once(make: Make, gate: list[bool]) -> None:
    share = make()
    share.begin()
    await share.close()
    assert (share.state().phase, gate) == ("off", [])


async def test_closing_while_the_service_is_silent(
    gradio_tunnel: Callable[..., Tunnel], gradio: StandInShareService
) -> None:
    gradio.api_fault = "hanging"
    share = gradio_tunnel(share_timeout_s=AMPLE_S)
    share.begin()
    await until(lambda: gradio.asked)
    await share.close()
    assert share.state().phase == "off"


async def test_leaving_the_wait_does_not_stop_it(make: Make) -> None:
    share = make()
    leaving = asyncio.create_task(share.open())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert await share.open()


async def test_opening_while_it_closes_opens_again(make: Make, gate: list[bool]) -> None:
    share = make()
    first = await share.open()
    closing = asyncio.create_task(share.close())
    await until(lambda: share.state().phase == "closing")
    assert await share.open() != first
    await closing
    assert gate == [True, False, True]


async def test_a_failure_can_be_dismissed(make: Make) -> None:
    share = make("dying")
    await fails(share, frpc.ENDED)
    await share.close()
    assert share.state().phase == "off"


# --- what the program gets, and what is left of it ---


async def test_the_program_gets_none_of_our_keys(make: Make, monkeypatch: Any, page: int) -> None:
    for name in ("OPENAI_API_KEY", "DSPY_DEMO_API_KEY", "MLFLOW_TRACKING_URI", "ANYTHING"):
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    share = make()
    await share.open()
    programs = processes(page)
    assert programs
    for pid in programs:
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert "planted" not in environment
        assert "https_proxy=http://proxy.example:3128" in environment


APP = f"""
import asyncio, sys
sys.path.insert(0, {str(REPO)!r})
from pathlib import Path
from dspy_demo.share.tunnel import Tunnel
from tests.services import settings_for
async def main():
    settings = settings_for(Path(sys.argv[1]), share_server="s.example:7000", share_binary=Path(sys.argv[2]))
    tunnel = Tunnel(settings)
    tunnel.listening_at("127.0.0.1", int(sys.argv[3]))
    print(await tunnel.open(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_the_tunnel_ends_with_a_killed_app(tmp_path: Path, data_dir: Path, page: int) -> None:
    file = stand_in_tunnel.write(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", APP, str(data_dir), str(file), str(page)], stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout is not None
        url = await asyncio.to_thread(app.stdout.readline)
        assert httpx.get(url.strip()).status_code == 200
        app.kill()
        app.wait(5)
    await asyncio.to_thread(wait_until, lambda: not processes(page), 5.0, "the tunnel ends")
