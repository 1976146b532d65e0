"""Serve, switch, crash, restart, stop: real model servers, as the page drives them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from dspy_demo.errors import NotFound
from dspy_demo.events import TurnFinished
from dspy_demo.processes import ChildFailed
from dspy_demo.serving.processes import PASSED_ON, ModelServers, ServerState, Wanted
from dspy_demo.settings import Settings
from dspy_demo.ui.sections.backend import served_choice
from tests.fake_openai import Reply
from tests.processes import group_of
from tests.services import settings_for, until
from tests.serving.conftest import heard

pytestmark = pytest.mark.integration

SLOW = Reply(tokens_per_second=10, fields={"reasoning": "r", "answer": "a b c d e f g h i j k l m n o p"})


async def goes(pid, timeout_s=5.0):
    """All of the group end; the one that was killed last may need a moment."""
    await until(lambda: group_of(pid) == set(), timeout_s)


def server_of(state):
    """The process that answers: the leader of the group is the warden."""
    return min(group_of(state.pid) - {state.pid})


@pytest.fixture
async def servers(served_world, monkeypatch):
    monkeypatch.setattr("dspy_demo.serving.processes.HEALTH_KEPT_S", 0.0)
    made = ModelServers(served_world.settings)
    yield made
    await made.aclose()


async def test_the_life_of_a_server(served_world, servers, monkeypatch):
    wanted = Wanted(served_world.version)
    assert (servers.state(), await servers.phase()) == (ServerState(), "none")
    serving = asyncio.create_task(servers.serve(wanted))
    await until(lambda: servers.state().phase == "starting", 5)
    assert servers.state().version == served_world.version
    await servers.stop()
    with pytest.raises(ChildFailed):
        await serving
    assert servers.state().phase in {"none", "stopped"}

    first = await servers.serve(wanted)
    assert (first.phase, first.version, first.lm) == ("ready", served_world.version, "openai/fake")
    await until(lambda: "Serving" in servers.state().log_tail, 5)
    assert (await servers.serve(wanted)).pid == first.pid  # it is served already
    await _hangs_and_is_restarted(servers, first)
    await _servers_for_comparisons(served_world, servers, monkeypatch)

    # A version that cannot be served does not take the place of the one that is.
    with pytest.raises(ChildFailed, match="no version models:/served/77"):
        await servers.serve(Wanted("models:/served/77"))
    following = servers.state().next
    assert servers.state().phase == "ready"
    assert (following.phase, following.version) == ("failed", "models:/served/77")
    assert "no version models:/served/77" in following.reason

    current = await _switch_under_load(served_world, servers)
    assert current.next is None

    # A crash is seen at once.
    os.kill(server_of(current), signal.SIGKILL)
    await until(lambda: servers.state().phase == "failed", 2)
    assert servers.state().url is None and "signal 9" in servers.state().reason
    await goes(current.pid)


async def _hangs_and_is_restarted(servers, state):
    server, begun = server_of(state), time.monotonic()
    os.kill(server, signal.SIGSTOP)
    asked = asyncio.create_task(servers.phase())
    await asyncio.sleep(0.1)
    # A switch in this moment would stop a server that is not known to hang, with its turns.
    assert servers.state().phase == "ready"
    assert await asked == servers.state().phase == "hung"
    assert time.monotonic() - begun < 4  # the limit is 2 s
    with pytest.raises(NotFound, match="does not answer"):
        served_choice(servers, None)
    os.kill(server, signal.SIGCONT)
    assert await servers.phase() == servers.state().phase == "ready", "it has recovered by itself"
    os.kill(server, signal.SIGSTOP)
    assert await servers.phase() == "hung"
    again = await servers.again()
    assert again.phase == await servers.phase() == "ready" and again.version == state.version
    await goes(state.pid)


async def _servers_for_comparisons(world, servers, monkeypatch):
    """They leave the current one as it is, and end by themselves."""
    current = servers.state()
    assert (await servers.beside(Wanted(world.version))).pid == current.pid  # it answers already
    second = await servers.beside(Wanted(world.builtin))
    assert second.version == world.builtin
    monkeypatch.setattr("dspy_demo.serving.processes.BESIDE_S", 0.5)
    assert (await servers.beside(Wanted(world.builtin))).pid == second.pid
    await goes(second.pid, 20)
    assert servers.state().pid == current.pid and group_of(current.pid)


async def _switch_under_load(world, servers):
    """Turns run all the time: some always at the current address, one on the old server over the switch."""
    before, switched, turns = servers.state(), asyncio.Event(), []
    world.fake.respond_with(lambda request: SLOW if "slowly" in str(request) else None)

    async def keep_asking(url, question):
        while not switched.is_set():
            turns.append(await heard(world, world.request(url() or "", question, version=None)))

    asking = asyncio.gather(
        keep_asking(lambda: servers.state().url, "What is 2 + 2?"),
        keep_asking(lambda: before.url, "Answer slowly."),
    )
    after = await servers.serve(Wanted(world.second))
    switched.set()
    assert after.url != before.url and servers.state().version == world.second
    await asking
    turns.append(await heard(world, world.request(after.url or "", version=None)))
    await goes(before.pid, 15)
    assert len(turns) > 5 and all(isinstance(events[-1], TurnFinished) for events in turns)
    return after


async def test_a_server_finds_its_own_key_and_no_secret_of_ours(served_world):
    secrets = ("OWNER_TOKEN", "GUEST_TOKEN", "GUEST_PASSWORD")
    names = *(f"DSPY_DEMO_{name}" for name in secrets), "ANTHROPIC_API_KEY", "AZURE_API_KEY"
    planted = {name: f"planted-{name.lower()}" for name in names}
    ours = {"OPENAI_API_KEY": "sk-of-openai", "GROQ_API_KEY": "gsk-of-groq", "MYCORP_URL": "http://db"}
    environ = os.environ | planted | ours
    data_dir, typed = served_world.settings.data_dir, "sk-typed-0123456789"
    flags = ["--serve-env", "GROQ_API_KEY", "--data-dir", str(data_dir), "--no-tracing"]
    servers = ModelServers(Settings.load(flags, environ), environ)
    wanted = Wanted(served_world.keyless, "openai/gpt-4o-mini", SecretStr(typed))
    try:
        state = await servers.serve(wanted)
        entries = Path(f"/proc/{server_of(state)}/environ").read_text().split("\0")
        found = dict(entry.split("=", 1) for entry in entries if entry)
        assert (state.phase, state.warning, found["DSPY_DEMO_API_KEY"]) == ("ready", "", typed)
        assert ours.items() <= found.items()
        assert not [name for name, value in found.items() if "planted" in value]
        for pid in group_of(state.pid):
            assert typed.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not any(typed in path.read_text() for path in (data_dir / "run").iterdir())
    finally:
        await servers.aclose()


def test_settings_reach_the_server_but_for_secrets_and_what_is_the_pages(tmp_path):
    given = {"models_dir": tmp_path / "models", "local_context_tokens": 1024, "lm_retries": 7, "port": 1}
    settings = settings_for(tmp_path, **given, owner_token="planted-planted-planted", api_key="planted")
    variables = settings.variables(PASSED_ON)
    assert len(variables) == len(PASSED_ON) and "planted" not in str(variables)
    there = Settings.load([], variables)
    assert {name: getattr(there, name) for name in given} == given | {"port": None}
