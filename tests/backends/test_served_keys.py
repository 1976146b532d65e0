"""A version finds its key where it is served, by the same table as the app."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dspy_demo.events import LMChoice
from dspy_demo.serving.app import build_app
from dspy_demo.serving.loading import ServedVersion
from dspy_demo.settings import Settings
from tests.backends.served_fixtures import loaded_version  # noqa: F401
from tests.fake_openai import FakeOpenAI

pytestmark = pytest.mark.integration  # importing mlflow takes a while
KEYS = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-anthropic", "GOOGLE_API_KEY": "sk-google"}


@pytest.mark.parametrize(
    ("model", "own_base", "key"), [("openai/fake", False, "sk-openai"), ("gemini/fake", True, "sk-google")]
)
async def test_a_version_served_elsewhere_finds_its_key(
    loaded_version: ServedVersion,  # noqa: F811
    data_dir: Path,
    model: str,
    own_base: bool,
    key: str,
) -> None:
    with FakeOpenAI() as gateway, FakeOpenAI() as own:
        environ = KEYS | {"OPENAI_BASE_URL": gateway.url}
        flags = ["--data-dir", str(data_dir), "--no-tracing", "--lm-retries", "0"]
        choice = LMChoice(model, own.url if own_base else None, cache=False)
        app = build_app(replace(loaded_version, lm=choice), Settings.load(flags, environ))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            await client.post("/predict", json={"text": "hello"})
        await app.state.service.aclose()
        asked, other = (own, gateway) if own_base else (gateway, own)
        assert {request.api_key for request in asked.requests} == {key}
        assert not other.requests
