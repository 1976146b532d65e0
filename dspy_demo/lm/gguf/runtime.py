"""A model file in memory, run by llama.cpp through xllamacpp (2026.10), which nothing else here imports.

xllamacpp always starts llama.cpp's HTTP server beside its calls (0.0.0.0 never, but any web page may ask it).
Here that server listens on a socket file in a folder of its own, which is deleted as soon as the model is
loaded: nobody can connect, and no port is opened. Where there are no such sockets it listens on the
loopback address with a random key and for no other origin.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dspy_demo.errors import ModelSetupError
from dspy_demo.lm.gguf.shape import KEPT_CHATS_MIB
from dspy_demo.lm.local_models.runtime import INSTALL_HINT

log = logging.getLogger(__name__)

#: A reply can be stopped between two of these while the chat is read; so many tokens take about a second
#: of a small model on two cores. Reading is no faster with more.
BATCH_TOKENS = 128
#: The name of a socket file has to fit into so many bytes (Linux has 108, macOS 104).
SOCKET_NAME_MAX = 100
_SILENT = -1

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


class LoadedModel:
    """A model in memory.

    Raises:
        ModelSetupError: The runtime is not installed, or it cannot load the file.
    """

    def __init__(self, load: Load) -> None:
        runtime = import_runtime()
        params = runtime.CommonParams()
        params.model.path = str(load.path)
        params.n_ctx = load.context_tokens
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_parallel = 1  # the line lets one reply in at a time
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
        params.cache_ram_mib = KEPT_CHATS_MIB
        params.fit_params = False  # it would shrink the context without a word
        params.warmup = False
        params.verbosity = _SILENT
        params.force_pure_content_parser = True  # the text as it is written: DSPy reads it
        params.enable_reasoning = 0
        try:
            with _no_door(params):
                self._server: Any = runtime.Server(params)
        except RuntimeError as error:
            raise ModelSetupError(
                f"The model file {load.path.name} could not be loaded: it is damaged, or of a kind that this "
                "runtime does not know."
            ) from error

    def generate(self, request: dict[str, Any], hear: Callable[[Chunk], bool]) -> None:
        """Answer an OpenAI-style chat request, in this thread.

        Args:
            hear: Gets each chunk as it comes; the generation ends where it returns True.
        """
        failures: list[BaseException] = []

        def heard(chunk: Chunk) -> bool:
            try:
                return hear(chunk)
            except BaseException as failure:  # the runtime would swallow it and go on
                failures.append(failure)
                return True

        self._server.handle_chat_completions({**request, "stream": True}, heard)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Free its memory."""
        self._server = None


def import_runtime() -> ModuleType:
    """The module xllamacpp.

    Raises:
        ModelSetupError: It is not installed, or not usable on this system; the sentence says what to do.
    """
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise ModelSetupError(INSTALL_HINT) from error
    except ImportError as error:
        if "libgomp" in str(error):
            raise ModelSetupError(
                "The runtime for models on this machine needs libgomp.so.1, which this system lacks. "
                "Install it, for example with: apt-get install libgomp1"
            ) from error
        raise ModelSetupError(
            "The runtime for models on this machine is installed, but it does not work on this system. "
            "Choose another model; the log has the details."
        ) from error
    return xllamacpp  # type: ignore[no-any-return]


@contextmanager
def _no_door(params: Any) -> Iterator[None]:
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.api_keys = [secrets.token_urlsafe(32)]
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:  # only this user may enter it
        socket = str(Path(folder, "door.sock"))
        if os.name == "posix" and len(os.fsencode(socket)) <= SOCKET_NAME_MAX:
            params.hostnames = [socket]
        else:
            params.hostnames = ["127.0.0.1"]
            params.cors_origins, params.cors_origins_explicit = "http://127.0.0.1", True
            params.cors_credentials = False
        yield
