"""Which language model to start with, and why; which others to offer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from dspy_demo.errors import ModelSetupError, SettingsError
from dspy_demo.events import LMChoice
from dspy_demo.lm.local_models import DOWNLOADED, PREFIX, find, offered
from dspy_demo.lm.local_models.runtime import INSTALL_HINT, runtime_installed
from dspy_demo.settings import PROVIDER_KEYS, Settings

BUILTIN_MODEL = "builtin/rules"
#: Seconds in which a server named by --api-base must list its models.
LISTING_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LMOption:
    """One row of the model picker."""

    model: str
    title: str
    note: str = ""
    api_base: str | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """The model to start with, the reason for it as the page shows it, and the others on offer."""

    choice: LMChoice
    reason: str
    options: tuple[LMOption, ...]

    @property
    def builtin(self) -> bool:
        return self.choice.model == BUILTIN_MODEL


async def detect(settings: Settings) -> Detection:
    """Choose the model to start with; it is never switched later but by the user.

    In this order: the explicit choice, the explicit base URL, a provider's key, a running Ollama with a
    chat model, a downloaded model, the built-in engine.

    Raises:
        SettingsError: What was chosen explicitly cannot be used. There is no falling through.
        ModelSetupError: The same, of a model on this machine.
    """
    keyed = _keyed_options(settings)
    ollama = [] if settings.lm else await _ollama_options(settings)
    local = await asyncio.to_thread(local_options, settings)
    model, reason, api_base = await _first(settings, keyed, ollama, local)
    builtin = LMOption(BUILTIN_MODEL, "Built-in engine", "rules, no language model")
    options = [*keyed, *ollama, *local, builtin]
    if not any((option.model, option.api_base) == (model, api_base) for option in options):
        options.insert(0, LMOption(model, model, api_base or "", api_base))
    explicit = bool(settings.lm or settings.api_base)
    choice = LMChoice(
        model,
        api_base,
        settings.api_key if explicit else None,
        settings.temperature,
        settings.max_tokens,
        settings.cache,
    )
    return Detection(choice, reason, tuple(options))


def local_options(settings: Settings) -> list[LMOption]:
    """The model files that can be run here: downloaded ones first, then those of other programs."""
    if not runtime_installed():
        return []
    return [LMOption(model.model, model.title, where) for model, where in offered(settings)]


class Offer:
    """The rows of the model picker: what was found at start, and the models that came to this machine since.

    Attributes:
        rows: As the last look found them.
    """

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self.rows = detection.options

    def look(self, settings: Settings) -> tuple[LMOption, ...]:
        """Look again. Reads folders: call it in a thread."""
        local = local_options(settings)
        here = {row.model for row in local}
        start = self._detection.choice.model
        others = [
            row
            for row in self._detection.options
            if not row.model.startswith(PREFIX) or (row.model == start and start not in here)
        ]
        last = [row for row in others if row.model == BUILTIN_MODEL]
        self.rows = (*(row for row in others if row not in last), *local, *last)
        return self.rows


async def _first(
    settings: Settings, keyed: list[LMOption], ollama: list[LMOption], local: list[LMOption]
) -> tuple[str, str, str | None]:
    if settings.lm:
        _check_explicit(settings)
        return settings.lm, "Chosen by you with --lm.", settings.api_base
    if settings.api_base:
        model = await _model_at(settings.api_base, settings)
        return model, f"The first model that {settings.api_base} lists.", settings.api_base
    if keyed:
        variable = next(name for name, _ in PROVIDER_KEYS if name in settings.provider_keys)
        return keyed[0].model, f"{variable} is set.", None
    if ollama:
        return ollama[0].model, "Ollama is running on this machine.", ollama[0].api_base
    downloaded = next((option for option in local if option.note == DOWNLOADED), None)
    if downloaded:
        return downloaded.model, "Downloaded; no API key is set and no Ollama is running.", None
    return BUILTIN_MODEL, "No API key is set and no Ollama is running.", None


def _check_explicit(settings: Settings) -> None:
    model = settings.lm or ""
    provider, _, name = model.partition("/")
    if not provider or not name:
        raise SettingsError(f"--lm {model[:80]}: name it as provider/model, for example openai/gpt-4o-mini.")
    if provider == PREFIX.rstrip("/"):
        find(model, settings)
        if not runtime_installed():
            raise ModelSetupError(INSTALL_HINT)
        return
    needed = [variable for variable, example in PROVIDER_KEYS if example.startswith(provider + "/")]
    has_key = settings.api_key or any(variable in settings.provider_keys for variable in needed)
    if needed and not has_key and not settings.api_base:
        raise SettingsError(
            f"--lm {model[:80]} needs a key: set {needed[0]}, or give --api-key or --api-base."
        )


async def _model_at(api_base: str, settings: Settings) -> str:
    """The first model that an OpenAI-compatible server lists."""
    key = settings.api_key.get_secret_value() if settings.api_key else "none"
    try:
        async with httpx.AsyncClient(timeout=LISTING_TIMEOUT_S) as client:
            reply = await client.get(
                api_base.rstrip("/") + "/models", headers={"Authorization": f"Bearer {key}"}
            )
            reply.raise_for_status()
            return f"openai/{reply.json()['data'][0]['id']}"
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SettingsError(
            f"--api-base {api_base}: no OpenAI-compatible server lists a model there. "
            "Check the URL (it often ends in /v1), or name the model with --lm."
        ) from error


def _keyed_options(settings: Settings) -> list[LMOption]:
    models = dict.fromkeys(model for name, model in PROVIDER_KEYS if name in settings.provider_keys)
    return [LMOption(model, model, "key found in the environment") for model in models]


async def _ollama_options(settings: Settings) -> list[LMOption]:
    """The chat models of a running Ollama; none when it does not answer within the probe's time."""
    if settings.ollama_probe_s == 0:
        return []
    try:
        # httpx's limits are per operation; the probe promises a total. Making the client, which reads the
        # system's certificates, is no waiting for Ollama: on a busy machine it takes longer than the probe.
        async with httpx.AsyncClient() as client, asyncio.timeout(settings.ollama_probe_s):
            reply = await client.get(settings.ollama_url.rstrip("/") + "/api/tags")
            models = reply.raise_for_status().json()["models"]
            names = [str(model["name"]) for model in models if _is_chat_model(model)]
    except (TimeoutError, httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
    return [LMOption(f"ollama_chat/{name}", name, "Ollama", settings.ollama_url) for name in names]


def _is_chat_model(model: dict[str, Any]) -> bool:
    """Ollama lists embedding models beside the others; their family or name gives them away."""
    families = {str(family) for family in (model.get("details") or {}).get("families") or []}
    embeds = families & {"bert", "nomic-bert"} or "embed" in str(model["name"])
    return not embeds
