"""The version list as HTML: a pure drawing of what the store says."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dspy_demo.ui.ages import ago
from dspy_demo.ui.chat.text import in_words
from dspy_demo.versions.version import CHAMPION, Version

EMPTY = "No version yet. Log the program above; it appears here."
_EXAMPLE = {"text": "What is 2 + 2?"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list.

    Attributes:
        previous: The version that a roll back would bring; None where there is none.
        link: Its page in MLflow, or empty while MLflow's pages do not run.
        serving: ``ready`` or ``starting`` where a model server is there for it.
    """

    version: Version
    previous: int | None = None
    link: str = ""
    serving: str = ""


def rows_html(rows: Sequence[Row], now_s: float, tracking_uri: str, reveal: str = "") -> str:
    """The list, newest first.

    Args:
        tracking_uri: For the commands to copy; without a password in it.
        reveal: The URI of a version to open.
    """
    if not rows:
        return f'<p class="quiet">{EMPTY}</p>'
    drawn = "".join(_row(row, now_s, tracking_uri, reveal) for row in rows)
    return f'<div class="versions">{drawn}</div>'


def message_html(text: str, *, wrong: bool = False) -> str:
    """A sentence in place of a list or a result."""
    look, role = ("wrong", "alert") if wrong else ("quiet", "status")
    return f'<p class="{look}" role="{role}">{html.escape(text)}</p>'


def logged_html(version: Version, link: str) -> str:
    """What became of a click on **Log to MLflow**."""
    more = (
        f' <a href="{html.escape(link)}" target="_blank" rel="noopener noreferrer">Open in MLflow</a>'
        if link
        else ""
    )
    title = html.escape(title_of(version.uri))
    return f'<p class="quiet" role="status">Logged <b>{title}</b>.{more}</p>'


def opened_html(link: str) -> str:
    """MLflow runs; a browser would block a window that opens by itself so long after the click."""
    return (
        '<p class="quiet" role="status">MLflow is running. '
        f'<a href="{html.escape(link)}" target="_blank" rel="noopener noreferrer">Open it</a></p>'
    )


def title_of(uri: str) -> str:
    """``models:/dspy-demo/3`` as a reader says it: ``dspy-demo v3``. The name of a model stays as it is."""
    if not uri.startswith("models:/"):
        return uri
    return uri.removeprefix("models:/").replace("/", " v").replace("@", " @")


def _row(row: Row, now_s: float, tracking_uri: str, reveal: str) -> str:
    if row.version.checking:
        return _checking(row.version)
    version, key = row.version, html.escape(row.version.uri)
    badges = "".join(
        f'<span class="badge{" champion" if alias == CHAMPION else ""}">{html.escape(alias)}</span>'
        for alias in version.aliases
    )
    mark = f'<i class="dot {row.serving}" title="{_SERVING[row.serving]}"></i>' if row.serving else ""
    spoken = f'<span class="sr">{_SERVING[row.serving]}</span>' if row.serving else ""
    what = " ·&nbsp;".join(html.escape(part) for part in (in_words(version.program), version.lm) if part)
    if not version.servable:
        what = html.escape(version.reason)
    body = _about(version) + _actions(row) + _edit(version) + _commands(version, tracking_uri)
    look = "version" if version.servable else "version muted"
    revealed = f' data-reveal="{key}"' if version.uri == reveal else ""
    return (
        f'<details class="{look}" name="version" data-key="{key}"{revealed}>'
        f'<summary><span class="v-head"><span class="v-name">{html.escape(version.name)}</span> '
        f"<b>v{version.version}</b>{badges}{mark}{spoken}"
        f"<time>{ago(now_s - version.created_at)}</time></span>"
        f'<span class="v-what">{what}</span></summary>'
        f'<div class="v-body">{body}</div></details>'
    )


def _checking(version: Version) -> str:
    """A version that is being logged: nothing can be done with it yet."""
    return (
        '<div class="version muted checking"><span class="v-head">'
        f'<span class="v-name">{html.escape(version.name)}</span> <i class="dot starting"></i>'
        '<span class="badge">checking</span></span>'
        f'<span class="v-what">{html.escape(version.reason)}</span></div>'
    )


_SERVING = {"ready": "being served", "starting": "starting to be served"}


