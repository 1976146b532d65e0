"""Which language model to start with, and why; which others to offer."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import httpx

from dspy_demo.errors import ModelSetupError, SettingsError
from dspy_demo.events import LMChoice
from dspy_demo.lm.local.files import DOWNLOADED, PREFIX, find, offered
from dspy_demo.lm.local.runtime import INSTALL_HINT, runtime_installed
from dspy_demo.lm.providers import (
    PROVIDERS,
    check_bases,
    key_of,
    provider_for,
    shown_url,
)
from dspy_demo.settings import Settings

DEMO_MODEL = "demo/engine"
#: The pace of its streams.
DEMO_TOKENS_PER_S = 40.0
OPENAI = provider_for("openai/")
KEY_FOUND = "key found in the environment"
LISTED = "listed at OPENAI_BASE_URL"
#: Seconds in which a server named by a base URL must list its models.
LISTING_TIMEOUT_S = 5.0
#: How long a running Ollama may take to answer at the start.
OLLAMA_PROBE_S = 0.3
#: In the ids of models that cannot chat; a listing says nothing else of what a model is for.
_NO_CHAT = re.compile(
    r"embed|rerank|moderation|whisper|transcribe|tts|audio|realtime|image|dall-e|sora|\bclip|\bbge|\be5\b"
)


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
    def demo(self) -> bool:
        return self.choice.model == DEMO_MODEL


async def detect(settings: Settings, *, probe_s: float = OLLAMA_PROBE_S) -> Detection:
    """Choose the model to start with; it is never switched later but by the user.

    In this order: the explicit choice, the explicit base URL, what OPENAI_BASE_URL lists, a provider's key, a
    running Ollama with a chat model, a downloaded model, the demo engine.

    Raises:
        SettingsError: What was chosen explicitly cannot be used. There is no falling through.
        ModelSetupError: The same, of a model on this machine.
    """
    check_bases(settings)
    gateway = None if settings.lm or settings.api_base else await _gateway(settings)
    keyed = _keyed_options(settings, gateway)
    ollama = [] if settings.lm else await _ollama_options(settings, probe_s)
    local = await asyncio.to_thread(local_options, settings)
    model, reason, api_base = await _first(settings, keyed, ollama, local)
    demo = LMOption(DEMO_MODEL, "Demo engine", "calculates, tells the time")
    options = [*keyed, *ollama, *local, demo]
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
        last = [row for row in others if row.model == DEMO_MODEL]
        self.rows = (*(row for row in others if row not in last), *local, *last)
        return self.rows


async def _first(
    settings: Settings, keyed: list[LMOption], ollama: list[LMOption], local: list[LMOption]
) -> tuple[str, str, str | None]:
    if settings.lm:
        _check_explicit(settings)
        base = settings.api_base or provider_for(settings.lm).base(settings)
        return settings.lm, "Chosen by you with --lm.", base
    if settings.api_base:
        model = await _model_at(settings.api_base, settings)
        if model is None:
            raise _no_models("--api-base", settings.api_base)
        return model, f"The first model that {shown_url(settings.api_base)} lists.", settings.api_base
    if keyed:
        return keyed[0].model, _why(keyed[0], settings), keyed[0].api_base
    if ollama:
        return ollama[0].model, "Ollama is running on this machine.", ollama[0].api_base
    downloaded = next((option for option in local if option.note == DOWNLOADED), None)
    if downloaded:
        return downloaded.model, "Downloaded; no API key is set and no Ollama is running.", None
    return DEMO_MODEL, "No API key is set and no Ollama is running.", None


def _why(row: LMOption, settings: Settings) -> str:
    if row.note == LISTED:
        return f"The first model that {shown_url(row.api_base or '')} lists."
    return f"{provider_for(row.model).key_variable(settings)} is set."


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
    needs_key = provider_for(model)
    has_key = settings.api_key or needs_key.key_variable(settings)
    if needs_key.example and not has_key and not (settings.api_base or needs_key.base(settings)):
        raise SettingsError(
            f"--lm {model[:80]} needs a key: set {needs_key.keys[0]}, or give --api-key or --api-base."
        )


async def _gateway(settings: Settings) -> LMOption | None:
    """The first model of the server that OPENAI_BASE_URL names, where it is set.

    Raises:
        SettingsError: It lists no model, and there is no key either, so that there is nothing to start with.
    """
    base, key = OPENAI.base(settings), OPENAI.key_variable(settings)
    if base is None:
        return None
    model = await _model_at(base, settings)
    if model is not None:
        return LMOption(model, model, LISTED, base)
    if key is None:
        raise _no_models(OPENAI.base_variable(settings) or "", base)
    return None


async def _model_at(api_base: str, settings: Settings) -> str | None:
    """The first chat model that an OpenAI-compatible server lists, asked with the key of that server."""
    key = key_of(LMChoice("openai/", api_base), settings)
    token = key.get_secret_value() if key else "none"
    try:
        async with httpx.AsyncClient(timeout=LISTING_TIMEOUT_S) as client:
            reply = await client.get(
                api_base.rstrip("/") + "/models", headers={"Authorization": f"Bearer {token}"}
            )
            names = [str(model["id"]) for model in reply.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    chat = [name for name in names if not _NO_CHAT.search(name.lower())]
    usual = OPENAI.example.removeprefix("openai/")
    first = usual if usual in chat else next(iter(chat or names), None)
    return f"openai/{first}" if first else None


def _no_models(where: str, api_base: str) -> SettingsError:
    return SettingsError(
        f"{where} {shown_url(api_base)}: no OpenAI-compatible server lists a model there. "
        "Check the URL (it often ends in /v1) and the key, or name the model with --lm."
    )


def _keyed_options(settings: Settings, gateway: LMOption | None) -> list[LMOption]:
    """A row for each provider whose key is set, with its own base URL."""
    rows = [gateway] if gateway else []
    for provider in PROVIDERS:
        variable = provider.key_variable(settings)
        if provider.example and variable and not (gateway and provider is OPENAI):
            rows.append(LMOption(provider.example, provider.example, KEY_FOUND, provider.base(settings)))
    return rows


async def _ollama_options(settings: Settings, probe_s: float) -> list[LMOption]:
    """The chat models of a running Ollama; none when it does not answer within the probe's time."""
    try:
        # httpx's limits are per operation; the probe promises a total. Making the client, which reads the
        # system's certificates, is no waiting for Ollama: on a busy machine it takes longer than the probe.
        async with httpx.AsyncClient() as client, asyncio.timeout(probe_s):
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
