"""A model file in memory, run by llama.cpp through xllamacpp, which nothing else here imports.

Also what has to be known before: what the file says of itself, what memory is free, whether the runtime is
installed (it is an extra).

xllamacpp always starts llama.cpp's HTTP server beside its calls (0.0.0.0 never, but any web page may ask it).
Here that server listens on a socket file in a folder of its own, which is deleted as soon as the model is
loaded: nobody can connect, and no port is opened.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from dspy_demo.errors import DemoError, ModelSetupError
from dspy_demo.events import StatusState

if TYPE_CHECKING:
    from dspy_demo.lm.local.engine import Job

log = logging.getLogger(__name__)

MODULE = "xllamacpp"
INSTALL_LINE = "pip install -r requirements-local.txt"
INSTALL_HINT = f"The runtime for models on this machine is not installed. Run: {INSTALL_LINE}"
LOAD_KEY = "local-load"
#: A reply can be stopped between two of these while the chat is read; so many tokens take about a second
#: of a small model on two cores. Reading is no faster with more.
BATCH_TOKENS = 128
#: What the runtime takes beside weights and context: buffers for a batch, the vocabulary.
OVERHEAD_BYTES = 150 * 2**20
#: Where finished chats are kept, so that the next turn of each need not read its history again.
KEPT_CHATS_MIB = 256
_SILENT = -1
#: The probe's only possible reply; its blank is what some vocabularies are refused for.
PROBE_REPLY = "It is."
NO_GRAMMARS = "the model takes no grammars: its replies may miss their format"

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """What is loaded, and how. One of them is in memory at a time.

    Attributes:
        context_tokens: How long a chat and its reply may be together.
        threads: How many threads compute.
    """

    path: Path
    context_tokens: int
    threads: int

    def needed_bytes(self) -> int:
        """About what it takes in memory: weights, context, finished chats, buffers."""
        context = read_header(self.path).cache_bytes_per_token * self.context_tokens
        return self.path.stat().st_size + context + KEPT_CHATS_MIB * 2**20 + OVERHEAD_BYTES


class LoadedModel:
    """A model in memory.

    Attributes:
        takes_grammars: Whether a grammar constrains its replies. LLGuidance gives up on vocabularies whose
            tokens lose their leading blank, and then generates without one, in silence.

    Raises:
        ModelSetupError: The runtime is not installed, or it cannot load the file.
    """

    def __init__(self, load: Load) -> None:
        runtime = import_runtime()
        params = runtime.CommonParams()
        params.model.path = str(load.path)
        params.n_ctx = load.context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_parallel = 1  # the queue lets one reply in at a time
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
        params.cache_ram_mib = KEPT_CHATS_MIB
        params.fit_params = False  # it would shrink the context without a word
        params.warmup = False
        params.verbosity = _SILENT
        params.force_pure_content_parser = True  # the text as it is written: DSPy reads it
        params.enable_reasoning = 0
        try:
            with _no_port(params):
                self._server: Any = runtime.Server(params)
        except RuntimeError as error:
            raise ModelSetupError(
                f"The model file {load.path.name} could not be loaded: it is damaged, or of a kind that this "
                "runtime does not know."
            ) from error
        self.takes_grammars = self._probe()
        if not self.takes_grammars:
            log.warning(NO_GRAMMARS, extra={"model": load.path.name})

    def generate(self, request: dict[str, Any], receive: Callable[[Chunk], bool]) -> None:
        """Answer an OpenAI-style chat request, in this thread.

        Args:
            receive: Gets each chunk as it comes; the generation ends where it returns True.
        """
        failures: list[BaseException] = []

        def checked(chunk: Chunk) -> bool:
            try:
                return receive(chunk)
            except BaseException as failure:  # the runtime would swallow it and go on
                failures.append(failure)
                return True

        self._server.handle_chat_completions({**request, "stream": True}, checked)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Free its memory."""
        self._server = None

    def _probe(self) -> bool:
        """Make one reply by a grammar that leaves no choice."""
        text: list[str] = []

        def receive(chunk: Chunk) -> bool:
            text.extend(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
            return "error" in chunk

        grammar = f'%llguidance {{}}\nstart: "{PROBE_REPLY}"'
        messages = [{"role": "user", "content": "?"}]
        self.generate({"messages": messages, "max_tokens": len(PROBE_REPLY) + 2, "grammar": grammar}, receive)
        return "".join(text) == PROBE_REPLY


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user may want to know meanwhile; the same `key` is the same line. See `events.Status`."""

    text: str
    state: StatusState
    key: str


class JobQueue:
    """One job at a time, in the order they come, in one thread; and the one model in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._pool: ThreadPoolExecutor | None = None
        self._loaded: tuple[Load, LoadedModel] | None = None

    def submit(self, job: Job) -> None:
        """Run `job` after all others. Once it is stopped it is over at the next token."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="local-model")
            self._jobs.append(job)
            self._pool.submit(self._run, job)

    def before(self, job: Job) -> int:
        """How many jobs come before this one, the running one among them."""
        with self._lock:
            ahead = self._jobs[: self._jobs.index(job)] if job in self._jobs else []
            return sum(not other.stopped.is_set() for other in ahead)

    def close(self) -> None:
        """End the job that is running and those that wait, and free the memory. It can be used again."""
        with self._lock:
            pool, self._pool = self._pool, None
            for job in self._jobs:
                job.stopped.set()
        if pool is not None:
            pool.shutdown()
        self._free()

    def _run(self, job: Job) -> None:
        try:
            if not job.stopped.is_set():
                job.run(self._model(job))
        except Exception as error:
            job.emit(DemoError.of(error))
        finally:
            with self._lock:
                self._jobs.remove(job)

    def _model(self, job: Job) -> LoadedModel:
        """The model of the job, loaded now unless it is the one in memory."""
        if self._loaded is not None and self._loaded[0] == job.load:
            return self._loaded[1]
        self._free()
        needed, free = job.load.needed_bytes(), free_bytes()
        sizes = f"about {needed / 1e9:.1f} GB of memory" + (f", {free / 1e9:.1f} GB are free" if free else "")
        if free is not None and needed > free:
            raise ModelSetupError(
                f"{job.title} needs {sizes}. Choose a smaller model or a smaller --local-context-tokens."
            )
        job.emit(Notice(f"Loading {job.title}: needs {sizes}", "pending", LOAD_KEY))
        began = time.monotonic()
        try:
            model = LoadedModel(job.load)
        except ModelSetupError:
            job.emit(Notice(f"{job.title} could not be loaded", "failed", LOAD_KEY))
            raise
        self._loaded = (job.load, model)
        took_s = time.monotonic() - began
        job.emit(Notice(f"Loaded {job.title} in {took_s:.1f} s: {sizes}", "done", LOAD_KEY))
        return model

    def _free(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None


#: The process's one queue. Without a job it has neither a thread nor a model.
jobs = JobQueue()
atexit.register(jobs.close)


def runtime_installed() -> bool:
    """Whether the runtime can be imported; it may be installed while the app runs.

    The import system looks at a folder again when it has changed. `importlib.invalidate_caches` is not for
    threads: two at a time delete the same entry, and one gets a KeyError.
    """
    return importlib.util.find_spec(MODULE) is not None


def import_runtime() -> ModuleType:
    """The module xllamacpp.

    Raises:
        ModelSetupError: It is not installed, or not usable on this system; the sentence says what to do.
    """
    try:
        return import_module(MODULE)
    except ModuleNotFoundError as error:
        raise ModelSetupError(INSTALL_HINT) from error
    except ImportError as error:
        hint = "Choose another model; the log has the details."
        if "libgomp" in str(error):
            hint = "It needs libgomp.so.1. Install it, for example with: apt-get install libgomp1"
        raise ModelSetupError(
            f"The runtime for models on this machine does not work on this system. {hint}"
        ) from error


def default_threads() -> int:
    """All cores but one, which the page and the other chats need."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def free_bytes() -> int | None:
    """Memory that can be used now without swapping; None where the system does not say (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    group = Path("/sys/fs/cgroup")  # a container's limit, where there is one
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        left = None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        left = None
    return min((size for size in (available, left) if size is not None), default=None)


@contextmanager
def _no_port(params: Any) -> Iterator[None]:
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.api_keys = [secrets.token_urlsafe(32)]
    # Only this user may enter it; the name of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="llm-", dir="/tmp") as folder:
        params.hostnames = [f"{folder}/server.sock"]
        yield


# What a file says of itself

_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CACHE_VALUE_BYTES = 2  # half precision, for a key and for a value
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What the metadata of a model file says; unknown is empty or 0.

    Attributes:
        architecture: For example ``qwen2``.
        context_tokens: The longest context that the model was trained for.
        cache_bytes_per_token: What one token of the context takes in memory.
    """

    architecture: str
    context_tokens: int
    cache_bytes_per_token: int


def read_header(path: Path) -> Header:
    """The metadata that a GGUF file begins with, up to its vocabulary.

    Raises:
        ModelSetupError: There is no such file, it cannot be read, or it is not a GGUF file.
    """
    try:
        with path.open("rb") as file:
            metadata = dict(_metadata(file))
    except FileNotFoundError:
        raise ModelSetupError(f"There is no file {path}.") from None
    except OSError as error:
        raise ModelSetupError(
            f"{path} cannot be read. Check that it is a file and that you may read it."
        ) from error
    except (struct.error, UnicodeDecodeError) as error:
        raise ModelSetupError(
            f"{path} is not a GGUF file, the one format that can be used here, or it is damaged."
        ) from error
    kind = metadata.get("general.architecture", "")

    def number(name: str) -> int:
        value = metadata.get(f"{kind}.{name}", 0)
        if isinstance(value, list):  # layers that differ: the largest stands for all
            value = max((item for item in value if isinstance(item, int)), default=0)
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key, value = number("attention.key_length") or width, number("attention.value_length") or width
    cache_heads = number("attention.head_count_kv") or heads
    per_token = number("block_count") * cache_heads * (key + value) * _CACHE_VALUE_BYTES
    return Header(str(kind), number("context_length"), per_token)


def _metadata(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Key and value, little-endian, as ggml's docs/gguf.md describes them."""
    magic, _, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF":
        raise struct.error("no GGUF")
    for _ in range(count):
        key = _text(file)
        if key.startswith("tokenizer."):  # long, and the sizes come before it
            return
        yield key, _value(file, struct.unpack("<I", file.read(4))[0])


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        return [_value(file, inner) for _ in range(_bounded(count))]
    if kind not in _FIXED:
        raise struct.error("unknown kind of value")
    form = "<" + _FIXED[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_bounded(struct.unpack("<Q", file.read(8))[0])).decode()


def _bounded(length: int) -> int:
    if length > _LONGEST:
        raise struct.error("an impossible length")
    return length
