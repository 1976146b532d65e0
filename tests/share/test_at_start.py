"""``--share``: beside the start, never in its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import stand_in_tunnel
from tests.processes import ServerProcess, wait_until
from tests.stand_in_tunnel import SHARE_SERVER

pytestmark = pytest.mark.integration
Start = Callable[..., ServerProcess]


def test_the_link_is_printed_and_ends_with_the_app(server_process: Start, tmp_path: Path) -> None:
    stand_in_tunnel.install(tmp_path)
    app = server_process("--share", "--share-server", SHARE_SERVER, env={"HF_HOME": str(tmp_path)})
    line = wait_until(
        lambda: app.log.partition("Public link: ")[2].partition("\n")[0], 60, "the link is printed"
    )
    assert httpx.get(f"{line}/health").status_code == 200
    wait_until(lambda: f"{line}/?token=" in app.log, 5, "the owner's link from elsewhere is printed")
    assert app.log.count(f"{app.url}/?token=") == 1
    assert app.log.count("Owner's token for the routes: ") == 1
    assert app.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(line)
    assert "Traceback" not in app.log


def test_a_start_without_a_link_is_a_start(server_process: Start, tmp_path: Path) -> None:
    stand_in_tunnel.install(tmp_path, "refused")
    app = server_process("--share", "--share-server", SHARE_SERVER, env={"HF_HOME": str(tmp_path)})
    wait_until(lambda: "No public link: The share server refused" in app.log, 60, "the sentence is printed")
    assert httpx.get(f"{app.url}/health").status_code == 200
    assert app.stop() == 0
