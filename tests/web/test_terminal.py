"""What the terminal says to whoever started the app."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Auth
from dspy_demo.web.terminal import Terminal
from tests.services import settings_for

LOCAL, SHARED = "http://127.0.0.1:7860", "https://abc.gradio.live"
Captured = pytest.CaptureFixture[str]


def terminal_of(data_dir: Path, **settings: Any) -> tuple[Terminal, Auth]:
    chosen = settings_for(data_dir, **({"open": False} | settings))
    auth = Auth(chosen, 7860)
    return Terminal(chosen, auth, 7860), auth


def test_link_and_token_are_printed_once_the_app_is_shared_and_a_used_link_is_followed_by_the_next(
    data_dir: Path, capsys: Captured
) -> None:
    terminal, auth = terminal_of(data_dir)
    terminal.tell_ready()
    assert capsys.readouterr().out == f"Ready: {LOCAL}\n"
    terminal.shared(True)
    terminal.linked(SHARED)
    out, used = capsys.readouterr().out, auth.link_code
    assert auth.public
    assert f"Public link: {SHARED}\n" in out
    for once in (auth.owner_link(LOCAL), auth.owner_link(SHARED), auth.owner_token.get_secret_value()):
        assert out.count(once) == 1
    assert auth.use_link(used)
    out = capsys.readouterr().out
    assert (auth.owner_link(SHARED) in out, used in out) == (True, False)
    terminal.shared(False)
    auth.use_link(auth.link_code)
    assert SHARED not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "owners"), [({}, False), ({"share": True}, True), ({"public": True}, True)]
)
def test_the_browser_that_is_opened_is_the_owners(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool], owners: bool
) -> None:
    """Also with ``--share``: the link may open between the start and the first request."""
    opened: Queue[str] = Queue()
    monkeypatch.setattr("webbrowser.open", opened.put)
    terminal, auth = terminal_of(data_dir, open=True, owner_token="chosen-by-the-owner", **settings)
    terminal.tell_ready()
    assert opened.get(timeout=5) == (auth.owner_link(LOCAL) if owners else LOCAL)


def test_who_is_elsewhere_is_told_how_to_be_the_owner(data_dir: Path, capsys: Captured) -> None:
    space = Settings.load(["--no-open"], {"SPACE_HOST": "me-demo.hf.space", "DSPY_DEMO_HOST": "0.0.0.0"})
    chosen = {"host": space.host, "public_url": space.public_url, "owner_token": "chosen-by-the-owner"}
    terminal, auth = terminal_of(data_dir, **chosen)
    terminal.tell_ready()
    out = capsys.readouterr().out
    assert f"https://me-demo.hf.space/?token={auth.link_code}\n" in out
    assert "chosen-by-the-owner" not in out
    _, auth = terminal_of(data_dir)
    for _ in range(2):
        auth.on_outside()
    out = capsys.readouterr().out
    assert f"add /?token={auth.link_code} to the address" in out
    assert out.count(auth.owner_link(LOCAL)) == 1
