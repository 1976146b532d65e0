"""Log lines carry their fields and nobody's words, as text and as JSON; libraries stay quiet.

Neither a key nor what people ask is in them, however a turn fails, also when debugging.
"""

import asyncio
import gc
import io
import json
import logging
import logging.config
import sys
import threading
import warnings
from pathlib import Path

import dspy
import httpx
import pytest
from pydantic import BaseModel, SecretStr

from dspy_demo.api.routes import build_api
from dspy_demo.backends.served import ServedBackend
from dspy_demo.errors import DemoError, InvalidInput, TrackingError, UpstreamTimeout
from dspy_demo.events import LMChoice, ServedTarget, TurnFinished, TurnRequest
from dspy_demo.logs import configure_logging, current_turn_id, kinds, log_failure, trace_text
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import InputField, ProgramSpec
from tests.fake_openai import FAULTS, Reply, refused_url
from tests.services import LITELLM, NATIVE, house, settings_for

KEY = "sk-planted-5ca1ab1e"
WORDS = "zebra crossing"
QUESTION = f"Why does a {WORDS} have 'stripes'?"
LOGGERS = ("dspy", "uvicorn", "uvicorn.access", "uvicorn.error", "mlflow", "LiteLLM", "httpx", "asyncio")


@pytest.fixture
def lines(data_dir, monkeypatch):
    """Configure logging; gives what reads the lines on stderr so far, of JSON each parsed."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in (None, *LOGGERS)}
    for place, name in ((sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")):
        monkeypatch.setattr(place, name, getattr(place, name))

    def configured(log_format="json", **values):
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(settings_for(data_dir, log_format=log_format, **values))
        read = json.loads if log_format == "json" else str
        return lambda: [read(line) for line in stream.getvalue().splitlines()]

    with warnings.catch_warnings():
        warnings.simplefilter("always")  # not as errors, since they are what some tests are about
        yield configured
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def check(lines):
    """Fails where a line has a planted word, or none the `turn_id`; logging is as talkative as it can be."""
    read = lines(log_level="debug")

    def checked(turn_id):
        text = json.dumps(read())
        assert turn_id in text
        assert not [planted for planted in (KEY, WORDS, "stripes") if planted in text]
        return text

    return checked


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_text_has_the_fields_behind_the_message_and_a_trace_below(lines):
    read, log = lines("text"), logging.getLogger("app")
    log.warning("turn failed", extra={"turn_id": "ab12", "model": "a\n2026 ERROR forged"})
    log.error("broken", exc_info=raised(ValueError("x")), extra={"code": "internal"})
    first, second, *trace = read()
    assert first.endswith("Z WARNING app turn failed turn_id='ab12' model='a\\n2026 ERROR forged'")
    assert second.endswith("broken code='internal'")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError")


def test_json_is_one_object_a_record_with_all_its_fields(lines):
    read = lines(log_level="debug")
    log = logging.getLogger("dspy_demo.x")
    log.info("turn %s", "finished", extra={"turn_id": "ab12", "elapsed_s": 1.5, "where": Path("/x")})
    log.warning("two\nlines “π” \ud800", extra={"level": "mine", "odd": float("nan")})
    log.error("broken", exc_info=raised(KeyError("k")))
    log.warning("%d is no number", "x")
    first, second, third, fourth = read()
    assert first.pop("time").endswith("Z")
    head = {"level": "INFO", "logger": "dspy_demo.x", "message": "turn finished"}
    assert first == head | {"turn_id": "ab12", "elapsed_s": 1.5, "where": "/x"}
    assert (second["level"], second["message"][:9]) == ("WARNING", "two\nlines")
    assert third["exception"].endswith("KeyError")
    assert fourth["message"] == "%d is no number"


def test_whatever_writes_is_json_and_nothing_twice(lines):
    read = lines()
    logging.config.dictConfig({  # as uvicorn does when it starts
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"own": {"class": "logging.StreamHandler"}},
        "loggers": {"uvicorn": {"handlers": ["own"], "propagate": False}},
    })  # fmt: skip
    for name in ("dspy", "uvicorn.error", "mlflow"):
        logging.getLogger(name).error("from %s", name)
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    warnings.warn(f"input_value={KEY!r}", UserWarning, stacklevel=1)
    sys.excepthook(ValueError, raised(ValueError(KEY)), None)
    thread = threading.Thread(target=int, args=[KEY])
    thread.start()
    thread.join()
    found = [entry["message"] for entry in read()]
    assert found[:3] == ["from dspy", "from uvicorn.error", "from mlflow"]
    assert "UserWarning" in found[3]
    assert found[4:] == ["the process failed", "a thread failed"]
    assert KEY not in json.dumps(read())


async def test_a_record_has_the_turn_of_its_task_and_one_of_a_lost_task_has_no_words(lines):
    read, log = lines(), logging.getLogger("urllib3")

    async def turn(turn_id):
        current_turn_id.set(turn_id)
        await asyncio.sleep(0)
        await asyncio.to_thread(log.warning, "again")

    await asyncio.gather(turn("aa"), turn("bb"))
    await asyncio.wait({asyncio.create_task(asyncio.to_thread(int, KEY))})
    log.warning("outside")
    gc.collect()
    assert sorted(entry.get("turn_id", "") for entry in read()) == ["", "", "aa", "bb"]
    assert "never retrieved" in json.dumps(read()) and KEY not in json.dumps(read())


def test_an_exception_is_its_kind_and_place_without_its_words():
    group = ExceptionGroup(KEY, [raised(ValueError(KEY))])
    error = raised(RuntimeError(KEY), raised(KeyError(KEY), group))
    text = trace_text(error)
    assert KEY not in text and "test_logs.py" in text
    positions = [text.index(kind) for kind in ("ExceptionGroup", "ValueError", "KeyError", "RuntimeError")]
    assert positions == sorted(positions)
    assert kinds(error) == "RuntimeError from KeyError from ExceptionGroup"
    for error, last_line in (
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
        (OSError(28, "No space left on device", KEY), "OSError: No space left on device"),
        (UpstreamTimeout(KEY), "dspy_demo.errors.UpstreamTimeout"),
    ):
        assert trace_text(raised(error)).splitlines()[-1] == last_line


def test_an_error_is_one_line_with_its_number(lines):
    read = lines(log_level="debug")
    for error, cause, level, traced in (
        (InvalidInput(), None, "INFO", False),
        (UpstreamTimeout(), TimeoutError(), "WARNING", False),
        (TrackingError(), KeyError(), "WARNING", True),
        (DemoError(), KeyError(), "ERROR", True),
    ):
        error.__cause__, error.server_error_id = cause, "0123abcd"
        told = len(read())
        for _ in range(2):
            log_failure(logging.getLogger("dspy_demo.x"), "request failed", error, route="/predict")
        (entry,) = read()[told:]
        assert (entry["level"], entry["error_id"], entry["code"]) == (level, error.error_id, error.code)
        assert (entry["route"], entry["server_error_id"]) == ("/predict", "0123abcd")
        assert ("exception" in entry) == traced
        assert entry.get("cause") == (type(cause).__name__ if cause else None)


@pytest.mark.parametrize("model", [NATIVE, LITELLM])
async def test_a_turn_by_a_model_that_repeats_what_it_was_asked(fake_openai, data_dir, check, model):
    choice = LMChoice(model, fake_openai.url, SecretStr(KEY), cache=False)
    async with house(settings_for(data_dir, lm_retries=0), choice) as home:
        for fault in ("401", "429", "500", "cut", "garbage", "malformed", "html", "good"):
            reply = Reply() if fault == "good" else FAULTS[fault]
            fake_openai.reply(reply, error_message=f"{QUESTION} {KEY}")
            request = home.request(QUESTION)
            heard = await home.run(request)
            assert isinstance(heard.end, TurnFinished) is (fault == "good"), fault
            check(request.turn_id)
        for name, url in ((model, refused_url()), (f"nobody/{model}", None)):
            heard = await home.ask(QUESTION, choice=LMChoice(name, url, SecretStr(KEY), cache=False))
            check(heard.failed.error_id)


class Quoting(BaseModel):
    number: int


class Clumsy(dspy.Module):
    """A program whose bugs repeat the question."""

    async def aforward(self, question):
        if "int" in question:
            int(question)
        if "pydantic" in question:
            Quoting(number=question)
        if "key" in question:
            {}[question]
        raise RuntimeError(f"{question} {KEY}")


async def test_a_bug_of_a_program(data_dir, check):
    spec = ProgramSpec("clumsy", "Clumsy", "", Clumsy, (InputField("question"),), "question")
    async with house(settings_for(data_dir), programs=ProgramRegistry([spec])) as home:
        for bug in ("int", "pydantic", "key", "own"):
            heard = await home.ask(f"{bug} {QUESTION}", program="clumsy")
            assert heard.failed.code == "internal"
            assert "aforward" in check(heard.failed.error_id)  # where it was raised is there


async def test_a_request_that_is_refused(data_dir, check):
    bodies = [
        {QUESTION: KEY},
        {"text": QUESTION * 3},
        {"inputs": {"question": QUESTION, KEY: QUESTION}},
        {"text": QUESTION, "program": KEY},
        {"text": QUESTION, "temperature": KEY},
    ]
    async with house(settings_for(data_dir, input_max_chars=60)) as home:
        transport = httpx.ASGITransport(build_api(home.service, lambda: home.choice))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            for body in bodies:
                reply = await client.post("/predict", json=body, headers={"Authorization": f"Bearer {KEY}"})
                assert 400 <= reply.status_code < 500
                check(reply.json()["error_id"])
            await client.get(f"/v1/models/{KEY}")
    check("")


async def test_a_server_that_repeats_what_it_was_asked(data_dir, check):
    def repeat(request):
        return httpx.Response(500, content=request.content + KEY.encode())

    settings = settings_for(data_dir)
    served = ServedBackend(settings, transport=httpx.MockTransport(repeat))
    async with house(settings, served=served) as home:
        target = ServedTarget(f"http://user:{KEY}@127.0.0.1:9/")
        heard = await home.run(TurnRequest(target, {"question": QUESTION}))
    check(heard.failed.error_id)
