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
from dspy_demo.logs import (
    FieldFormatter,
    JsonFormatter,
    configure_logging,
    current_turn_id,
    kinds,
    log_failure,
    trace_text,
)
from tests.services import settings_for

SECRET = "sk-planted-0123456789"
LOGGERS = ("dspy", "uvicorn", "uvicorn.access", "uvicorn.error", "mlflow", "LiteLLM", "httpx", "asyncio")


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
def lines(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], list[dict]]]:
    """Configure logging to JSON; gives what reads the lines so far, each parsed."""

    def configured(**values: str) -> Callable[[], list[dict]]:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(settings_for(data_dir, log_format="json", **values))
        return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]

    return configured


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


# --- text ---


def test_fields_stand_behind_the_message() -> None:
    record = logging.makeLogRecord(
        {"name": "n", "msg": "turn failed", "levelname": "WARNING", "turn_id": "ab12", "created": 0}
    )
    assert FieldFormatter().format(record) == "1970-01-01T00:00:00.000Z WARNING n turn failed turn_id='ab12'"


def test_a_trace_stays_below_the_fields() -> None:
    error = raised(ValueError("x"))
    record = logging.LogRecord("n", 40, "f", 1, "broken", (), (type(error), error, error.__traceback__))
    record.code = "internal"
    first, *rest = FieldFormatter().format(record).splitlines()
    assert first.endswith("broken code='internal'")
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ValueError"


def test_a_field_cannot_begin_a_line_of_its_own() -> None:
    record = logging.makeLogRecord({"msg": "x", "model": "a\n2026 ERROR forged"})
    assert len(FieldFormatter().format(record).splitlines()) == 1


# --- JSON ---


def test_each_record_is_one_object_with_all_its_fields(lines: Callable) -> None:
    read = lines(log_level="debug")
    log = logging.getLogger("dspy_demo.x")
    log.info("turn %s", "finished", extra={"turn_id": "ab12", "elapsed_s": 1.5, "where": Path("/x")})
    log.warning("two\nlines “π” \ud800", extra={"level": "mine", "odd": float("nan"), 5: 6})
    log.error("broken", exc_info=raised(KeyError("k")))
    logging.getLogger("dspy_demo.y").warning("%d is no number", "x")
    first, second, third, fourth = read()
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "INFO",
        "logger": "dspy_demo.x",
        "message": "turn finished",
        "turn_id": "ab12",
        "elapsed_s": 1.5,
        "where": "/x",
    }
    assert (second["level"], second["message"], second["odd"]) == ("WARNING", "two\nlines “π” \ud800", "nan")
    assert third["exception"].splitlines()[-1] == "KeyError"
    assert fourth["message"] == "%d is no number"


def test_libraries_warnings_and_crashes_are_objects_too(lines: Callable) -> None:
    import dspy  # noqa: F401 - it sets a handler of its own when it is imported
    from uvicorn.config import LOGGING_CONFIG

    read = lines()
    logging.config.dictConfig(LOGGING_CONFIG)  # as `uvicorn.Config` does unless told otherwise
    for name in ("uvicorn.error", "dspy.utils", "urllib3"):
        logging.getLogger(name).warning("hm")
    warnings.warn("gone soon", FutureWarning, stacklevel=1)
    sys.excepthook(ValueError, ValueError("x"), None)
    thread = threading.Thread(target=lambda: 1 / 0, name="t")
    thread.start()
    thread.join()
    entries = read()
    assert [entry["logger"] for entry in entries[:3]] == ["uvicorn.error", "dspy.utils", "urllib3"]
    assert "FutureWarning" in entries[3]["message"] and "gone soon" in entries[3]["message"]
    assert [entry["exception"].splitlines()[-1] for entry in entries[4:]] == [
        "ValueError",
        "ZeroDivisionError",
    ]


