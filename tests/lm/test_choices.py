"""Which model the app starts with, the reason that it gives, and the model of a choice."""

import asyncio
from dataclasses import replace

import pytest

from dspy_demo.errors import ModelSetupError, SettingsError
from dspy_demo.events import LMChoice
from dspy_demo.lm import choices
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import DEMO_MODEL, Detection, LMOption, Offer, detect
from dspy_demo.lm.local import files, runtime
from dspy_demo.settings import Settings
from tests.fake_hub import gguf_bytes, known_for
from tests.fake_openai import Reply, refused_url
from tests.services import house, settings_for

OLLAMA_MODEL, LOCAL_MODEL = "ollama_chat/fake-chat:latest", "local/tiny-instruct"
GPT, GEMINI, MISTRAL = "openai/gpt-4o-mini", "gemini/gemini-2.5-flash", "mistral/mistral-small-latest"


def settings(data_dir, *flags, **environ):
    return Settings.load(["--data-dir", str(data_dir), *flags], environ)


@pytest.fixture(autouse=True)
def a_patient_probe(monkeypatch):
    monkeypatch.setattr(choices, "OLLAMA_PROBE_S", 2.0)


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    """A folder with one downloaded model, and a runtime that could run it."""
    monkeypatch.setattr(runtime, "MODULE", "json")
    monkeypatch.setattr(files, "KNOWN", (known_for(gguf_bytes()), *files.KNOWN[:2]))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny-instruct.gguf").write_bytes(gguf_bytes())
    return folder


STARTS = [
    ((), "No API key is set and no Ollama is running.", []),
    (("ollama", "local"), "Ollama is running on this machine.", [OLLAMA_MODEL, LOCAL_MODEL]),
    (("local",), "Downloaded. No API key", [LOCAL_MODEL]),
    (("GOOGLE", "ollama"), "GOOGLE_API_KEY is set.", [GEMINI, OLLAMA_MODEL]),
    (("MISTRAL", "OPENAI", "local"), "OPENAI_API_KEY is set.", [GPT, MISTRAL, LOCAL_MODEL]),
]


@pytest.mark.parametrize(("has", "reason", "options"), STARTS)
async def test_what_comes_first(data_dir, models_dir, fake_openai, has, reason, options):
    ollama = fake_openai.origin if "ollama" in has else refused_url().removesuffix("/v1")
    folder = models_dir if "local" in has else data_dir
    keys = {f"{name}_API_KEY": "sk-planted" for name in has if name.isupper()}
    flags = ["--ollama-url", ollama, "--models-dir", str(folder)]
    found = await detect(settings(data_dir, *flags, **keys))
    assert [option.model for option in found.options] == [*options, DEMO_MODEL]
    assert found.choice.model == found.options[0].model and found.reason.startswith(reason)
    assert found.choice.api_base == (ollama if found.choice.model == OLLAMA_MODEL else None)
    assert found.choice.api_key is None and "sk-planted" not in repr(found)  # `providers.key_of` finds it


async def test_what_ollama_offers_really_answers_and_a_silent_one_is_none(data_dir, fake_openai, monkeypatch):
    """Ollama has its OpenAI routes below /v1 only."""
    found = await detect(settings(data_dir, "--ollama-url", fake_openai.origin))
    async with house(settings_for(data_dir), replace(found.choice, cache=False)) as home:
        heard = await home.ask("visitor-3")
    assert "visitor-3" in heard.finished.outputs["answer"]
    assert fake_openai.requests[-1].path == "/v1/chat/completions"
    monkeypatch.setattr(choices, "OLLAMA_PROBE_S", 0.3)
    fake_openai.get_reply = Reply(fault="silent_before_headers")
    async with asyncio.timeout(3):  # it does not hold up the start
        assert (await detect(settings(data_dir, "--ollama-url", fake_openai.origin))).demo


async def test_a_base_url_alone_takes_the_first_model_there_or_is_an_error(data_dir, fake_openai):
    found = await detect(settings(data_dir, "--api-base", fake_openai.url, OPENAI_API_KEY="k"))
    assert (found.choice.model, found.choice.api_base) == ("openai/fake", fake_openai.url)
    assert fake_openai.url in found.reason
    fake_openai.get_reply = Reply(fault="html")
    with pytest.raises(SettingsError, match="--api-base"):
        await detect(settings(data_dir, "--api-base", fake_openai.url))


async def test_an_explicit_model_wins_and_nothing_is_probed(data_dir, fake_openai):
    flags = ["--lm", "openai/x", "--api-base", fake_openai.url, "--ollama-url", fake_openai.origin]
    flags += ["--temperature", "0.5", "--max-tokens", "99", "--no-cache"]
    found = await detect(settings(data_dir, *flags))
    assert found.choice == LMChoice("openai/x", fake_openai.url, None, 0.5, 99, False)
    assert found.options[0].model == "openai/x" and fake_openai.requests == []


async def test_what_came_or_went_changes_the_offer(data_dir, models_dir, tmp_path, monkeypatch):
    flags = ["--ollama-url", refused_url().removesuffix("/v1"), "--models-dir"]
    empty, with_model = (settings(data_dir, *flags, str(folder)) for folder in (tmp_path / "no", models_dir))
    offer = Offer(await detect(empty))
    assert [row.model for row in offer.look(with_model)] == [LOCAL_MODEL, DEMO_MODEL]
    assert offer.rows[0] == LMOption(LOCAL_MODEL, "Tiny Instruct", "local")
    assert [row.model for row in offer.look(empty)] == [DEMO_MODEL]
    monkeypatch.setattr(runtime, "MODULE", "no_such_module")
    with pytest.raises(ModelSetupError, match="pip install -r requirements-local"):
        await detect(with_model.model_copy(update={"lm": LOCAL_MODEL}))
    (models_dir / "tiny-instruct.gguf").rename(models_dir / "Mine.gguf")
    assert (await detect(with_model)).demo, "a file of another program is offered, and never chosen"


def test_a_model_or_a_base_url_that_cannot_be_is_our_error(data_dir):
    models = LMCatalog(settings_for(data_dir), Detection(LMChoice(DEMO_MODEL), "", ()))
    for model, bad_url, words in (
        ("openai/", None, "provider/model"),
        ("openai/x", "http://[::1", "base URL"),
        ("openai/x", "http://me:hunter2@127.0.0.1:9/v1", "must not hold a user or a password"),
    ):
        with pytest.raises(ModelSetupError, match=words) as caught:
            models.lm(LMChoice(model, bad_url))
        assert "hunter2" not in caught.value.public_message
