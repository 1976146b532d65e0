"""One version and the process that serves it."""

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

from dspy_demo.children.process import ChildFailed, ChildProcess, ChildState, Phase
from dspy_demo.events import ServedTarget
from dspy_demo.serving.handshake import CANNOT_SERVE, INSTANCE_VARIABLE, PORT_IN_USE, WRONG_USAGE
from dspy_demo.serving.heartbeat import Heartbeat
from dspy_demo.settings import ENV_PREFIX, Settings
from dspy_demo.versions.tracking import Tracking

#: Ports that are tried when another process takes ours between the choice and the start.
PORT_ATTEMPTS = 5
#: A server that was replaced stays at least so long: a turn may have its address and not have called yet.
RETIRE_AFTER_S = 1.0
_RETIRE_POLL_S = 0.25
#: After the time for running answers, for the last traces; a server that is idle is gone in a moment.
STOP_GRACE_S = 7.0
#: One that does not answer will hardly end by itself.
HUNG_GRACE_S = 1.0
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
    "log_format",
    "log_level",
    "max_turns",
    "offline_tokens_per_s",
    "reply_max_chars",
    "request_timeout_s",
    "shutdown_grace_s",
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
        instance: Names its very process; see `events.ServedTarget`.
        silent_s: Seconds since it last answered, where it is ready but hangs; else 0.
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
    instance: str = ""
    silent_s: float = 0.0

    @property
    def target(self) -> ServedTarget:
        """What a turn asks, while it is ready."""
        return ServedTarget(self.url or "", self.version, instance=self.instance)


class VersionProcess:
    """One version and the process that serves it."""

    def __init__(self, asked: str, settings: Settings, api_key: SecretStr | None) -> None:
        self.asked = asked
        self.version = asked
        self._settings = settings
        self._api_key = api_key
        self._url: str | None = None
        self._info: Mapping[str, Any] = {}
        self._child: ChildProcess | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def phase(self) -> Phase:
        return self._child.state().phase if self._child else "new"

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
            str(info.get("instance", "")),
            self._heartbeat.silent_s if self._heartbeat and ready else 0.0,
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
                self._watch(child)
                return
            except ChildFailed:
                if child.state().exit_code != PORT_IN_USE or attempt == PORT_ATTEMPTS:
                    raise

    def _watch(self, child: ChildProcess) -> None:
        """Notice when it hangs; its end is noticed by `ChildProcess`."""
        instance = self._info["instance"]
        self._heartbeat = Heartbeat(
            f"{self._url}/model",
            lambda reply: bool(reply.json()["instance"] == instance),
            lambda: child.state().running,
        )
        self._heartbeat.start()

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
            stop_grace_s=self._settings.shutdown_grace_s + STOP_GRACE_S,
            explain=_reason,
        )

    def _environment(self, instance: str) -> dict[str, str]:
        """Ours, and what only the command line told us. Secrets too: a command line is for all to read."""
        environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1", INSTANCE_VARIABLE: instance}
        for name in _SHARED_SETTINGS:
            environment[ENV_PREFIX + name.upper()] = str(getattr(self._settings, name))
        environment[f"{ENV_PREFIX}TRACKING_URI"] = Tracking(self._settings).uri
        # Of its own: the question that was just asked here should be answered there, not remembered.
        environment["DSPY_CACHEDIR"] = str(self._settings.cache_dir / "served")
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
        hung = self._heartbeat is not None and self._heartbeat.silent_s > 0
        if self._heartbeat is not None:
            await self._heartbeat.stop()
        if self._child is not None:
            await self._child.stop(HUNG_GRACE_S if hung else None)


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
