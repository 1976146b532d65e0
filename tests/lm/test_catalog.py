"""Building language models from choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import LMChoice
from dspy_demo.lm.catalog import PLACEHOLDER_KEY, LMCatalog
from dspy_demo.lm.detection import BUILTIN_MODEL, Detection
from tests.services import settings_for


def catalog(data_dir: Path, **values: object) -> LMCatalog:
    return LMCatalog(settings_for(data_dir, **values), Detection(LMChoice(BUILTIN_MODEL), "", ()))


def test_parameters_belong_to_the_choice_not_to_the_shared_model(data_dir: Path) -> None:
    models = catalog(data_dir)
    warm = models.lm(
        LMChoice("openai/x", "http://localhost:1/v1", temperature=0.9, max_tokens=50, cache=False)
    )
    plain = models.lm(LMChoice("openai/x", "http://localhost:1/v1"))
    assert (warm.kwargs["temperature"], warm.kwargs["max_tokens"], warm.cache) == (0.9, 50, False)
    assert (plain.kwargs["temperature"], plain.kwargs["max_tokens"], plain.cache) == (None, None, True)


def test_connections_are_shared_by_a_few_models(data_dir: Path) -> None:
    models = catalog(data_dir, lm_connections=250)
    stores = {id(models.lm(LMChoice("openai/x", "http://localhost:1/v1"))._engine_store) for _ in range(20)}
    assert len(stores) == 3  # 100 connections each


def test_a_local_server_gets_a_placeholder_key(data_dir: Path) -> None:
    lm = catalog(data_dir).lm(LMChoice("openai/x", "http://localhost:1/v1"))
    assert lm.kwargs["api_key"] == PLACEHOLDER_KEY


def test_a_typed_key_is_used_and_kept_apart(data_dir: Path) -> None:
    models = catalog(data_dir)
    mine = models.lm(LMChoice("openai/x", api_key=SecretStr("sk-mine")))
    yours = models.lm(LMChoice("openai/x", api_key=SecretStr("sk-yours")))
    assert (mine.kwargs["api_key"], yours.kwargs["api_key"]) == ("sk-mine", "sk-yours")


def test_the_owners_key_goes_only_to_the_owners_server(data_dir: Path) -> None:
    models = catalog(
        data_dir, api_base="http://mine:1/v1", provider_keys={"OPENAI_API_KEY": SecretStr("sk-owner")}
    )
    assert models.lm(LMChoice("openai/x", "http://mine:1/v1")).kwargs["api_key"] == "sk-owner"
    assert models.lm(LMChoice("openai/x", "http://evil:1/v1")).kwargs["api_key"] == PLACEHOLDER_KEY


@pytest.mark.parametrize("model", ["", "openai/"])
def test_a_model_that_cannot_be_is_our_error(data_dir: Path, model: str) -> None:
    with pytest.raises(ModelSetupError):
        catalog(data_dir).lm(LMChoice(model))


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://x/v1", "http://", "http://x:port", "http://[::1"]
)
def test_a_base_url_that_is_none_is_our_error(data_dir: Path, url: str) -> None:
    with pytest.raises(ModelSetupError, match="base URL"):
        catalog(data_dir).lm(LMChoice("openai/x", url))


def test_the_built_in_engine_is_never_cached(data_dir: Path) -> None:
    assert catalog(data_dir).lm(LMChoice(BUILTIN_MODEL)).cache is False
