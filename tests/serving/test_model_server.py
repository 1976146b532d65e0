"""Serve, switch, crash, restart, stop: real model servers, as the page drives them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from dspy_demo.backends.served import ServedBackend
from dspy_demo.children.process import ChildFailed
from dspy_demo.errors import NotFound, UpstreamTimeout
from dspy_demo.events import Event, FieldDelta, TurnFinished, TurnRequest
from dspy_demo.serving import heartbeat
from dspy_demo.serving.model_server import ModelServers, ServerState
from dspy_demo.streaming.pump import Pump
from dspy_demo.ui.server_panel import served_choice
from tests.backends.served_fixtures import ServedWorld, served_session, served_world
from tests.children.test_process import group
from tests.fake_openai import Reply
from tests.processes import wait_until
from tests.services import until

pytestmark = pytest.mark.integration

SLOW = Reply(tokens_per_second=10, fields={"reasoning": "r", "answer": "a b c d e f g h i j k l m n o p"})

__all__ = ["served_session", "served_world"]


@pytest.fixture
async def servers(served_world: ServedWorld) -> AsyncIterator[ModelServers]:
    made = ModelServers(served_world.settings)
    yield made
    await made.aclose()


async def goes(pid: int | None, timeout_s: float = 5.0) -> None:
    """All of the group end; the one that was killed last may need a moment."""
    await until(lambda: group(pid) == set(), timeout_s)


def test_before_anything_is_served(tmp_path: Path, served_world: ServedWorld) -> None:
    servers = ModelServers(served_world.settings)
    assert servers.state() == ServerState()
    assert servers.states() == []


async def test_the_life_of_a_server(served_world: ServedWorld, servers: ModelServers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        serving = asyncio.create_task(servers.serve(served_world.version, port=busy))
        await asyncio.to_thread(wait_until, lambda: servers.state().phase == "starting", 5, "it starts")
        assert servers.state().version == served_world.version
        first = await serving
    assert (first.phase, first.version, first.lm) == ("ready", served_world.version, "openai/fake")
    assert first.url not in {None, f"http://127.0.0.1:{busy}"}
    assert first.progress == 1.0 and "Serving" in first.log_tail
    assert (await servers.serve(served_world.version)).pid == first.pid  # it is served already
    assert servers.state().uptime_s > 0

    # A crash is seen at once, and the same version starts again.
    assert first.pid is not None
    server = min(group(first.pid) - {first.pid})
    os.kill(server, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: servers.state().phase == "failed", 2, "the crash is seen")
    assert servers.state().url is None
    assert "signal 9" in servers.state().reason
    await goes(first.pid)
    again = await servers.restart()
    assert (again.phase, again.version) == ("ready", served_world.version)

    # A version that cannot be served does not take the place of the one that is.
    with pytest.raises(ChildFailed, match="no version models:/served/77"):
        await servers.serve("models:/served/77")
    assert servers.state().phase == "ready"
    following = servers.state().next
    assert following is not None
    assert (following.phase, following.version) == ("failed", "models:/served/77")
    assert "no version models:/served/77" in following.reason

    async with contextlib.aclosing(served_world.backend()) as backend:
        await _switch_under_load(served_world, backend, servers)
    current = servers.state()
    assert current.next is None
    await servers.stop()
    assert servers.state().phase == "stopped"
    await goes(current.pid)
    assert not list((served_world.settings.data_dir / "run").glob("*.json"))


async def _switch_under_load(world: ServedWorld, backend: ServedBackend, servers: ModelServers) -> None:
    """Turns run all the time: some always at the current address, one on the old server over the switch."""
    before = servers.state()
    switched = asyncio.Event()
    world.fake.respond_with(lambda request: SLOW if "slowly" in str(request) else None)

    async def turn(url: str | None, question: str = "What is 2 + 2?") -> list[Event]:
        assert url is not None
        async with Pump(backend.stream(world.request(url, question, version=None))) as pump:
            return [event async for event in pump]

    async def keep_asking() -> list[list[Event]]:
        turns = []
        while not switched.is_set():
            turns.append(await turn(servers.state().url))
            await asyncio.sleep(0.02)
        return [*turns, await turn(servers.state().url)]

    async def keep_the_old_one_busy() -> list[list[Event]]:
        turns = []
        while not switched.is_set():
            turns.append(await turn(before.url, "Answer slowly."))
        return turns

    asking, keeping_busy = asyncio.create_task(keep_asking()), asyncio.create_task(keep_the_old_one_busy())
    after = await servers.serve(world.second)
    switched.set()
    assert after.url != before.url
    assert servers.state().version == world.second
    if not keeping_busy.done():
        assert group(before.pid)
    turns = [*await asking, *await keeping_busy]
    await goes(before.pid, 15)
    assert len(turns) > 5
    assert all(isinstance(events[-1], TurnFinished) for events in turns)
    assert any(isinstance(event, FieldDelta) for event in turns[0])


async def test_a_hung_server_is_seen_and_still_ends(
    served_world: ServedWorld, servers: ModelServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.2)
    monkeypatch.setattr(heartbeat, "HUNG_AFTER_S", 1.0)
    state = await servers.serve(served_world.version)
    assert state.pid is not None
    server = min(group(state.pid) - {state.pid})
    os.kill(server, signal.SIGSTOP)
    async with contextlib.aclosing(served_world.backend(idle_timeout_s=0.1)) as backend:
        with pytest.raises(UpstreamTimeout, match="model server was silent"):
            async with Pump(backend.stream(TurnRequest(state.target, {"question": "?"}))) as pump:
                assert [event async for event in pump] == []
    await until(lambda: servers.state().silent_s > 0, 20)
    assert servers.state().phase == "ready"
    with pytest.raises(NotFound, match="does not answer any more"):
        served_choice(servers, None)

    os.kill(server, signal.SIGCONT)
    await until(lambda: servers.state().silent_s == 0, 20)
    async with (
        contextlib.aclosing(served_world.backend()) as backend,
        Pump(backend.stream(TurnRequest(state.target, {"question": "?"}))) as pump,
    ):
        assert isinstance([event async for event in pump][-1], TurnFinished)

    os.kill(server, signal.SIGSTOP)
    await until(lambda: servers.state().silent_s > 0, 20)
    begun = time.monotonic()
    await servers.stop()
    assert time.monotonic() - begun < 6  # not the grace of 12 s
    await goes(state.pid)


async def test_a_typed_key_reaches_the_server_and_nobody_else(
    served_world: ServedWorld, servers: ModelServers
) -> None:
    planted = "sk-planted-0123456789"
    state = await servers.serve(served_world.keyless, api_key=SecretStr(planted))
    assert (state.phase, state.warning) == ("ready", "")
    assert state.pid is not None
    for pid in group(state.pid):
        assert planted.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in (served_world.settings.data_dir / "run").iterdir():
        assert planted not in path.read_text()


async def test_stop_while_it_starts(served_world: ServedWorld, servers: ModelServers) -> None:
    serving = asyncio.create_task(servers.serve(served_world.version))
    await asyncio.to_thread(wait_until, lambda: servers.state().pid, 5, "it starts")
    pid = servers.state().pid
    begun = time.monotonic()
    await servers.stop()
    with pytest.raises(ChildFailed):
        await serving
    assert time.monotonic() - begun < 5
    await goes(pid)
    assert servers.state().phase in {"none", "stopped"}
