"""The Share section's HTML, state by state."""

from __future__ import annotations

import re
import time

import pytest

from dspy_demo.share.state import ShareState
from dspy_demo.ui.share_lines import ABOUT, ENDLESS, lifetime, qr_svg, share_html

NOW = 1_795_000_000.0
LINK = "https://0123456789abcdef01.gradio.live"


def buttons(drawn: str) -> list[str]:
    return re.findall(r'data-do="([^"]+)"', drawn)


def test_the_buttons_of_each_state() -> None:
    states = {
        ShareState(): ["share"],
        ShareState("opening", step="Asking"): ["stop"],
        ShareState("open", url=LINK): ["stop"],
        ShareState("closing"): [],
        ShareState("failed", reason="No."): ["share", "dismiss"],
    }
    for state, expected in states.items():
        assert buttons(share_html(state, NOW)) == expected, state


def test_an_open_link_can_be_followed_copied_and_scanned() -> None:
    drawn = share_html(ShareState("open", url=LINK, expires_at=NOW + 604_800), NOW)
    assert f'href="{LINK}"' in drawn
    assert f'data-copy="{LINK}"' in drawn
    assert ">0123456789abcdef01.gradio.live</a>" in drawn
    assert qr_svg(LINK) in drawn
    assert "7 days left" in drawn
    assert ABOUT in drawn


def test_the_link_of_an_own_server_has_no_end_that_we_know() -> None:
    assert ENDLESS in share_html(ShareState("open", url=LINK), NOW)


def test_nothing_of_a_server_or_a_program_becomes_markup() -> None:
    evil = "https://x.example/<script>\"'"
    for state in (
        ShareState("open", url=evil),
        ShareState("failed", reason="<b>", log_tail="<script>"),
        ShareState("opening", step="<b>"),
    ):
        drawn = share_html(state, NOW, "<i>")
        assert "<script>" not in drawn
        assert "<i>" not in drawn and "<b><" not in drawn
        assert "\"'" not in drawn


def test_a_failure_tells_its_sentence_and_shows_the_log() -> None:
    drawn = share_html(ShareState("failed", reason="It is down.", log_tail="one\ntwo"), NOW)
    assert '<p class="wrong" role="alert">It is down.</p>' in drawn
    assert "one\ntwo</pre>" in drawn
    assert "<pre" not in share_html(ShareState("failed", reason="It is down."), NOW)


@pytest.mark.parametrize(
    ("left_s", "words"),
    [
        (604_800, "7 days left"),
        (6.2 * 86_400, "6 days left"),
        (30 * 3_600, "30 hours left"),
        (80 * 60, "80 minutes left"),
        (61, "1 minute left"),
        (-5, "1 minute left"),
    ],
)
def test_the_lifetime(left_s: float, words: str) -> None:
    assert lifetime(NOW + left_s, NOW)[1] == words


def test_the_end_is_told_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    end = 1_796_220_300.0  # 2026-12-02 14:05 UTC
    assert lifetime(end, end - 6 * 86_400) == ("until 2 December, 14:05", "6 days left")
    monkeypatch.undo()
    time.tzset()


def test_the_code_is_one_path_that_takes_the_page_s_colours() -> None:
    svg = qr_svg(LINK)
    assert svg.startswith("<svg") and svg.count("<path") == 1
    assert 'class="qr"' in svg and "width=" not in svg
