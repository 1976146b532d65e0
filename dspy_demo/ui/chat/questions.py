"""What the page asks: a turn from the values of its widgets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradio.components import Component

from dspy_demo.chat import ChatService
from dspy_demo.errors import DemoError, InvalidInput, NotFound
from dspy_demo.events import LocalTarget, ServedTarget, Status, TurnRequest
from dspy_demo.programs.images import check_images, image_chars, image_fields
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.ui.chat.conversation import Conversation
from dspy_demo.ui.chat.notices import RESTART_SERVER, SERVE_A_VERSION, USE_LOCAL, Action
from dspy_demo.ui.chat.tabs import Tab
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.layout import Page
from dspy_demo.ui.served_program import program_behind
from dspy_demo.ui.server_panel import NOT_SERVED, SERVED, served_choice
from dspy_demo.ui.workbench import Workbench

FORGOTTEN = "The chat is longer than the limit, so its earliest turns are not sent along."


@dataclass(frozen=True, slots=True)
class Questions:
    """Makes requests for the service."""

    service: ChatService
    page: Page
    workbench: Workbench | None = None

    def of(
        self,
        tab: Tab,
        conversation: Conversation,
        given: Mapping[Component, Any],
        text: str,
        form: Mapping[str, Any] | None,
    ) -> tuple[TurnRequest, TurnView]:
        """The turn of a question, and its view before the first event.

        Args:
            conversation: What it goes on from.
            given: The values of the page's widgets.
            form: The other inputs of a question that is asked again; else they are read from `given`.

        Raises:
            DemoError: It cannot be asked; the sentence says why.
        """
        if not text.strip():
            raise InvalidInput("Write a question first.")
        target, spec = self._target(given)
        drawn_form = self.page.form_for(spec)
        known = {field.name for field in spec.form_fields}
        values = dict(form) if form and set(form) <= known else drawn_form.values(given)
        inputs = {**values, spec.chat_field: text}
        guest = tab.visitor.role == "guest"
        check_images(spec, inputs, guest=guest)
        typed = sum(len(str(value)) for value in inputs.values()) - image_chars(inputs, image_fields(spec))
        room = self.service.input_max_chars(tab.visitor) - typed
        history = conversation.history(room) if spec.history_field else ()
        request = TurnRequest(target, inputs, history, tab.session_id, visitor=tab.visitor)
        self.service.check(request)
        view = TurnView.start(
            text,
            now_s=time.monotonic(),
            turn_id=request.turn_id,
            inputs=drawn_form.pairs(values),
            form=values,
            expected=spec.outputs,
            answer_field=spec.answer_field,
            guest=guest,
        )
        if spec.history_field and len(history) < 2 * conversation.answered():
            view = view.apply(Status(FORGOTTEN), time.monotonic())
        return request, view

    def _target(self, given: Mapping[Component, Any]) -> tuple[LocalTarget | ServedTarget, ProgramSpec]:
        """Where the turn runs, and which program answers there."""
        sidebar = self.page.sidebar
        if given[sidebar.backend] != SERVED:
            spec = self.service.programs.get(given[sidebar.program])
            return LocalTarget(spec.name, sidebar.choice(given)), spec
        if self.workbench is None:
            raise NotFound(NOT_SERVED)
        choice = served_choice(self.workbench.servers, given[sidebar.server.connected])
        return choice.target, program_behind(choice, self.service.programs)

    def ways_out(self, given: Mapping[Component, Any], error: DemoError) -> list[Action]:
        """The buttons that help where a served version was to answer and cannot."""
        if given.get(self.page.sidebar.backend) != SERVED or not isinstance(error, NotFound):
            return []
        phase = self.workbench.servers.state().phase if self.workbench else "none"
        if not self.page.owner or phase == "starting":
            return [USE_LOCAL]
        return [SERVE_A_VERSION if phase == "none" else RESTART_SERVER, USE_LOCAL]
