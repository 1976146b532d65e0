"""The public link: opening it, its QR code, closing it. Only the owner's page has this section."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gradio as gr
from markupsafe import Markup

from dspy_demo.share.tunnel import ShareState, Tunnel
from dspy_demo.ui.components import (
    Update,
    action_html,
    clicked,
    if_new,
    owner_only,
    sentence_of,
    skip,
    template,
    visitor_of,
)

#: Seconds between two looks: while something is under way, while the link is open, and else, since it may be
#: opened in another window or by ``--share``.
LOOK_S = {"opening": 0.5, "closing": 0.5, "open": 2.0, "off": 5.0, "failed": 5.0}
STATUS = {
    "off": "Not shared.",
    "opening": "The public link is being opened.",
    "open": "The public link is open.",
    "closing": "The public link is being closed.",
    "failed": "The public link could not be opened.",
}


class ShareSection:
    """The state of the tunnel, with its buttons; a dialog that the header opens.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, tunnel: Tunnel, clock: Callable[[], float] = time.time) -> None:
        self._tunnel = tunnel
        self._clock = clock

    def draw(self) -> None:
        with gr.Column(elem_id="share-dialog"):
            self.panel = action_html(share_html(ShareState(), 0.0), elem_id="share")
        self.timer = gr.Timer(LOOK_S["off"])

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        outputs = {self.panel, self.timer}
        gr.on([demo.load, self.timer.tick], self.look, self.panel, outputs, **now)
        self.panel.click(self.act, None, outputs, **now)

    async def look(self, shown: str, request: gr.Request) -> Update:
        """A tick of the timer, or a page that has just loaded."""
        if visitor_of(request).role != "owner":
            return skip()
        return if_new(self._drawn(), self.panel, shown)

    async def act(self, event: gr.EventData, request: gr.Request) -> Update:
        """One of the buttons."""
        try:
            owner_only(request)
            match clicked(event):
                case "share":
                    self._tunnel.begin()
                case "stop" | "dismiss":
                    await self._tunnel.close()
            return self._drawn()
        except Exception as error:
            return {self.panel: share_html(ShareState(), self._clock(), sentence_of(error))}

    def _drawn(self) -> Update:
        state = self._tunnel.state()
        return {self.panel: share_html(state, self._clock()), self.timer: gr.Timer(LOOK_S[state.phase])}


def share_html(state: ShareState, now: float, trouble: str = "") -> str:
    """The section in a state.

    Args:
        trouble: Why the last click did not work.
    """
    left, until = lifetime(state.expires_at, now) if state.expires_at is not None else ("", "")
    status = STATUS[state.phase]
    return template(
        "share.html", state=state, trouble=trouble, left=left, until=until, status=status, qr=qr_svg
    )


def lifetime(expires_at: float, now: float) -> tuple[str, str]:
    """How long a link lasts and when it ends: ``6 days left``, ``until 2 December, 14:05``."""
    end = time.localtime(expires_at)
    until = f"until {end.tm_mday} {time.strftime('%B, %H:%M', end)}"
    left_s = max(0.0, expires_at - now)
    for unit, seconds in (("day", 86_400), ("hour", 3_600)):
        if left_s >= 1.5 * seconds:
            return f"{round(left_s / seconds)} {unit}s left", until
    minutes = max(1, round(left_s / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''} left", until


@lru_cache(maxsize=8)
def qr_svg(url: str) -> Markup:
    """The QR code as inline SVG; the stylesheet gives its colours and its size."""
    import segno

    svg: str = segno.make(url, error="m", micro=False).svg_inline(omitsize=True, border=4, svgclass="qr")
    return Markup(svg)  # noqa: S704  # segno's own drawing, with nothing of the URL's text in it
