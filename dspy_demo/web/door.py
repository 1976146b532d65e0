"""What is answered before the page: the password, the owner's link, refusals. They load nothing."""

from __future__ import annotations

import html
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

from dspy_demo.errors import DemoError, Unauthorized

WRONG = "This is not the password. Ask the person who shared the link."

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>DSPy demo</title>
<style>
:root {{ color-scheme: light dark; --accent: light-dark(#0f766e, #2dd4bf); /* as in ui/theme.py */
  --line: color-mix(in srgb, currentColor 25%, transparent); }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100dvh; padding: 24px;
  display: grid; place-items: center;
  background: light-dark(#fff, #161618); color: light-dark(#1f2023, #ececee); }}
main {{ width: min(100%, 360px); }}
h1 {{ font-size: 22px; margin: 0 0 8px; }}
p {{ margin: 0 0 16px; }}
label {{ display: block; font-weight: 600; margin-bottom: 6px; }}
input, button {{ font: inherit; width: 100%; height: 44px; border-radius: 8px; padding: 0 12px; }}
input {{ border: 1px solid var(--line); background: transparent; color: inherit; }}
button {{ border: 0; margin-top: 12px; background: var(--accent); color: light-dark(#fff, #0b1f1d);
  font-weight: 600; cursor: pointer; }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
.wrong {{ color: light-dark(#a3260f, #ff9a85); }}
a {{ color: inherit; }}
</style></head><body><main><h1>DSPy demo</h1>{content}</main></body></html>
"""

_FORM = """<p>This page is shared with a password.</p>{note}
<form method="post" action="login">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>Open the page</button>
</form>"""

_OWNER = """<p>This link makes the browser that uses it the owner's. It works once.</p>
<form method="post" action="./">
<input name="token" type="hidden" value="{code}">
<button autofocus>Open the page as the owner</button>
</form>"""


def password_page(*, wrong: bool = False) -> Response:
    """The form; what it posts goes to ``/login``."""
    note = f'<p class="wrong" role="alert">{WRONG}</p>' if wrong else ""
    page = _PAGE.format(content=_FORM.format(note=note))
    return HTMLResponse(page, 403 if wrong else 401, {"Cache-Control": "no-store"})


def owner_page(code: str) -> Response:
    """The page behind the owner's link. Its button uses the link; a messenger's preview presses none."""
    page = _PAGE.format(content=_OWNER.format(code=html.escape(code)))
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


def refusal(scope: Scope, error: DemoError) -> Response:
    """A page for who came by a link or a form, JSON for all others."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if "text/html" in Headers(scope=scope).get("accept", ""):
        sentence = html.escape(error.public_message)
        page = _PAGE.format(content=f'<p>{sentence}</p><p><a href="./">Open the page</a></p>')
        return HTMLResponse(page, error.http_status, headers)
    content: dict[str, Any] = {
        "status": "error",
        "code": error.code,
        "message": error.public_message,
        "retryable": error.retryable,
        "error_id": error.error_id,
    }
    if scope["path"].startswith("/v1/"):  # as OpenAI's clients read it
        kind = "invalid_request_error"
        content = {"error": {"message": error.public_message, "type": kind, "code": error.code}}
    return JSONResponse(content, error.http_status, headers)
