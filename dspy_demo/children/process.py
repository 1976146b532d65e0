"""One child process and its owner: start, wait until it answers, notice its end, stop all of it.

    child = ChildProcess("mlflow", [sys.executable, "-m", ...], run_dir=..., health_url="http://127.0.0.1:5001/health")
    await child.start(timeout_s=60)          # returns when it answers, or raises ChildFailed
    child.state()                            # for the page, at any time, from any thread
    await child.stop()                       # the whole process group is gone when this returns

The child, and whatever it starts, is a process group of its own under `warden`, which ends it when this
process dies in any way. A thread per child waits for its end, so that a crash is noticed at once.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from dspy_demo.children import leftovers
from dspy_demo.errors import DemoError, in_seconds

Phase = Literal["new", "starting", "ready", "stopping", "stopped", "failed"]

#: Seconds between two questions whether the child answers.
PROBE_EVERY_S = 0.05
#: Seconds between two calls of a progress callback.
PROGRESS_EVERY_S = 0.5
LOG_TAIL_BYTES = 16_384
_WARDEN = Path(__file__).with_name("warden.py")


class ChildFailed(DemoError):
    """A server of ours did not start, or ended by itself."""

    code, http_status, retryable = "server_failed", 503, True
    default_message = "The server did not start. Its log says why."


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child at one moment.

    Attributes:
        reason: Why it failed, in one sentence; empty otherwise.
        pid: Of the process group's leader, while it runs.
        since_s: Seconds in this phase: in ``ready``, the uptime.
        exit_code: Of the last end; None before. 128 + the number of a signal.
    """

    phase: Phase = "new"
    reason: str = ""
    pid: int | None = None
    since_s: float = 0.0
    exit_code: int | None = None

    @property
    def running(self) -> bool:
        return self.phase in {"starting", "ready", "stopping"}


