"""Log lines carry their fields; libraries stay quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspy_demo.logs import FieldFormatter, configure_logging
from tests.services import settings_for


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_fields_stand_behind_the_message() -> None:
    record = logging.makeLogRecord({"msg": "turn failed", "levelname": "WARNING", "turn_id": "ab12"})
    assert FieldFormatter("%(levelname)s %(message)s").format(record) == "WARNING turn failed turn_id='ab12'"


def test_a_trace_stays_below_the_fields() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        record = logging.LogRecord("n", 40, "f", 1, "broken", (), (type(error), error, error.__traceback__))
    record.code = "internal"
    first, *rest = FieldFormatter("%(message)s").format(record).splitlines()
    assert first == "broken code='internal'"
    assert rest[0].startswith("Traceback")


def test_libraries_are_quiet_by_default(data_dir: Path) -> None:
    configure_logging(settings_for(data_dir, log_level="warning"))
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic").isEnabledFor(logging.WARNING)
    assert logging.getLogger("dspy_demo.chat").isEnabledFor(logging.WARNING)
