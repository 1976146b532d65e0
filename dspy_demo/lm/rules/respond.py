"""From the messages of a request to the text of the reply: read the task, answer, fill, write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dspy_demo.lm.rules.agent import is_agent_step, next_step, with_observations
from dspy_demo.lm.rules.answer import answer
from dspy_demo.lm.rules.fields import fill_fields
from dspy_demo.lm.rules.prompt import Role, question_of, read_task
from dspy_demo.lm.rules.render import render_outputs


def respond(system: str, messages: Sequence[tuple[Role, str]], *, now: datetime) -> str:
    """The reply to a request.

    Args:
        system: The system prompt, empty where there is none.
        messages: Role (``user`` or ``assistant``) and text, oldest first.
        now: The time for "today" and "now".
    """
    task = read_task(system, messages)
    reply = answer(question_of(task.inputs), task.earlier, now=now)
    if task.format == "plain":
        return reply.sentence
    if is_agent_step(task):
        return render_outputs(task.format, next_step(task, reply))
    return render_outputs(task.format, fill_fields(task, with_observations(task, reply)))
