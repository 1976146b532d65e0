"""Child processes: start one, wait until it answers, notice its end, end all of it. And ports to listen on.

A child and what it starts is a process group under `warden`, which ends it when this process dies in any way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx

from dspy_demo import warden
from dspy_demo.errors import DemoError, SettingsError, in_seconds

Phase = Literal["new", "starting", "ready", "stopping", "stopped", "failed"]

LOG_TAIL_BYTES, LOG_TAIL_LINES = 16_384, 40
#: Connections that may wait in the kernel of a socket that listens.
BACKLOG = 2048
#: What a program of others needs of our environment.
_PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"}
    | {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
)
_log_numbers = itertools.count(1)


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of `environ` that a program of others gets: no key, token or password of ours is in it."""
    return {name: v for name, v in environ.items() if name.upper() in _PASSED_ON or name.startswith("LC_")}


class ChildFailed(DemoError):
    code, http_status, retryable = "server_failed", 503, True
    default_message = "The server did not start. Its log says why."


@dataclass(frozen=True, slots=True)
class ChildState:
    """The exit code of a signal is 128 + its number; `pid` leads the group."""

    phase: Phase = "new"
    reason: str = ""
    pid: int | None = None
    exit_code: int | None = None


class ChildProcess:
    """Owns one child. `start` and `stop` belong to one event loop; `state` and `log_tail` to any thread.

    Args:
        command: No secrets in it: everybody on the machine can read it.
        health_url: Answers 200, and as `is_ready` wants, when the child is ready. None: it is ready at once.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
        explain: A sentence for a failure from the exit code and the log's tail; empty for the usual one.
        options: As `subprocess.Popen` takes them.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        run_dir: Path,
        health_url: str | None = None,
        is_ready: Callable[[httpx.Response], bool] = lambda _: True,
        stop_grace_s: float = 8.0,
        explain: Callable[[int, str], str] = lambda *_: "",
        **options: Any,
    ) -> None:
        self.name, self.command = name, list(command)
        self.log_path = run_dir / f"{name.replace(' ', '-')}-{next(_log_numbers)}.log"
        self._health_url, self._is_ready, self._explain = health_url, is_ready, explain
        self._stop_grace_s, self._options = stop_grace_s, options
        self._state = ChildState()
        self._spawned = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None  # from the child's start to its end

    def state(self) -> ChildState:
        return self._state

    def log_tail(self) -> str:
        """The last lines of what it wrote."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])

    async def start(self, *, timeout_s: float) -> ChildState:
        """Start it and wait until it answers, or raise ChildFailed. Cancelling this stops it."""
        self._state = ChildState("starting")
        self._spawned.clear()
        owner = self._owner = asyncio.create_task(self._own(), name=f"own-{self.name}")
        answering = asyncio.create_task(self._until_it_answers(), name=f"probe-{self.name}")
        try:
            done, _ = await asyncio.wait({owner, answering}, timeout=timeout_s, return_when="FIRST_COMPLETED")
            if not done:
                await self.stop()
                reason = f"The {self.name} did not answer within {in_seconds(timeout_s)}."
                self._state = ChildState("failed", reason)
            elif self._state.phase == "starting":
                answering.result()
                self._state = replace(self._state, phase="ready")
                return self._state
            await asyncio.wait({owner})
            raise ChildFailed(self._state.reason or f"The {self.name} was stopped while it started.")
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        finally:
            answering.cancel()

    async def stop(self, grace_s: float | None = None) -> None:
        """End the whole group: SIGTERM, and SIGKILL after its grace or `grace_s`. Safe at any time."""
        if self._owner is None:
            return
        await self._spawned.wait()
        pid = self._state.pid
        if pid is not None and not self._owner.done():
            self._state = replace(self._state, phase="stopping")
            _signal_group(pid, signal.SIGTERM)
            await asyncio.wait({self._owner}, timeout=self._stop_grace_s if grace_s is None else grace_s)
            if not self._owner.done():
                _signal_group(pid, signal.SIGKILL)
        await asyncio.wait({self._owner})

    async def _until_it_answers(self) -> None:
        await self._spawned.wait()
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while self._health_url is not None:
                with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                    reply = await client.get(self._health_url)
                    if reply.status_code == 200 and self._is_ready(reply):
                        return
                await asyncio.sleep(0.05)

    async def _own(self) -> None:
        """The child from its start to its end."""
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb"):  # the kernel closes it when this process ends, however it ends
            try:
                process = await self._spawn(read_end)
                self._state = replace(self._state, pid=process.pid)
            except OSError as error:
                self._state = ChildState("failed", f"The {self.name} could not be started: {error.strerror}.")
                return
            finally:
                os.close(read_end)
                self._spawned.set()
            try:
                code = await process.wait()
            finally:  # also where the event loop ends before the child
                _signal_group(process.pid, signal.SIGKILL)
        code = code if code >= 0 else 128 - code
        if self._state.phase == "stopping":
            self._state = ChildState("stopped", exit_code=code)
            return
        how = f"ended by itself (exit code {code}). Its log says why"
        how = f"was ended by signal {code - 128}" if code > 128 else how
        reason = self._explain(code, self.log_tail()) or f"The {self.name} {how}."
        self._state = ChildState("failed", reason, exit_code=code)

    async def _spawn(self, pipe: int) -> asyncio.subprocess.Process:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:  # for our user alone: `settings.PRIVATE_UMASK`
            command = [*warden.prefix(self._stop_grace_s), *self.command]
            options = {"stdin": pipe, "stdout": log, "stderr": log, **self._options}
            return await asyncio.create_subprocess_exec(*command, start_new_session=True, **options)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies only
        os.killpg(leader, number)


def listen(host: str, ports: Sequence[int]) -> socket.socket:
    """Listen on the first of `ports` that is free, or raise SettingsError; 0 is any free one."""
    for port in ports:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
            return listening
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                why = f"is not an address of this machine, or its port {port} may not be used"
                raise SettingsError(f"--host: {host} {why}: {error.strerror}.") from None
    which = f"Port {ports[0]}" if len(ports) == 1 else f"Each port from {ports[0]} to {ports[-1]}"
    raise SettingsError(f"{which} of {host} is in use. Choose another one with --port.")


def free_port(host: str = "127.0.0.1") -> int:
    """A port for a program that cannot be given a socket; another one may take it before."""
    with listen(host, [0]) as listening:
        return int(listening.getsockname()[1])
