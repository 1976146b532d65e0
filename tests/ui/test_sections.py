"""What the sections of the page say and offer, and what the values of its widgets mean."""

import re
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Literal
from unittest import mock

import gradio as gr
import pytest

from dspy_demo.backends.served_wire import ServerInfo
from dspy_demo.errors import InvalidInput, NotFound
from dspy_demo.events import LMChoice, ServedTarget
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.lm.local.download import DownloadState
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.shipped import SHIPPED
from dspy_demo.programs.spec import InputField, ProgramSpec
from dspy_demo.serving.processes import ServerState
from dspy_demo.share.tunnel import ShareState
from dspy_demo.ui.chat.widgets import Forms
from dspy_demo.ui.components import message
from dspy_demo.ui.page import PageOf
from dspy_demo.ui.sections.backend import Connected, served_choice, server_html, status_html
from dspy_demo.ui.sections.compare import difference_html
from dspy_demo.ui.sections.model import OTHER, models_html
from dspy_demo.ui.sections.picks import program_behind
from dspy_demo.ui.sections.share import share_html
from dspy_demo.ui.sections.versions import commands, parse_tags, versions_html
from dspy_demo.versions.version import Version
from tests.fake_hub import gguf_bytes, known_for
from tests.services import house, settings_for
from tests.ui.drawn import servers_in, services_of

URI, STORE, HERE = "models:/demo/3", "sqlite:////data dir/mlflow.db", "http://127.0.0.1:5001"
BAD = "\"'><img src=x onerror=alert(1)><script>"
READY = ServerState("ready", URI, HERE, program="predict")
FAILED = ServerState("failed", URI, reason="It ended.", log_tail="\n".join(f"line {n}" for n in range(50)))
SAID = ["It ended.", "line 49", "line 38\n"]
PLAIN = Connected("http://there:5001", ServerInfo("plain"))
SHOWN = ["Chain of thought · openai/x", "just now", "With a.json", 'href="http://m/x"']
MODEL = replace(known_for(gguf_bytes(1_000)), size_bytes=491_400_032)


def versions(link="", **details):
    known = {"created_at": time.time(), "program": "chain_of_thought", "lm": "openai/x"} | details
    shown = {"previous": {}, "serving": {}, "link": lambda _: link}
    return versions_html([Version("demo", 3, URI, **known)], STORE, **shown)


def models(phase, *, runs=True, trouble=""):
    with mock.patch("dspy_demo.ui.sections.model.runtime_installed", return_value=runs):
        return models_html([DownloadState(MODEL, phase, reason=trouble)], "https://hub.example/", trouble)


def test_each_state_says_what_it_is_and_offers_what_works():
    for html, actions, words in (
        (server_html(ServerState(), owner=False), [], ["No version is served"]),
        (server_html(replace(READY, warning="Needs a key.")), ["stop"], ["Needs a key."]),
        (server_html(replace(READY, next=FAILED)), ["stop", "restart", "stop"], ["Ready", *SAID]),
        (server_html(ServerState(), PLAIN), ["disconnect"], ["Connected", "without live tokens"]),
        (versions(files=("a.json",), link="http://m/x"), ["serve", "promote", "edit"], SHOWN),
        (versions(reason="No."), ["edit"], ["No."]),
        (models("here", runs=False), [], ["pip install -r requirements-local.txt"]),
    ):
        assert re.findall('data-do="([^"]+)"', html) == actions
        assert [word for word in words if word not in html] == []


def test_nothing_that_comes_from_elsewhere_is_markup():
    state = ServerState("failed", f"models:/{BAD}/1", reason=BAD, log_tail=BAD)
    info = ServerInfo("live", f"models:/{BAD}/1", ready=False, reason=BAD)
    version = {"description": BAD, "tags": {"k": BAD}, "aliases": (BAD,), "program": BAD, "lm": BAD}
    drawn = [
        server_html(state, Connected(f"http://x/{BAD}", info), BAD),
        status_html(state),
        share_html(ShareState("open", url=BAD)),
        share_html(ShareState("failed", reason=BAD, log_tail=BAD)),
        versions(**version, files=(BAD,), link=f"http://x/{BAD}"),
        versions(reason=BAD),
        models("absent", trouble=BAD),
        message(BAD, link=BAD, undo=BAD),
        difference_html({"Answer": (BAD, f"{BAD} x")}),
    ]
    assert not [html for html in drawn if "<img" in html or "<script" in html]


def test_commands_can_be_pasted_into_a_shell():
    lines = commands(Version("my model", 1, "models:/my model/1"), STORE)
    serve = lines["Serve, with live tokens"]
    assert "'models:/my model/1'" in serve and "'sqlite:////data dir/mlflow.db'" in serve
    assert """-d '{"text": "What is 2 + 2?"}'""" in lines["Ask"]


def test_the_differences_of_two_answers():
    html = difference_html({"Answer": ("It is four.", "It is 4."), "Reasoning": ("Hm.", " ")})
    assert '<del><span class="sr"> only left: </span>four' in html and "Reasoning" not in html
    assert "Identical" in difference_html({"Answer": ("Four. ", "Four.")})
    long = difference_html({"Answer": (f"same\n{'a b ' * 3000}", f"same\n{'b a ' * 3000}")})
    assert '<div class="diff">same\n<del>' in long, "line by line"


