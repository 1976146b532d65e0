"""Draws a `TurnView` as Gradio's messages, which go over the wire as they are (``postprocess=False``):

Gradio's own walk over the history costs more with every message, and strips the leading spaces of code.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dspy_demo.programs.spec import REASONING_FIELDS
from dspy_demo.ui.chat.text import as_html, as_json, as_label, as_markdown, as_typed, in_words, plain_text
from dspy_demo.ui.chat.turn_view import StatusLine, Thought, TurnView
from dspy_demo.ui.components import title_of

WireMessage = dict[str, Any]

#: Longest title of a status line; the whole text is inside it.
TITLE_MAX_CHARS = 160
#: Stands before the answer, unseen. The page's copy button takes what lies between it and the footer.
ANSWER_MARK = "<!--answer-->\n\n"
#: Names that say nothing to a reader: attributes of `dspy.ChainOfThought`, `dspy.ReAct` and the like.
_PLUMBING = frozenset({"", "self", "predict", "react", "program", "module", "prog", "cot"})
_REASONING = "Reasoning"
_CUT = {
    "length": "The reply was cut at the token limit. Ask for a shorter answer, or raise the limit.",
    "content_filter": "The provider's filter cut this reply. Ask in other words, or choose another model.",
}


def messages(view: TurnView) -> list[WireMessage]:
    """The turn as messages: the question, thoughts with their tools, the answer, the footer."""
    drawn = [_message(as_typed(view.user), "user", id=view.turn_id)]
    if view.inputs:
        given = ((as_html(in_words(name)), as_html(_input(value))) for name, value in view.inputs.items())
        shown = "".join(f"<span>{label}: <b>{value}</b></span>" for label, value in given)
        drawn.append(_message(f'<div class="turn-inputs">{shown}</div>'))
    drawn += [*_work(view), *_answer(view)]
    if not view.running:
        return [*drawn, *_trouble(view), footer(view)]
    if not view.work and not view.answers:
        drawn.append(_message("", title="Thinking", status="pending"))
    return drawn


def turn_id_at(chat: list[WireMessage], index: Any) -> str:
    """The id of the turn of a message of the page: the question before it bears it. Both may be anything."""
    position = index[0] if isinstance(index, list | tuple) and index else index
    before = chat[: position + 1] if isinstance(position, int) else []
    asked = next((message for message in reversed(before) if message.get("role") == "user"), {})
    return str((asked.get("metadata") or {}).get("id", ""))


def _input(value: Any) -> str:
    text = plain_text(value)
    if text.startswith("data:image/"):
        return f"a picture of {len(text) * 3 // 4 // 1024 + 1} kB"
    return text[:TITLE_MAX_CHARS]


def _work(view: TurnView) -> Iterator[WireMessage]:
    """Thoughts with their tool calls, and other status lines, in the order in which they came."""
    titles: Counter[str] = Counter()
    for index, part in enumerate(view.work):
        if isinstance(part, StatusLine):
            if part.thought is None:
                yield _status(part)
            continue
        own_id, calls = f"{view.turn_id}-{index}", [line for line in view.lines if line.thought == index]
        titles[title := _title(part)] += 1
        title = as_label(f"{title} {titles[title]}".removesuffix(" 1"))
        yield _thought(view, part, calls, title=title, id=own_id)
        yield from (_status(line, parent_id=own_id) for line in calls)


def _thought(view: TurnView, thought: Thought, calls: list[StatusLine], **fold: str) -> WireMessage:
    """A part that can be folded: "done" is folded, "pending" unfolded with a wheel, else unfolded."""
    text, took_s = as_markdown(thought.text), thought.duration_s
    if view.running and (thought.state == "pending" or any(call.state == "pending" for call in calls)):
        return _message(text, duration=None, status="pending", **fold)
    if took_s is not None and _title(thought) == _REASONING:
        fold["title"], took_s = f"Thought for {_seconds(took_s)}", None
    fold["status"] = "done" if thought.state == "done" else ""
    fold["log"] = f"{len(calls)} tool call{'s' * (len(calls) > 1)}" if calls else ""
    return _message(text, duration=took_s, **fold)


def _title(thought: Thought) -> str:
    path = thought.step.split("#")[0].split(".")
    step = next((part for part in reversed(path) if part not in _PLUMBING), "")
    label = "Conclusion" if step == "extract" else in_words(step)
    if thought.field in REASONING_FIELDS:
        return label or _REASONING
    return in_words(f"{label} {thought.field}".strip())


def _status(line: StatusLine, *, parent_id: str = "") -> WireMessage:
    text = " ".join(line.text.split())
    long = len(text) > TITLE_MAX_CHARS
    if line.state == "info" or not (parent_id or long or line.state == "pending"):
        # A thought would have a sign to unfold it, and nothing inside.
        return _message(f'<div class="turn-status">{as_html(line.text)}</div>')
    return _message(
        as_typed(line.text) if long else "",
        title=as_label(f"{text[: TITLE_MAX_CHARS - 1]}…" if long else text),
        status="pending" if line.state == "pending" else "done",
        duration=line.duration_s,
        log="failed" if line.state == "failed" else "",
        parent_id=parent_id,
    )


def _answer(view: TurnView) -> Iterator[WireMessage]:
    parts, labelled = [], len(view.answers) > 1 or len(view.expected) > 1
    for name, value in view.answers.items():
        as_code = isinstance(value, dict | list | tuple)
        text = f"```json\n{as_json(value)}\n```" if as_code else as_markdown(plain_text(value))
        parts.append(f"**{as_label(in_words(name))}**\n\n{text}" if labelled else text)
    if any(map(plain_text, view.answers.values())):
        yield _message(ANSWER_MARK + "\n\n".join(parts))


def _trouble(view: TurnView) -> Iterator[WireMessage]:
    """Why the reply was cut, though the turn went well; or what went wrong. The sentence says what to do."""
    if view.finish_reason != "stop":
        text = as_html(_CUT[view.finish_reason])
        yield _message(f'<div class="turn-error cut" role="status">{text}</div>')
    if view.failure is not None:
        # A field's name stands between backticks, in sentences that API clients read too.
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", as_html(view.failure.public_message))
        small = f'<div class="turn-error-note">Error {as_html(view.failure.error_id)}</div>'
        yield _message(f'<div class="turn-error" role="alert"><div>{text}</div>{small}</div>')


def footer(view: TurnView, trace_url: str = "") -> WireMessage:
    """The last message of a turn that has ended: who answered, and what is known of size, time and price."""
    usage, first_s, cost = view.usage, view.first_delta_s, view.usage.cost_usd
    parts = [
        view.backend.capitalize(),
        title_of(view.model),
        f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out" if usage.total_tokens else "",
        f"first token {_seconds(first_s)}" if first_s is not None else "",
        f"total {_seconds(view.elapsed_s)}",
        f"${cost:,.{2 if cost >= 0.01 else 5}f}" if cost else "",
        "cached" if usage.cached else "",
    ]
    drawn = "".join(f"<span>{as_html(part)}</span>" for part in parts if part)
    stopped = '<span class="turn-stopped">Stopped</span>' if view.state == "stopped" else ""
    where = f'href="{as_html(trace_url)}" target="_blank" rel="noopener noreferrer"'
    trace = f"<span><a {where}>trace</a></span>" if trace_url else ""
    return _message(f'<div class="turn-footer">{stopped}{drawn}{trace}</div>')


def _seconds(value: float) -> str:
    """A number and its unit, which stay together where the line breaks."""
    return f"{value:,.{2 if value < 1 else 1}f}\N{NO-BREAK SPACE}s"


def _message(
    text: str, role: str = "assistant", *, duration: float | None = None, **fold: str
) -> WireMessage:
    """A message; where it has a title, it can be folded. HTML in it is ours, with every value escaped."""
    metadata: dict[str, Any] = {key: value for key, value in fold.items() if value}
    if duration is not None:
        metadata["duration"] = round(duration, 1) or 0.1
    content = [{"type": "text", "text": text}]
    return {"role": role, "metadata": metadata or None, "content": content, "options": None}