class ChildProcess:
    """Owns one child. Every method may be called from any thread, `start` by one task at a time.

    Args:
        name: For its files in `run_dir` and for sentences: ``model server``.
        command: What to run. No secrets in it: everybody on the machine can read it. Use `env`.
        run_dir: Where its log and the note for a later start go; made if missing.
        health_url: Answers 200 when the child is ready. None: it is ready once started.
        is_ready: A further look at that answer, for example that it is not another process on the port.
        env: Its whole environment; None for a copy of ours.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
        explain: Makes the sentence of a failure from the exit code and the log's tail.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        run_dir: Path,
        health_url: str | None = None,
        is_ready: Callable[[httpx.Response], bool] = lambda _: True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_grace_s: float = 8.0,
        explain: Callable[[int, str], str] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.health_url = health_url
        slug = name.replace(" ", "-")
        number = next(leftovers.numbers)
        self.log_path = run_dir / f"{slug}-{os.getpid()}-{number}.log"
        self._run_file = self.log_path.with_suffix(".json")
        self._is_ready = is_ready
        self._env = dict(os.environ if env is None else env) | {
            leftovers.RUN_FILE_VARIABLE: str(self._run_file)
        }
        self._cwd = cwd
        self._stop_grace_s = stop_grace_s
        self._explain = explain or self._default_reason
        self._state = ChildState()
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned, self._ended = threading.Event(), threading.Event()
        self._spawned.set()
        self._ended.set()

    # --- look ---

    def state(self) -> ChildState:
        with self._lock:
            return dataclasses.replace(self._state, since_s=time.monotonic() - self._since)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what it wrote."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # --- start ---

    async def start(
        self, *, timeout_s: float, on_progress: Callable[[ChildState], None] | None = None
    ) -> ChildState:
        """Start it and wait until it answers. Cancelling this stops it.

        Args:
            timeout_s: After so long without an answer it is stopped.
            on_progress: Called about twice a second meanwhile.

        Raises:
            ChildFailed: It ended, or did not answer in time; the state is ``failed`` with the same reason.
        """
        assert not self.state().running, f"the {self.name} runs already"
        self._enter("starting")
        self._ended.clear()
        self._spawned.clear()
        threading.Thread(target=self._own, name=f"own-{self.name}", daemon=True).start()
        try:
            await asyncio.to_thread(self._spawned.wait)
            await self._until_ready(time.monotonic() + timeout_s, on_progress or (lambda _: None))
        except TimeoutError:
            await self.stop()
            reason = f"The {self.name} did not answer within {in_seconds(timeout_s)}, so it was stopped."
            self._enter("failed", reason)
            raise ChildFailed(reason) from None
        except BaseException:
            await asyncio.shield(self.stop())
            raise
        return self.state()

    async def _until_ready(self, deadline: float, on_progress: Callable[[ChildState], None]) -> None:
        next_progress = time.monotonic()
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            while (state := self.state()).running:
                if self.health_url is None or await self._answers(client, self.health_url):
                    with self._lock:
                        if self._state.phase == "starting":
                            self._state = dataclasses.replace(self._state, phase="ready")
                            self._since = time.monotonic()
                    if self.state().phase == "ready":
                        return
                if time.monotonic() > deadline:
                    raise TimeoutError
                if time.monotonic() >= next_progress:
                    next_progress += PROGRESS_EVERY_S
                    on_progress(state)
                await asyncio.sleep(PROBE_EVERY_S)
        raise ChildFailed(self.state().reason or f"The {self.name} was stopped while it started.")

    async def _answers(self, client: httpx.AsyncClient, url: str) -> bool:
        try:
            reply = await client.get(url)
            return reply.status_code == 200 and self._is_ready(reply)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False

    # --- the owning thread ---

    def _own(self) -> None:
        """Run the child from its start to its end, and tidy up after it."""
        try:
            process = self._popen()
        except OSError as error:
            self._end("failed", f"The {self.name} could not be started: {error.strerror}.", None)
            self._spawned.set()
            return
        with self._lock:
            self._process = process
            self._state = dataclasses.replace(self._state, pid=process.pid)
        _running.add(self)
        leftovers.note(self._run_file, process.pid)
        self._spawned.set()
        # Not reaped yet, the leader keeps its id, so that no other group can be hit.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _signal_group(process.pid, signal.SIGKILL)
        code = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        code = code if code >= 0 else 128 - code
        with contextlib.suppress(OSError):  # a read-only folder keeps its notes
            self._run_file.unlink()
        _running.discard(self)
        if self.state().phase == "stopping":
            self._end("stopped", "", code)
        else:
            self._end("failed", self._explain(code, self.log_tail()), code)

    def _popen(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        warden = [sys.executable, "-I", "-S", str(_WARDEN), str(self._run_file), f"{self._stop_grace_s:g}"]
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            return subprocess.Popen(  # noqa: S603 - the command is the app's own
                [*warden, *self.command],
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.PIPE,  # closed by the kernel when this process ends, however it ends
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _default_reason(self, code: int, _log: str) -> str:
        if code > 128:
            return f"The {self.name} was ended by signal {code - 128}."
        return f"The {self.name} ended by itself (exit code {code}). Its log says why."

    def _enter(self, phase: Phase, reason: str = "") -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, phase=phase, reason=reason)
            self._since = time.monotonic()

    def _end(self, phase: Phase, reason: str, code: int | None) -> None:
        with self._lock:
            self._state = ChildState(phase, reason, exit_code=code)
            self._since = time.monotonic()
            self._process = None
        self._ended.set()

    # --- stop ---

    async def stop(self, grace_s: float | None = None) -> None:
        """End the whole group: SIGTERM, and SIGKILL after the grace. Safe at any time, more than once.

        Args:
            grace_s: Instead of the child's own grace, for one that is known to be hung.
        """
        await asyncio.to_thread(self._spawned.wait)
        self._request_stop()
        if not await asyncio.to_thread(self._ended.wait, self._stop_grace_s if grace_s is None else grace_s):
            self.kill()
            await asyncio.to_thread(self._ended.wait)

    def _request_stop(self) -> None:
        with self._lock:
            if self._process is not None and self._state.phase != "stopping":
                self._state = dataclasses.replace(self._state, phase="stopping")
                self._since = time.monotonic()
                _signal_group(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group at once."""
        with self._lock:
            if self._process is not None:
                _signal_group(self._process.pid, signal.SIGKILL)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies only
        os.killpg(leader, number)


_running: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


@atexit.register
def _kill_all() -> None:
    """An app that ends without stopping its children leaves none."""
    for child in list(_running):
        child.kill()
