"""Which language model to start with, and why; which others to offer."""

import asyncio
from dataclasses import dataclass

import httpx

from dspy_demo.errors import ModelSetupError, SettingsError
from dspy_demo.events import LMChoice
from dspy_demo.lm.local.files import DOWNLOADED, NO_CHAT, PREFIX, find, offered
from dspy_demo.lm.local.runtime import INSTALL_HINT, runtime_installed
from dspy_demo.lm.providers import PROVIDERS, Provider, check_bases, key_of, provider_for
from dspy_demo.settings import Settings

DEMO_MODEL = "demo/engine"
DEMO_TOKENS_PER_S = 40.0
OPENAI = provider_for("openai/")
#: Seconds in which a server named by a base URL must list its models.
LISTING_TIMEOUT_S = 5.0
#: How long a running Ollama may take to answer at the start.
OLLAMA_PROBE_S = 0.3


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


async def detect(settings: Settings) -> Detection:
    """Choose the model to start with; it is never switched later but by the user.

    In this order: the explicit choice, the explicit base URL, what OPENAI_BASE_URL lists, a provider's key, a
    running Ollama with a chat model, a downloaded model, the demo engine. What was chosen explicitly and
    cannot be used is a `SettingsError`, of a model on this machine a `ModelSetupError`.
    """
    check_bases(settings)
    explicit = await _explicit(settings)
    listed = [] if explicit else await _listed(settings)
    keyed = listed + _keyed(settings, without=OPENAI if listed else None)
    ollama = [] if settings.lm else await _ollama_options(settings)
    local = await asyncio.to_thread(local_options, settings)
    demo = LMOption(DEMO_MODEL, "Demo engine", "calculates, tells the time")
    nothing = "No API key is set and no Ollama is running."
    found = [*keyed, *((row, "Ollama is running on this machine.") for row in ollama)]
    found += [(row, f"Downloaded. {nothing}") for row in local if row.note == DOWNLOADED]
    first, reason = explicit or [*found, (demo, nothing)][0]
    options = [*(row for row, _ in keyed), *ollama, *local, demo]
    if not any((row.model, row.api_base) == (first.model, first.api_base) for row in options):
        options.insert(0, first)
    how = settings.temperature, settings.max_tokens, settings.cache
    choice = LMChoice(first.model, first.api_base, settings.api_key if explicit else None, *how)
    return Detection(choice, reason, tuple(options))


def local_options(settings: Settings) -> list[LMOption]:
    """The model files that can be run here: downloaded ones first, then those of other programs."""
    files = offered(settings) if runtime_installed() else []
    return [LMOption(model.model, model.title, where) for model, where in files]


class Offer:
    """The rows of the model picker, as the last look found them: models come to this machine and go."""

    def __init__(self, detection: Detection) -> None:
        self._detection, self.rows = detection, detection.options

    def look(self, settings: Settings) -> tuple[LMOption, ...]:
        """Look again; the model of the start stays on offer. Reads folders: call it in a thread."""
        start = self._detection.choice.model
        rows = {row.model: row for row in local_options(settings)}
        kept = [
            row for row in self._detection.options if not row.model.startswith(PREFIX) or row.model == start
        ]
        kept = [row for row in kept if row.model not in rows]
        self.rows = tuple(sorted([*kept, *rows.values()], key=lambda row: row.model == DEMO_MODEL))
        return self.rows


async def _explicit(settings: Settings) -> tuple[LMOption, str] | None:
    """The model of ``--lm``, or the first one at ``--api-base``."""
    model, base = settings.lm, settings.api_base
    if not model:
        return await _first_at(base, settings, "--api-base") if base else None
    provider = provider_for(model)
    base = base or provider.base(settings)
    if not all(model.partition("/")):
        raise SettingsError(f"--lm {model[:80]}: name it as provider/model, for example openai/gpt-4o-mini.")
    if model.startswith(PREFIX):
        find(model, settings)
        if not runtime_installed():
            raise ModelSetupError(INSTALL_HINT)
    elif provider.example and not (settings.api_key or provider.key(settings) or base):
        raise SettingsError(
            f"--lm {model[:80]} needs a key: set {provider.keys[0]}, or give --api-key or --api-base."
        )
    return LMOption(model, model, base or "", base), "Chosen by you with --lm."


async def _listed(settings: Settings) -> list[tuple[LMOption, str]]:
    """The first model of the server that OPENAI_BASE_URL names; without a key it must list one."""
    variable, base = OPENAI.base_variable(settings), OPENAI.base(settings)
    try:
        return [await _first_at(base, settings, variable)] if variable and base else []
    except SettingsError:
        if OPENAI.key(settings):
            return []
        raise


async def _first_at(base: str, settings: Settings, where: str) -> tuple[LMOption, str]:
    """The first chat model that an OpenAI-compatible server lists."""
    key, shown = key_of(LMChoice("openai/", base), settings), base.partition("?")[0]
    headers = {"Authorization": f"Bearer {key.get_secret_value() if key else 'none'}"}
    try:
        async with httpx.AsyncClient(timeout=LISTING_TIMEOUT_S) as client:
            reply = await client.get(base.rstrip("/") + "/models", headers=headers)
            names = [str(model["id"]) for model in reply.raise_for_status().json()["data"]]
        chat = [name for name in names if not NO_CHAT.search(name.lower())] or names
        usual = OPENAI.example.removeprefix("openai/")
        first = f"openai/{usual if usual in chat else chat[0]}"
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        raise SettingsError(
            f"{where} {shown}: no OpenAI-compatible server lists a model there. "
            "Check the URL (it often ends in /v1) and the key, or name the model with --lm."
        ) from None
    return LMOption(first, first, f"listed at {where}", base), f"The first model that {shown} lists."


def _keyed(settings: Settings, without: Provider | None) -> list[tuple[LMOption, str]]:
    """A row for each provider whose key is set, with its own base URL."""
    found: list[tuple[LMOption, str]] = []
    for row in PROVIDERS:
        if row != without and row.example and (key := row.key_variable(settings)):
            option = LMOption(row.example, row.example, "key found in the environment", row.base(settings))
            found.append((option, f"{key} is set."))
    return found


async def _ollama_options(settings: Settings) -> list[LMOption]:
    """The chat models of a running Ollama; none when it does not answer within the probe's time."""
    try:
        # Making a client reads the system's certificates, which may take longer.
        async with httpx.AsyncClient() as client, asyncio.timeout(OLLAMA_PROBE_S):
            reply = await client.get(settings.ollama_url.rstrip("/") + "/api/tags")
            models = reply.raise_for_status().json()["models"]
            told = {str(model["name"]): f"{model['name']} {model.get('details')}" for model in models}
    except (TimeoutError, httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return []
    names = [name for name, text in told.items() if not NO_CHAT.search(text)]
    return [LMOption(f"ollama_chat/{name}", name, "Ollama", settings.ollama_url) for name in names]
