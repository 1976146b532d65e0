"""The app as the outside meets it: what stands around its routes and pages, outermost first."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from dspy_demo.events import TURN_ID_HEADER
from dspy_demo.web.auth import Gate
from dspy_demo.web.headers import ResponseHeaders
from dspy_demo.web.middleware import Guard

#: Who may show the page in a frame where the owner lets others embed it.
ANYBODY_BY_HTTPS = ("https:",)


def guarded(app: ASGIApp, gate: Gate, *, body_max_bytes: int, head: str = "") -> ASGIApp:
    """`app` behind the guard, with every header that protects a visitor.

    Args:
        body_max_bytes: Longest body of a request.
        head: The HTML that Gradio adds to the page's head from a script.
    """
    settings = gate.settings
    inside: ASGIApp = Guard(app, gate, body_max_bytes=body_max_bytes)
    if settings.cors_origins:
        inside = CORSMiddleware(
            inside,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            # OpenAI's SDK sends a dozen headers of its own (x-stainless-*), other clients others. It is the
            # origin that the owner trusts, and no cookie goes along.
            allow_headers=["*"],
            expose_headers=["Retry-After", "x-should-retry", TURN_ID_HEADER],
            allow_private_network=True,  # a site on the internet that calls an app on this machine
        )
    return ResponseHeaders(inside, head=head, frame_ancestors=ANYBODY_BY_HTTPS if settings.embed else ())
