"""What the sections share: HTML with buttons in it, who clicked, and a few words.

A section draws most of itself as HTML, with one event for all its buttons (see `assets/actions.js`):

    <button data-do="serve" data-uri="models:/demo/3">      a click gives its data to the handler
    <form data-do="edit" data-uri="...">                    so does a submit, with the form's fields
    <details data-key="K">                                  stays open when the section is drawn again
    <button data-copy="text">                               copies
    <button data-open="versions">                           shows a section of the page
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.components import Component

from dspy_demo.backends.local import LocalBackend
from dspy_demo.backends.served import ServedBackend
from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError
from dspy_demo.events import GUEST, Visitor
from dspy_demo.lm.catalog import LMCatalog
from dspy_demo.lm.local.download import Downloads
from dspy_demo.logs import log_failure
from dspy_demo.serving.mlflow_ui import MLflowPages
from dspy_demo.serving.processes import ModelServers
from dspy_demo.settings import Settings
from dspy_demo.share.tunnel import Tunnel
from dspy_demo.templates import draw
from dspy_demo.versions.store import VersionStore

log = logging.getLogger(__name__)

Update = dict[Component, Any]
Given = Mapping[Component, Any]
template = partial(draw, "dspy_demo.ui")
skip: Callable[[], Update] = gr.skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the page works with, as the application made it."""

    settings: Settings
    chat: ChatService
    catalog: LMCatalog
    versions: VersionStore
    local: LocalBackend
    servers: ModelServers
    served: ServedBackend
    mlflow: MLflowPages
    tunnel: Tunnel
    downloads: Downloads


class Section(Protocol):
    """A part of the page: components, and then events; `now` has the options of one answered at once."""

    def draw(self) -> None: ...
    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None: ...


def asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def dropdown(rows: list[tuple[str, str]], value: str | None, **options: Any) -> gr.Dropdown:
    """A picker of one of `rows`: title and value."""
    return gr.Dropdown(rows, value=value, show_label=False, filterable=False, **options)


def line(label: str, placeholder: str = "", **options: Any) -> gr.Textbox:
    """A field for one line of text, which browsers neither complete nor check."""
    plain = gr.InputHTMLAttributes(autocomplete="off", spellcheck=False)
    return gr.Textbox(label=label, placeholder=placeholder, max_lines=1, html_attributes=plain, **options)


def action_html(value: str = "", *, script: str = "", **options: Any) -> gr.HTML:
    """HTML with buttons, whose ``click`` gives `gr.EventData` to its handler; `script` is more JavaScript."""
    js = asset("actions.js") + script
    return gr.HTML(value, js_on_load=js, elem_classes="own", padding=False, **options)


def clicked(event: gr.EventData, name: str = "do") -> str:
    """A value of the clicked element. It comes from a browser and may be anything."""
    try:
        value = getattr(event, name, "")
    except TypeError:  # the data is no dictionary
        return ""
    return value if isinstance(value, str) else ""


@contextmanager
def section(title: str) -> Iterator[None]:
    with gr.Column(elem_classes="section", elem_id=f"section-{title.lower()}"):
        gr.HTML(f"<h2>{title}</h2>", padding=False)
        yield


def message(text: str, *, wrong: bool = False, link: str = "", undo: str = "") -> str:
    """A sentence as HTML, perhaps with a link into MLflow or a button that rolls back the version `undo`."""
    return template("message.html", text=text, wrong=wrong, link=link, undo=undo) if text else ""


def picked(rows: Sequence[tuple[str, str]], value: object) -> Any:
    """A picker with these rows (title and value), of which that value is chosen where it is there."""
    found = {"value": value} if value in [name for _, name in rows] else {}
    return gr.update(choices=rows, **found)


def if_new(update: Update, panel: Component, shown: str) -> Update:
    """`update`, or nothing where the browser shows the panel like that already."""
    return skip() if update.get(panel) == shown else update


def visitor_of(request: gr.Request) -> Visitor:
    """The visitor behind an event, as the middleware found it; a guest where nothing is known."""
    visitor = getattr(getattr(request, "state", None), "visitor", None)
    return visitor if isinstance(visitor, Visitor) else GUEST


def is_owner(request: gr.Request) -> bool:
    """Asked by every handler of the owner's sections, though guests have another page."""
    return visitor_of(request).role == "owner"


def sentence_of(error: Exception) -> str:
    """What the page says of an error; of a fault with the number that its line in the log has too."""
    failure = DemoError.of(error)
    log_failure(log, "the page could not do that", failure)
    number = f" (Error {failure.error_id})" if failure.http_status >= 500 else ""
    return failure.public_message + number


def title_of(uri: str) -> str:
    """``models:/dspy-demo/3`` as a reader says it: ``dspy-demo v3``. The name of a model stays as it is."""
    name = uri.removeprefix("models:/")
    return uri if name == uri else name.replace("/", " v").replace("@", " @")
