"""The state of the model server in words, and which server a visitor is answered by."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

import pytest

from dspy_demo.backends.served import ServerInfo
from dspy_demo.errors import NotFound
from dspy_demo.events import ServedTarget
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.serving.processes import ModelServers, ServerState
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_lines import NOTHING, NOTHING_FOR_GUESTS, PLAIN, Connected, server_html, spoken_html
from dspy_demo.ui.server_panel import ServedChoice, served_choice

URI = "models:/dspy-demo/3"
READY = ServerState("ready", URI, "http://127.0.0.1:5001", program="predict", uptime_s=185)


def actions(text: str) -> list[str]:
    return re.findall('data-do="([^"]+)"', text)


def test_nothing_served() -> None:
    assert NOTHING in server_html(ServerState())
    assert NOTHING_FOR_GUESTS in server_html(ServerState(), owner=False)
    assert actions(server_html(ServerState())) == []


def test_ready_shows_version_address_and_uptime() -> None:
    text = server_html(READY)
    for part in ('class="dot ready"', "Ready", "dspy-demo v3", "127.0.0.1:5001", "up 3 min"):
        assert part in text
    assert actions(text) == ["stop"]


def test_a_missing_key_is_said_before_the_first_question() -> None:
    state = ServerState("ready", URI, "http://127.0.0.1:5001", warning="It needs a key.")
    assert "It needs a key." in server_html(state)


def test_a_hung_server_is_not_called_ready() -> None:
    state = dataclasses.replace(READY, phase="hung", url=None)
    assert "Not answering" in server_html(state) and "Ready" not in server_html(state)
    assert actions(server_html(state)) == ["restart", "stop"]
    assert "not answering" in spoken_html(state)
    with pytest.raises(NotFound, match="does not answer any more"):
        choose(state)


def test_starting_shows_a_bar_and_the_end_of_the_log() -> None:
    log = "\n".join(f"line {number}" for number in range(50))
    text = server_html(ServerState("starting", URI, log_tail=log))
    assert "<progress" in text
    assert "line 49" in text
    assert "line 20\n" not in text
    assert actions(text) == ["stop"]


def test_failed_shows_the_reason_and_can_be_restarted() -> None:
    text = server_html(ServerState("failed", URI, reason="It ended by itself.", log_tail="Traceback"))
    assert "It ended by itself." in text
    assert "Traceback" in text
    assert actions(text) == ["restart"]


def test_a_failed_successor_leaves_the_current_one_alone() -> None:
    following = ServerState("failed", "models:/dspy-demo/4", reason="No.")
    state = ServerState("ready", URI, "http://127.0.0.1:5001", next=following)
    assert actions(server_html(state)) == ["stop", "retry", "dismiss"]


def test_who_does_not_own_the_app_cannot_press_anything() -> None:
    assert 'class="servers watched"' in server_html(READY, owner=False)


def test_what_is_spoken_changes_with_the_state_only() -> None:
    later = ServerState("ready", URI, "http://127.0.0.1:5001", uptime_s=9000)
    assert spoken_html(READY) == spoken_html(later)
    assert "ready" in spoken_html(READY)


def test_a_plain_server_is_said_to_have_no_live_tokens() -> None:
    text = server_html(ServerState(), Connected("http://there:5001", ServerInfo("plain")))
    assert PLAIN in text
    assert actions(text) == ["disconnect"]


def test_nothing_of_a_server_is_markup() -> None:
    bad = "<img src=x>"
    state = ServerState("failed", f"models:/{bad}/1", reason=bad, log_tail=bad)
    info = ServerInfo("live", f"models:/{bad}/1", ready=False, reason=bad)
    assert bad not in server_html(state, Connected(f"http://x/{bad}", info), trouble=bad)
    assert bad not in spoken_html(state)


def choose(state: ServerState, connected: Connected | None = None) -> ServedChoice:
    class Servers:
        def state(self) -> ServerState:
            return state

    return served_choice(cast(ModelServers, cast(Any, Servers())), connected)


def test_the_apps_own_server_answers() -> None:
    assert choose(READY) == ServedChoice(ServedTarget("http://127.0.0.1:5001", URI), "predict")


def test_a_typed_address_comes_first() -> None:
    there = Connected("http://there:1", ServerInfo("live", "models:/other/1", program="react"))
    assert choose(READY, there) == ServedChoice(ServedTarget("http://there:1", "models:/other/1"), "react")


@pytest.mark.parametrize("phase", ["none", "starting", "failed", "stopped"])
def test_without_a_ready_server_the_sentence_says_what_to_do(phase: Any) -> None:
    with pytest.raises(NotFound) as refusal:
        choose(ServerState(phase, URI, reason="It ended."))
    assert re.search("Serve|Restart|again", refusal.value.public_message)


def test_a_served_program_that_is_known_here_has_its_own_form() -> None:
    programs = ProgramRegistry(SHIPPED)
    target = ServedTarget("http://127.0.0.1:5001")
    assert program_behind(ServedChoice(target, "predict"), programs) is programs.get("predict")
    unknown = program_behind(ServedChoice(target, "somebodys"), programs)
    assert (unknown.chat_field, unknown.form_fields) == ("text", ())
