"""Draws a `TurnView` as Gradio's messages: dicts that go over the wire as they are.

Handlers give them to the chatbot with ``postprocess=False``: Gradio's own walk over the history
costs more with every message, and it would strip the leading spaces of code (gradio 6.31).
"""

from __future__ import annotations

from typing import Any

from dspy_demo.ui.footer import footer_html
from dspy_demo.ui.markdown_safety import as_html, as_label, as_markdown, as_typed
from dspy_demo.ui.titles import in_words, thought_titles
from dspy_demo.ui.turn_view import Answer, StatusLine, TurnView
from dspy_demo.ui.values import as_json, is_structure, plain_text

WireMessage = dict[str, Any]


def turn_id_at(chat: list[WireMessage], index: Any) -> str:
    """The id of the turn that a message of the page belongs to: the question before it bears it.

    Args:
        chat: The messages as the page sends them; the texts may be left out.
        index: The message's place among them, as Gradio's events tell it. Both may be anything.
    """
    position = index[0] if isinstance(index, list | tuple) and index else index
    before = chat[: position + 1] if isinstance(position, int) else []
    asked = next((message for message in reversed(before) if message.get("role") == "user"), {})
    return str((asked.get("metadata") or {}).get("id", ""))


#: Longest title of a status line; the whole text is inside it.
TITLE_MAX_CHARS = 160
#: Stands before the answer, unseen. The page's copy button takes what lies between it and the footer.
ANSWER_MARK = "<!--answer-->\n\n"


def messages(view: TurnView) -> list[WireMessage]:
    """The turn as messages: the question, thoughts with their tools, the answer, the footer."""
    drawn = [
        _message("user", as_typed(view.user), {"id": view.turn_id}),
        *_inputs(view),
        *_work(view),
        *_answer(view),
    ]
    if view.running:
        if len(drawn) == 1 + bool(view.inputs):
            drawn.append(_thought("Thinking", "", pending=True))
        return drawn
    return [*drawn, *_failure(view), _message("assistant", footer_html(view))]


def _inputs(view: TurnView) -> list[WireMessage]:
    if not view.inputs:
        return []
    pairs = "".join(
        f"<span>{as_html(label)}: <b>{as_html(plain_text(value)[:TITLE_MAX_CHARS])}</b></span>"
        for label, value in view.inputs
    )
    return [_message("assistant", f'<div class="turn-inputs">{pairs}</div>')]


def _work(view: TurnView) -> list[WireMessage]:
    """Thoughts and status lines in the order in which they came."""
    drawn: list[WireMessage] = []
    titles = thought_titles(view.thoughts)
    for kind, index in ((entry[0], int(entry[1:])) for entry in view.order):
        if kind == "s":
            drawn.append(_status(view.lines[index]))
            continue
        thought, own_id = view.thoughts[index], f"{view.turn_id}-{index}"
        lines = [line for line in view.lines if line.thought == index]
        busy = view.running and (thought.open or any(line.state == "pending" for line in lines))
        drawn.append(
            _thought(
                as_label(titles[index]),
                as_markdown(thought.text),
                id=own_id,
                pending=busy,
                duration=None if busy else thought.duration_s,
                log=_tool_count(lines) if not busy else "",
            )
        )
        drawn += [_status(line, parent_id=own_id) for line in lines]
    return drawn


def _status(line: StatusLine, *, parent_id: str = "") -> WireMessage:
    if not line.key and line.state == "info":
        return _message("assistant", f'<div class="turn-status">{as_html(line.text)}</div>')
    title, rest = _cut(line.text)
    details = {"parent_id": parent_id} if parent_id else {}
    return _thought(
        as_label(title),
        as_typed(rest),
        pending=line.state == "pending",
        duration=line.duration_s,
        log="failed" if line.state == "failed" else "",
        **details,
    )


def _answer(view: TurnView) -> list[WireMessage]:
    if not any(plain_text(answer.value) for answer in view.answers):
        return []
    labelled = len(view.answers) > 1 or len(view.expected) > 1
    parts = [_field(answer, labelled=labelled, final=not view.running) for answer in view.answers]
    return [_message("assistant", ANSWER_MARK + "\n\n".join(parts))]


def _field(answer: Answer, *, labelled: bool, final: bool) -> str:
    if final and is_structure(answer.value):
        text = f"```json\n{as_json(answer.value)}\n```"
    else:
        text = as_markdown(plain_text(answer.value))
    if not labelled:
        return text
    return f"**{as_label(in_words(answer.field))}**\n\n{text}"


def _failure(view: TurnView) -> list[WireMessage]:
    if view.failure is None:
        return []
    hint = "Retry below, or change the model." if view.failure.retryable else ""
    if view.failure.retryable and view.failure.retry_after_s:
        hint = f"Retry in about {view.failure.retry_after_s:.0f} s."
    error_id = f"Error {view.failure.error_id}" if view.failure.error_id else ""
    notes = " · ".join(as_html(note) for note in (hint, error_id) if note)
    small = f'<div class="turn-error-note">{notes}</div>' if notes else ""
    text = as_html(view.failure.public_message)
    return [_message("assistant", f'<div class="turn-error" role="alert"><div>{text}</div>{small}</div>')]


def _thought(
    title: str,
    text: str,
    *,
    pending: bool = False,
    duration: float | None = None,
    log: str = "",
    **ids: str,
) -> WireMessage:
    metadata: dict[str, Any] = {"title": title, "status": "pending" if pending else "done", **ids}
    if duration is not None:
        metadata["duration"] = round(duration, 1) or 0.1
    if log:
        metadata["log"] = log
    return _message("assistant", text, metadata)


def _message(role: str, text: str, metadata: dict[str, Any] | None = None) -> WireMessage:
    return {
        "role": role,
        "metadata": metadata,
        "content": [{"type": "text", "text": text}],
        "options": None,
    }


def _tool_count(lines: list[StatusLine]) -> str:
    count = len(lines)
    return "" if not count else f"{count} tool call" + ("s" if count > 1 else "")


def _cut(text: str) -> tuple[str, str]:
    """A title of one line, and the whole text where it does not fit into that."""
    line = " ".join(text.split())
    if len(line) <= TITLE_MAX_CHARS:
        return line, ""
    return line[: TITLE_MAX_CHARS - 1] + "…", text
