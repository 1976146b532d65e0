"""Visitors for tests, and the requests they come with."""

import gradio as gr
from starlette.requests import Request

from dspy_demo.events import Visitor

OWNER = Visitor("owner", "an-owner")
STRANGER = Visitor("guest", "a-guest")


def request_of(visitor, session_hash="tab"):
    """An event's request as it arrives behind the guard."""
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    return gr.Request(Request(scope | {"state": {"visitor": visitor}}), session_hash=session_hash)
