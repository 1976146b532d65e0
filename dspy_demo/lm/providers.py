"""Which environment variables belong to which provider of language models.

A variable of one provider is never used for another: a key must not reach a server that it was not made for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, by the prefix of its model strings.

    Attributes:
        name: What stands before the slash: ``openai`` in ``openai/gpt-4o-mini``.
        keys: Variables that may hold its key; the first that is set counts.
        bases: Variables that may hold the base URL of its server; the first that is set counts.
        example: The model that is taken where only a key is known; empty where there is no good guess.
    """

    name: str
    keys: tuple[str, ...]
    bases: tuple[str, ...]
    example: str = ""


def _provider(name: str, example: str = "", *further_keys: str) -> Provider:
    prefix = name.upper()
    keys = (f"{prefix}_API_KEY", *further_keys)
    return Provider(name, keys, (f"{prefix}_API_BASE", f"{prefix}_BASE_URL"), example)


#: In the order in which a key is looked for at the start. Those without an example are known so that their
#: keys are kept from whom they do not concern.
PROVIDERS: tuple[Provider, ...] = (
    _provider("openai", "openai/gpt-4o-mini"),
    _provider("anthropic", "anthropic/claude-haiku-4-5"),
    _provider("gemini", "gemini/gemini-2.5-flash", "GOOGLE_API_KEY"),
    _provider("groq", "groq/llama-3.3-70b-versatile"),
    _provider("openrouter", "openrouter/openai/gpt-4o-mini"),
    _provider("deepseek", "deepseek/deepseek-chat"),
    _provider("mistral", "mistral/mistral-small-latest"),
    _provider("xai", "xai/grok-3-mini"),
    *(
        _provider(name)
        for name in (
            "azure",
            "cerebras",
            "cohere",
            "databricks",
            "fireworks_ai",
            "hosted_vllm",
            "huggingface",
            "lm_studio",
            "moonshot",
            "nvidia_nim",
            "perplexity",
            "replicate",
            "sambanova",
            "together_ai",
            "vllm",
            "voyage",
        )
    ),
)


def provider_of(model: str) -> str:
    """The provider's name in a model string; ``openai`` where there is none, as DSPy takes it."""
    name, slash, _ = model.partition("/")
    return name if slash else "openai"


def keys_of_others(models: Iterable[str]) -> frozenset[str]:
    """The key variables of every provider that none of `models` asks."""
    asked = {provider_of(model) for model in models}
    used = {key for provider in PROVIDERS if provider.name in asked for key in provider.keys}
    return frozenset(key for provider in PROVIDERS for key in provider.keys) - used
