"""One version and the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
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
from dspy_demo.processes import ChildProcess, ChildState, Phase, listen
from dspy_demo.serving.handshake import CANNOT_SERVE, INSTANCE_VARIABLE, WRONG_USAGE
from dspy_demo.settings import ENV_PREFIX, Settings
from dspy_demo.versions.environment import version_environment
from dspy_demo.versions.tracking import Tracking

ServerPhase = Literal["none", "hung"] | Phase
#: ``none``: nothing was served yet. ``hung``: its process runs, but it answers nothing.
SERVER_PHASES: tuple[str, ...] = ("none", "hung", *get_args(Phase))

HOST = "127.0.0.1"
#: A server that was replaced stays at least so long: a turn may have its address and not have called yet.
RETIRE_AFTER_S = 1.0
_RETIRE_POLL_S = 0.25
#: After the time for running answers, for the last traces; a server that is idle is gone in a moment.
STOP_GRACE_S = 7.0
#: One that does not answer will hardly end by itself.
HUNG_GRACE_S = 1.0
#: A server that is silent for so long is hung; what it said is taken to be so for a while.
HEALTH_TIMEOUT_S, HEALTH_KEPT_S = 2.0, 5.0
#: How long a start takes before the first one was measured here.
EXPECTED_START_S = 5.0
#: Settings, and groups of them, that a model server has no use for: those of the page and of its guests, and
#: the choice of a model, which is the version's. All others, also those to come, are passed on.
NOT_PASSED_ON = frozenset(
    {"Guests", "Page", "Share"}
    | {"host", "port", "open", "public", "public_url", "cors_origins", "embed"}
    | {"program", "adapter", "lm", "api_base", "temperature", "max_tokens", "cache"}
    | {"ollama_url", "ollama_probe_s", "hub_url"}
    | {"model_name", "served_url", "serve_start_timeout_s", "serve_env"}
)
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class ServerState:
    """A model server at one moment.

    Attributes:
        version: What it serves: ``models:/NAME/3``; while it starts, as it was asked for.
        url: Its address, when it is ready.
        reason: Why it failed, in one sentence.
        warning: Why it will not be able to answer though it is ready: a missing key.
        program, lm: What the version runs, when it is ready.
        uptime_s: Seconds since it became ready.
        progress: 0 to 1 while it starts, by the time that earlier starts took.
        log_tail: The last lines of its log.
        instance: Names its very process; see `events.ServedTarget`.
        next: The server that is starting (or failed to) while this one still serves.
    """

    phase: ServerPhase = "none"
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
    instance: str = ""

    @property
    def target(self) -> ServedTarget:
        """What a turn asks, while it is ready."""
        return ServedTarget(self.url or "", self.version, instance=self.instance)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served, and with whose key.

    Attributes:
        version: ``models:/NAME/3`` or ``models:/NAME@champion``.
        lm: The model string that it was logged with; the keys of other providers are kept from it.
        api_key: A typed key for that model. Without it the server finds the provider's own variable.
    """

    version: str
    lm: str = ""
    api_key: SecretStr | None = None


