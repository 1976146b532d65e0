"""The public link as HTML: its state, the link with its QR code, its lifetime, and what there is to do."""

from __future__ import annotations

import html
import time
from functools import lru_cache

from dspy_demo.share.state import ShareState

ABOUT = "Whoever has the link can chat here, and nothing else."
INTERRUPTED = "The way to the share server is down. The link works again as soon as it is back."
ENDLESS = "It lasts until you stop it, or until this app ends."
LOG_LINES = 12


def share_html(state: ShareState, now: float, trouble: str = "") -> str:
    """The whole section below its heading.

    Args:
        now: Seconds since 1970.
        trouble: Why the last click did not work.
    """
    match state.phase:
        case "opening":
            line = _line("starting", "Opening", _button("stop", "Cancel"))
            step = state.step if state.step.endswith("%") else f"{state.step}…"
            parts = [line, f'<p class="quiet">{html.escape(step)}</p>']
        case "open":
            parts = _open(state, now)
        case "closing":
            parts = [_line("stopping", "Closing", "")]
        case "failed":
            actions = _button("share", "Try again") + _button("dismiss", "Dismiss")
            line = _line("failed", "Not shared", actions)
            parts = [line, _wrong(state.reason), _log(state.log_tail)]
        case _:
            parts = [f'{_button("share", "Share a public link")}<p class="quiet">{ABOUT}</p>']
    spoken = f'<span class="sr" role="status">{_SPOKEN[state.phase]}</span>'
    return f'<div class="server share">{"".join(parts)}{_wrong(trouble)}{spoken}</div>'


_SPOKEN = {
    "off": "Not shared.",
    "opening": "The public link is being opened.",
    "open": "The public link is open.",
    "closing": "The public link is being closed.",
    "failed": "The public link could not be opened.",
}


def lifetime(expires_at: float, now: float) -> tuple[str, str]:
    """When it ends and how long that is: ``until 2 December, 14:05``, ``6 days left``."""
    end = time.localtime(expires_at)
    until = f"until {end.tm_mday} {time.strftime('%B, %H:%M', end)}"
    left_s = max(0.0, expires_at - now)
    for unit, seconds in (("day", 86_400), ("hour", 3_600)):
        if left_s >= 1.5 * seconds:
            return until, f"{round(left_s / seconds)} {unit}s left"
    minutes = max(1, round(left_s / 60))
    return until, f"{minutes} minute{'s' if minutes > 1 else ''} left"


@lru_cache(maxsize=8)
def qr_svg(url: str) -> str:
    """The QR code as inline SVG without colours or a size of its own; the page's style gives them."""
    import segno

    return segno.make(url, error="m", micro=False).svg_inline(omitsize=True, border=4, svgclass="qr")


def _open(state: ShareState, now: float) -> list[str]:
    url = html.escape(state.url)
    about = ENDLESS
    if state.expires_at is not None:
        until, left = lifetime(state.expires_at, now)
        about = f"{left}<br>{until}"
    phase, word = ("starting", "Interrupted") if state.interrupted else ("ready", "Public")
    note = f'<p class="quiet">{INTERRUPTED}</p>' if state.interrupted else ""
    return [
        _line(phase, word, _button("stop", "Stop sharing")),
        f'<a class="share-link" href="{url}" target="_blank" rel="noopener">'
        f"{url.partition('://')[2].rstrip('/')}</a>",
        '<div class="share-card" data-show><span class="qr-tile" role="img" '
        f'aria-label="QR code of the public link">{qr_svg(state.url)}</span>'
        f'<div class="share-about"><p class="quiet">{about}</p>'
        f'<button type="button" class="b" data-copy="{url}">Copy link</button></div></div>',
        f'{note}<p class="quiet">{ABOUT}</p>',
    ]


def _line(phase: str, word: str, actions: str) -> str:
    return (
        f'<div class="s-line"><i class="dot {phase}"></i><b>{word}</b>'
        f'<span class="s-actions">{actions}</span></div>'
    )


def _button(do: str, label: str) -> str:
    return f'<button type="button" class="b" data-do="{do}">{label}</button>'


def _wrong(text: str) -> str:
    return f'<p class="wrong" role="alert">{html.escape(text)}</p>' if text else ""


def _log(text: str) -> str:
    if not text.strip():
        return ""
    tail = html.escape("\n".join(text.splitlines()[-LOG_LINES:]))
    return (
        '<details class="s-log" data-key="share-log"><summary>Log</summary>'
        f'<pre tabindex="0">{tail}</pre></details>'
    )
