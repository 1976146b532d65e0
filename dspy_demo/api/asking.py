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
    """Makes the turns that one HTTP request asks for, on the owner's model. A dependency of the routes."""

    def __init__(self, request: Request) -> None:
        state = request.app.state  # see `routes.build_api`
        self.service: ChatService = state.service
        self.keep_alive_s: float = state.keep_alive_s
        self._default_lm: Callable[[], LMChoice] = state.default_lm
        #: As the middleware found it; around a model server there is none.
        self._visitor: Visitor = getattr(request.state, "visitor", None) or GUEST
        self._allowance = None if self._visitor.role == "owner" else self.service.allowance
        self._turn_id = request.headers.get(TURN_ID_HEADER, "")

    def programs(self) -> list[ProgramSpec]:
        """Those that the visitor may ask for; the first one is the default."""
        specs = self.service.programs.specs()
        return self._allowance.programs_of(specs) if self._allowance else specs

    def program(self, name: str) -> ProgramSpec:
        """One of them; `NotFound` for another name."""
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
        """A turn that can run, under the id of the request's header, where it has one.

        Args:
            changes: temperature, max_tokens and cache, None for the owner's choice; `max_tokens` can only
                lower the owner's bound. Model, address and key cannot be changed: that would spend the
                owner's credit elsewhere, and reach addresses that only the server can.

        Raises:
            DemoError: It cannot run; see `ChatService.check`.
        """
        lm = self._default_lm()
        if self._allowance:
            lm = self._allowance.choice(lm)
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
    groups = itertools.groupby(messages, key=lambda message: message.role)
    return tuple(Message(role, "\n\n".join(one.text for one in group)) for role, group in groups)
