"""Model servers: serve a version, switch to another without a failed turn, stop.

For one event loop; `state` may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
from pydantic import SecretStr

from dspy_demo.backends.served_wire import INSTANCE_HEADER
from dspy_demo.events import ServedTarget
from dspy_demo.processes import ChildFailed, ChildProcess, ChildState, Phase, listen
from dspy_demo.serving import CANNOT_SERVE, INSTANCE_VARIABLE
from dspy_demo.settings import ENV_PREFIX, Settings
from dspy_demo.versions.secrets import version_environment
from dspy_demo.versions.tracking import Tracking

#: ``none``: nothing was served yet. ``hung``: its process runs, but it answers nothing.
ServerPhase = Literal["none", "hung"] | Phase
SERVER_PHASES: tuple[str, ...] = ("none", "hung", *get_args(Phase))
HOST, ROOT = "127.0.0.1", Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0
#: A server that is silent for so long is hung; what it answered is kept for a while.
HEALTH_TIMEOUT_S, HEALTH_KEPT_S = 2.0, 5.0
#: Servers for comparisons, each as large as the app: one for each side, and how long one stays.
BESIDE_MAX, BESIDE_S = 2, 600.0
#: A turn may have a server's address and not have called it yet.
LATE_TURN_S = 1.0
#: What a model server gets of our settings; the choice of a model is the version's.
PASSED_ON = frozenset(
    {"data_dir", "log_level", "log_format", "shutdown_grace_s", "experiment", "tracing"}
    | {"models_dir", "local_context_tokens", "input_max_chars", "idle_timeout_s", "total_timeout_s"}
    | {"lm_retries", "max_turns", "max_connections"}
)


@dataclass(frozen=True, slots=True)
class ServerState:
    """A model server at one moment."""

    phase: ServerPhase = "none"
    version: str = ""  #: ``models:/NAME/3``; while it starts, as it was asked for.
    url: str | None = None  #: While it is ready.
    reason: str = ""  #: Why it failed.
    warning: str = ""  #: Why it cannot answer though it is ready: a missing key.
    program: str = ""
    lm: str = ""
    log_tail: str = ""
    pid: int | None = None
    next: ServerState | None = None  #: The one that starts, or failed to, while this one serves.
    instance: str = ""  #: Names its very process; see `events.ServedTarget`.

    @property
    def target(self) -> ServedTarget:
        """What a turn asks, while it is ready."""
        return ServedTarget(self.url or "", self.version, instance=self.instance)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version to serve, the model that it was logged with, and a typed key for that model.

    The server gets the keys of the model's provider, and of no other.
    """

    version: str
    lm: str = ""
    api_key: SecretStr | None = None


class VersionProcess:
    """One version and the process that serves it."""

    def __init__(self, wanted: Wanted, settings: Settings, environ: Mapping[str, str]) -> None:
        self.wanted, self.version = wanted, wanted.version
        self._settings, self._environ = settings, environ
        self._url = ""
        self._info: Mapping[str, Any] = {}  # what ``/model`` told
        self._child: ChildProcess | None = None
        self._starting, self._asking = asyncio.Lock(), asyncio.Lock()
        self._asked_at, self._answered = 0.0, True

    @property
    def phase(self) -> ServerPhase:
        phase = self._child.state().phase if self._child else "new"
        return "hung" if phase == "ready" and not self._answered else phase

    def state(self, following: ServerState | None = None) -> ServerState:
        child = self._child.state() if self._child else ChildState()
        info = self._info if child.phase == "ready" else {}
        return ServerState(
            phase=self.phase,
            version=self.version,
            url=self._url if self.phase == "ready" else None,
            reason=child.reason,
            warning=info.get("reason", ""),
            program=info.get("program", ""),
            lm=info.get("lm", ""),
            log_tail=self._child.log_tail() if self._child else "",
            pid=child.pid,
            next=following,
            instance=info.get("instance", ""),
        )

    def answers_for(self, wanted: Wanted) -> bool:
        """Whether it is ready for exactly this: an alias may mean another version by now."""
        same_key = self.wanted.api_key == wanted.api_key
        return self.phase == "ready" and self.version == wanted.version and same_key

    async def look(self) -> None:
        """Find out whether it answers, unless that was asked a moment ago."""
        async with self._asking:
            fresh = time.monotonic() - self._asked_at < HEALTH_KEPT_S
            if fresh or self.phase not in {"ready", "hung"}:
                return
            answered = False
            with contextlib.suppress(httpx.HTTPError):
                reply = await self._get("health", HEALTH_TIMEOUT_S)
                answered = reply.headers.get(INSTANCE_HEADER) == self._info["instance"]
            self._answered = answered
            self._asked_at = time.monotonic()

    async def _get(self, path: str, timeout_s: float) -> httpx.Response:
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
            return await client.get(f"{self._url}/{path}")

    async def start(self) -> None:
        """Start the process unless it runs, and wait until it answers, or raise ChildFailed."""
        async with self._starting:
            if self.phase == "ready":
                return
            instance = secrets.token_hex(8)

            def is_ready(reply: httpx.Response) -> bool:
                self._info = reply.json()
                return bool(self._info["instance"] == instance)

            with listen(HOST, [0]) as listening:
                self._url = f"http://{HOST}:{listening.getsockname()[1]}"
                descriptor, data_dir = listening.fileno(), self._settings.data_dir
                command = ["-m", "dspy_demo.serving", self.wanted.version, "--fd", str(descriptor)]
                self._child = ChildProcess(
                    "model server",
                    [sys.executable, *command, "--data-dir", str(data_dir)],
                    run_dir=data_dir / "run",
                    health_url=f"{self._url}/model",
                    is_ready=is_ready,
                    explain=_reason,
                    stop_grace_s=self._settings.shutdown_grace_s + 7.0,  # for the last traces
                    env=self._environment(instance),
                    cwd=ROOT,
                    pass_fds=[descriptor],
                )
                await self._child.start(timeout_s=START_TIMEOUT_S)
            self.version, self._asked_at = str(self._info["version"]), time.monotonic()

    def _environment(self, instance: str) -> dict[str, str]:
        """Ours without what is not for the version, and with the settings of the command line."""
        inherited = version_environment(self._environ, [self.wanted.lm], self._settings.serve_env)
        environment = {name: value for name, value in inherited.items() if not name.startswith(ENV_PREFIX)}
        environment |= self._settings.variables(PASSED_ON)
        environment |= {"PYTHONUNBUFFERED": "1", INSTANCE_VARIABLE: instance}
        environment[f"{ENV_PREFIX}TRACKING_URI"] = Tracking(self._settings).uri
        # Of its own: the question that was just asked here should be answered there, not remembered.
        environment["DSPY_CACHEDIR"] = str(self._settings.cache_dir / "served")
        if self.wanted.api_key is not None:
            environment[f"{ENV_PREFIX}API_KEY"] = self.wanted.api_key.get_secret_value()
        return environment

    async def retire(self, after_s: float) -> None:
        """Stop after `after_s` seconds, when the last turn has ended by the server's own count."""
        await asyncio.sleep(after_s)
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TimeoutError):
            async with asyncio.timeout(self._settings.total_timeout_s):
                while (await self._get("model", 5.0)).json()["running"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.25)
        await self.stop()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(1.0 if self.phase == "hung" else None)


