"""**Open MLflow**: MLflow's own pages over the version store, started when somebody wants to see them.

ui = MLflowPages(store.tracking)
url = await ui.open(progress)      # starts `mlflow server`, or gives the remote server's address
store.link(version, url)
await ui.stop()
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping

import httpx

from dspy_demo.processes import ChildFailed, ChildProcess, ChildState, free_port, plain_environment
from dspy_demo.versions.confidential import public_url
from dspy_demo.versions.tracking import Tracking

#: It takes 4 s with our settings; 10 s, 15 processes and 2.8 GB with its own (mlflow 3.17).
START_TIMEOUT_S = 60.0
#: Somebody may take the free port before the server does.
ATTEMPTS = 3
HOST = "127.0.0.1"


class MLflowPages:
    """Owns the one ``mlflow server`` of this app. `open` is for one event loop; the rest for any thread.

    Args:
        environ: Where the server finds its programs, its language and the way to the network; no more.
    """

    def __init__(self, tracking: Tracking, environ: Mapping[str, str] = os.environ) -> None:
        self._tracking = tracking
        self._environ = environ
        self._child: ChildProcess | None = None
        self._url = public_url(tracking.uri) or "" if tracking.remote else ""
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the pages are now, without a slash at the end; empty while there are none."""
        if self._tracking.remote:
            return self._url.rstrip("/")
        return self._url if self.state().phase == "ready" else ""

    def state(self) -> ChildState:
        """Of the server's process; always ``new`` for a remote server, which is not ours to watch."""
        return self._child.state() if self._child else ChildState()

    def log_tail(self, lines: int = 40) -> str:
        return self._child.log_tail(lines) if self._child else ""

    async def open(
        self, progress: Callable[[str], None] = lambda _: None, *, timeout_s: float = START_TIMEOUT_S
    ) -> str:
        """The pages' URL, when they answer. Starts the server unless it runs; also again after a crash.

        Raises:
            TrackingUnavailable: The store cannot be opened.
            ChildFailed: The server did not start.
        """
        async with self._opening:
            if not self.url:
                await asyncio.to_thread(self._tracking.prepare, progress)
                await self._start(progress, timeout_s)
            return self.url

    async def _start(self, progress: Callable[[str], None], timeout_s: float) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            port = free_port(HOST)
            self._child = child = self._server(port)
            self._url = f"http://{HOST}:{port}"
            try:
                await child.start(
                    timeout_s=timeout_s,
                    on_progress=lambda state: progress(f"Starting MLflow ({state.since_s:.0f} s)"),
                )
                return
            except ChildFailed:
                if "address already in use" not in child.log_tail().lower() or attempt == ATTEMPTS:
                    raise

    def _server(self, port: int) -> ChildProcess:
        command = ["-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        return ChildProcess(
            "MLflow server",
            [sys.executable, *command],
            run_dir=self._tracking.data_dir / "run",
            health_url=f"http://{HOST}:{port}/health",
            is_ready=_is_mlflow,
            env=self._environment(),
            cwd=self._tracking.data_dir,
        )

    def _environment(self) -> dict[str, str]:
        """The store's address, which may hold a password, goes by the environment; our keys stay here."""
        return plain_environment(self._environ) | {
            "MLFLOW_BACKEND_STORE_URI": self._tracking.uri,
            "MLFLOW_REGISTRY_STORE_URI": self._tracking.uri,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": self._tracking.artifact_root.as_uri(),
            "MLFLOW_TRACKING_URI": self._tracking.uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Without it the server waits for a price list from the network (litellm 1.106).
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        }

    async def stop(self) -> None:
        """End the server, with everything that it started. Safe at any time."""
        if self._child is not None:
            await self._child.stop()


def _is_mlflow(reply: httpx.Response) -> bool:
    return reply.text.strip() == "OK"
