"""Draws a `TurnView` as Gradio's messages: dicts that go over the wire as they are.

Handlers give them to the chatbot with ``postprocess=False``: Gradio's own walk over the history
costs more with every message, and it would strip the leading spaces of code (gradio 6.31).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, assert_never

from dspy_demo.ui.chat.footer import footer_html
from dspy_demo.ui.chat.markdown_safety import as_html, as_label, as_markdown, as_typed
from dspy_demo.ui.chat.titles import in_words, thought_titles
from dspy_demo.ui.chat.turn_view import Answer, StatusLine, TurnView
from dspy_demo.ui.chat.values import as_json, is_structure, plain_text

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
    return [*drawn, *_cut_off(view), *_failure(view), _message("assistant", footer_html(view))]


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
                ids={"id": own_id},
                pending=busy,
                unfolded=thought.open and not busy,
                duration=None if busy else thought.duration_s,
                log=_tool_count(lines) if not busy else "",
            )
        )
        drawn += [_status(line, parent_id=own_id) for line in lines]
    return drawn


def _status(line: StatusLine, *, parent_id: str = "") -> WireMessage:
    title, rest = _one_line(line.text)
    if line.state == "info" or not (parent_id or rest or line.state == "pending"):
        # A thought would have a sign to unfold it, and nothing inside.
        return _message("assistant", f'<div class="turn-status">{as_html(line.text)}</div>')
    return _thought(
        as_label(title),
        as_typed(rest),
        pending=line.state == "pending",
        duration=line.duration_s,
        log="failed" if line.state == "failed" else "",
        ids={"parent_id": parent_id} if parent_id else {},
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


def _cut_off(view: TurnView) -> list[WireMessage]:
    """Why a reply has no end, and what to do; the turn itself went well."""
    match view.finish_reason:
        case "stop":
            return []
        case "content_filter":
            text = "The provider's filter cut this reply. Ask in other words, or choose another model."
        case "length" if view.guest:
            text = "The reply was cut at the token limit for guests. Ask for a shorter answer."
        case "length" if view.backend == "served":
            text = "The reply was cut at this version's limit. Ask for less, or log it with a higher limit."
        case "length":
            text = "The reply was cut at the token limit. Raise Max tokens under Options, then retry."
        case _ as never:
            assert_never(never)
    return [_message("assistant", f'<div class="turn-error cut" role="status">{as_html(text)}</div>')]


def _failure(view: TurnView) -> list[WireMessage]:
    """What went wrong; the sentence itself says what to do."""
    if view.failure is None:
        return []
    # A field's name stands between backticks, in sentences that API clients read too.
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", as_html(view.failure.public_message))
    error_id = view.failure.error_id
    small = f'<div class="turn-error-note">Error {as_html(error_id)}</div>' if error_id else ""
    return [_message("assistant", f'<div class="turn-error" role="alert"><div>{text}</div>{small}</div>')]


def _thought(
    title: str,
    text: str,
    *,
    pending: bool = False,
    unfolded: bool = False,
    duration: float | None = None,
    log: str = "",
    ids: Mapping[str, str] = MappingProxyType({}),
) -> WireMessage:
    """A part that can be folded: Gradio shows it unfolded unless it is "done", with a wheel if "pending"."""
    status = "pending" if pending else None if unfolded else "done"
    metadata: dict[str, Any] = {"title": title, "status": status, **ids}
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


def _one_line(text: str) -> tuple[str, str]:
    """A title of one line, and the whole text where it does not fit into that."""
    line = " ".join(text.split())
    if len(line) <= TITLE_MAX_CHARS:
        return line, ""
    return line[: TITLE_MAX_CHARS - 1] + "…", text
