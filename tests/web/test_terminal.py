"""What the terminal says to whoever started the app."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from dspy_demo.settings import Settings
from dspy_demo.web.auth import Gate
from dspy_demo.web.terminal import Terminal
from tests.services import settings_for

LOCAL = "http://127.0.0.1:7860"
SHARED = "https://abc.gradio.live"
Captured = pytest.CaptureFixture[str]


def terminal_of(data_dir: Path, **settings: Any) -> tuple[Terminal, Gate]:
    chosen = settings_for(data_dir, **({"open": False} | settings))
    gate = Gate(chosen, 7860)
    return Terminal(chosen, gate, 7860), gate


def test_who_is_alone_needs_no_link(data_dir: Path, capsys: Captured) -> None:
    terminal, _ = terminal_of(data_dir)
    terminal.tell_ready()
    assert capsys.readouterr().out == f"Ready: {LOCAL}\n"


def test_the_share_button_tells_link_and_token(data_dir: Path, capsys: Captured) -> None:
    terminal, gate = terminal_of(data_dir)
    terminal.tell_ready()
    terminal.shared(True)
    assert gate.public
    out = capsys.readouterr().out
    assert gate.owner_link(LOCAL) in out
    assert gate.owner_token.get_secret_value() in out


@pytest.mark.parametrize("shut_first", [True, False])
def test_shared_at_the_start_both_are_told_once(data_dir: Path, capsys: Captured, shut_first: bool) -> None:
    terminal, gate = terminal_of(data_dir, share=True)
    if shut_first:
        terminal.shared(True)
    terminal.tell_ready()
    terminal.shared(True)
    out = capsys.readouterr().out
    assert out.count(gate.owner_link(LOCAL)) == 1
    assert out.count(gate.owner_token.get_secret_value()) == 1


def test_a_token_of_the_owners_own_is_not_told(data_dir: Path, capsys: Captured) -> None:
    terminal, _ = terminal_of(data_dir, owner_token="chosen-by-the-owner")
    terminal.tell_ready()
    terminal.shared(True)
    assert "chosen-by-the-owner" not in capsys.readouterr().out


def test_a_used_link_is_followed_by_the_next(data_dir: Path, capsys: Captured) -> None:
    terminal, gate = terminal_of(data_dir)
    terminal.shared(True)
    used = gate.link.code
    capsys.readouterr()
    assert gate.link.redeem(used)
    out = capsys.readouterr().out
    assert gate.owner_link(LOCAL) in out
    assert used not in out


@pytest.mark.parametrize(
    ("settings", "owners"), [({}, False), ({"share": True}, True), ({"public": True}, True)]
)
def test_the_browser_that_is_opened_is_the_owners(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool], owners: bool
) -> None:
    """Also with ``--share``, whose gate may shut between the start and the first request."""
    opened: Queue[str] = Queue()
    monkeypatch.setattr("webbrowser.open", opened.put)
    terminal, gate = terminal_of(data_dir, open=True, **settings)
    terminal.tell_ready()
    assert opened.get(timeout=5) == (gate.owner_link(LOCAL) if owners else LOCAL)


def test_the_owner_comes_by_the_public_link_too(data_dir: Path, capsys: Captured) -> None:
    terminal, gate = terminal_of(data_dir)
    terminal.shared(True)
    terminal.linked(SHARED)
    out = capsys.readouterr().out
    assert f"Public link: {SHARED}\n" in out
    assert out.count(gate.owner_link(SHARED)) == 1
    gate.link.redeem(gate.link.code)
    assert gate.owner_link(SHARED) in capsys.readouterr().out
    terminal.shared(False)
    gate.link.redeem(gate.link.code)
    assert SHARED not in capsys.readouterr().out


def test_on_a_space_the_link_has_the_address_of_the_space(data_dir: Path, capsys: Captured) -> None:
    space = Settings.load(["--no-open"], {"SPACE_HOST": "me-demo.hf.space", "DSPY_DEMO_HOST": "0.0.0.0"})
    terminal, gate = terminal_of(data_dir, host=space.host, public_url=space.public_url)
    terminal.tell_ready()
    assert f"https://me-demo.hf.space/?token={gate.link.code}\n" in capsys.readouterr().out


def test_whoever_opens_the_page_from_elsewhere_is_told_how_to_be_the_owner(
    data_dir: Path, capsys: Captured
) -> None:
    terminal, gate = terminal_of(data_dir)
    terminal.tell_ready()
    assert gate.link.code not in capsys.readouterr().out
    for _ in range(2):
        gate.on_outside()
    out = capsys.readouterr().out
    assert f"add /?token={gate.link.code} to the address" in out
    assert out.count(gate.owner_link(LOCAL)) == 1
