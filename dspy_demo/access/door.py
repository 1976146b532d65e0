"""The two small pages before the page: the guests' password, and a refusal. They load nothing."""

from __future__ import annotations

import html

from starlette.responses import HTMLResponse, Response

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


def password_page(*, wrong: bool = False) -> Response:
    """The form; what it posts goes to ``/login``."""
    note = f'<p class="wrong" role="alert">{WRONG}</p>' if wrong else ""
    page = _PAGE.format(content=_FORM.format(note=note))
    return HTMLResponse(page, 403 if wrong else 401, {"Cache-Control": "no-store"})


def refused_html(sentence: str) -> str:
    """One sentence, and the way to the page."""
    return _PAGE.format(content=f'<p>{html.escape(sentence)}</p><p><a href="./">Open the page</a></p>')
