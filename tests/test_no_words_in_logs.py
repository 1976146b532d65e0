"""Neither a key nor what people ask is in the log, however a turn fails, also when debugging."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dspy
import httpx
import pytest
from pydantic import BaseModel, SecretStr

from dspy_demo.api.routes import build_api
from dspy_demo.backends.served import ServedBackend
from dspy_demo.events import LMChoice, ServedTarget, TurnFinished, TurnRequest
from dspy_demo.logs import configure_logging
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from tests.fake_openai import FAULTS, FakeOpenAI, Reply, refused_url
from tests.services import LITELLM, NATIVE, house, settings_for

KEY = "sk-planted-5ca1ab1e"
WORDS = "zebra crossing"
QUESTION = f"Why does a {WORDS} have 'stripes'?"


@pytest.fixture
def log(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Everything on stderr so far, every line a JSON object; logging is as talkative as it can be."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    for place, name in ((sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(settings_for(data_dir, log_format="json", log_level="debug"))

    def read() -> str:
        for line in stream.getvalue().splitlines():
            assert isinstance(json.loads(line), dict)
        return stream.getvalue()

    yield read
    root.handlers[:], root.level = handlers, level


def check(text: str, turn_id: str) -> None:
    assert turn_id in text
    for planted in (KEY, WORDS, "stripes"):
        assert planted not in text


@pytest.mark.parametrize("model", [NATIVE, LITELLM])
async def test_a_turn_by_a_model_that_repeats_what_it_was_asked(
    fake_openai: FakeOpenAI, data_dir: Path, log: Callable[[], str], model: str
) -> None:
    choice = LMChoice(model, fake_openai.url, SecretStr(KEY), cache=False)
    async with house(settings_for(data_dir, lm_retries=0), choice) as home:
        for fault in ("401", "429", "500", "cut", "garbage", "malformed", "html", "good"):
            reply = Reply() if fault == "good" else FAULTS[fault]
            fake_openai.reply(reply, error_message=f"{QUESTION} {KEY}")
            request = home.request(QUESTION)
            heard = await home.run(request)
            assert isinstance(heard.end, TurnFinished) is (fault == "good"), fault
            check(log(), request.turn_id)
        for name, url in ((model, refused_url()), (f"nobody/{model}", None)):
            heard = await home.ask(QUESTION, choice=LMChoice(name, url, SecretStr(KEY), cache=False))
            check(log(), heard.failed.error_id)


class Quoting(BaseModel):
    number: int


class Clumsy(dspy.Module):
    """A program whose bugs repeat the question."""

    async def aforward(self, question: str) -> dspy.Prediction:
        if "int" in question:
            int(question)
        if "pydantic" in question:
            Quoting(number=question)
        if "key" in question:
            {}[question]
        raise RuntimeError(f"{question} {KEY}")


async def test_a_bug_of_a_program(data_dir: Path, log: Callable[[], str]) -> None:
    spec = ProgramSpec("clumsy", "Clumsy", "", Clumsy, (InputField("question"),), "question")
    async with house(settings_for(data_dir), programs=ProgramRegistry([spec])) as home:
        for bug in ("int", "pydantic", "key", "own"):
            heard = await home.ask(f"{bug} {QUESTION}", program="clumsy")
            check(log(), heard.failed.error_id)
            assert heard.failed.code == "internal"
    assert "aforward" in log()  # where it was raised is there


async def test_a_request_that_is_refused(data_dir: Path, log: Callable[[], str]) -> None:
    async with house(settings_for(data_dir, input_max_chars=60)) as home:
        api = build_api(home.service, lambda: home.choice)
        transport = httpx.ASGITransport(api)
        bodies = [
            {QUESTION: KEY},
            {"text": QUESTION * 3},
            {"inputs": {"question": QUESTION, KEY: QUESTION}},
            {"text": QUESTION, "program": KEY},
            {"text": QUESTION, "temperature": KEY},
        ]
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            for body in bodies:
                reply = await client.post("/predict", json=body, headers={"Authorization": f"Bearer {KEY}"})
                assert 400 <= reply.status_code < 500
                check(log(), reply.json()["error_id"])
            await client.get(f"/v1/models/{KEY}")
    check(log(), "")


async def test_a_server_that_repeats_what_it_was_asked(data_dir: Path, log: Callable[[], str]) -> None:
    def repeat(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500, content=request.content + KEY.encode())

    settings = settings_for(data_dir)
    served = ServedBackend(settings, transport=httpx.MockTransport(repeat))
    async with house(settings, served=served) as home:
        target = ServedTarget(f"http://user:{KEY}@127.0.0.1:9/")
        heard = await home.run(TurnRequest(target, {"question": QUESTION}))
    check(log(), heard.failed.error_id)
