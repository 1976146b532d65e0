"""``/chat``: the one endpoint of the page for programs, by way of `gradio_client`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget, Message, TurnRequest
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.components import visitor_of
from dspy_demo.ui.gradio_bridge import delivered

ChatEndpoint = Callable[..., AsyncIterator[str]]


def chat_endpoint(service: ChatService, demo: gr.Blocks, target: LocalTarget) -> ChatEndpoint:
    """The function behind ``/chat``. Each call stands alone; earlier messages are given, not remembered."""

    async def chat(
        request: gr.Request, message: str, history: list[dict[str, str]] | None = None
    ) -> AsyncIterator[str]:
        """Ask a question; the text of the answer so far comes with every update, the whole of it last.

        Args:
            message: The question.
            history: Earlier messages, oldest first, each with "role" (user or assistant) and "content".
        """
        spec = service.programs.get(target.program)
        inputs = {spec.chat_field: message}
        asked = TurnRequest(target, inputs, _messages(history), visitor=visitor_of(request))
        view = TurnView(message, started_s=time.monotonic(), answer_field=spec.answer_field)
        live = LiveTurn(service.turn(asked), view)
        live.start()
        sent = ""
        try:
            async for snapshot in live.snapshots(partial(delivered, demo, request)):
                if failure := snapshot.failure:
                    sentence = f"{failure.public_message} (Error {failure.error_id})"
                    raise gr.Error(sentence, print_exception=False)
                if snapshot.answer_text != sent:
                    sent = snapshot.answer_text
                    yield sent
        finally:
            # A client that went away must not keep the model busy.
            await live.stop()
        if not sent:
            yield ""

    return chat


def _messages(history: object) -> tuple[Message, ...]:
    """The earlier messages, as a client gave them: they may be any JSON."""
    messages = []
    for item in history if isinstance(history, list) else [] if history is None else [history]:
        role, text = (item.get("role"), item.get("content")) if isinstance(item, dict) else ("", "")
        if role not in {"user", "assistant"} or not isinstance(text, str):
            raise gr.Error(
                'Each message of the history needs a "role" (user or assistant) and a "content".',
                print_exception=False,
            )
        messages.append(Message("user" if role == "user" else "assistant", text))
    return tuple(messages)
