"""Logging as text or as JSON, and never a visitor's words.

Libraries put what people ask and keys into their debugging output and into the texts of exceptions (``int()``
quotes what it was given). So of a library only warnings are written, and of an exception its kind and place.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from dspy_demo.errors import DemoError, UpstreamError
from dspy_demo.settings import Settings

#: Libraries that report at WARNING what does not help the user of this app.
NOISY = ["alembic", "httpx", "httpcore", "LiteLLM", "mlflow", "gradio", "asyncio"]
NOISY += ["dspy.predict", "dspy.adapters"]
#: Loggers with handlers of their own to stderr, which they set when they are imported or started.
WITH_HANDLERS = ("dspy", "mlflow", "LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "uvicorn", "uvicorn.error")

#: The id of the turn that this task runs, for every record made in it.
current_turn_id: ContextVar[str] = ContextVar("current_turn_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
#: Their text speaks of the code only.
_OF_CODE = (ImportError, AttributeError, NameError)

log = logging.getLogger(__name__)


def configure_logging(settings: Settings) -> None:
    """Send our records at `settings.log_level`, and the libraries' warnings and errors, to stderr."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = logging.StreamHandler()
    handler.addFilter(RecordFilter(level))
    as_json = settings.log_format == "json"
    handler.setFormatter(Formatter(as_json=as_json))
    logging.basicConfig(level=min(level, logging.WARNING), handlers=[handler], force=True)
    for name in WITH_HANDLERS:
        logging.getLogger(name).__class__ = _HandledHere
    for name in NOISY:
        logging.getLogger(name).setLevel(max(level, logging.ERROR))
    warnings.showwarning = _log_warning  # type: ignore[assignment]
    if level > logging.DEBUG:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "rollout_id has no effect")  # it keeps servers apart in the cache
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydantic|mlflow|dspy)\b.*")
    if as_json:  # a traceback on stderr would be no JSON
        sys.excepthook = lambda kind, error, trace: log.critical("the process failed", exc_info=error)
        threading.excepthook = lambda failed: log.error("a thread failed", exc_info=failed.exc_value)


def log_failure(
    logger: logging.Logger, message: str, error: DemoError, *, refused: bool | None = None, **fields: Any
) -> None:
    """The one line of an error that a user sees, under the same id. What was `refused` is told at INFO."""
    if error.logged:
        return
    error.logged = True
    refused = error.http_status < 500 if refused is None else refused
    level = logging.ERROR if error.code == DemoError.code else logging.INFO if refused else logging.WARNING
    cause = error.__cause__
    traced = cause is not None and error.http_status >= 500 and not isinstance(error, UpstreamError)
    extra = {"error_id": error.error_id, "code": error.code} | fields
    if cause is not None:
        extra["cause"] = kinds(cause)
    if error.server_error_id not in {"", error.error_id}:
        extra["server_error_id"] = error.server_error_id
    logger.log(level, message, exc_info=cause if traced else None, extra=extra)


class RecordFilter(logging.Filter):
    """Lets our records through at `level` and a library's at WARNING, and adds the id of the turn."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.partition(".")[0] in {"dspy_demo", "app"}
        if record.levelno < (self._level if ours else max(self._level, logging.WARNING)):
            return False
        if not hasattr(record, "turn_id") and (turn_id := current_turn_id.get()):
            record.turn_id = turn_id
        if record.name == "asyncio":  # its further lines are the repr of a task with its exception
            record.msg, record.args = record.getMessage().partition("\n")[0], None
        return True


class Formatter(logging.Formatter):
    """A line of text, ``time level logger message key=value ...``, or a JSON object with the same."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a library's arguments do not fit its message
            message = str(record.msg)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": time.replace("+00:00", "Z"), "level": record.levelname, "logger": record.name}
        head["message"] = message
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        error = record.exc_info[1] if record.exc_info else None
        trace = trace_text(error) if error is not None else ""
        if not self._as_json:
            pairs = [f"{name}={value!r}" for name, value in fields.items()]
            return " ".join([*head.values(), *pairs]) + (f"\n{trace}" if trace else "")
        return json.dumps(fields | head | ({"exception": trace} if trace else {}), default=str)


def kinds(error: BaseException | None) -> str:
    """The types of an error and its causes, without their words."""
    return " from ".join(type(link).__name__ for link in _chain(error)[:5])


def trace_text(error: BaseException) -> str:
    """The tracebacks of an error and its causes, the first cause first, without their words."""
    parts = []
    for link in reversed(_chain(error)):
        kind = f"{type(link).__module__}.{type(link).__qualname__}".removeprefix("builtins.")
        words: Any = link if isinstance(link, _OF_CODE) else getattr(link, "strerror", None)
        lines = traceback.format_tb(link.__traceback__)
        parts.append("".join(lines) + (f"{kind}: {words}" if words else kind))
        if isinstance(link, BaseExceptionGroup):
            parts += [trace_text(inner) for inner in link.exceptions]
    return "Traceback (most recent call last):\n" + "\nwhich led to\n".join(parts)


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


class _HandledHere(logging.Logger):
    """A library's logger that writes through our handler, though the library adds one of its own."""

    propagate: Any = property(lambda self: True, lambda self, value: None)
    handlers: Any = property(lambda self: [], lambda self, value: None)

    def addHandler(self, hdlr: logging.Handler) -> None: ...


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any
) -> None:
    """Without its words: Pydantic's quote values."""
    log.warning("%s in %s:%d", category.__name__, filename, lineno)
