"""From a body to a `TurnRequest`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import Request

from dspy_demo.api.bodies import PredictBody
from dspy_demo.events import GUEST, LMChoice, LocalTarget, Message, TurnRequest, Visitor
from dspy_demo.guests.allowance import Allowance
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
        allowance: What guests may use; None where everybody may use everything, as behind a model server.
    """

    def __init__(
        self,
        programs: ProgramRegistry,
        default_lm: Callable[[], LMChoice],
        allowance: Allowance | None = None,
    ) -> None:
        self._programs = programs
        self._default_lm = default_lm
        self._allowance = allowance

    def programs(self, visitor: Visitor) -> list[ProgramSpec]:
        """Those that the visitor may ask for; the first one is the default."""
        specs, allowance = self._programs.specs(), self._allowance_of(visitor)
        return allowance.programs_of(specs) if allowance else specs

    def program(self, name: str, visitor: Visitor) -> ProgramSpec:
        """One of them, by name; the owner may ask for those that are not listed too.

        Raises:
            NotFound: No such program, or not for this visitor.
        """
        among = [spec.name for spec in self.programs(visitor)] if self._allowance_of(visitor) else None
        return self._programs.get(name, among)

    def _allowance_of(self, visitor: Visitor) -> Allowance | None:
        """What bounds the visitor's choice; None for the owner, and where everybody may use everything."""
        return None if visitor.role == "owner" else self._allowance

    def predict(self, body: PredictBody, visitor: Visitor = GUEST) -> TurnRequest:
        """The request of a body of our own routes.

        Raises:
            NotFound: No such program.
        """
        name = body.program
        spec = self.programs(visitor)[0] if name is None else self.program(name, visitor)
        earlier = body.messages if body.messages is not None else body.history or []
        chat = joined(Message(message.role, message.content) for message in earlier)
        inputs: Mapping[str, Any]
        if body.messages is not None:
            inputs, chat = {spec.chat_field: chat[-1].text}, chat[:-1]
        else:
            inputs = {spec.chat_field: body.text} if body.inputs is None else body.inputs
        changes = {name: getattr(body, name) for name in OVERRIDES}
        return self.request(spec, inputs, chat, changes, visitor, session_id=body.session_id or "")

    def chat(
        self, spec: ProgramSpec, chat: Iterable[Message], changes: Mapping[str, Any], visitor: Visitor = GUEST
    ) -> TurnRequest:
        """The request of a whole chat whose last message is the question, the user's."""
        messages = joined(chat)
        return self.request(spec, {spec.chat_field: messages[-1].text}, messages[:-1], changes, visitor)

    def request(
        self,
        spec: ProgramSpec,
        inputs: Mapping[str, Any],
        history: tuple[Message, ...],
        changes: Mapping[str, Any],
        visitor: Visitor = GUEST,
        *,
        session_id: str = "",
    ) -> TurnRequest:
        """A turn of a program with the owner's model, changed by what is not None in `changes`.

        A bound of the owner's stays one: `max_tokens` can only lower it.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        owners = self._default_lm()
        if allowance := self._allowance_of(visitor):
            owners = allowance.choice(owners)
        if owners.max_tokens is not None and "max_tokens" in given:
            given["max_tokens"] = min(owners.max_tokens, given["max_tokens"])
        lm = dataclasses.replace(owners, **given)
        return TurnRequest(LocalTarget(spec.name, lm), inputs, history, session_id, visitor=visitor)


def visitor_of(request: Request) -> Visitor:
    """Who asks, as the guard around the app found it; there is none around a model server."""
    visitor = getattr(request.state, "visitor", None)
    return visitor if isinstance(visitor, Visitor) else GUEST


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same chat with neighbours of one role made one, since a history takes turns."""
    return tuple(
        Message(role, "\n\n".join(message.text for message in group))
        for role, group in itertools.groupby(messages, key=lambda message: message.role)
    )