def _reason(code: int, log: str) -> str:
    return log.strip().splitlines()[-1] if code == CANNOT_SERVE and log.strip() else ""


class ModelServers:
    """The current model server, the next one, and those that leave: for comparisons, or after a switch."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings, self._environ = settings, environ
        self._current: VersionProcess | None = None
        self._next: VersionProcess | None = None
        #: Each with the task that ends it; the one that was asked for last is the last.
        self._leaving: dict[VersionProcess, asyncio.Task[None]] = {}
        self._switching = asyncio.Lock()

    def state(self) -> ServerState:
        following = self._next.state() if self._next else None
        return self._current.state(following) if self._current else following or ServerState()

    async def phase(self) -> ServerPhase:
        """The current server's phase, or ``none``; it is asked whether it answers, at most every 5 s."""
        server = self._current or self._next
        if server is None:
            return "none"
        await server.look()
        return server.phase

    async def serve(self, wanted: Wanted) -> ServerState:
        """Make a server the current one. The one before goes when its turns have ended.

        Raises:
            ChildFailed: It did not start, and is the `next`; a server that is ready stays the current one.
        """
        async with self._switching:
            before = self._current
            if before is not None and before.answers_for(wanted):
                self._next = None
                return before.state()
            if before is not None and before.phase != "ready":
                await before.stop()
                before = self._current = None
            self._next = server = VersionProcess(wanted, self._settings, self._environ)
            await server.start()  # a failure stays visible as `next`
            self._current, self._next = server, None
            if before is not None:
                self._leave(before, LATE_TURN_S)
            return server.state()

    async def again(self, version: str = "") -> ServerState:
        """Serve once more what failed, hangs or was stopped: `version`, or the current one."""
        for server in (self._current, self._next):
            if server is not None and version in {"", server.version}:
                return await self.serve(server.wanted)
        raise ChildFailed("No version is being served. Choose one under “Versions”.")

    async def beside(self, wanted: Wanted) -> ServerState:
        """A server for a comparison, which leaves the current one as it is and ends after a while."""
        if self._current is not None and self._current.answers_for(wanted):
            return self._current.state()
        known = [one for one in self._leaving if one.wanted == wanted and one.phase != "stopping"]
        server = known[0] if known else VersionProcess(wanted, self._settings, self._environ)
        if known:
            self._leaving.pop(server).cancel()
        self._leave(server, BESIDE_S)
        for older in list(self._leaving)[:-BESIDE_MAX]:
            self._leave(older, LATE_TURN_S)
        await server.start()
        return server.state()

    async def stop(self, version: str | None = None) -> None:
        """End the servers of `version`, or all of them, also one that is starting."""
        everything = {self._current, self._next, *self._leaving}
        servers = [s for s in everything if s and version in {None, s.version, s.wanted.version}]
        await asyncio.gather(*(server.stop() for server in servers))
        if self._next in servers:
            self._next = None
        if self._current in servers and self._current.phase == "failed":
            self._current = None

    async def aclose(self) -> None:
        for task in self._leaving.values():
            task.cancel()
        await self.stop()

    def _leave(self, server: VersionProcess, after_s: float) -> None:
        async def leave() -> None:
            await server.retire(after_s)
            del self._leaving[server]

        if server in self._leaving:
            self._leaving[server].cancel()
        self._leaving[server] = asyncio.create_task(leave(), name="retire-model-server")