class VersionProcess:
    """One version and the process that serves it. `state` is for any thread, the rest for one event loop."""

    def __init__(self, wanted: Wanted, settings: Settings, environ: Mapping[str, str]) -> None:
        self.wanted = wanted
        self.version = wanted.version
        self._settings = settings
        self._environ = environ
        self._url = ""
        self._info: Mapping[str, Any] = {}
        self._child: ChildProcess | None = None
        self._starting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._asked_at = -HEALTH_KEPT_S
        self._answered = True

    @property
    def phase(self) -> ServerPhase:
        phase = self._child.state().phase if self._child else "new"
        return "hung" if phase == "ready" and not self._answered else phase

    def state(self, following: ServerState | None = None) -> ServerState:
        child, phase = self._child.state() if self._child else ChildState(), self.phase
        info = self._info if child.phase == "ready" else {}
        return ServerState(
            phase,
            self.version,
            url=self._url if phase == "ready" else None,
            reason=child.reason,
            warning=str(info.get("reason", "")),
            program=str(info.get("program", "")),
            lm=str(info.get("lm", "")),
            uptime_s=child.since_s if child.phase == "ready" else 0.0,
            progress=_progress(child),
            log_tail=self._child.log_tail() if self._child else "",
            pid=child.pid,
            next=following,
            instance=str(info.get("instance", "")),
        )

    def serves(self, version: str) -> bool:
        return version in {self.wanted.version, self.version}

    def answers_for(self, wanted: Wanted) -> bool:
        """Whether it is ready for exactly this: an alias may mean another version by now."""
        same_key = self.wanted.api_key == wanted.api_key
        return self.phase == "ready" and self.version == wanted.version and same_key

    async def look(self) -> None:
        """Find out whether it answers, unless that was asked a moment ago."""
        async with self._asking:
            fresh = time.monotonic() - self._asked_at < HEALTH_KEPT_S
            if not fresh and self._child is not None and self._child.state().phase == "ready":
                self._answered = await self._answers()
                self._asked_at = time.monotonic()

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False) as client:
                reply = await client.get(f"{self._url}/health")
            return reply.status_code == 200 and reply.headers.get(INSTANCE_HEADER) == self._info["instance"]
        except httpx.HTTPError:
            return False

    async def start(self) -> None:
        """Start the process and wait until it answers; nothing where it does already.

        Raises:
            ChildFailed: It did not start.
        """
        async with self._starting:
            if self.phase == "ready":
                return
            await self.stop()  # a hung one
            with listen(HOST, [0]) as listening:  # our own end of it is closed when the server has it
                address = f"http://{HOST}:{listening.getsockname()[1]}"
                child = self._child = self._new_child(address, listening.fileno())
                begun = time.monotonic()
                await child.start(timeout_s=self._settings.serve_start_timeout_s)
            _measured_start_s[:] = [time.monotonic() - begun]
            self.version, self._answered = str(self._info["version"]), True
            self._asked_at = time.monotonic()

    def _new_child(self, url: str, descriptor: int) -> ChildProcess:
        instance = secrets.token_hex(8)

        def is_ready(reply: httpx.Response) -> bool:
            info = reply.json()
            self._info, self._url = info, url
            return bool(info["instance"] == instance)

        command = [sys.executable, "-m", "dspy_demo.serving", self.wanted.version, "--fd", str(descriptor)]
        return ChildProcess(
            "model server",
            [*command, "--data-dir", str(self._settings.data_dir)],
            run_dir=self._settings.data_dir / "run",
            health_url=f"{url}/model",
            is_ready=is_ready,
            env=self._environment(instance),
            cwd=_PACKAGE_PARENT,
            pass_fds=[descriptor],
            stop_grace_s=self._settings.shutdown_grace_s + STOP_GRACE_S,
            explain=_reason,
        )

    def _environment(self, instance: str) -> dict[str, str]:
        """Ours without what is not for the version, and the settings, also those of the command line."""
        inherited = version_environment(self._environ, [self.wanted.lm], self._settings.serve_env)
        environment = {name: value for name, value in inherited.items() if not name.startswith(ENV_PREFIX)}
        environment |= self._settings.variables(NOT_PASSED_ON)
        environment |= {"PYTHONUNBUFFERED": "1", INSTANCE_VARIABLE: instance}
        environment[f"{ENV_PREFIX}TRACKING_URI"] = Tracking(self._settings).uri
        # Of its own: the question that was just asked here should be answered there, not remembered.
        environment["DSPY_CACHEDIR"] = str(self._settings.cache_dir / "served")
        if self.wanted.api_key is not None:
            environment[f"{ENV_PREFIX}API_KEY"] = self.wanted.api_key.get_secret_value()
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
            await self._child.stop(HUNG_GRACE_S if self.phase == "hung" else None)


def _reason(code: int, log: str) -> str:
    """The sentence with which our server gives up is the last line of its log."""
    lines = log.strip().splitlines()
    if code in {CANNOT_SERVE, WRONG_USAGE} and lines:
        return lines[-1]
    if code > 128:
        return f"The model server was ended by signal {code - 128}. Start it again."
    return f"The model server ended by itself (exit code {code}). Its log says why."


_measured_start_s: list[float] = []


def _progress(child: ChildState) -> float:
    if child.phase == "ready":
        return 1.0
    if child.phase != "starting":
        return 0.0
    return min(0.95, child.since_s / (_measured_start_s[0] if _measured_start_s else EXPECTED_START_S))
