"""The small grey line under an answer: who answered, how much, how fast."""

from __future__ import annotations

from dspy_demo.ui.chat.markdown_safety import as_html
from dspy_demo.ui.chat.turn_view import TurnView
from dspy_demo.ui.version_rows import title_of

FOOTER_CLASS = "turn-footer"


def footer_html(view: TurnView) -> str:
    """The line as HTML of our own making: every value in it is escaped."""
    parts = [f"<span>{as_html(part)}</span>" for part in footer_parts(view)]
    if view.state == "stopped":
        parts.insert(0, '<span class="turn-stopped">Stopped</span>')
    if view.trace_url:
        url = as_html(view.trace_url)
        parts.append(f'<span><a href="{url}" target="_blank" rel="noopener noreferrer">trace</a></span>')
    return f'<div class="{FOOTER_CLASS}">{"".join(parts)}</div>'


def footer_parts(view: TurnView) -> list[str]:
    """The facts of the line in order; what is not known is left out."""
    usage = view.usage
    tokens = (
        f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out" if usage.total_tokens else ""
    )
    parts = [
        view.backend.capitalize(),
        title_of(view.model),
        tokens,
        f"first token {seconds(view.first_delta_s)}" if view.first_delta_s is not None else "",
        f"total {seconds(view.elapsed_s)}",
        money(usage.cost_usd) if usage.cost_usd else "",
        "cached" if usage.cached else "",
    ]
    return [part for part in parts if part]


def seconds(value: float) -> str:
    """A number and its unit, which stay together where the line breaks."""
    digits = 2 if value < 1 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}\N{NO-BREAK SPACE}s"


def money(usd: float) -> str:
    """A price with two digits that mean something, since most turns cost far less than a cent."""
    if usd >= 0.01:
        return f"${usd:,.2f}"
    return f"${usd:.5f}".rstrip("0") if usd >= 0.00001 else "under $0.00001"
