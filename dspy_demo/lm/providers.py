"""Which environment variables belong to which provider of language models.

A variable of one provider is never used for another: a key must not reach a server that it was not made for.
"""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from dspy_demo.errors import SettingsError
from dspy_demo.events import LMChoice
from dspy_demo.settings import Settings, has_credentials

BASE_URL = "a URL such as http://localhost:8000/v1, and must not hold a user or a password"


class Provider(NamedTuple):
    """One provider, by the prefix of its model strings."""

    name: str
    example: str = ""  # the model that is taken where only a key is known
    client: str = ""  # what DSPy's own client calls its API; empty where DSPy has litellm ask it
    path: str = ""  # where the routes are, which everybody leaves out of a base URL
    usual_base: str | None = None  # the base URL where none is given, if DSPy's client has another one
    more_keys: tuple[str, ...] = ()  # further variables that may hold its key; the first that is set counts

    @property
    def keys(self) -> tuple[str, ...]:
        return (f"{self.name.upper()}_API_KEY", *self.more_keys)

    def key_variable(self, settings: Settings) -> str | None:
        return next((name for name in self.keys if name in settings.provider_keys), None)

    def key(self, settings: Settings) -> SecretStr | None:
        return settings.provider_keys.get(self.key_variable(settings) or "")

    def base_variable(self, settings: Settings) -> str | None:
        names = (f"{self.name.upper()}_API_BASE", f"{self.name.upper()}_BASE_URL")
        return next((name for name in names if name in settings.provider_bases), None)

    def base(self, settings: Settings) -> str | None:
        return settings.provider_bases.get(self.base_variable(settings) or "")


#: In the order in which a key is looked for at the start.
PROVIDERS: tuple[Provider, ...] = (
    Provider("openai", "openai/gpt-4o-mini", "openai-chat"),
    Provider("anthropic", "anthropic/claude-haiku-4-5", "anthropic", "/v1"),
    Provider("gemini", "gemini/gemini-2.5-flash", "gemini", "/v1beta", more_keys=("GOOGLE_API_KEY",)),
    Provider("groq", "groq/llama-3.3-70b-versatile", "groq"),
    Provider("openrouter", "openrouter/openai/gpt-4o-mini", "openrouter"),
    Provider("deepseek", "deepseek/deepseek-chat", "deepseek"),
    Provider("mistral", "mistral/mistral-small-latest"),
    Provider("xai", "xai/grok-3-mini", "xai"),
    Provider("moonshot", client="moonshotai"),
    Provider("ollama", client="ollama", path="/v1"),
    Provider("ollama_chat", client="ollama", path="/v1", more_keys=("OLLAMA_API_KEY",)),
    Provider("hosted_vllm", client="vllm"),
    Provider("vllm", client="vllm"),
    Provider("lm_studio", client="openai-chat", usual_base="http://127.0.0.1:1234/v1"),
    Provider("together_ai", more_keys=("TOGETHERAI_API_KEY", "TOGETHER_API_KEY")),
    Provider("fireworks_ai", more_keys=("FIREWORKS_API_KEY",)),
    Provider("perplexity", more_keys=("PERPLEXITYAI_API_KEY",)),
    *map(Provider, ("azure", "cerebras", "cohere", "databricks", "huggingface")),
    *map(Provider, ("nvidia_nim", "replicate", "sambanova", "voyage")),
)


def provider_for(model: str) -> Provider:
    """The provider of a model string: OpenAI where none is named; of a name beyond the table, its own."""
    name = model.partition("/")[0] if "/" in model else "openai"
    return next((provider for provider in PROVIDERS if provider.name == name), None) or Provider(name)


def keys_of_others(models: Iterable[str]) -> frozenset[str]:
    """The key variables of every provider that none of `models` asks."""
    used = {key for model in models for key in provider_for(model).keys}
    return frozenset(key for provider in PROVIDERS for key in provider.keys) - used


def check_bases(settings: Settings) -> None:
    """Refuse a provider's base URL that cannot be used, by its variable: it may hold a password."""
    for provider in PROVIDERS:
        variable, base = provider.base_variable(settings), provider.base(settings)
        if base and not is_base_url(base):
            raise SettingsError(f"{variable}: must be {BASE_URL}.")


def is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        return bool(usable) and not has_credentials(text)
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False


def base_of(choice: LMChoice, settings: Settings) -> str | None:
    """The base URL that a choice is asked at: its own, else that of its provider's variable, else None."""
    provider = provider_for(choice.model)
    base = choice.api_base or provider.base(settings) or provider.usual_base
    if base and provider.path and not urlsplit(base).path.strip("/"):
        return base.rstrip("/") + provider.path
    return base


def key_of(choice: LMChoice, settings: Settings) -> SecretStr | None:
    """The key for a choice: typed with it, or the owner's, which goes only where the owner sends it.

    That is the provider's own server or the one of its variable, and for the provider of ``--lm`` the one of
    ``--api-base``; never a server typed into the page.
    """
    if choice.api_key:
        return choice.api_key
    provider, started = provider_for(choice.model), provider_for(settings.lm or "openai/")
    usual = provider.base(settings)
    base = choice.api_base or usual
    if provider.name == started.name and base == (settings.api_base or usual):
        return settings.api_key or provider.key(settings)
    return provider.key(settings) if base == usual else None
