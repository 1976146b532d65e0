"""**Open MLflow**: MLflow's own pages over the version store."""

from __future__ import annotations

import asyncio
import os
import sys

from dspy_demo.processes import ChildProcess, ChildState, free_port, plain_environment
from dspy_demo.versions.secrets import public_url
from dspy_demo.versions.tracking import Tracking

HOST = "127.0.0.1"


class MLflowPages:
    """Owns the one ``mlflow server`` of this app."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._child: ChildProcess | None = None
        self._url = (public_url(tracking.uri) or "").rstrip("/") if tracking.remote else ""
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the pages are, without a slash at the end; empty while there are none."""
        return self._url if self._tracking.remote or self.state().phase == "ready" else ""

    def state(self) -> ChildState:
        return self._child.state() if self._child else ChildState()

    async def open(self) -> str:
        """The pages' URL, when they answer, or TrackingUnavailable or ChildFailed."""
        async with self._opening:
            if not self.url:
                await asyncio.to_thread(self._tracking.prepare)
                port = free_port(HOST)
                self._url = f"http://{HOST}:{port}"
                command = ["-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
                self._child = ChildProcess(
                    "MLflow server",
                    [sys.executable, *command],
                    run_dir=self._tracking.data_dir / "run",
                    health_url=f"{self._url}/health",
                    env=self._environment(),
                    cwd=self._tracking.data_dir,
                )
                await self._child.start(timeout_s=60.0)
            return self.url

    def _environment(self) -> dict[str, str]:
        """The store's address, which may hold a password, goes by the environment; our keys stay here."""
        return plain_environment(os.environ) | {
            "MLFLOW_BACKEND_STORE_URI": self._tracking.uri,
            "MLFLOW_REGISTRY_STORE_URI": self._tracking.uri,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": self._tracking.artifact_root.as_uri(),
            "MLFLOW_TRACKING_URI": self._tracking.uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 13 more processes and 2.3 GB
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # else the server waits for a price list from the network
        }

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()
