"""The only place that builds a `dspy.LM`."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import DEMO_MODEL, DEMO_TOKENS_PER_S, Detection
from dspy_demo.lm.local.files import PREFIX, LocalModel, find
from dspy_demo.lm.providers import BASE_URL, base_of, is_base_url, key_of, provider_for
from dspy_demo.settings import Settings

if TYPE_CHECKING:
    import dspy

#: For a server that needs no key: the native engine insists on one.
PLACEHOLDER_KEY = "none"


class LMCatalog:
    """Builds the language model of a choice, and keeps its connections for the next turn."""

    demo_tokens_per_s, retry_wait_s = DEMO_TOKENS_PER_S, 1.0

    def __init__(self, settings: Settings, detection: Detection) -> None:
        self.detection = detection
        self._settings = settings
        self._models: dict[tuple[str, str | None, str | None], dspy.LM] = {}
        self._lock = threading.Lock()

    def lm(self, choice: LMChoice) -> dspy.LM:
        """The model of `choice`, with its temperature, bound and cache; or a `ModelSetupError`."""
        if choice.api_base and not is_base_url(choice.api_base):
            raise ModelSetupError(f"The base URL must be {BASE_URL}. Give the key in its own field.")
        given = {"temperature": choice.temperature, "max_tokens": choice.max_tokens}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            if not choice.model.rpartition("/")[2]:
                raise ValueError("no model is named")
            return self._base(choice).copy(cache=choice.cache and choice.model != DEMO_MODEL, **given)
        except (ValueError, TypeError, ImportError) as error:
            raise ModelSetupError(
                f"“{choice.model[:80]}” cannot be used as a model. Name it as provider/model, for example "
                "openai/gpt-4o-mini."
            ) from error

    def _base(self, choice: LMChoice) -> dspy.LM:
        """The `LM` object that keeps the connections to this model."""
        base, key = base_of(choice, self._settings), key_of(choice, self._settings)
        secret = key.get_secret_value() if key else None
        identity = (choice.model, base, secret)
        with self._lock:
            if identity not in self._models:
                if choice.model == DEMO_MODEL:
                    from dspy_demo.lm.demo_engine import demo_lm

                    self._models[identity] = demo_lm(self.demo_tokens_per_s)
                elif choice.model.startswith(PREFIX):
                    self._models[identity] = self._local_lm(choice)
                else:
                    self._models[identity] = self._network_lm(*identity)
            return self._models[identity]

    def _network_lm(self, model: str, base: str | None, key: str | None) -> dspy.LM:
        from dspy_demo.lm.chat_lm import ChatLM
        from dspy_demo.lm.native import Abilities, NativeEngine

        key = key or (PLACEHOLDER_KEY if base else None)
        timeout_s = self._settings.idle_timeout_s + 5  # ours ends the turn first
        how: dict[str, Any]
        if client := provider_for(model).client:
            name = model.partition("/")[2] or model
            engine = NativeEngine(model=name, client=client, base=base, key=key, timeout_s=timeout_s)
            how = {"engine": Abilities(engine), "async_engine": engine}
        else:
            how = {"timeout": timeout_s, "api_base": base, "api_key": key or _no_key_of_another(model)}
            how = {name: value for name, value in how.items() if value is not None}
        retries = self._settings.lm_retries
        return ChatLM(model, retries=retries, retry_wait_s=self.retry_wait_s, cache_scope=base or "", **how)

    def _local_lm(self, choice: LMChoice) -> dspy.LM:
        from dspy_demo.lm.chat_lm import ChatLM
        from dspy_demo.lm.local.engine import local_lm
        from dspy_demo.lm.local.runtime import import_runtime

        import_runtime()
        model = self._model_file(choice)
        return local_lm(
            model,
            context_tokens=self._settings.local_context_tokens,
            kind=ChatLM,
            retries=0,  # what fails on this machine fails again
            cache_scope=f"{model.path} {model.path.stat().st_mtime_ns}",
        )

    def _model_file(self, choice: LMChoice) -> LocalModel:
        return find(choice.model, self._settings)

    async def aclose(self) -> None:
        """Close the connections that idle in the pools, and free the model that is in memory."""
        from dspy_demo.lm.local.runtime import jobs

        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for lm in models:
            await lm.aclose()
        await asyncio.to_thread(jobs.close)


def _no_key_of_another(model: str) -> str | None:
    """A key for litellm where none is known: it would send OpenAI's to whoever has an API like OpenAI's."""
    import litellm

    try:
        _, provider, own_key, _ = litellm.get_llm_provider(model)
    except litellm.BadRequestError:  # a provider that it does not know: the call says so
        return None
    return None if own_key or provider not in litellm.openai_compatible_providers else PLACEHOLDER_KEY
