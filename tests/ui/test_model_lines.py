"""What the list of models says in each state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dspy_demo.lm.local.download import DownloadState, Progress
from dspy_demo.ui.model_lines import models_html, spoken_models
from tests.fake_hub import gguf_bytes, known_for

MODEL = replace(known_for(gguf_bytes(1_000)), size_bytes=491_400_032)


def shown(phase: Any, progress: Progress | None = None, reason: str = "", **options: Any) -> str:
    options = {"runs": True, "hub_url": "https://hub.example/"} | options
    return models_html([DownloadState(MODEL, phase, progress, reason)], **options)


def progress(phase: Any = "downloading", speed: float | None = 5.2e6) -> Progress:
    return Progress(phase, 206_000_000, MODEL.size_bytes, speed)


def test_what_one_gets_is_told_before_the_download() -> None:
    html = shown("absent")
    assert all(text in html for text in ("Tiny Instruct", "491 MB", "Apache-2.0", "Made for a test"))
    assert 'href="https://hub.example/Tiny/Tiny-Instruct-GGUF"' in html
    assert 'data-do="download"' in html and "progress" not in html


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        ("connecting", "Connecting…"),
        ("downloading", "206 MB of 491 MB · 5.2 MB/s · 55 s left"),
        ("checking", "Comparing the checksum…"),
    ],
)
def test_while_it_runs_it_can_only_be_cancelled(phase: str, text: str) -> None:
    html = shown("running", progress(phase))
    assert text in html and 'value="41"' in html
    assert 'data-do="cancel"' in html and html.count("<button") == 1


def test_what_was_stopped_can_be_resumed_or_discarded() -> None:
    html = shown("partial", progress(speed=None), reason="It <broke>.")
    assert "Stopped at 206 MB of 491 MB" in html
    assert ">Resume<" in html and 'data-do="discard"' in html
    assert "It &lt;broke&gt;." in html and 'role="alert"' in html


def test_what_is_here_can_be_used_unless_it_is() -> None:
    assert 'data-do="use"' in shown("here")
    picked = shown("here", picked="local/tiny-instruct")
    assert "Picked above" in picked and "<button" not in picked


def test_without_the_runtime_there_is_a_line_to_run_and_nothing_to_use() -> None:
    html = shown("here", runs=False)
    assert "pip install -r requirements-local.txt" in html and "<button" not in html
    assert 'data-do="download"' in shown("absent", runs=False)


def test_a_screen_reader_hears_states_and_not_amounts() -> None:
    one, other = (spoken_models([DownloadState(MODEL, "running", progress(speed=s))]) for s in (1.0, 2.0))
    assert one == other and "being downloaded" in one
    assert "on this machine" in spoken_models([DownloadState(MODEL, "here")])
    assert "It broke." in spoken_models([DownloadState(MODEL, "absent", reason="It broke.")])
