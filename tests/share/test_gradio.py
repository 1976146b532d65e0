"""Gradio's own tunnel in its process: what it gives, and what is said where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dspy_demo.errors import ShareFailed
from dspy_demo.share import gradio
from dspy_demo.share.gradio import GradioTunnel
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.fake_openai import free_port
from tests.processes import REPO
from tests.services import settings_for
from tests.stand_in_tunnel import SHARE_SERVER

pytestmark = pytest.mark.integration

Make = Callable[..., Tunnel]


@pytest.fixture
def make(tmp_path: Path, data_dir: Path) -> Make:
    """A tunnel by Gradio, on a machine whose way to the network is shut."""

    def tunnel(server: str | None = SHARE_SERVER) -> Tunnel:
        shut = f"http://127.0.0.1:{free_port()}"
        environ = {"HF_HOME": str(tmp_path), "HTTPS_PROXY": shut, "OPENAI_API_KEY": "planted", "PATH": "/bin"}
        made = Tunnel(settings_for(data_dir), program=GradioTunnel(server), environ=environ)
        made.listening_at("127.0.0.1", 9)
        return made

    return tunnel


async def test_the_link_is_open_until_it_is_closed(make: Make, tmp_path: Path, data_dir: Path) -> None:
    stand_in_tunnel.install(tmp_path)
    share = make()
    url = await share.open()
    assert url.startswith("http://127.0.0.1:")
    assert [path.name for path in (data_dir / "share").iterdir()] == []
    pid = share._child.state().pid if share._child else 0
    assert b"planted" not in Path(f"/proc/{pid}/environ").read_bytes()
    await share.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize(
    ("behaviour", "server", "sentence"),
    [
        ("refused", SHARE_SERVER, gradio.REFUSED),
        ("dying", SHARE_SERVER, gradio.ENDED),
        ("no program", SHARE_SERVER, gradio.NOT_DOWNLOADED),
        ("refused", None, gradio.UNREACHABLE),
    ],
)
async def test_a_failure_is_a_sentence(
    make: Make, tmp_path: Path, behaviour: str, server: str | None, sentence: str
) -> None:
    if behaviour != "no program":
        stand_in_tunnel.install(tmp_path, behaviour)
    share, begun = make(server), time.monotonic()
    with pytest.raises(ShareFailed) as failure:
        await share.open()
    assert failure.value.public_message == sentence
    assert time.monotonic() - begun < 30, "a program that died is not waited for"


DAMAGED = """
import sys
from gradio import networking
from gradio.exceptions import ChecksumMismatchError
def damaged(*_):
    raise ChecksumMismatchError()
networking.setup_tunnel = damaged
from dspy_demo.share.gradio_bridge import main
sys.exit(main())
"""


def test_a_damaged_download_is_not_kept(tmp_path: Path) -> None:
    program = stand_in_tunnel.install(tmp_path)
    command, env = (
        [sys.executable, "-c", DAMAGED, "127.0.0.1", "9"],
        {"HF_HOME": str(tmp_path), "PATH": "/bin"},
    )
    ended = subprocess.run(
        command, cwd=REPO, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert GradioTunnel(None).why_ended(ended.returncode, ended.stdout) == gradio.DAMAGED
    assert not program.exists()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (stand_in_tunnel.LINES["blocked"], gradio.CUT),
        (stand_in_tunnel.LINES["untrusted"], gradio.NOT_TRUSTED),
        (stand_in_tunnel.LINES["full"], gradio.REFUSED),
        ("OSError: Cannot set up a share link as this platform is incompatible.", gradio.NO_PROGRAM),
        ("OSError: [Errno 8] Exec format error: '/x/frpc'", gradio.NOT_RUNNABLE),
        ("ConnectTimeout: timed out", gradio.NOT_DOWNLOADED),
        ("", gradio.ENDED),
    ],
)
def test_what_the_output_means(output: str, sentence: str) -> None:
    assert GradioTunnel(None).why_ended(1, output) == sentence


def test_links_of_gradio_are_https_and_last_a_week() -> None:
    line = "[I] [control.go:181] [p1] start proxy success: http://abc.gradio.live"
    for server, url, lasts_s in (
        (None, "https://abc.gradio.live", 604_800),
        (SHARE_SERVER, "http://abc.gradio.live", None),
    ):
        program = GradioTunnel(server)
        notice = program.read(line)
        assert notice is not None
        assert (notice.kind, notice.text, program.lasts_s) == ("link", url, lasts_s)


def test_gradio_still_has_what_is_taken_from_it() -> None:
    code = (
        "import inspect, json; from gradio import networking, tunneling; "
        "print(json.dumps([list(inspect.signature(networking.setup_tunnel).parameters), "
        "tunneling.CURRENT_TUNNELS, tunneling.Tunnel(*'abcdef').proc]))"
    )
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert found[0][:4] == ["local_host", "local_port", "share_token", "share_server_address"]
    assert len(found[0]) == 5
    assert found[1:] == [[], None]
