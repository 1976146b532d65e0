"""Gradio's own tunnel in its process: what it gives, and what is said where it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dspy_demo.share.gradio_bridge import ENDED, GradioTunnel
from dspy_demo.share.tunnel import Tunnel
from tests import stand_in_tunnel
from tests.fake_openai import free_port
from tests.processes import REPO, ServerProcess, wait_until
from tests.services import until
from tests.stand_in_tunnel import SHARE_SERVER

pytestmark = pytest.mark.integration
Start = Callable[..., ServerProcess]


async def test_without_a_network_the_page_and_the_terminal_say_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    stand_in_tunnel.install(tmp_path)
    quiet: dict[str, Any] = {"on_public": lambda _: None, "on_link": lambda _: None}
    share = Tunnel(GradioTunnel(None), ("127.0.0.1", 9), tmp_path, **quiet)
    share.begin()
    await until(lambda: share.state().phase == "failed", 60)
    for place in (share.state().reason, caplog.text):
        assert "share service cannot be reached" in place


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


def test_a_damaged_download_is_not_kept(tmp_path):
    program = stand_in_tunnel.install(tmp_path)
    command = [sys.executable, "-c", DAMAGED, "127.0.0.1", "9"]
    env = {"HF_HOME": str(tmp_path), "PATH": "/bin"}
    ended = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert "could not be downloaded" in GradioTunnel(None).why_ended(ended.returncode, ended.stdout)
    assert not program.exists()


def test_what_the_output_means(monkeypatch):
    gradios, own = GradioTunnel(None), GradioTunnel(SHARE_SERVER)
    for output in ("OSError: [Errno 8] Exec format error: '/x/frpc'", "ConnectTimeout: timed out"):
        assert "could not be downloaded, or cannot run here" in gradios.why_ended(1, output)
    assert gradios.why_ended(1, "") == ENDED
    line = "[I] [control.go:181] [p1] start proxy success: "
    assert gradios.link(f"{line}http://abc.gradio.live\n[W] x") == "https://abc.gradio.live"
    assert own.link(f"{line}http://abc.example\n{line}http://def.example") == "http://def.example"
    assert own.link(line + "javascript:alert(1)") == ""
    assert (gradios.lasts_s, own.lasts_s) == (604_800, None)
    monkeypatch.setenv("OPENAI_API_KEY", "planted")
    assert "planted" not in own.environment().values()


def test_the_app_prints_its_link(server_process, tmp_path):
    """``--share`` is beside the start, never in its way."""
    stand_in_tunnel.install(tmp_path)
    app = server_process("--share", "--share-server", SHARE_SERVER, env={"HF_HOME": str(tmp_path)})
    line = wait_until(lambda: app.log.partition("Public link: ")[2].partition("\n")[0], 60, "the link")
    assert httpx.get(f"{line}/health", follow_redirects=True).status_code == 200
    wait_until(lambda: f"{line}/?token=" in app.log, 5, "the owner's link from elsewhere")
    assert app.log.count(f"{app.url}/?token=") == 1
    assert app.log.count("Owner's token for the routes: ") == 1
    assert app.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(line)
    assert "Traceback" not in app.log
