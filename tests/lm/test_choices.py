"""Which model the app starts with, and the reason that it gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.errors import ModelSetupError, SettingsError
from dspy_demo.lm.choices import DEMO_MODEL, LMOption, Offer, detect
from dspy_demo.lm.local import files, runtime
from dspy_demo.lm.providers import PROVIDERS
from dspy_demo.settings import Settings
from tests.fake_hub import gguf_bytes, known_for
from tests.fake_openai import FakeOpenAI, Reply, refused_url
from tests.services import house, settings_for


@pytest.fixture
def nowhere() -> Iterator[str]:
    yield refused_url().removesuffix("/v1")


def settings(data_dir: Path, *flags: str, **environ: str) -> Settings:
    return Settings.load(["--data-dir", str(data_dir), *flags], environ)


async def test_without_anything_the_built_in_engine(data_dir: Path, nowhere: str) -> None:
    found = await detect(settings(data_dir, "--ollama-url", nowhere))
    assert found.choice.model == DEMO_MODEL
    assert found.demo
    assert "No API key" in found.reason


async def test_ollama_offers_its_chat_models_only(data_dir: Path, fake_openai: FakeOpenAI) -> None:
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    assert found.choice.model == "ollama_chat/fake-chat:latest"
    assert found.choice.api_base == fake_openai.origin
    assert [option.model for option in found.options] == ["ollama_chat/fake-chat:latest", DEMO_MODEL]


async def test_a_machine_that_is_slow_to_make_a_client_finds_ollama_too(
    data_dir: Path, fake_openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowClient(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            time.sleep(0.4)
            super().__init__(**options)

    monkeypatch.setattr(httpx, "AsyncClient", SlowClient)
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    assert found.choice.model == "ollama_chat/fake-chat:latest"


async def test_what_ollama_offers_really_answers_there(data_dir: Path, fake_openai: FakeOpenAI) -> None:
    """Ollama has its OpenAI routes below /v1 only."""
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    async with house(settings_for(data_dir), replace(found.choice, cache=False)) as home:
        heard = await home.ask("visitor-3")
    assert "visitor-3" in heard.finished.outputs["answer"]
    assert fake_openai.requests[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "reply", [Reply(fault="silent_before_headers"), Reply(status=500), Reply(fault="html")]
)
async def test_a_broken_ollama_is_none_and_costs_300_ms_at_most(
    data_dir: Path, fake_openai: FakeOpenAI, reply: Reply
) -> None:
    fake_openai.get_reply = reply
    started = time.monotonic()
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    assert found.demo
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("variable", "model"),
    [(key, provider.example) for provider in PROVIDERS if provider.example for key in provider.keys],
)
async def test_a_provider_key_wins_over_ollama(
    data_dir: Path, fake_openai: FakeOpenAI, variable: str, model: str
) -> None:
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin, **{variable: "sk-planted"}))
    assert found.choice.model == model
    assert found.choice.api_key is None  # found by `lm.providers.key_of`, not handed around
    assert variable in found.reason
    assert "sk-planted" not in repr(found)


async def test_keys_are_tried_in_their_order(data_dir: Path, nowhere: str) -> None:
    keys = {provider.keys[0]: "k" for provider in reversed(PROVIDERS)}
    found = await detect(settings(data_dir, "--ollama-url", nowhere, **keys))
    assert found.choice.model == "openai/gpt-4o-mini"
    assert [option.model for option in found.options][:2] == [
        "openai/gpt-4o-mini",
        "anthropic/claude-haiku-4-5",
    ]


async def test_a_base_url_alone_takes_the_first_model_there(data_dir: Path, fake_openai: FakeOpenAI) -> None:
    found = await detect(settings(data_dir, "--api-base", fake_openai.url, OPENAI_API_KEY="k"))
    assert (found.choice.model, found.choice.api_base) == ("openai/fake", fake_openai.url)
    assert fake_openai.url in found.reason


@pytest.mark.parametrize("reply", [Reply(status=404), Reply(fault="html"), Reply(fault="empty_body")])
async def test_a_base_url_without_a_model_server_is_an_error(
    data_dir: Path, fake_openai: FakeOpenAI, reply: Reply
) -> None:
    fake_openai.get_reply = reply
    with pytest.raises(SettingsError, match="--api-base"):
        await detect(settings(data_dir, "--api-base", fake_openai.url))


async def test_an_explicit_model_wins_and_nothing_is_probed(data_dir: Path, fake_openai: FakeOpenAI) -> None:
    found = await detect(
        settings(
            data_dir, "--lm", "openai/x", "--api-base", fake_openai.url, "--ollama-url", fake_openai.origin
        )
    )
    assert found.choice.model == "openai/x"
    assert found.options[0].model == "openai/x"
    assert fake_openai.requests == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--lm", "gpt-4o"], "provider/model"), (["--lm", "openai/gpt-4o"], "OPENAI_API_KEY")],
)
async def test_an_explicit_model_that_cannot_work_is_an_error(
    data_dir: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        await detect(settings(data_dir, *flags))


async def test_the_settings_of_the_model_are_those_of_the_flags(data_dir: Path) -> None:
    flags = ["--lm", DEMO_MODEL, "--temperature", "0.5", "--max-tokens", "99", "--no-cache"]
    choice = (await detect(settings(data_dir, *flags))).choice
    assert (choice.temperature, choice.max_tokens, choice.cache) == (0.5, 99, False)


# Models on this machine


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one downloaded model, and a runtime that could run it."""
    monkeypatch.setattr(runtime, "MODULE", "json")
    content = gguf_bytes(2_000)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny-instruct.gguf").write_bytes(content)
    monkeypatch.setattr(files, "KNOWN", (known_for(content), *files.KNOWN[:2]))
    return folder


