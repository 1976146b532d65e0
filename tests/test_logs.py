"""Log lines carry their fields and nobody's words, as text and as JSON; libraries stay quiet."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspy_demo.errors import DemoError, InvalidInput, TrackingError, UpstreamTimeout
from dspy_demo.logs import configure_logging, current_turn_id, kinds, log_failure, trace_text
from tests.services import settings_for

SECRET = "sk-planted-0123456789"
LOGGERS = ("dspy", "uvicorn", "uvicorn.access", "uvicorn.error", "mlflow", "LiteLLM", "httpx", "asyncio")
Lines = Callable[..., Callable[[], list]]


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for place, name in ((sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")):
        monkeypatch.setattr(place, name, getattr(place, name))
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # not as errors, since they are what some tests are about
        yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def lines(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Configure logging; gives what reads the lines so far, of JSON each parsed."""

    def configured(log_format: str = "json", **values: str) -> Callable[[], list]:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(settings_for(data_dir, log_format=log_format, **values))
        read = json.loads if log_format == "json" else str
        return lambda: [read(line) for line in stream.getvalue().splitlines()]

    return configured


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_text_has_the_fields_behind_the_message_and_a_trace_below(lines: Lines) -> None:
    read = lines("text")
    logging.getLogger("app").warning(
        "turn failed", extra={"turn_id": "ab12", "model": "a\n2026 ERROR forged"}
    )
    logging.getLogger("app").error("broken", exc_info=raised(ValueError("x")), extra={"code": "internal"})
    first, second, *trace = read()
    assert first.endswith("Z WARNING app turn failed turn_id='ab12' model='a\\n2026 ERROR forged'")
    assert second.endswith("broken code='internal'")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError")


def test_json_is_one_object_a_record_with_all_its_fields(lines: Lines) -> None:
    read = lines(log_level="debug")
    log = logging.getLogger("dspy_demo.x")
    log.info("turn %s", "finished", extra={"turn_id": "ab12", "elapsed_s": 1.5, "where": Path("/x")})
    log.warning("two\nlines “π” \ud800", extra={"level": "mine", "odd": float("nan")})
    log.error("broken", exc_info=raised(KeyError("k")))
    logging.getLogger("dspy_demo.y").warning("%d is no number", "x")
    first, second, third, fourth = read()
    assert first.pop("time").endswith("Z")
    head = {"level": "INFO", "logger": "dspy_demo.x", "message": "turn finished"}
    assert first == head | {"turn_id": "ab12", "elapsed_s": 1.5, "where": "/x"}
    assert (second["level"], second["message"][:9]) == ("WARNING", "two\nlines")
    assert third["exception"].endswith("KeyError")
    assert fourth["message"] == "%d is no number"


def test_whatever_writes_is_json_and_nothing_twice(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dspy  # noqa: F401

    read = lines()
    logging.config.dictConfig({  # as uvicorn does when it starts
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"own": {"class": "logging.StreamHandler"}},
        "loggers": {"uvicorn": {"handlers": ["own"], "propagate": False}},
    })  # fmt: skip
    for name in ("dspy", "uvicorn.error", "mlflow"):
        logging.getLogger(name).error("from %s", name)
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    warnings.warn(f"input_value={SECRET!r}", UserWarning, stacklevel=1)
    sys.excepthook(ValueError, raised(ValueError(SECRET)), None)
    thread = threading.Thread(target=lambda: int(SECRET))
    thread.start()
    thread.join()
    found = read()
    assert [entry["message"] for entry in found[:3]] == ["from dspy", "from uvicorn.error", "from mlflow"]
    assert "UserWarning" in found[3]["message"]
    assert [entry["message"] for entry in found[4:]] == ["the process failed", "a thread failed"]
    assert SECRET not in json.dumps(found)


def test_a_record_has_the_turn_of_its_task_and_one_of_a_lost_task_has_no_words(lines: Lines) -> None:
    read = lines()

    async def turn(turn_id: str) -> None:
        current_turn_id.set(turn_id)
        await asyncio.sleep(0)
        await asyncio.to_thread(logging.getLogger("urllib3").warning, "again")

    async def all_of_them() -> None:
        await asyncio.gather(turn("aa"), turn("bb"))
        lost = asyncio.create_task(asyncio.to_thread(int, SECRET))
        await asyncio.wait({lost})

    asyncio.run(all_of_them())
    logging.getLogger("urllib3").warning("outside")
    assert sorted(entry.get("turn_id", "") for entry in read()) == ["", "", "aa", "bb"]
    assert "never retrieved" in json.dumps(read()) and SECRET not in json.dumps(read())


def test_an_exception_is_its_kind_and_place_without_its_words() -> None:
    group = ExceptionGroup(SECRET, [raised(ValueError(SECRET))])
    error = raised(RuntimeError(SECRET), raised(KeyError(SECRET), group))
    text = trace_text(error)
    assert SECRET not in text and "test_logs.py" in text
    positions = [text.index(kind) for kind in ("ExceptionGroup", "ValueError", "KeyError", "RuntimeError")]
    assert positions == sorted(positions)
    assert kinds(error) == "RuntimeError from KeyError from ExceptionGroup"
    for error, last_line in (
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
        (OSError(28, "No space left on device", SECRET), "OSError: No space left on device"),
        (UpstreamTimeout(SECRET), "dspy_demo.errors.UpstreamTimeout"),
    ):
        assert trace_text(raised(error)).splitlines()[-1] == last_line


@pytest.mark.parametrize(
    ("error", "cause", "level", "traced"),
    [
        (InvalidInput(), None, "INFO", False),
        (UpstreamTimeout(), TimeoutError(), "WARNING", False),
        (TrackingError(), KeyError(), "WARNING", True),
        (DemoError(), KeyError(), "ERROR", True),
    ],
)
def test_an_error_is_one_line_with_its_number(
    lines: Lines, error: DemoError, cause: Exception | None, level: str, traced: bool
) -> None:
    read = lines(log_level="debug")
    error.__cause__, error.server_error_id = cause, "0123abcd"
    for _ in range(2):
        log_failure(logging.getLogger("dspy_demo.x"), "request failed", error, route="/predict")
    (entry,) = read()
    assert (entry["level"], entry["error_id"], entry["code"]) == (level, error.error_id, error.code)
    assert (entry["route"], entry["server_error_id"]) == ("/predict", "0123abcd")
    assert ("exception" in entry) == traced
    assert entry.get("cause") == (type(cause).__name__ if cause else None)
