"""Building language models from choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_demo.errors import ModelSetupError
from dspy_demo.events import LMChoice
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.choices import DEMO_MODEL, Detection
from tests.services import settings_for


def catalog(data_dir: Path, **values: object) -> LMCatalog:
    return LMCatalog(settings_for(data_dir, **values), Detection(LMChoice(DEMO_MODEL), "", ()))


def test_parameters_belong_to_the_choice_not_to_the_shared_model(data_dir: Path) -> None:
    models = catalog(data_dir)
    warm = models.lm(
        LMChoice("openai/x", "http://localhost:1/v1", temperature=0.9, max_tokens=50, cache=False)
    )
    plain = models.lm(LMChoice("openai/x", "http://localhost:1/v1"))
    assert (warm.kwargs["temperature"], warm.kwargs["max_tokens"], warm.cache) == (0.9, 50, False)
    assert (plain.kwargs["temperature"], plain.kwargs["max_tokens"], plain.cache) == (None, None, True)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (LMChoice(""), "provider/model"),
        (LMChoice("openai/"), "provider/model"),
        *(
            (LMChoice("openai/x", url), "base URL")
            for url in ("localhost:8000/v1", "ftp://x/v1", "http://", "http://x:port", "http://[::1")
        ),
    ],
)
def test_a_choice_that_cannot_be_is_our_error(data_dir: Path, choice: LMChoice, message: str) -> None:
    with pytest.raises(ModelSetupError, match=message):
        catalog(data_dir).lm(choice)


def test_the_built_in_engine_is_never_cached(data_dir: Path) -> None:
    assert catalog(data_dir).lm(LMChoice(DEMO_MODEL)).cache is False
