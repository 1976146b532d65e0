"""What the sections say in each state, and what can be done there: templates over plain values."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any
from unittest import mock

import pytest

from dspy_demo.backends.served_wire import ServerInfo
from dspy_demo.lm.local.download import DownloadState
from dspy_demo.serving.processes import ServerState
from dspy_demo.share.tunnel import ShareState
from dspy_demo.ui.components import message
from dspy_demo.ui.sections.backend import Connected, server_html, status_html
from dspy_demo.ui.sections.compare import difference_html
from dspy_demo.ui.sections.model import models_html
from dspy_demo.ui.sections.share import share_html
from dspy_demo.ui.sections.versions import commands, versions_html
from dspy_demo.versions.version import Version
from tests.fake_hub import gguf_bytes, known_for

URI, STORE = "models:/demo/3", "sqlite:////data dir/mlflow.db"
BAD = "\"'><img src=x onerror=alert(1)><script>"
READY = ServerState("ready", URI, "http://127.0.0.1:5001", program="predict")
FAILED = ServerState("failed", URI, reason="It ended.", log_tail="\n".join(f"line {n}" for n in range(50)))
MODEL = dataclasses.replace(known_for(gguf_bytes(1_000)), size_bytes=491_400_032)


def version(**details: Any) -> Version:
    known = {"created_at": time.time(), "program": "chain_of_thought", "lm": "openai/x"} | details
    return Version("demo", 3, URI, **known)


def versions(listed: list[Version], **options: Any) -> str:
    unknown: dict[str, Any] = {"previous": {}, "serving": {}, "link": lambda _: ""}
    return versions_html(listed, STORE, **unknown | options)


def models(phase: Any, received: int = 0, reason: str = "", *, runs: bool = True, **options: Any) -> str:
    with mock.patch("dspy_demo.ui.sections.model.runtime_installed", return_value=runs):
        return models_html([DownloadState(MODEL, phase, received, reason)], "https://hub.example/", **options)


#: The HTML, what can be done, what it says. What tests/browser shows is not here.
STATES: dict[str, tuple[str, list[str], list[str]]] = {
    "guests": (server_html(ServerState(), owner=False), [], ["No version is served"]),
    "no key": (server_html(dataclasses.replace(READY, warning="Needs a key.")), ["stop"], ["Needs a key."]),
    "failed successor": (
        server_html(dataclasses.replace(READY, next=FAILED)),
        ["stop", "restart", "stop"],
        ["Ready", "It ended.", "line 49", "line 38\n"],
    ),
    "a plain server": (
        server_html(ServerState(), Connected("http://there:5001", ServerInfo("plain"))),
        ["disconnect"],
        ["Connected", "without live tokens"],
    ),
    "a version in MLflow": (
        versions([version(files=("a.json",))], link=lambda _: "http://m/x"),
        ["serve", "promote", "edit"],
        ["Chain of thought · openai/x", "just now", "With a.json", 'href="http://m/x"'],
    ),
    "not servable": (versions([version(reason="No.")]), ["edit"], ["No."]),
    "no runtime": (models("here", runs=False), [], ["pip install -r requirements-local.txt"]),
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_says_what_it_is_and_offers_what_works(state: str) -> None:
    html, actions, words = STATES[state]
    assert re.findall('data-do="([^"]+)"', html) == actions
    assert [word for word in words if word not in html] == []


def test_nothing_that_comes_from_elsewhere_is_markup() -> None:
    bad_state = ServerState("failed", f"models:/{BAD}/1", reason=BAD, log_tail=BAD)
    info = ServerInfo("live", f"models:/{BAD}/1", ready=False, reason=BAD)
    bad = version(description=BAD, tags={"k": BAD}, aliases=(BAD,), program=BAD, lm=BAD, files=(BAD,))
    drawn = [
        server_html(bad_state, Connected(f"http://x/{BAD}", info), BAD),
        status_html(bad_state),
        share_html(ShareState("open", url=BAD)),
        share_html(ShareState("failed", reason=BAD, log_tail=BAD)),
        versions([bad, version(reason=BAD)], link=lambda _: f"http://x/{BAD}"),
        models("absent", reason=BAD, trouble=BAD),
        message(BAD, link=BAD, undo=BAD),
        difference_html({"Answer": (BAD, f"{BAD} x")}),
    ]
    assert not [html for html in drawn if "<img" in html or "<script" in html]


def test_commands_can_be_pasted_into_a_shell() -> None:
    lines = commands(Version("my model", 1, "models:/my model/1"), STORE)
    assert "'models:/my model/1'" in lines["Serve, with live tokens"]
    assert "'sqlite:////data dir/mlflow.db'" in lines["Serve, with live tokens"]
    assert """-d '{"text": "What is 2 + 2?"}'""" in lines["Ask"]


def test_the_differences_of_two_answers() -> None:
    html = difference_html({"Answer": ("It is four.", "It is 4.")})
    assert '<del><span class="sr"> only left: </span>four' in html
    assert '<ins><span class="sr"> only right: </span>4' in html
    assert "Identical" in difference_html({"Answer": ("Four. ", "Four.")})
    long = difference_html({"Answer": (f"same\n{'a b ' * 3000}", f"same\n{'b a ' * 3000}")})
    assert '<div class="diff">same\n<del>' in long, "line by line"
    assert "Answer" not in difference_html({"Answer": ("Four.", " ")})
