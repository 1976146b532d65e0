"""What the page asks: a turn from the values of its widgets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import InvalidInput
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest
from dspy_demo.programs.inputs import check_images, image_chars, image_fields
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.forms import Forms, pairs
from dspy_demo.ui.chat.notices import Action, Update
from dspy_demo.ui.chat.session import Session
from dspy_demo.ui.chat.turn_view import TurnView

Target = LocalTarget | ServedTarget
Given = Mapping[Component, Any]
Form = Mapping[str, Any] | None

FORGOTTEN = "The chat is longer than the limit, so its earliest turns are not sent along."


class Picks(Protocol):
    """What is picked beside the chat: the model, the program, where turns run.

    `given` are the values of `inputs`.
    """

    @property
    def inputs(self) -> set[Component]: ...

    @property
    def changes(self) -> list[Any]:
        """Events after which another program may answer."""

    def answering(self, given: Given) -> ProgramSpec:
        """The program that would answer."""

    def target(self, given: Given) -> tuple[Target, ProgramSpec]:
        """Where the turn runs, and the program that answers there.

        Raises:
            DemoError: Nothing can be asked there; the sentence says why.
        """

    def ways_out(self, given: Given, error: Exception) -> list[Action]:
        """The buttons that help where `target` raised `error`."""

    def use_local(self) -> Update:
        """Let turns run in this process."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Makes requests for the service."""

    service: ChatService
    picks: Picks
    forms: Forms

    def ask(
        self, session: Session, conversation: Conversation, given: Given, *, text: str, form: Form
    ) -> tuple[TurnRequest, TurnView]:
        """The turn of a question that goes on from `conversation`, and its view before the first event.

        Args:
            form: The other inputs of a question that is asked again; else they are read from `given`.

        Raises:
            DemoError: It cannot be asked; the sentence says why.
        """
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self.picks.target(given)
        known = form is not None and set(form) <= {field.name for field in spec.form_fields}
        values = dict(form) if form and known else self.forms.values(spec, given)
        inputs = {**values, spec.chat_field: text}
        guest = session.visitor.role == "guest"
        check_images(spec, inputs, guest=guest)
        typed = sum(len(str(value)) for value in inputs.values()) - image_chars(inputs, image_fields(spec))
        room = self.service.input_max_chars(session.visitor) - typed
        history = conversation.history(room) if spec.history_field else ()
        request = TurnRequest(target, inputs, history, session.session_id, visitor=session.visitor)
        self.service.check(request)
        view = TurnView.start(
            text,
            now_s=time.monotonic(),
            turn_id=request.turn_id,
            inputs=pairs(spec, values),
            form=values,
            expected=spec.outputs,
            answer_field=spec.answer_field,
            guest=guest,
        )
        if spec.history_field and len(history) < 2 * conversation.answered():
            view = view.apply(Status(FORGOTTEN), time.monotonic())
        return request, view
