"""The question whether the runtime is installed: from many threads at a time, and again after it came."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspy_demo.lm.local_models import runtime


@pytest.fixture
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching_often")
def test_asked_by_many_threads_at_a_time() -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: runtime.runtime_installed(), range(2_000)))
    assert len(set(answers)) == 1


def test_installed_while_the_app_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "MODULE", "a_runtime_of_this_test")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert not runtime.runtime_installed()
    (tmp_path / "a_runtime_of_this_test").mkdir()
    (tmp_path / "a_runtime_of_this_test" / "__init__.py").touch()
    assert runtime.runtime_installed()
