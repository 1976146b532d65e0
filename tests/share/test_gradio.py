"""Gradio's own tunnel in its process: what it gives, and what is said where it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dspy_demo.errors import ShareFailed
from dspy_demo.share import tunnel
from dspy_demo.share.gradio_bridge import ENDED, GradioTunnel
from dspy_demo.share.tunnel import Tunnel
from dspy_demo.web.auth import Auth
from dspy_demo.web.terminal import Terminal
from tests import stand_in_tunnel
from tests.fake_openai import free_port
from tests.processes import REPO, ServerProcess, wait_until
from tests.services import settings_for
from tests.stand_in_tunnel import SHARE_SERVER

pytestmark = pytest.mark.integration
Start = Callable[..., ServerProcess]


@pytest.mark.parametrize(
    ("server", "sentence"),
    [(SHARE_SERVER, ENDED), (None, "share service cannot be reached")],
)
async def test_a_failure_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str | None, sentence: str
) -> None:
    """Also of a program that died, for which Gradio would wait 30 s. The way to the network is shut."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(tunnel, "TIMEOUT_S", 25)
    stand_in_tunnel.install(tmp_path, "dying")
    with pytest.raises(ShareFailed, match=sentence):
        await Tunnel(GradioTunnel(server), ("127.0.0.1", 9), tmp_path, on_public=lambda _: None).open()


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
    command = [sys.executable, "-c", DAMAGED, "127.0.0.1", "9"]
    env = {"HF_HOME": str(tmp_path), "PATH": "/bin"}
    ended = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert "could not be downloaded" in GradioTunnel(None).why_ended(ended.returncode, ended.stdout)
    assert not program.exists()


def test_what_the_output_means() -> None:
    no_program = "cannot be run"
    for output, sentence in {
        stand_in_tunnel.LINES["blocked"]: "the network seems to block it",
        stand_in_tunnel.LINES["untrusted"]: "certificate is not the expected one",
        stand_in_tunnel.LINES["full"]: "refused to open a link",
        "OSError: Cannot set up a share link as this platform is incompatible.": no_program,
        "OSError: [Errno 8] Exec format error: '/x/frpc'": no_program,
        "ConnectTimeout: timed out": "could not be downloaded",
    }.items():
        assert sentence in GradioTunnel(None).why_ended(1, output)
    line = "[I] [control.go:181] [p1] start proxy success: "
    gradios, own = GradioTunnel(None), GradioTunnel(SHARE_SERVER)
    assert gradios.read(line + "http://abc.gradio.live") == "https://abc.gradio.live"
    assert own.read(line + "http://abc.example") == "http://abc.example"
    assert own.read(line + "javascript:alert(1)") is None
    assert (gradios.lasts_s, own.lasts_s) == (604_800, None)
    assert "planted" not in own.environment({"OPENAI_API_KEY": "planted", "PATH": "/bin"}).values()


def test_the_app_prints_its_link(server_process: Start, tmp_path: Path) -> None:
    """``--share`` is beside the start, never in its way."""
    stand_in_tunnel.install(tmp_path)
    app = server_process("--share", "--share-server", SHARE_SERVER, env={"HF_HOME": str(tmp_path)})
    line = wait_until(lambda: app.log.partition("Public link: ")[2].partition("\n")[0], 60, "the link")
    assert httpx.get(f"{line}/health").status_code == 200
    wait_until(lambda: f"{line}/?token=" in app.log, 5, "the owner's link from elsewhere")
    assert app.log.count(f"{app.url}/?token=") == 1
    assert app.log.count("Owner's token for the routes: ") == 1
    assert app.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(line)
    assert "Traceback" not in app.log


async def test_it_prints_why_there_is_no_link(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse() -> None:
        raise ShareFailed("It is down.")

    settings = settings_for(data_dir)
    await Terminal(settings, Auth(settings, 1), 1).share(refuse)
    assert "No public link: It is down." in capsys.readouterr().err
