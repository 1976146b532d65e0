"""Open pages without a browser: what Gradio's frontend (6.31) sends for a chat, and what comes back.

A page keeps two streams open: one says that it is there, by the other its updates come. Clicks are requests.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.load import Heard, send
from benchmarks.past import PAST_ANSWER, PAST_QUESTION, past_messages
from benchmarks.processes import Process, free_port
from benchmarks.servers import QUESTION, our_app
from benchmarks.upstream import Upstream


class Server(ABC):
    """An app with a chat page that is measured."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.url = process.url

    @abstractmethod
    def chat(self) -> Chat:
        """A new page, not yet open."""


class Chat(ABC):
    """One open page with a chat."""

    def __init__(self) -> None:
        self.heard = Heard()

    @abstractmethod
    async def open(self, messages: int) -> None:
        """The page has loaded, with so many messages from before."""

    @abstractmethod
    async def ask(self) -> None:
        """Send a question; the answer's tokens arrive in `heard`."""

    @abstractmethod
    async def close(self) -> None:
        """Leave the page, whatever still streams."""


class GradioChat(Chat):
    """One page of a Gradio app."""

    def __init__(self, server: GradioServer) -> None:
        super().__init__()
        self.server = server
        self.session = secrets.token_hex(6)
        self._streams: list[asyncio.Transport] = []

    async def close(self) -> None:
        for stream in self._streams:
            stream.abort()

    async def _listen(self, path: str) -> Heard:
        heard, _, transport = await send(f"{self.server.url}/gradio_api/{path}")
        self._streams.append(transport)
        return heard

    async def _run(self, event: Mapping[str, Any], data: Sequence[Any]) -> list[Any]:
        """An event that is answered at once."""
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": 0}
        reply = await self.server.client.post("/gradio_api/run/predict", json=body)
        reply.raise_for_status()
        answer: list[Any] = reply.json()["data"]
        return answer

    async def _join(self, event: Mapping[str, Any], data: Sequence[Any]) -> None:
        """An event whose updates come through the page's stream."""
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": 0}
        (await self.server.client.post("/gradio_api/queue/join", json=body)).raise_for_status()
        self.heard = await self._listen(f"queue/data?session_hash={self.session}")


class GradioServer(Server):
    """A Gradio app, and its components and events as its frontend is told them."""

    def __init__(self, name: str, process: Process, chat: type[GradioChat]) -> None:
        super().__init__(name, process)
        self._chat = chat
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self.client = httpx.AsyncClient(base_url=self.url, timeout=120, trust_env=False, limits=limits)
        config = httpx.get(f"{self.url}/config", trust_env=False).json()
        self.events: list[dict[str, Any]] = config["dependencies"]
        self.components = {component["id"]: component for component in config["components"]}

    def chat(self) -> Chat:
        return self._chat(self)

    def component(self, **props: Any) -> int:
        """The id of the component with these properties."""
        return next(
            key
            for key, component in self.components.items()
            if props.items() <= {**component["props"], "type": component["type"]}.items()
        )

    def event(self, name: str) -> dict[str, Any]:
        """The event whose handler is called so."""
        return next(event for event in self.events if event["api_name"] == name)

    def values(self, event: Mapping[str, Any], given: Mapping[int, Any]) -> list[Any]:
        """An event's inputs, as the page was drawn but for those that are given."""
        return [given.get(key, self.components[key]["props"].get("value")) for key in event["inputs"]]


class OurChat(GradioChat):
    """A page of this app."""

    async def open(self, messages: int) -> None:
        await self._listen(f"heartbeat/{self.session}")
        past = json.dumps({"chat": secrets.token_urlsafe(32), "turns": past_turns(messages)})
        await self._run(self.server.event("load"), [past])

    async def ask(self) -> None:
        composer = self.server.component(elem_id="composer")
        accept = self.server.event("send")
        await self._run(accept, self.server.values(accept, {composer: QUESTION}))
        await self._join(self.server.event("draw"), [])


class InterfaceChat(GradioChat):
    """A page of `gr.ChatInterface`, whose whole history is in the page and in the session's state."""

    _past: list[dict[str, Any]]

    async def open(self, messages: int) -> None:
        await self._listen(f"heartbeat/{self.session}")
        self._past = [
            {"role": role, "content": [{"type": "text", "text": text}], "metadata": None, "options": None}
            for role, text in past_messages(messages)
        ]

    async def ask(self) -> None:
        server = self.server
        chatbot = server.component(type="chatbot")
        append, answer = server.event("_append_message_to_history"), server.event("_submit_fn")
        await self._run(server.event("lambda"), [self._past])  # the chat into the session's state
        await self._run(server.event("_clear_and_save_textbox"), [QUESTION])
        await self._run(append, server.values(append, {chatbot: self._past}))
        await self._join(answer, server.values(answer, {}))


@contextmanager
def our_page(upstream: Upstream) -> Iterator[GradioServer]:
    with our_app(upstream) as process:
        yield GradioServer("ours", process, OurChat)


@contextmanager
def chat_interface(upstream: Upstream, messages: int = 0) -> Iterator[GradioServer]:
    """The peer, with so many messages in each new chat."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.chat_interface", "--port", str(port)]
    with Process([*command, "--upstream", upstream.url, "--messages", str(messages)], port) as process:
        process.wait_until_answers("/config")
        yield GradioServer("gr.ChatInterface", process, InterfaceChat)


def past_turns(messages: int) -> str:
    """The browser's copy of a chat that draws as so many messages."""
    from dspy_demo.events import FieldDelta, TurnFinished, TurnStarted
    from dspy_demo.ui.chat.conversation import Conversation, to_json
    from dspy_demo.ui.chat.render import messages as drawn
    from dspy_demo.ui.chat.turn_view import TurnView

    view = TurnView.start(PAST_QUESTION, now_s=0.0, expected=("answer",), answer_field="answer")
    for event in (
        TurnStarted("local", "openai/fake"),
        FieldDelta("reasoning", "reasoning", PAST_ANSWER, "predict"),
        TurnFinished({"reasoning": PAST_ANSWER, "answer": PAST_ANSWER}),
    ):
        view = view.apply(event, 1.0)
    conversation = Conversation()
    for _ in range(round(messages / len(drawn(view)))):
        conversation = conversation.adding(view)
    return to_json(conversation, max_chars=10_000_000)
