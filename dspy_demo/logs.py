"""Logging by the standard library: quiet by default, with the fields of a record behind its message."""

from __future__ import annotations

import logging
import warnings

from dspy_demo.settings import Settings

#: Libraries that report at INFO or WARNING what does not help the user of this app.
NOISY = (
    "alembic",
    "httpx",
    "httpcore",
    "LiteLLM",
    "mlflow",
    "gradio",
    "asyncio",
    "dspy.predict",
    "dspy.adapters",
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """``time level logger message key=value ...``, with whatever `extra` a record carries."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if not fields:
            return text
        first, newline, trace = text.partition("\n")
        return first + "".join(f" {name}={value!r}" for name, value in fields.items()) + newline + trace


def configure_logging(settings: Settings) -> None:
    """Send our records at `settings.log_level` and the libraries' errors to stderr."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(level, logging.ERROR))
    if level > logging.DEBUG:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydantic|mlflow|dspy)\b.*")
