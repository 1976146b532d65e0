"""``/chat``: the one endpoint of the page for programs, by way of `gradio_client`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import gradio as gr

from dspy_demo.chat import ChatService
from dspy_demo.events import LocalTarget, Message, TurnRequest
from dspy_demo.ui.chat.live import LiveTurn
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.components import visitor_of
from dspy_demo.ui.gradio_bridge import delivered


def chat_endpoint(
    service: ChatService, demo: gr.Blocks, target: LocalTarget
) -> Callable[..., AsyncIterator[str]]:
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
        asked = TurnRequest(
            target, {spec.chat_field: message}, _messages(history), visitor=visitor_of(request)
        )
        view = TurnView(message, started_s=time.monotonic(), answer_field=spec.answer_field)
        live = LiveTurn(service.turn(asked), view)
        try:
            async for snapshot in live.snapshots(partial(delivered, demo, request)):
                if failure := snapshot.failure:
                    sentence = f"{failure.public_message} (Error {failure.error_id})"
                    raise gr.Error(sentence, print_exception=False)
                yield snapshot.answer_text
        finally:
            # A client that went away must not keep the model busy.
            await live.stop()

    return chat


def _messages(history: Any) -> tuple[Message, ...]:
    """The earlier messages, as a client gave them: they may be any JSON."""
    try:
        given = [(item["role"], item["content"]) for item in history or []]
        if all(role in {"user", "assistant"} and isinstance(text, str) for role, text in given):
            return tuple(Message(role, text) for role, text in given)
    except (TypeError, LookupError):
        pass
    wanted = 'Each message of the history needs a "role" (user or assistant) and a "content".'
    raise gr.Error(wanted, print_exception=False)
