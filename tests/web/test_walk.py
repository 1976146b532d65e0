"""Every registered Gradio endpoint and every route, called as a guest: nothing of the owner's happens.

Two walks. Over a real app, shared and reached by a foreign name, as a stranger with a browser's session; and
over the owner's handlers themselves, as if a guest had got past the guard and the choice of page.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from dspy_demo.events import FieldDelta, Visitor
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.page import build_page
from tests.processes import ServerProcess, running_app
from tests.services import house, settings_for
from tests.ui.drawn import services_of
from tests.visitors import STRANGER, request_of

PUBLIC = "abc123.gradio.live"
TOKEN = "owner-token-0123456789"
#: More than either page has; ids that only the owner's page knows are called on the guests' too.
FN_INDEXES = 80
#: What a click on each of the owner's buttons says.
CLICKS = [
    {"do": do, "uri": "models:/dspy-demo/1"}
    for do in ("serve", "promote", "edit", "stop", "open", "restart", "share", "roll-back", "load", "pull")
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("walk")
    flags = ["--public"]
    env = {"DSPY_DEMO_OWNER_TOKEN": TOKEN}
    with running_app(*flags, data_dir=home / "data", home=home, env=env) as server:
        yield server


@pytest.fixture
def guest(app: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"host": PUBLIC, "origin": f"http://{PUBLIC}"}
    with httpx.Client(base_url=app.url, headers=headers, timeout=30) as client:
        assert client.get("/").status_code == 200
        # httpx files a cookie under the address, not under the name in the header.
        yield client


def owners_view(app: ServerProcess) -> dict[str, Any]:
    """What an action of the owner would have changed."""
    bearer = {"authorization": f"Bearer {TOKEN}"}
    programs = httpx.get(f"{app.url}/v1/models", headers=bearer, timeout=30).json()["data"]
    return {"programs": [program["id"] for program in programs]}


def files(data_dir: Path) -> set[str]:
    return {path.name for path in data_dir.rglob("*") if "cache" not in path.parts}


def wait_for_the_end(guest: httpx.Client, session: str, events: set[str]) -> None:
    """Until Gradio's queue has told the end of each event: what it does is done by then."""
    left = set(events)
    with guest.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            assert "Traceback" not in line
            message = json.loads(line[6:])
            if message["msg"] == "process_completed":
                left.discard(message["event_id"])
            if not left or message["msg"] == "close_stream":
                break
    assert not left, f"{len(left)} of {len(events)} events did not end"


@pytest.mark.integration
def test_every_endpoint_as_a_guest(app: ServerProcess, guest: httpx.Client) -> None:
    data_dir = app.log_path.parent / "data"
    before, on_disk = owners_view(app), files(data_dir)
    config = guest.get("/config").json()
    known = {fn["id"]: fn for fn in config["dependencies"]}
    assert known
    # None of what only the owner sees is in what a guest's browser gets.
    text = json.dumps(config) + guest.get("/").text + guest.get("/gradio_api/info").text
    for word in ("log-form", "version-list", "server-url", "Another server", "api_key", "Base URL", "Other…"):
        assert word not in text, word
    owners = httpx.get(f"{app.url}/config", headers={"authorization": f"Bearer {TOKEN}"}, timeout=30).json()
    assert len(known) < max(fn["id"] for fn in owners["dependencies"]) < FN_INDEXES
    session = secrets.token_hex(5)
    joined_events: set[str] = set()
    for index in range(FN_INDEXES):
        fn = known.get(index)
        for click in CLICKS[::3] if index not in known else CLICKS[:1]:  # of each list of buttons
            body = {
                "fn_index": index,
                "data": [None] * len(fn["inputs"]) if fn else ["models:/dspy-demo/1", "x", "y"],
                "event_data": click,
                "session_hash": session,
                "trigger_id": index,
            }
            joined = guest.post("/gradio_api/queue/join", json=body)
            if joined.status_code == 200:
                joined_events.add(joined.json()["event_id"])
            assert joined.status_code < 500 or not fn, (index, joined.text)
            assert "Traceback" not in joined.text
        assert "Traceback" not in guest.post("/gradio_api/run/predict", json=body).text
    assert len(joined_events) >= len(known)
    wait_for_the_end(guest, session, joined_events)
    for name in ("log", "act", "connect", "refresh", "predict", "chat"):
        guest.post(f"/gradio_api/call/{name}", json={"data": ["x"]})
        guest.post(f"/gradio_api/api/{name}", json={"data": ["x"], "event_data": CLICKS[0]})
    assert owners_view(app) == before
    assert files(data_dir) == on_disk, "an action of the owner left something on the disk"


