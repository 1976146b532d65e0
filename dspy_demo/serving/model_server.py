"""Model servers as the page sees them: serve a version, switch to another without a failed turn, stop.

    servers = ModelServers(settings)
    await servers.serve("models:/dspy-demo/3")       # ready, or ChildFailed; `state()` tells more meanwhile
    await servers.serve("models:/dspy-demo/4")       # the old one goes when its last turn has ended
    await servers.stop()

All of it belongs to one event loop; `state` and `states` may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from dspy_demo.serving import leftovers
from dspy_demo.serving.handshake import CANNOT_SERVE, INSTANCE_VARIABLE, PORT_IN_USE, WRONG_USAGE
from dspy_demo.serving.process import ChildFailed, ChildProcess, ChildState, Phase
from dspy_demo.settings import ENV_PREFIX, Settings
from dspy_demo.versions.tracking import Tracking

#: Ports that are tried when another process takes ours between the choice and the start.
PORT_ATTEMPTS = 5
#: A server that was replaced stays at least so long: a turn may have its address and not have called yet.
RETIRE_AFTER_S = 1.0
_RETIRE_POLL_S = 0.25
#: How long a start takes before the first one was measured here.
EXPECTED_START_S = 5.0
#: What a model server does as this app does. Not the model or its key: those are the version's.
_SHARED_SETTINGS = (
    "experiment",
    "idle_timeout_s",
    "input_max_chars",
    "lm_connections",
    "lm_retries",
    "lm_retry_wait_s",
    "log_level",
    "max_turns",
    "offline_tokens_per_s",
    "total_timeout_s",
    "tracing",
)
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class ServerState:
    """A model server at one moment.

    Attributes:
        phase: ``none``: nothing was served yet.
        version: What it serves: ``models:/NAME/3``; while it starts, as it was asked for.
        url: Its address, when it is ready.
        reason: Why it failed, in one sentence.
        warning: Why it will not be able to answer though it is ready: a missing key.
        program, lm: What the version runs, when it is ready.
        uptime_s: Seconds since it became ready.
        progress: 0 to 1 while it starts, by the time that earlier starts took.
        log_tail: The last lines of its log.
        next: The server that is starting (or failed to) while this one still serves.
    """

    phase: Phase | Literal["none"] = "none"
    version: str = ""
    url: str | None = None
    reason: str = ""
    warning: str = ""
    program: str = ""
    lm: str = ""
    uptime_s: float = 0.0
    progress: float = 0.0
    log_tail: str = ""
    pid: int | None = None
    next: ServerState | None = None


class ModelServers:
    """The model servers of this app: the current one, the next one, and old ones that finish their turns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._current: ModelServer | None = None
        self._next: ModelServer | None = None
        self._beside: list[ModelServer] = []
        self._retiring: dict[asyncio.Task[None], ModelServer] = {}
        self._turn = asyncio.Lock()

    # --- look ---

    def state(self) -> ServerState:
        """The current server, and under ``next`` the one that is to follow it."""
        following = self._next.state() if self._next else None
        if self._current is None:
            return following or ServerState()
        return self._current.state(following)

    def states(self) -> list[ServerState]:
        """Every server that can be asked: the current one first, then those beside it."""
        return [server.state() for server in [self._current, *self._beside] if server]

    # --- act ---

    async def serve(
        self, version: str, *, api_key: SecretStr | None = None, port: int | None = None, beside: bool = False
    ) -> ServerState:
        """Start a server for `version` and make it the current one.

        One that serves it already is taken as it is. The one before goes when its turns have ended.

        Args:
            version: ``models:/NAME/3`` or ``models:/NAME@champion``.
            api_key: A typed key for the version's language model; it goes into the server's environment.
                Without it the server finds the provider's own variable there.
            port: Where to listen; if it is in use another one is taken.
            beside: Keep the current one, and this as a further one: for a comparison.

        Raises:
            ChildFailed: It did not start; what was current stays so.
        """
        async with self._turn:
            running = self._ready_for(version)
            if running is None:
                running = self._next = ModelServer(version, self._settings, api_key)
                await running.start(port)  # a failure stays visible as `next`
                self._next = None
            if beside:
                if running is not self._current and running not in self._beside:
                    self._beside.append(running)
            else:
                self._make_current(running)
            return running.state()

    #: Serving another version is switching to it.
    switch = serve

    async def restart(self) -> ServerState:
        """Start the current server again, on the same version, after it failed or to take up a new alias.

        Raises:
            ChildFailed: There is none, or it did not start.
        """
        async with self._turn:
            server = self._current or self._next
            if server is None:
                raise ChildFailed("No version is being served. Choose one under “Versions”.")
            await server.stop()
            self._current, self._next = server, None
            await server.start()
            return server.state()

    async def stop(self, version: str | None = None) -> None:
        """End the servers of `version`, or all of them, also one that is starting."""
        servers = [server for server in self._all() if version is None or server.serves(version)]
        await asyncio.gather(*(server.stop() for server in servers))
        if self._next in servers:
            self._next = None
        self._beside = [server for server in self._beside if server not in servers]

    async def aclose(self) -> None:
        """End everything; for the app's exit."""
        for task in list(self._retiring):
            task.cancel()
        await self.stop()

    def clean_leftovers(self) -> list[str]:
        """End what a crash of this app left running, and say what it was. Blocks for some seconds at most."""
        return leftovers.clean(run_dir(self._settings))

    def _all(self) -> list[ModelServer]:
        return [s for s in (self._current, self._next, *self._beside, *self._retiring.values()) if s]

    def _ready_for(self, version: str) -> ModelServer | None:
        """A server that answers for exactly this version; an alias may mean another one by now."""
        for server in (self._current, *self._beside):
            if server and server.state().phase == "ready" and server.version == version:
                return server
        return None

    def _make_current(self, server: ModelServer) -> None:
        before, self._current = self._current, server
        if server in self._beside:
            self._beside.remove(server)
        if before is not None and before is not server:
            task = asyncio.create_task(before.retire(), name="retire-model-server")
            self._retiring[task] = before
            task.add_done_callback(self._retiring.pop)


