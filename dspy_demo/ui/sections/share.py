"""The public link: opening it, its QR code, closing it. Only the owner's page has this section."""

import time
from typing import Any

import gradio as gr
from markupsafe import Markup

from dspy_demo.share.tunnel import ShareState, Tunnel
from dspy_demo.ui.components import Update, action_html, clicked, if_new, is_owner, skip, template


class ShareSection:
    """The state of the tunnel, with its buttons; a dialog that the header opens."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def draw(self) -> None:
        with gr.Column(elem_id="share-dialog"):
            script = "element.closest('#share-dialog').popover = 'auto';"
            self.panel = action_html(share_html(ShareState()), script=script, elem_id="share")
        self._timer = gr.Timer(2.0)  # also while nothing is shared: another window may open the link

    def wire(self, demo: gr.Blocks, now: dict[str, Any]) -> None:
        gr.on([demo.load, self._timer.tick], self.look, self.panel, {self.panel}, **now)
        self.panel.click(self.act, None, {self.panel}, **now)

    async def look(self, shown: str, request: gr.Request) -> Update:
        return if_new(self._drawn(), self.panel, shown) if is_owner(request) else skip()

    async def act(self, event: gr.EventData, request: gr.Request) -> Update:
        if not is_owner(request):
            return skip()
        match clicked(event):
            case "share":
                self._tunnel.begin()
            case "stop" | "dismiss":
                await self._tunnel.close()
        return self._drawn()

    def _drawn(self) -> Update:
        return {self.panel: share_html(self._tunnel.state())}


def share_html(state: ShareState) -> str:
    import segno

    def qr(url: str) -> Markup:
        svg: str = segno.make(url, error="m", micro=False).svg_inline(omitsize=True, border=4, svgclass="qr")
        return Markup(svg)  # noqa: S704  # segno's own drawing, with nothing of the URL's text in it

    until = time.strftime("%d %B, %H:%M", time.localtime(state.expires_at)) if state.expires_at else ""
    return template("share.html", state=state, until=until, qr=qr)