async def test_a_downloaded_model_comes_before_the_built_in_engine(
    data_dir: Path, models_dir: Path, nowhere: str
) -> None:
    found = await detect(settings(data_dir, "--models-dir", str(models_dir), "--ollama-url", nowhere))
    assert (found.choice.model, found.choice.api_base) == ("local/tiny-instruct", None)
    assert "Downloaded" in found.reason and not found.demo
    assert [(option.model, option.title) for option in found.options] == [
        ("local/tiny-instruct", "Tiny Instruct"),
        (DEMO_MODEL, "Demo engine"),
    ]


async def test_ollama_comes_before_a_downloaded_model(
    data_dir: Path, models_dir: Path, fake_openai: FakeOpenAI
) -> None:
    found = await detect(
        settings(data_dir, "--models-dir", str(models_dir), "--ollama-url", fake_openai.origin), probe_s=5
    )
    models = [option.model for option in found.options]
    assert models == ["ollama_chat/fake-chat:latest", "local/tiny-instruct", DEMO_MODEL]
    assert found.choice.model == models[0]


async def test_a_file_of_another_program_is_offered_and_never_chosen(
    data_dir: Path, models_dir: Path, tmp_path: Path, nowhere: str
) -> None:
    other = tmp_path / "gguf" / "Mine.gguf"
    other.parent.mkdir()
    other.write_bytes(gguf_bytes(3_000))
    flags = ["--models-dir", str(other.parent)]
    found = await detect(settings(data_dir, *flags, "--ollama-url", nowhere))
    assert found.demo
    assert [option.model for option in found.options] == [f"local/{other}", DEMO_MODEL]


async def test_without_the_runtime_no_model_of_this_machine_is_offered(
    data_dir: Path, models_dir: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MODULE", "no_such_module")
    flags = ["--models-dir", str(models_dir), "--ollama-url", nowhere]
    found = await detect(settings(data_dir, *flags))
    assert [option.model for option in found.options] == [DEMO_MODEL]
    with pytest.raises(ModelSetupError, match="pip install -r requirements-local"):
        await detect(settings(data_dir, "--lm", "local/tiny-instruct", *flags))


async def test_an_explicit_file_is_looked_at_before_the_start(data_dir: Path, models_dir: Path) -> None:
    path = models_dir / "tiny-instruct.gguf"
    assert (await detect(settings(data_dir, "--lm", f"local/{path}"))).choice.model == f"local/{path}"
    with pytest.raises(ModelSetupError, match="models pull qwen"):
        await detect(settings(data_dir, "--lm", "local/qwen2.5-0.5b-instruct"))


async def test_a_model_that_came_or_went_since_the_start_changes_the_offer(
    data_dir: Path, models_dir: Path, nowhere: str, tmp_path: Path
) -> None:
    empty = settings(data_dir, "--models-dir", str(tmp_path / "empty"), "--ollama-url", nowhere)
    offer = Offer(await detect(empty))
    with_model = settings(data_dir, "--models-dir", str(models_dir))
    assert [row.model for row in offer.look(with_model)] == ["local/tiny-instruct", DEMO_MODEL]
    assert offer.rows[0] == LMOption("local/tiny-instruct", "Tiny Instruct", "local")
    assert [row.model for row in offer.look(empty)] == [DEMO_MODEL]


async def test_the_model_of_the_start_stays_on_offer(
    data_dir: Path, models_dir: Path, nowhere: str, tmp_path: Path
) -> None:
    started = settings(data_dir, "--models-dir", str(models_dir), "--ollama-url", nowhere)
    offer = Offer(await detect(started))
    gone = settings(data_dir, "--models-dir", str(tmp_path / "empty"))
    assert [row.model for row in offer.look(gone)] == ["local/tiny-instruct", DEMO_MODEL]
