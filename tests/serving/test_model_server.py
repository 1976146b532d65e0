"""Serve, switch, crash, restart, stop: real model servers, as the page drives them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from itertools import chain
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from dspy_demo.backends.served import ServedBackend
from dspy_demo.errors import NotFound
from dspy_demo.events import Event, FieldDelta, TurnFinished
from dspy_demo.processes import ChildFailed
from dspy_demo.serving.processes import NOT_PASSED_ON, ModelServers, ServerState, Wanted
from dspy_demo.settings import Settings
from dspy_demo.streaming.turn_stream import TurnStream
from dspy_demo.ui.sections.backend import served_choice
from tests.backends.served_fixtures import ServedWorld
from tests.fake_openai import Reply
from tests.processes import group_of, wait_until
from tests.services import settings_for, until

pytestmark = pytest.mark.integration

SLOW = Reply(tokens_per_second=10, fields={"reasoning": "r", "answer": "a b c d e f g h i j k l m n o p"})


@pytest.fixture
async def servers(served_world: ServedWorld) -> AsyncIterator[ModelServers]:
    made = ModelServers(served_world.settings)
    yield made
    await made.aclose()


async def goes(pid: int | None, timeout_s: float = 5.0) -> None:
    """All of the group end; the one that was killed last may need a moment."""
    await until(lambda: group_of(pid) == set(), timeout_s)


def server_of(state: ServerState) -> int:
    """The process that answers: the leader of the group is the warden."""
    assert state.pid is not None
    return min(group_of(state.pid) - {state.pid})


async def test_the_life_of_a_server(served_world: ServedWorld, servers: ModelServers) -> None:
    assert servers.state() == ServerState()
    wanted = Wanted(served_world.version)
    serving = asyncio.create_task(servers.serve(wanted))
    await asyncio.to_thread(wait_until, lambda: servers.state().phase == "starting", 5, "it starts")
    assert servers.state().version == served_world.version
    await servers.stop()
    with pytest.raises(ChildFailed):
        await serving
    assert servers.state().phase in {"none", "stopped"}
    first = await servers.serve(wanted)
    assert (first.phase, first.version, first.lm) == ("ready", served_world.version, "openai/fake")
    await asyncio.to_thread(wait_until, lambda: "Serving" in servers.state().log_tail, 5, "it says so")
    assert (await servers.serve(wanted)).pid == first.pid  # it is served already
    assert servers.state().uptime_s > 0

    # A crash is seen at once, and the same version starts again.
    os.kill(server_of(first), signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: servers.state().phase == "failed", 1, "the crash is seen")
    assert servers.state().url is None
    assert "signal 9" in servers.state().reason
    await goes(first.pid)
    again = await servers.restart()
    assert (again.phase, again.version) == ("ready", served_world.version)

    # A version that cannot be served does not take the place of the one that is.
    with pytest.raises(ChildFailed, match="no version models:/served/77"):
        await servers.serve(Wanted("models:/served/77"))
    assert servers.state().phase == "ready"
    following = servers.state().next
    assert following is not None
    assert (following.phase, following.version) == ("failed", "models:/served/77")
    assert "no version models:/served/77" in following.reason
    with pytest.raises(ChildFailed, match="no version models:/served/77"):
        await servers.retry()

    async with contextlib.aclosing(served_world.backend()) as backend:
        await _switch_under_load(served_world, backend, servers)
    current = servers.state()
    assert current.next is None
    await servers.stop()
    assert servers.state().phase == "stopped"
    await goes(current.pid)


async def _switch_under_load(world: ServedWorld, backend: ServedBackend, servers: ModelServers) -> None:
    """Turns run all the time: some always at the current address, one on the old server over the switch."""
    before = servers.state()
    switched = asyncio.Event()
    world.fake.respond_with(lambda request: SLOW if "slowly" in str(request) else None)

    async def turn(url: str | None, question: str = "What is 2 + 2?") -> list[Event]:
        assert url is not None
        async with TurnStream(backend.stream(world.request(url, question, version=None))) as pump:
            return [event async for event in pump]

    async def keep_asking(url: Callable[[], str | None], question: str) -> list[list[Event]]:
        turns = []
        while not switched.is_set():
            turns.append(await turn(url(), question))
        return turns

    asking = asyncio.gather(
        keep_asking(lambda: servers.state().url, "What is 2 + 2?"),
        keep_asking(lambda: before.url, "Answer slowly."),
    )
    after = await servers.serve(Wanted(world.second))
    switched.set()
    assert after.url != before.url
    assert servers.state().version == world.second
    turns = [*chain(*await asking), await turn(after.url)]
    await goes(before.pid, 15)
    assert len(turns) > 5
    assert all(isinstance(events[-1], TurnFinished) for events in turns)
    assert any(isinstance(event, FieldDelta) for event in turns[0])


async def test_a_hung_server_is_seen_and_still_ends(
    served_world: ServedWorld, servers: ModelServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspy_demo.serving.processes.HEALTH_KEPT_S", 0.0)
    begun = time.monotonic()
    state = await servers.serve(Wanted(served_world.version))
    start_s = time.monotonic() - begun
    assert await servers.phase() == "ready"
    server = server_of(state)
    os.kill(server, signal.SIGSTOP)
    begun = time.monotonic()
    assert await servers.phase() == servers.state().phase == "hung"
    assert time.monotonic() - begun < 4  # the limit is 2 s
    with pytest.raises(NotFound, match="does not answer any more"):
        served_choice(servers, None)
    os.kill(server, signal.SIGCONT)
    assert await servers.phase() == "ready"

    os.kill(server, signal.SIGSTOP)
    assert await servers.phase() == "hung"
    begun = time.monotonic()
    again = await servers.restart()
    assert again.phase == await servers.phase() == "ready"
    assert time.monotonic() - begun < 10 + start_s  # not the grace of 12 s before the start
    await goes(state.pid)


def environment_of(state: ServerState) -> dict[str, str]:
    entries = Path(f"/proc/{server_of(state)}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


async def test_a_server_finds_its_own_key_and_no_secret_of_ours(served_world: ServedWorld) -> None:
    planted = {
        "DSPY_DEMO_OWNER_TOKEN": "planted-owner-token",
        "DSPY_DEMO_GUEST_TOKEN": "planted-guest-token",
        "DSPY_DEMO_GUEST_PASSWORD": "planted-password",
        "ANTHROPIC_API_KEY": "planted-anthropic",
        "AZURE_API_KEY": "planted-azure",
    }
    ours = {"OPENAI_API_KEY": "sk-of-openai", "GROQ_API_KEY": "gsk-of-groq", "MYCORP_URL": "http://db"}
    environ = os.environ | planted | ours
    data_dir, typed = served_world.settings.data_dir, "sk-typed-0123456789"
    flags = ["--serve-env", "GROQ_API_KEY", "--data-dir", str(data_dir), "--no-tracing"]
    servers = ModelServers(Settings.load(flags, environ), environ)
    wanted = Wanted(served_world.keyless, "openai/gpt-4o-mini", SecretStr(typed))
    try:
        state = await servers.serve(wanted)
        found = environment_of(state)
        assert (state.phase, state.warning, found["DSPY_DEMO_API_KEY"]) == ("ready", "", typed)
        assert ours.items() <= found.items()
        assert not [name for name, value in found.items() if "planted" in value]
        for pid in group_of(state.pid):
            assert typed.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for path in (data_dir / "run").iterdir():
            assert typed not in path.read_text()
        corrected = await servers.serve(dataclasses.replace(wanted, api_key=SecretStr("sk-corrected")))
        assert environment_of(corrected)["DSPY_DEMO_API_KEY"] == "sk-corrected"
    finally:
        await servers.aclose()


def test_every_setting_reaches_the_server_but_secrets_and_what_is_the_pages(tmp_path: Path) -> None:
    groups = {str(info.json_schema_extra["group"]) for info in documented_fields().values()}  # type: ignore[index]
    assert groups | set(Settings.model_fields) >= NOT_PASSED_ON, "a name that is not there any more"
    given = {
        "models_dir": tmp_path / "models",
        "local_context_tokens": 1024,
        "owner_token": "planted-planted-planted",
        "api_key": "planted",
        "guest_password": "planted",
    }
    settings = settings_for(tmp_path, **given)
    variables = settings.variables(NOT_PASSED_ON)
    assert not any("planted" in value for value in variables.values())
    there = Settings.load([], variables)
    for name, info in documented_fields().items():
        secret = "SecretStr" in str(info.annotation)
        mine = not secret and NOT_PASSED_ON.isdisjoint({name, info.json_schema_extra["group"]})  # type: ignore[index]
        assert getattr(there, name) == getattr(settings if mine else Settings(), name) or name == "open", name


def documented_fields() -> dict[str, FieldInfo]:
    return {name: info for name, info in Settings.model_fields.items() if info.json_schema_extra}


async def test_servers_beside_the_current_one_are_few_and_end_by_themselves(
    served_world: ServedWorld, servers: ModelServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = served_world
    current = await servers.serve(Wanted(world.version))
    assert (await servers.beside(Wanted(world.version))).pid == current.pid  # it answers already
    second, third = [await servers.beside(Wanted(version)) for version in (world.second, world.builtin)]
    assert (second.version, third.version) == (world.second, world.builtin)
    assert (await servers.beside(Wanted(world.second))).pid == second.pid
    assert servers.state().pid == current.pid
    monkeypatch.setattr("dspy_demo.serving.processes.BESIDE_IDLE_S", 0.5)
    fourth = await servers.beside(Wanted(world.keyless))
    await goes(third.pid)  # the one that was not asked for the longest
    assert group_of(second.pid)
    await goes(fourth.pid, 20)
    assert group_of(current.pid)
