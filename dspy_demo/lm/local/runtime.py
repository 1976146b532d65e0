"""A model file in memory, run by llama.cpp through xllamacpp, which nothing else here imports.

xllamacpp always starts llama.cpp's HTTP server beside its calls, which any web page could ask. Here it
listens on a socket file that is deleted as soon as the model is loaded: nobody can connect, no port is open.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import ModelSetupError

if TYPE_CHECKING:
    from dspy_demo.lm.local.engine import Job

MODULE = "xllamacpp"
INSTALL_LINE = "pip install -r requirements-local.txt"
#: On Linux it also needs libgomp1.
INSTALL_HINT = f"The runtime for models on this machine is not installed. Run: {INSTALL_LINE}"
#: A reply can be stopped between two of these while the chat is read; so many tokens take about a second
#: of a small model on two cores. Reading is no faster with more.
BATCH_TOKENS = 128
#: Where finished chats are kept, so that the next turn of each need not read its history again.
KEPT_CHATS_MIB = 256


class LoadedModel:
    """A model in memory, for chats of at most `context_tokens` with their reply."""

    def __init__(self, path: Path, context_tokens: int) -> None:
        runtime = import_runtime()
        params = runtime.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_parallel = 1  # the queue lets one reply in at a time
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # One core is left to the page and the other chats.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, cores - 1)
        params.cache_ram_mib = KEPT_CHATS_MIB
        params.fit_params = False  # it would shrink the context without a word
        params.warmup = False
        params.verbosity = -1
        params.force_pure_content_parser = True  # the text as it is written: DSPy reads it
        params.enable_reasoning = 0
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        params.api_keys = [secrets.token_urlsafe(32)]
        try:
            # Only this user may enter the folder; the name of a socket has to be short.
            with tempfile.TemporaryDirectory(prefix="llm-", dir="/tmp") as folder:
                params.hostnames = [f"{folder}/server.sock"]
                self._server: Any = runtime.Server(params)
        except RuntimeError as error:
            raise ModelSetupError(
                f"The model file {path.name} could not be loaded: it is damaged, or of a kind that this "
                "runtime does not know."
            ) from error

    def generate(self, request: dict[str, Any], receive: Callable[[dict[str, Any]], bool]) -> None:
        """Answer an OpenAI-style chat request in this thread; it ends where `receive` returns True.

        `receive` must not raise: the runtime would go on without a word.
        """
        self._server.handle_chat_completions({**request, "stream": True}, receive)


class JobQueue:
    """One job at a time, in the order they come, in one thread; and the one model in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._pool: ThreadPoolExecutor | None = None
        self._loaded: tuple[tuple[Path, int], LoadedModel] | None = None

    def submit(self, job: Job) -> None:
        """Run `job` after all others. Once it is stopped it is over at the next token."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="local-model")
            if before := sum(not other.stopped.is_set() for other in self._jobs):
                job.tell(f"{before} before you for the model on this machine", "pending")
            self._jobs.append(job)
            self._pool.submit(self._run, job)

    def close(self) -> None:
        """End the job that is running and those that wait, and free the memory. It can be used again."""
        with self._lock:
            pool, self._pool = self._pool, None
            for job in self._jobs:
                job.stopped.set()
        if pool is not None:
            pool.shutdown()
        self._loaded = None

    def _run(self, job: Job) -> None:
        try:
            if not job.stopped.is_set():
                job.run(self._model(job))
        except Exception as error:
            job.emit(error)
        finally:
            with self._lock:
                self._jobs.remove(job)

    def _model(self, job: Job) -> LoadedModel:
        """The model of the job, loaded now unless it is the one in memory."""
        identity = (job.file.path, job.context_tokens)
        if self._loaded is None or self._loaded[0] != identity:
            self._loaded = None  # frees its memory
            job.tell(f"Loading {job.file.title}", "pending")
            self._loaded = (identity, LoadedModel(*identity))
        if job.awaits:
            job.tell(f"Loaded {job.file.title}", "done")
        return self._loaded[1]


#: The process's one queue. Without a job it has neither a thread nor a model.
jobs = JobQueue()
atexit.register(jobs.close)


def runtime_installed() -> bool:
    """Whether the runtime can be imported; it may be installed while the app runs."""
    return importlib.util.find_spec(MODULE) is not None


def import_runtime() -> ModuleType:
    """The module xllamacpp, or a `ModelSetupError` that says what to do."""
    try:
        return import_module(MODULE)
    except ImportError as error:
        raise ModelSetupError(INSTALL_HINT) from error