def _about(version: Version) -> str:
    text = f"<p>{html.escape(version.description)}</p>" if version.description else ""
    tags = "".join(
        f"<span>{html.escape(key)}={html.escape(value)}</span>" for key, value in sorted(version.tags.items())
    )
    files = f"<p>With {html.escape(', '.join(version.files))}</p>" if version.files else ""
    return text + files + (f'<div class="v-tags">{tags}</div>' if tags else "")


def _actions(row: Row) -> str:
    """One row of actions. Those that cannot work now are left out."""
    version, uri = row.version, html.escape(row.version.uri)
    buttons = []
    if version.servable:
        match row.serving:
            case "ready":
                buttons.append(_button("chat", "Chat with it", uri, strong=True))
            case "starting":
                buttons.append('<button type="button" class="b" disabled>Starting…</button>')
            case _:
                buttons.append(_button("serve", "Serve", uri, strong=True))
        if not version.champion:
            buttons.append(_button("promote", "Promote", uri))
        if version.same_code:
            buttons.append(_button("load", "Use here", uri))
    if version.champion and row.previous is not None:
        buttons.append(_button("roll-back", f"Roll back to {row.previous}", uri))
    buttons.append(f'<button type="button" class="b" data-toggle="{uri}#edit">Edit</button>')
    buttons.append(f'<button type="button" class="b" data-toggle="{uri}#copy">Commands</button>')
    if row.link:
        buttons.append(
            f'<a class="b" href="{html.escape(row.link)}" target="_blank" rel="noopener noreferrer" '
            'aria-label="Open in MLflow">MLflow</a>'
        )
    else:
        buttons.append(_button("open", "MLflow", uri, spoken="Open in MLflow"))
    return f'<div class="v-actions">{"".join(buttons)}</div>'


def _button(do: str, label: str, uri: str, *, strong: bool = False, spoken: str = "") -> str:
    look = "b strong" if strong else "b"
    aria = f' aria-label="{spoken}"' if spoken else ""
    return (
        f'<button type="button" class="{look}" data-do="{do}" data-uri="{uri}"{aria}>'
        f"{html.escape(label)}</button>"
    )


def _edit(version: Version) -> str:
    uri = html.escape(version.uri)
    tags = html.escape(", ".join(f"{key}={value}" for key, value in sorted(version.tags.items())))
    return (
        f'<form class="v-panel" data-do="edit" data-uri="{uri}" data-panel="{uri}#edit" '
        f'data-closes="{uri}#edit" hidden><label>Description'
        f'<textarea name="description" rows="2">{html.escape(version.description)}</textarea></label>'
        f'<label>Tags<input name="tags" value="{tags}" placeholder="key=value, key=value" '
        'autocomplete="off"></label>'
        '<div class="v-actions"><button type="submit" class="b strong">Save</button></div></form>'
    )


def _commands(version: Version, tracking_uri: str) -> str:
    uri = html.escape(version.uri)
    blocks = "".join(
        f'<div class="v-command"><span>{name}</span>'
        f'<button type="button" class="b" data-copy="{html.escape(command)}">Copy</button>'
        f"<pre>{html.escape(command)}</pre></div>"
        for name, command in commands(version, tracking_uri).items()
    )
    return f'<div class="v-panel" data-panel="{uri}#copy" hidden>{blocks}</div>'


def commands(version: Version, tracking_uri: str) -> dict[str, str]:
    """How to serve and ask it from a shell."""
    uri, store = shlex.quote(version.uri), shlex.quote(tracking_uri)
    ask = shlex.quote(json.dumps(_EXAMPLE))
    messages = shlex.quote(json.dumps({"messages": [{"role": "user", "content": _EXAMPLE["text"]}]}))
    as_json = "-H 'Content-Type: application/json'"
    return {
        "Serve, with live tokens": f"python -m dspy_demo.serving {uri} --port 5001 --tracking-uri {store}",
        "Ask": f"curl -N http://127.0.0.1:5001/predict/stream {as_json} -d {ask}",
        "Serve with MLflow alone": (
            f"MLFLOW_TRACKING_URI={store} mlflow models serve -m {uri} --env-manager local --port 5001"
        ),
        "Ask that": f"curl http://127.0.0.1:5001/invocations {as_json} -d {messages}",
    }