def test_a_turns_id_is_on_every_record_of_its_task(lines: Callable) -> None:
    read = lines()

    async def turn(turn_id: str) -> None:
        current_turn_id.set(turn_id)
        await asyncio.sleep(0)
        await asyncio.to_thread(logging.getLogger("urllib3").warning, "again")

    async def both() -> None:
        await asyncio.gather(turn("aa"), turn("bb"))

    asyncio.run(both())
    logging.getLogger("urllib3").warning("outside")
    assert sorted(entry.get("turn_id", "") for entry in read()) == ["", "aa", "bb"]


# --- nobody's words ---


def test_an_exception_is_its_kind_and_place_without_its_words() -> None:
    group = ExceptionGroup(SECRET, [raised(ValueError(SECRET))])
    error = raised(RuntimeError(SECRET), raised(KeyError(SECRET), group))
    text = trace_text(error)
    assert SECRET not in text
    assert "test_logs.py" in text
    positions = [text.index(kind) for kind in ("ExceptionGroup", "ValueError", "KeyError", "RuntimeError")]
    assert positions == sorted(positions)
    assert kinds(error) == "RuntimeError from KeyError from ExceptionGroup"


@pytest.mark.parametrize(
    ("error", "last_line"),
    [
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
        (OSError(28, "No space left on device", SECRET), "OSError: No space left on device"),
        (UpstreamTimeout(SECRET), "dspy_demo.errors.UpstreamTimeout"),
    ],
)
def test_words_about_the_code_are_kept(error: Exception, last_line: str) -> None:
    assert trace_text(raised(error)).splitlines()[-1] == last_line


def test_a_library_is_not_heard_below_a_warning_even_when_debugging(lines: Callable) -> None:
    read = lines(log_level="debug")
    logging.getLogger("openai._base_client").debug(SECRET)
    logging.getLogger("dspy.clients").info(SECRET)
    logging.getLogger("httpcore").warning(SECRET)
    logging.getLogger("dspy_demo.chat").debug("ours")
    assert [entry["message"] for entry in read()] == ["ours"]


def test_an_unseen_failure_of_a_task_is_told_without_its_words(lines: Callable) -> None:
    read = lines(log_level="debug")

    async def lose_a_task() -> None:
        async def fail() -> None:
            raise ValueError(SECRET)

        task = asyncio.create_task(fail())
        await asyncio.wait({task})
        del task

    asyncio.run(lose_a_task())
    text = json.dumps(read())
    assert "never retrieved" in text
    assert SECRET not in text


def test_a_warning_that_quotes_a_value_is_told_without_it(lines: Callable) -> None:
    read = lines(log_level="debug")
    warnings.warn(f"input_value={SECRET!r}", UserWarning, stacklevel=1)
    assert "UserWarning" in read()[0]["message"]
    assert SECRET not in json.dumps(read())


# --- one line an error ---


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
    lines: Callable, error: DemoError, cause: Exception | None, level: str, traced: bool
) -> None:
    read = lines(log_level="debug")
    error.__cause__ = cause
    for _ in range(2):
        log_failure(logging.getLogger("dspy_demo.x"), "request failed", error, route="/predict")
    (entry,) = read()
    assert (entry["level"], entry["error_id"], entry["code"]) == (level, error.error_id, error.code)
    assert entry["route"] == "/predict"
    assert ("exception" in entry) == traced
    assert entry.get("cause") == (type(cause).__name__ if cause else None)


def test_another_servers_number_is_told_beside_ours(lines: Callable) -> None:
    read = lines()
    error = UpstreamTimeout()
    error.server_error_id = "0123abcd"
    log_failure(logging.getLogger("dspy_demo.x"), "turn failed", error)
    assert read()[0]["server_error_id"] == "0123abcd"


def test_libraries_are_quiet_by_default(data_dir: Path) -> None:
    configure_logging(settings_for(data_dir, log_level="warning"))
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic").isEnabledFor(logging.WARNING)
    assert logging.getLogger("dspy_demo.chat").isEnabledFor(logging.WARNING)


def test_the_formatter_stands_alone() -> None:
    assert json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))["message"] == "x"