@pytest.mark.integration
def test_every_route_as_a_guest_and_as_a_stranger(app: ServerProcess, guest: httpx.Client) -> None:
    paths = guest.get("/openapi.json").json()["paths"]
    assert {"/predict", "/predict/stream", "/v1/chat/completions", "/versions"} <= set(paths)
    stranger = httpx.Client(base_url=app.url, headers={"host": PUBLIC}, timeout=30)
    for path, methods in paths.items():
        for method in methods:
            reply = stranger.request(method, path.replace("{model_id}", "react"), json={"text": "2 + 2"})
            assert reply.status_code == (200 if path in {"/health", "/ready"} else 401), (method, path)
    stranger.close()
    asked = guest.post("/predict", json={"text": "What is 2 + 2?"})
    assert asked.json()["data"]["answer"] == "2 + 2 = 4."
    refused = guest.post("/versions", json={"name": "theirs"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for path in ("/metrics",):
        assert guest.get(path).status_code in {403, 404}, path


@dataclass
class Handlers:
    """The handlers of both pages, by name."""

    owners: dict[str, Any]
    guests: dict[str, Any]


@pytest.fixture
async def handlers(data_dir: Path) -> AsyncIterator[Handlers]:
    from dspy_demo.guests.allowance import Allowance

    settings = settings_for(data_dir)
    async with house(settings) as home:
        guests = Allowance(settings, home.programs.specs(), home.catalog.detection)
        services = services_of(home)
        pages = [build_page(services), build_page(services, guests=guests)]
        yield Handlers(*({fn.fn.__qualname__: fn for fn in page.fns.values() if fn.fn} for page in pages))


def arguments_for(fn: Any, click: dict[str, Any], session_hash: str = "tab") -> list[Any]:
    """What Gradio would call a handler with, for a stranger who clicked there."""
    liked = {"index": 1, "value": "x", "liked": True}
    events: dict[Any, Any] = {
        gr.Request: lambda: request_of(STRANGER, session_hash),
        gr.EventData: lambda: gr.EventData(None, click),
        gr.LikeData: lambda: gr.LikeData(None, liked),
        gr.EditData: lambda: gr.EditData(None, {"index": 0, "value": "x", "previous_value": "y"}),
        gr.RetryData: lambda: gr.RetryData(None, {"index": 0, "value": "x"}),
        gr.UndoData: lambda: gr.UndoData(None, {"index": 0, "value": "x"}),
        gr.SelectData: lambda: gr.SelectData(None, {"index": 0, "value": {"text": "x"}}),
    }
    given = {widget: [] if isinstance(widget, gr.Chatbot) else "x" for widget in fn.inputs}
    values = {"given": given, "chat": []}
    return [
        events[hint]() if hint in events else values.get(parameter)
        for parameter, hint in inspect.get_annotations(fn.fn, eval_str=True).items()
        if parameter != "return"
    ]


async def call(fn: Any, arguments: list[Any]) -> None:
    outcome = fn.fn(*arguments)
    if inspect.isasyncgen(outcome):
        _ = [update async for update in outcome]
    elif inspect.isawaitable(outcome):
        await outcome


async def test_the_owners_handlers_refuse_a_guest_who_reaches_them(handlers: Handlers) -> None:
    """Whatever the arguments: the role is looked at first. Their answers name no service."""
    only_owners = {name: fn for name, fn in handlers.owners.items() if name not in handlers.guests}
    assert len(only_owners) >= 8, only_owners.keys()
    for name, fn in only_owners.items():
        for click in CLICKS:
            arguments = arguments_for(fn, click)
            assert any(isinstance(argument, gr.Request) for argument in arguments), (
                f"{name} cannot know who asks"
            )
            await call(fn, arguments)


async def test_the_handlers_of_both_pages_leave_the_chat_of_another_guest_alone(handlers: Handlers) -> None:
    """A stranger who knows the session's hash, which is no secret, and calls each of them under it."""
    shared = {name: fn for name, fn in handlers.guests.items() if name.startswith(("Chat", "Rating"))}
    assert len(shared) >= 12, shared.keys()
    tabs = shared["ChatHandlers.load"].fn.__self__.sessions
    victim = Visitor("guest", "a-victim")
    tab = tabs.open("theirs", victim)
    turn = TurnView("What is 2 + 2?", started_s=0.0).apply(FieldDelta("answer", "answer", "4"), 0.5)
    tab.end(dataclasses.replace(turn.stopped(1.0), trace_id="tr-1"))
    chat, session = tab.conversation, tab.session_id
    for name, fn in shared.items():
        await call(fn, arguments_for(fn, CLICKS[0], "theirs"))
        assert tabs.get("theirs", victim) is tab, name
        assert tab.conversation is chat, name
        assert tab.session_id == session, name
        assert tab.live is None, name