async def test_the_model_is_what_the_widgets_say(data_dir):
    found = LMChoice("openai/gpt-4o-mini", api_base="http://found:1/v1", temperature=0.3)
    options = (LMOption(found.model, "gpt-4o-mini", api_base=found.api_base), LMOption("ollama_chat/x", "x"))
    async with house(settings_for(data_dir)) as home:
        catalog = SimpleNamespace(detection=Detection(found, "why", options))
        with gr.Blocks(analytics_enabled=False):
            page = PageOf(services_of(home, catalog=catalog), None)
            page.draw()
    untouched = {widget: widget.value for widget in page.picks.inputs}

    def given(**changes):
        return untouched | {getattr(page.model, name): value for name, value in changes.items()}

    assert page.model.choice(untouched) == found
    changed = page.model.choice(given(picker="ollama_chat/x", temperature="", max_tokens="200", cache=False))
    assert changed == LMChoice("ollama_chat/x", max_tokens=200, cache=False), "no base URL of the first one"
    typed = page.model.choice(given(picker=OTHER, typed_model=" groq/y ", api_base="", api_key="sk-planted"))
    assert (typed.model, typed.api_base) == ("groq/y", None)
    assert typed.api_key is not None and "sk-planted" not in repr(typed)
    wrong = [{"temperature": text} for text in ("warm", "2.1", "nan")]
    wrong += [{"max_tokens": "0"}, {"max_tokens": "1.5"}, {"picker": OTHER, "typed_model": " "}]
    for changes in wrong:
        with pytest.raises(InvalidInput):
            page.model.choice(given(**changes))
    with pytest.raises(NotFound):
        await page.picks.changed(untouched | {page.program.picker: None})
    drawn = await page.picks.changed(given(picker=OTHER, typed_model="<script>"))
    assert "&lt;script&gt;" in drawn[page.picks.active] and "<script>" not in drawn[page.picks.active]


def test_tags_are_read_as_they_are_typed():
    assert parse_tags(" team = search ,tier=2,\nempty=\n") == {"team": "search", "tier": "2", "empty": ""}
    for wrong in ("team", "=search"):
        with pytest.raises(InvalidInput):
            parse_tags(wrong)


def test_the_server_and_the_program_that_answer():
    assert served_choice(servers_in(READY), None) == (ServedTarget(HERE, URI), "predict")
    there = Connected("http://b:1", ServerInfo("live", "models:/b/1", program="react"))
    assert served_choice(servers_in(READY), there) == (ServedTarget("http://b:1", "models:/b/1"), "react")
    for phase in ("none", "starting", "failed", "stopped", "hung"):
        with pytest.raises(NotFound, match=r"Serve|restart"):
            served_choice(servers_in(ServerState(phase, URI, reason="It ended.")), None)
    programs = ProgramRegistry(SHIPPED)
    assert program_behind("predict", programs) is programs.get("predict")
    unknown = program_behind("somebodys", programs)
    assert (unknown.chat_field, unknown.form_fields) == ("text", ())


async def test_a_form_gives_what_was_typed_and_a_program_that_came_later_takes_json():
    fields = (
        InputField("topic"),
        InputField("words", "integer", default=8, annotation=int),
        InputField("seo", "boolean", required=False, annotation=bool),
        InputField("tone", "choice", choices=("calm", "bold"), annotation=Literal["calm", "bold"]),
        InputField("extra", "json", required=False, default=[], annotation=dict[str, list[int]]),
    )
    spec = ProgramSpec("titles", "Titles", "Writes titles.", None, fields, "topic")
    later = replace(spec, inputs=(*fields, InputField("note", required=False)))
    with gr.Blocks(analytics_enabled=False):
        forms = Forms([spec], spec)
    boxes = {str(widget.label).split(" (")[0].lower(): widget for widget in forms.inputs}

    def typed(**texts):
        return {boxes[name]: text for name, text in texts.items()}

    values = {"words": " 12 ", "seo": True, "tone": "bold", "extra": '{"a": [1]}'}
    assert forms.values(spec, typed(**values)) == values
    given = {"words": "8", "seo": False, "tone": "calm"}
    assert forms.values(spec, typed(extra=" ", **given)) == given
    for wrong in ({"words": ""}, {"words": "eight"}, {"words": "8", "extra": "{"}):
        with pytest.raises(InvalidInput, match=r"(?i:words)|extra"):
            forms.values(spec, typed(tone="calm", **wrong))
    assert any(update["visible"] for update in forms.show(later).values())
    box = boxes["other inputs"]
    assert forms.values(later, {box: '{"words": 3, "tone": "calm"}'}) == {"words": 3, "tone": "calm"}
    for text, said in (("", "Words"), ("{", "as JSON"), ("[1]", "as JSON")):
        with pytest.raises(InvalidInput, match=said):
            forms.values(later, {box: text})
