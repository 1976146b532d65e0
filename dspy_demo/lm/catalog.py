"""The only place that builds a `dspy.LM`."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import LMChoice
from dspy_demo.lm.detection import BUILTIN_MODEL, Detection
from dspy_demo.lm.local_models import PREFIX, LocalModel, find
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    import dspy

#: Connections that one `dspy.LM` may open (lm15's pool, DSPy 3.4.1); a copy shares them.
CONNECTIONS_PER_LM = 100
#: How many models (with their base URL and key) stay built; typed ones come and go.
MODELS_KEPT = 32
#: The native engine insists on a key, also for a local server that needs none.
PLACEHOLDER_KEY = "none"


class LMCatalog:
    """Builds the language model of a choice, and keeps its connections for the next turn.

    Args:
        detection: What was found at start; the page shows it.
    """

    def __init__(self, settings: Settings, detection: Detection) -> None:
        self.detection = detection
        self._settings = settings
        self._pools: OrderedDict[tuple[str, str | None, str | None], Iterator[dspy.LM]] = OrderedDict()
        self._lock = threading.Lock()

    def lm(self, choice: LMChoice) -> dspy.LM:
        """The model of `choice`, with its temperature, bound and cache.

        Raises:
            ModelSetupError: The model string or one of its parameters cannot be used.
        """
        if choice.api_base and not _is_web_url(choice.api_base):
            raise ModelSetupError("The base URL must be one such as http://localhost:8000/v1.")
        try:
            base = self._base(choice)
            given = {"temperature": choice.temperature, "max_tokens": choice.max_tokens}
            return base.copy(
                cache=choice.cache and choice.model != BUILTIN_MODEL,
                **{name: value for name, value in given.items() if value is not None},
            )
        except (ValueError, TypeError, ImportError) as error:
            raise ModelSetupError(
                f"“{choice.model[:80]}” cannot be used as a model. Name it as provider/model, for example "
                "openai/gpt-4o-mini."
            ) from error

    def _base(self, choice: LMChoice) -> dspy.LM:
        """One of the few `LM` objects that share the connections to this model, in turns."""
        key = choice.api_key.get_secret_value() if choice.api_key else None
        identity = (choice.model, choice.api_base, key)
        with self._lock:
            if identity not in self._pools:
                self._pools[identity] = self._pool(choice, key)
                if len(self._pools) > MODELS_KEPT:
                    self._pools.popitem(last=False)
            self._pools.move_to_end(identity)
            return next(self._pools[identity])

    def _pool(self, choice: LMChoice, key: str | None) -> Iterator[dspy.LM]:
        if choice.model == BUILTIN_MODEL:
            from dspy_demo.lm.offline import offline_lm

            return itertools.repeat(offline_lm(tokens_per_second=self._settings.offline_tokens_per_s))
        if choice.model.startswith(PREFIX):
            return itertools.repeat(self._local_lm(choice))
        size = math.ceil(self._settings.lm_connections / CONNECTIONS_PER_LM)
        return itertools.cycle([self._network_lm(choice, key) for _ in range(size)])

    def _network_lm(self, choice: LMChoice, key: str | None) -> dspy.LM:
        from dspy_demo.lm.chat_lm import ChatLM

        client: dict[str, Any] = {"timeout": self._settings.idle_timeout_s + 5}  # ours ends the turn first
        if choice.api_base:
            client["api_base"] = _chat_url(choice)
            client["api_key"] = key or self._own_key(choice) or PLACEHOLDER_KEY
        elif key:
            client["api_key"] = key
        return ChatLM(
            choice.model,
            retries=self._settings.lm_retries,
            retry_wait_s=self._settings.lm_retry_wait_s,
            max_retry_wait_s=min(30.0, self._settings.idle_timeout_s / 2),
            cache_scope=zlib.crc32(choice.api_base.encode()) if choice.api_base else None,
            **client,
        )

    def _local_lm(self, choice: LMChoice) -> dspy.LM:
        from dspy_demo.lm.chat_lm import ChatLM
        from dspy_demo.lm.gguf.engine import local_lm
        from dspy_demo.lm.gguf.runtime import import_runtime

        import_runtime()
        model = self._model_file(choice)
        return local_lm(
            model,
            context_tokens=self._settings.local_context_tokens,
            threads=self._settings.local_threads,
            kind=ChatLM,
            retries=0,  # what fails on this machine fails again
            cache_scope=zlib.crc32(f"{model.path} {model.sha256} {model.path.stat().st_mtime_ns}".encode()),
        )

    def _model_file(self, choice: LMChoice) -> LocalModel:
        """The file of a ``local/`` model."""
        return find(choice.model, self._settings)

    def _own_key(self, choice: LMChoice) -> str | None:
        """The owner's key, only for the server that the owner named: never for one typed into the page."""
        if choice.api_base == self._settings.api_base and self._settings.provider_keys:
            provider = choice.model.partition("/")[0].upper()
            secret = self._settings.provider_keys.get(f"{provider}_API_KEY")
            return secret.get_secret_value() if secret else None
        return None

    async def aclose(self) -> None:
        """Close the connections that idle in the pools, and free the model that is in memory."""
        from dspy_demo.lm.gguf.line import close_line

        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            for lm in {id(lm): lm for lm in itertools.islice(pool, 64)}.values():
                await lm.aclose()
        await asyncio.to_thread(close_line)


def _is_web_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False


def _chat_url(choice: LMChoice) -> str:
    """Where the OpenAI-compatible routes are. Ollama has them below /v1, and everybody names it without.

    litellm adds its own path to Ollama's address; DSPy's native engine (3.4.1) takes the address as it is.
    """
    url = (choice.api_base or "").rstrip("/")
    is_ollama = choice.model.startswith(("ollama/", "ollama_chat/"))
    return f"{url}/v1" if is_ollama and not urlsplit(url).path else url
