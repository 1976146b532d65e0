"""Which model the app starts with, and the reason that it gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspy_demo.errors import DemoError, ModelSetupError, SettingsError
from dspy_demo.lm.choices import DEMO_MODEL, LMOption, Offer, detect
from dspy_demo.lm.local import files, runtime
from dspy_demo.lm.providers import PROVIDERS
from dspy_demo.settings import Settings
from tests.fake_hub import gguf_bytes, known_for
from tests.fake_openai import FakeOpenAI, Reply, refused_url
from tests.services import house, settings_for

OLLAMA_MODEL, LOCAL_MODEL = "ollama_chat/fake-chat:latest", "local/tiny-instruct"
KEYS = [(key, provider.example) for provider in PROVIDERS if provider.example for key in provider.keys]


@pytest.fixture
def nowhere() -> Iterator[str]:
    yield refused_url().removesuffix("/v1")


def settings(data_dir: Path, *flags: str, **environ: str) -> Settings:
    return Settings.load(["--data-dir", str(data_dir), *flags], environ)


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


@pytest.mark.parametrize(
    ("has", "reason", "options"),
    [
        ((), "No API key is set and no Ollama is running.", [DEMO_MODEL]),
        (("ollama",), "Ollama is running on this machine.", [OLLAMA_MODEL, DEMO_MODEL]),
        (("local",), "Downloaded; no API key", [LOCAL_MODEL, DEMO_MODEL]),
        (("ollama", "local"), "Ollama is running", [OLLAMA_MODEL, LOCAL_MODEL, DEMO_MODEL]),
        *(((key, "ollama"), f"{key} is set.", [model, OLLAMA_MODEL, DEMO_MODEL]) for key, model in KEYS),
        (
            ("MISTRAL_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "local"),
            "OPENAI_API_KEY is set.",
            [
                "openai/gpt-4o-mini",
                "anthropic/claude-haiku-4-5",
                "mistral/mistral-small-latest",
                LOCAL_MODEL,
                DEMO_MODEL,
            ],
        ),
    ],
)
async def test_what_comes_first(
    data_dir: Path,
    models_dir: Path,
    fake_openai: FakeOpenAI,
    nowhere: str,
    has: tuple[str, ...],
    reason: str,
    options: list[str],
) -> None:
    ollama = fake_openai.origin if "ollama" in has else nowhere
    folder = models_dir if "local" in has else data_dir
    keys = {name: "sk-planted" for name in has if name.endswith("KEY")}
    flags = ["--ollama-url", ollama, "--models-dir", str(folder)]
    found = await detect(settings(data_dir, *flags, **keys), probe_s=5)
    assert [option.model for option in found.options] == options
    assert (found.choice.model, found.demo) == (options[0], options[0] == DEMO_MODEL)
    assert found.reason.startswith(reason)
    assert found.choice.api_base == (ollama if options[0] == OLLAMA_MODEL else None)
    assert found.choice.api_key is None and "sk-planted" not in repr(found)  # `providers.key_of` finds it


async def test_a_machine_that_is_slow_to_make_a_client_finds_ollama_too(
    data_dir: Path, fake_openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowClient(httpx.AsyncClient):
        def __init__(self, **options: Any) -> None:
            time.sleep(0.4)
            super().__init__(**options)

    monkeypatch.setattr(httpx, "AsyncClient", SlowClient)
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    assert found.choice.model == OLLAMA_MODEL


async def test_what_ollama_offers_really_answers_there(data_dir: Path, fake_openai: FakeOpenAI) -> None:
    """Ollama has its OpenAI routes below /v1 only."""
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin), probe_s=5)
    async with house(settings_for(data_dir), replace(found.choice, cache=False)) as home:
        heard = await home.ask("visitor-3")
    assert "visitor-3" in heard.finished.outputs["answer"]
    assert fake_openai.requests[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "reply", [Reply(fault="silent_before_headers"), Reply(status=500), Reply(fault="html")]
)
async def test_a_broken_ollama_is_none_and_does_not_hold_up_the_start(
    data_dir: Path, fake_openai: FakeOpenAI, reply: Reply
) -> None:
    fake_openai.get_reply = reply
    started = time.monotonic()
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    assert found.demo
    assert time.monotonic() - started < 3.0  # 0.3 s on a quiet machine


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
    flags = ["--lm", "openai/x", "--api-base", fake_openai.url, "--ollama-url", fake_openai.origin]
    found = await detect(settings(data_dir, *flags))
    assert found.choice.model == found.options[0].model == "openai/x"
    assert fake_openai.requests == []


@pytest.mark.parametrize(
    ("model", "module", "message"),
    [
        ("gpt-4o", "json", "provider/model"),
        ("openai/gpt-4o", "json", "OPENAI_API_KEY"),
        ("local/qwen2.5-0.5b-instruct", "json", "models pull qwen"),
        (LOCAL_MODEL, "no_such_module", "pip install -r requirements-local"),
        (LOCAL_MODEL, "json", ""),
    ],
)
async def test_an_explicit_model_is_looked_at_before_the_start(
    data_dir: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, model: str, module: str, message: str
) -> None:
    monkeypatch.setattr(runtime, "MODULE", module)
    chosen = settings(data_dir, "--lm", model, "--models-dir", str(models_dir))
    if not message:
        assert (await detect(chosen)).choice.model == model
        return
    with pytest.raises(DemoError, match=message) as caught:
        await detect(chosen)
    assert isinstance(caught.value, SettingsError | ModelSetupError)


async def test_the_settings_of_the_model_are_those_of_the_flags(data_dir: Path) -> None:
    flags = ["--lm", DEMO_MODEL, "--temperature", "0.5", "--max-tokens", "99", "--no-cache"]
    choice = (await detect(settings(data_dir, *flags))).choice
    assert (choice.temperature, choice.max_tokens, choice.cache) == (0.5, 99, False)


@pytest.mark.parametrize("module", ["json", "no_such_module"])
async def test_a_file_of_another_program_is_offered_where_it_can_run_and_never_chosen(
    data_dir: Path,
    models_dir: Path,
    tmp_path: Path,
    nowhere: str,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
) -> None:
    monkeypatch.setattr(runtime, "MODULE", module)
    other = tmp_path / "gguf" / "Mine.gguf"
    other.parent.mkdir()
    other.write_bytes(gguf_bytes(3_000))
    found = await detect(settings(data_dir, "--models-dir", str(other.parent), "--ollama-url", nowhere))
    assert found.demo
    offered = [f"local/{other}"] if module == "json" else []
    assert [option.model for option in found.options] == [*offered, DEMO_MODEL]


async def test_a_model_that_came_or_went_since_the_start_changes_the_offer(
    data_dir: Path, models_dir: Path, nowhere: str, tmp_path: Path
) -> None:
    empty = settings(data_dir, "--models-dir", str(tmp_path / "empty"), "--ollama-url", nowhere)
    with_model = settings(data_dir, "--models-dir", str(models_dir), "--ollama-url", nowhere)
    offer = Offer(await detect(empty))
    assert [row.model for row in offer.look(with_model)] == [LOCAL_MODEL, DEMO_MODEL]
    assert offer.rows[0] == LMOption(LOCAL_MODEL, "Tiny Instruct", "local")
    assert [row.model for row in offer.look(empty)] == [DEMO_MODEL]
    started_with_it = Offer(await detect(with_model))
    assert [row.model for row in started_with_it.look(empty)] == [LOCAL_MODEL, DEMO_MODEL]
