"""A clean environment for tests and for the processes that they start: nobody's keys, proxies or caches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SCRUBBED = re.compile(
    r".*_API_(KEY|BASE|TOKEN)|.*_BASE_URL"
    r"|(OPENAI|OLLAMA|MLFLOW|DSPY|HF|HUGGINGFACE|HUGGING_FACE|GRADIO|AWS|AZURE|SPACE)_.*"
    r"|(HTTP|HTTPS|ALL|NO|FTP)_PROXY|PYTHONWARNINGS|GOOGLE_APPLICATION_CREDENTIALS",
    re.IGNORECASE,
)


def scrubbed(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """`environ` without what could reach a provider or steer a library, and with `home` as its home."""
    kept = {name: value for name, value in environ.items() if not _SCRUBBED.fullmatch(name)}
    return kept | {
        "HOME": str(home),
        "DSPY_CACHEDIR": str(home / "dspy-cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` is exactly `values` inside the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