class ModelServer:
    """One version and the process that serves it."""

    def __init__(self, asked: str, settings: Settings, api_key: SecretStr | None) -> None:
        self.asked = asked
        self.version = asked
        self._settings = settings
        self._api_key = api_key
        self._url: str | None = None
        self._info: Mapping[str, Any] = {}
        self._child: ChildProcess | None = None

    def state(self, following: ServerState | None = None) -> ServerState:
        child = self._child.state() if self._child else ChildState()
        ready = child.phase == "ready"
        info = self._info if ready else {}
        return ServerState(
            child.phase,
            self.version,
            self._url if ready else None,
            child.reason,
            str(info.get("reason", "")),
            str(info.get("program", "")),
            str(info.get("lm", "")),
            child.since_s if ready else 0.0,
            _progress(child),
            self._child.log_tail() if self._child else "",
            child.pid,
            following,
        )

    def serves(self, version: str) -> bool:
        return version in {self.asked, self.version}

    async def start(self, port: int | None = None) -> None:
        """Start the process and wait until it answers, on another port where one is taken.

        Raises:
            ChildFailed: It did not start.
        """
        for attempt in range(1, PORT_ATTEMPTS + 1):
            child = self._child = self._new_child(port if port and _is_free(port) else _free_port())
            try:
                begun = time.monotonic()
                await child.start(timeout_s=self._settings.serve_start_timeout_s)
                _remember_start(time.monotonic() - begun)
                self.version = str(self._info["version"])
                return
            except ChildFailed:
                if child.state().exit_code != PORT_IN_USE or attempt == PORT_ATTEMPTS:
                    raise

    def _new_child(self, port: int) -> ChildProcess:
        url, instance = f"http://127.0.0.1:{port}", secrets.token_hex(8)

        def is_ready(reply: httpx.Response) -> bool:
            info = reply.json()
            if info["instance"] != instance:  # something else that listens on this port
                return False
            self._info, self._url = info, url
            return True

        data_dir = str(self._settings.data_dir)
        command = [sys.executable, "-m", "dspy_demo.serving", self.asked]
        return ChildProcess(
            "model server",
            [*command, "--host", "127.0.0.1", "--port", str(port), "--data-dir", data_dir],
            run_dir=run_dir(self._settings),
            health_url=f"{url}/model",
            is_ready=is_ready,
            env=self._environment(instance),
            cwd=_PACKAGE_PARENT,
            explain=_reason,
        )

    def _environment(self, instance: str) -> dict[str, str]:
        """Ours, and what only the command line told us. Secrets too: a command line is for all to read."""
        environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1", INSTANCE_VARIABLE: instance}
        for name in _SHARED_SETTINGS:
            environment[ENV_PREFIX + name.upper()] = str(getattr(self._settings, name))
        environment[f"{ENV_PREFIX}TRACKING_URI"] = Tracking(self._settings).uri
        # A key of ours is for the model that it was given for, which need not be the version's.
        environment.pop(f"{ENV_PREFIX}API_KEY", None)
        if self._api_key is not None:
            environment[f"{ENV_PREFIX}API_KEY"] = self._api_key.get_secret_value()
        return environment

    async def retire(self) -> None:
        """Stop when the last running turn has ended, by the server's own count."""
        give_up_at = time.monotonic() + self._settings.total_timeout_s
        await asyncio.sleep(RETIRE_AFTER_S)
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                while time.monotonic() < give_up_at:
                    if (await client.get(f"{self._url}/model")).json()["running"] == 0:
                        break
                    await asyncio.sleep(_RETIRE_POLL_S)
        await self.stop()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()


def run_dir(settings: Settings) -> Path:
    """Where children leave their logs and notes."""
    return settings.data_dir / "run"


def _reason(code: int, log: str) -> str:
    """The sentence with which our server gives up is the last line of its log."""
    lines = log.strip().splitlines()
    if code in {CANNOT_SERVE, WRONG_USAGE, PORT_IN_USE} and lines:
        return lines[-1]
    if code > 128:
        return f"The model server was ended by signal {code - 128}. Start it again."
    return f"The model server ended by itself (exit code {code}). Its log says why."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_measured_start_s: list[float] = []


def _remember_start(duration_s: float) -> None:
    _measured_start_s[:] = [duration_s]


def _progress(child: ChildState) -> float:
    if child.phase == "ready":
        return 1.0
    if child.phase != "starting":
        return 0.0
    return min(0.95, child.since_s / (_measured_start_s[0] if _measured_start_s else EXPECTED_START_S))
