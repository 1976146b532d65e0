"""From a body to a `TurnRequest`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dspy_demo.api.bodies import PredictBody
from dspy_demo.api.problems import BadBody
from dspy_demo.events import LMChoice, LocalTarget, Message, TurnRequest
from dspy_demo.programs.registry import ProgramRegistry
from dspy_demo.programs.spec import ProgramSpec

#: What a client may change of the owner's choice of model. Not the model, its address or its key:
#: that would spend the owner's credit elsewhere, and reach addresses that only the server can.
OVERRIDES = ("temperature", "max_tokens", "cache")


class Asker:
    """Makes requests for the programs of one registry, on the owner's model.

    Args:
        default_lm: The model of a turn, asked each time, since the owner may change it. It may raise
            `errors.ModelSetupError`.
    """

    def __init__(self, programs: ProgramRegistry, default_lm: Callable[[], LMChoice]) -> None:
        self._programs = programs
        self._default_lm = default_lm

    def predict(self, body: PredictBody) -> TurnRequest:
        """The request of a body of our own routes.

        Raises:
            NotFound: No such program.
        """
        spec = self._programs.default if body.program is None else self._programs.get(body.program)
        earlier = body.messages if body.messages is not None else body.history or []
        chat = joined(Message(message.role, message.content) for message in earlier)
        inputs: Mapping[str, Any]
        if body.messages is not None:
            inputs, chat = {spec.chat_field: chat[-1].text}, chat[:-1]
        else:
            inputs = {spec.chat_field: body.text} if body.inputs is None else body.inputs
        changes = {name: getattr(body, name) for name in OVERRIDES}
        return self.request(spec, inputs, chat, changes, session_id=body.session_id or "")

    def chat(self, spec: ProgramSpec, chat: Iterable[Message], changes: Mapping[str, Any]) -> TurnRequest:
        """The request of a whole chat whose last message is the question.

        Raises:
            BadBody: It is empty, or its last message is not the user's.
        """
        messages = joined(chat)
        if not messages or messages[-1].role != "user":
            raise BadBody("The last of the “messages” must be the user's.", "messages")
        return self.request(spec, {spec.chat_field: messages[-1].text}, messages[:-1], changes)

    def request(
        self,
        spec: ProgramSpec,
        inputs: Mapping[str, Any],
        history: tuple[Message, ...],
        changes: Mapping[str, Any],
        *,
        session_id: str = "",
    ) -> TurnRequest:
        """A turn of a program with the owner's model, changed by what is not None in `changes`."""
        given = {name: value for name, value in changes.items() if value is not None}
        lm = dataclasses.replace(self._default_lm(), **given)
        return TurnRequest(LocalTarget(spec.name, lm), inputs, history, session_id)


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same chat with neighbours of one role made one, since a history takes turns."""
    return tuple(
        Message(role, "\n\n".join(message.text for message in group))
        for role, group in itertools.groupby(messages, key=lambda message: message.role)
    )
