"""From an HTTP request to a `TurnRequest`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import Request

from dspy_demo.chat import ChatService
from dspy_demo.events import (
    GUEST,
    TURN_ID_HEADER,
    LMChoice,
    LocalTarget,
    Message,
    TurnRequest,
    Visitor,
    is_turn_id,
)
from dspy_demo.programs.spec import ProgramSpec


class TurnMaker:
    """Makes the turns of one service, on the owner's model.

    Args:
        default_lm: The model of a turn, asked each time, since the owner may change it. It may raise
            `errors.ModelSetupError`.
    """

    def __init__(self, service: ChatService, default_lm: Callable[[], LMChoice]) -> None:
        self.service = service
        self._default_lm = default_lm

    def programs(self, request: Request) -> list[ProgramSpec]:
        """Those that the visitor may ask for; the first one is the default."""
        specs, allowance = self.service.programs.specs(), self.service.allowance
        if allowance is None or visitor_of(request).role == "owner":
            return specs
        return allowance.programs_of(specs)

    def program(self, name: str, request: Request) -> ProgramSpec:
        """One of them, by name.

        Raises:
            NotFound: No such program, or not for this visitor.
        """
        among = [spec.name for spec in self.programs(request)]
        return self.service.programs.get(name, among)

    def turn(
        self,
        request: Request,
        spec: ProgramSpec,
        inputs: Mapping[str, Any],
        *,
        history: Iterable[Message] = (),
        changes: Mapping[str, Any] | None = None,
        session_id: str = "",
    ) -> TurnRequest:
        """A turn that can run, under the id that the request's headers give it, if they do.

        Args:
            changes: Of the owner's choice of model, where not None: temperature, max_tokens, cache. Not the
                model, its address or its key: that would spend the owner's credit elsewhere, and reach
                addresses that only the server can. `max_tokens` can only lower the owner's bound.

        Raises:
            DemoError: It cannot run; see `ChatService.check`.
        """
        visitor, allowance = visitor_of(request), self.service.allowance
        lm = self._default_lm()
        if allowance is not None and visitor.role == "guest":
            lm = allowance.choice(lm)
        given = {name: value for name, value in (changes or {}).items() if value is not None}
        if lm.max_tokens is not None and "max_tokens" in given:
            given["max_tokens"] = min(lm.max_tokens, given["max_tokens"])
        target = LocalTarget(spec.name, dataclasses.replace(lm, **given))
        turn = TurnRequest(target, inputs, joined(history), session_id, visitor=visitor)
        turn_id = request.headers.get(TURN_ID_HEADER, "")
        if is_turn_id(turn_id):
            turn = dataclasses.replace(turn, turn_id=turn_id)
        self.service.check(turn)
        return turn

    def chat(
        self, request: Request, spec: ProgramSpec, messages: Iterable[Message], **changes: Any
    ) -> TurnRequest:
        """The turn of a whole chat whose last message is the question, the user's."""
        *history, question = joined(messages)
        inputs = {spec.chat_field: question.text}
        return self.turn(request, spec, inputs, history=history, changes=changes)


def visitor_of(request: Request) -> Visitor:
    """Who asks, as the middleware around the app found it; there are only guests around a model server."""
    visitor = getattr(request.state, "visitor", None)
    return visitor if isinstance(visitor, Visitor) else GUEST


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same chat with neighbours of one role made one, since a history takes turns."""
    return tuple(
        Message(role, "\n\n".join(message.text for message in group))
        for role, group in itertools.groupby(messages, key=lambda message: message.role)
    )
