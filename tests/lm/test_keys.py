"""Which key reaches which server: two real ones, each of which records what comes."""

import os
from dataclasses import replace
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from dspy_demo.events import LMChoice
from dspy_demo.lm.choices import detect
from dspy_demo.settings import Settings
from tests.fake_openai import FakeOpenAI
from tests.services import house


class Row(NamedTuple):
    """A start, and where the question goes with which key."""

    server: str  # gateway, other, or empty where the question must reach neither
    key: str = ""
    keys: tuple[str, ...] = ()  # providers whose variable holds a key
    bases: dict[str, str] = {}  # noqa: RUF012 - variables that hold the address of one of the two servers
    flags: tuple[str, ...] = ()
    picked: LMChoice | None = None  # what is asked, instead of the model of the start


GATEWAY = {"OPENAI_BASE_URL": "gateway"}
CLAUDE = ("--lm", "anthropic/claude-haiku-4-5")
AT_THE_OTHER = ("--api-base", "{other}")
BY_LITELLM, GROQ = ("--lm", "mistral/fake"), ("--lm", "groq/fake", *AT_THE_OTHER)
FAKE_THERE = LMChoice("openai/fake", "other")
ROWS = {
    "a gateway with its key": Row("gateway", "sk-of-openai", ("OPENAI",), GATEWAY),
    "a gateway without a key": Row("gateway", "none", (), GATEWAY),
    "a provider and a gateway, each with its key": Row("", "", ("ANTHROPIC", "OPENAI"), GATEWAY, CLAUDE),
    "a provider with its own base URL": Row(
        "other", "sk-of-anthropic", ("ANTHROPIC", "OPENAI"), GATEWAY | {"ANTHROPIC_BASE_URL": "other"}, CLAUDE
    ),
    "the gateway's row, started with another": Row(
        "gateway", "sk-of-openai", ("ANTHROPIC", "OPENAI"), GATEWAY, CLAUDE,
        picked=LMChoice("openai/gpt-4o-mini", "gateway"),
    ),
    "Google's key for Gemini": Row("other", "sk-of-google", ("GOOGLE",), {"GEMINI_API_BASE": "other"}),
    "by litellm": Row(
        "other", "sk-of-mistral", ("OPENAI", "MISTRAL"), GATEWAY | {"MISTRAL_API_BASE": "other"}, BY_LITELLM
    ),
    "by litellm, without a key": Row("other", "none", ("OPENAI",), GATEWAY, (*BY_LITELLM, *AT_THE_OTHER)),
    "by litellm, with a like API and neither key nor base": Row(
        "", "", ("OPENAI",), GATEWAY, ("--lm", "together_ai/fake")
    ),
    "a base URL for the model of the start": Row("other", "sk-of-groq", ("GROQ", "OPENAI"), GATEWAY, GROQ),
    "a typed address": Row("other", "none", ("OPENAI",), GATEWAY, picked=FAKE_THERE),
    "a typed address with a typed key": Row(
        "other", "typed", ("OPENAI",), GATEWAY, picked=replace(FAKE_THERE, api_key=SecretStr("typed"))
    ),
    "a model of another provider at the owner's server": Row(
        "other", "none", ("GROQ", "OPENAI"), {}, GROQ, picked=FAKE_THERE
    ),
    "the key of --lm stays with its server": Row(
        "gateway", "sk-of-openai", ("OPENAI",), GATEWAY,
        ("--lm", "openai/fake", *AT_THE_OTHER, "--api-key", "sk-of-the-flag"), picked=LMChoice("openai/fake"),
    ),
}  # fmt: skip


@pytest.fixture
def servers():
    with FakeOpenAI() as gateway, FakeOpenAI() as other:
        gateway.models = ["text-embedding-3-small", "fake"]
        yield {"gateway": gateway, "other": other}


@pytest.mark.parametrize("name", ROWS)
async def test_a_key_reaches_its_own_server_only(name, servers, data_dir, monkeypatch, blocked_connections):
    row = ROWS[name]
    urls = {name: server.url for name, server in servers.items()}
    environ = {f"{name}_API_KEY": f"sk-of-{name.lower()}" for name in row.keys}
    environ |= {variable: urls[server] for variable, server in row.bases.items()}
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)  # where libraries might look
    flags = ["--data-dir", str(data_dir), "--lm-retries", "0", "--no-cache"]
    settings = Settings.load([*flags, *(flag.format(**urls) for flag in row.flags)], environ)
    choice = row.picked or (await detect(settings)).choice
    choice = replace(choice, api_base=urls.get(choice.api_base or "", choice.api_base))
    async with house(settings, choice) as home:
        await home.ask("visitor-1")
    blocked_connections.clear()  # of a question for a provider's own server

    came = [(name, request) for name, server in servers.items() for request in server.requests]
    asked = {(name, request.api_key) for name, request in came if request.method == "POST"}
    assert asked == ({(row.server, row.key)} if row.server else set())
    listed = {request.api_key for _, request in came if request.method == "GET"}
    assert listed <= {"sk-of-openai", "none"}
    assert environ.items() <= os.environ.items()
