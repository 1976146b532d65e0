"""From an HTTP request to a `TurnRequest`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request

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


class Asking:
    """Makes the turns that one HTTP request asks for, on the owner's model. A dependency of the routes.

    What it needs is in the state of the application: `service`, and `default_lm`, which is asked each time,
    since the owner may change the model.
    """

    def __init__(self, request: Request) -> None:
        state = request.app.state
        self.service: ChatService = state.service
        self.keep_alive_s: float = state.keep_alive_s
        self._default_lm: Callable[[], LMChoice] = state.default_lm
        #: As the middleware found it; nobody does so around a model server.
        self._visitor: Visitor = getattr(request.state, "visitor", None) or GUEST
        self._turn_id = request.headers.get(TURN_ID_HEADER, "")

    def programs(self) -> list[ProgramSpec]:
        """Those that the visitor may ask for; the first one is the default."""
        specs, allowance = self.service.programs.specs(), self.service.allowance
        if allowance is None or self._visitor.role == "owner":
            return specs
        return allowance.programs_of(specs)

    def program(self, name: str) -> ProgramSpec:
        """One of them, by name.

        Raises:
            NotFound: No such program, or not for this visitor.
        """
        return self.service.programs.get(name, [spec.name for spec in self.programs()])

    def turn(
        self,
        spec: ProgramSpec,
        inputs: Mapping[str, Any],
        *,
        history: Iterable[Message] = (),
        session_id: str = "",
        **changes: Any,
    ) -> TurnRequest:
        """A turn that can run, under the id that the request's headers give it, if they do.

        Args:
            changes: Of the owner's choice of model, where not None: temperature, max_tokens, cache. Not the
                model, its address or its key: that would spend the owner's credit elsewhere, and reach
                addresses that only the server can. `max_tokens` can only lower the owner's bound.

        Raises:
            DemoError: It cannot run; see `ChatService.check`. Or there is no model that can be used.
        """
        lm, allowance = self._default_lm(), self.service.allowance
        if allowance is not None and self._visitor.role == "guest":
            lm = allowance.choice(lm)
        given = {name: value for name, value in changes.items() if value is not None}
        if lm.max_tokens is not None and "max_tokens" in given:
            given["max_tokens"] = min(lm.max_tokens, given["max_tokens"])
        target = LocalTarget(spec.name, dataclasses.replace(lm, **given))
        turn = TurnRequest(target, inputs, joined(history), session_id, visitor=self._visitor)
        if is_turn_id(self._turn_id):
            turn = dataclasses.replace(turn, turn_id=self._turn_id)
        self.service.check(turn)
        return turn

    def chat(self, spec: ProgramSpec, messages: Iterable[Message], **more: Any) -> TurnRequest:
        """The turn of a whole chat whose last message is the question, the user's."""
        *history, question = joined(messages)
        return self.turn(spec, {spec.chat_field: question.text}, history=history, **more)


#: For the signature of a route.
Asked = Annotated[Asking, Depends(Asking)]


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same chat with neighbours of one role made one, since a history takes turns."""
    return tuple(
        Message(role, "\n\n".join(message.text for message in group))
        for role, group in itertools.groupby(messages, key=lambda message: message.role)
    )
